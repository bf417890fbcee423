"""Leaky readouts: integrals of the membrane, their gradients, and the trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.continuous import integral as integrated
from support.layer_cases import DOUBLE, assert_close
from torch import nn

from snn_eventprop import EventPropLI, SpikeEvents

TAUS = {
    "mem>syn": (20e-3, 5e-3), "equal": (8e-3, 8e-3), "mem<syn": (5e-3, 20e-3),
    "nearly equal": (8e-3, 8e-3 * (1 + 1e-6)), "close": (8e-3, 8.1e-3),
    "per output": (torch.tensor([20e-3, 8e-3, 5e-3], **DOUBLE),
                   torch.tensor([5e-3, 8e-3, 20e-3], **DOUBLE)),
}  # fmt: skip
WEIGHTINGS = {
    "uniform": None,
    "exponential": lambda t: np.exp(-t / 0.1),
    "linear": lambda t: 1 - t / 0.1,
}
EVENTS = [([0.004, 0.004, 0.031, 0.062, 0.0995], [0, 1, 1, 0, 1]), ([], []), ([0.0, 0.1], [1, 0])]


def some_events():
    return SpikeEvents.from_list(EVENTS, num_units=2, duration=0.1, dtype=torch.float64)


def readout_of(taus, **options):
    tau_mem, tau_syn = TAUS[taus]
    readout = EventPropLI(2, 3, tau_mem=tau_mem, tau_syn=tau_syn, **options, **DOUBLE)
    readout.weight.data.copy_(torch.tensor([[3.0, -2.0], [1.0, 4.0], [-1.0, 2.0]]))
    return readout


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("taus", TAUS)
def test_integral_is_that_of_the_membrane(taus, weighting):
    readout = readout_of(taus)
    ours = readout.integral(some_events(), weighting)
    for b, (times, units) in enumerate(EVENTS):
        theirs = integrated(
            readout.weight.detach().numpy(), np.broadcast_to(readout.tau_mem.numpy(), 3),
            np.broadcast_to(readout.tau_syn.numpy(), 3), times, units, 0.1, WEIGHTINGS[weighting],
        )  # fmt: skip
        np.testing.assert_allclose(ours[b].detach(), theirs, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("taus", TAUS)
def test_integral_has_the_gradient_of_finite_differences(taus, weighting):
    events = some_events()
    keep = (events.times > 0) & (events.times < 0.1)  # where times may move both ways
    readout = readout_of(taus, learn_tau_mem=True, learn_tau_syn=True)

    def value(times, weight, log_tau_mem, log_tau_syn):
        all_times = torch.where(keep, times, events.times)
        given = {"weight": weight, "log_tau_mem": log_tau_mem, "log_tau_syn": log_tau_syn}
        moved = SpikeEvents(all_times, events.units, events.offsets, 2, 0.1, validate=False)
        return torch.func.functional_call(_Integral(readout, weighting), {
            f"readout.{name}": value for name, value in given.items()
        }, (moved,))  # fmt: skip

    arguments = [events.times, readout.weight, readout.log_tau_mem, readout.log_tau_syn]
    arguments = [a.detach().clone().requires_grad_() for a in arguments]
    assert torch.autograd.gradcheck(value, arguments, eps=1e-6, atol=1e-6, rtol=1e-5)


class _Integral(nn.Module):
    def __init__(self, readout, weighting):
        super().__init__()
        self.readout, self.weighting = readout, weighting

    def forward(self, events):
        return self.readout.integral(events, self.weighting)


@pytest.mark.parametrize("taus", TAUS)
def test_trace_converges_to_the_integral_and_is_exact_at_bin_ends(taus):
    events = some_events()[:2]
    errors = []
    for dt in (1e-3, 1e-4):
        readout = readout_of(taus, dt=dt)
        trace = readout(events)
        assert trace.shape == (round(0.1 / dt), 2, 3)
        closed = readout.integral(events)
        errors.append((trace.mean(0) - closed).abs().max().item() / closed.abs().max().item())
    assert errors[0] < 0.2 and errors[1] < 0.15 * errors[0]
    # Events of a bin act from its start; on edges that is where they are.
    on_edges = SpikeEvents.from_list(
        [([0.004, 0.031, 0.062], [0, 1, 1])], num_units=2, duration=0.1, dtype=torch.float64
    )
    readout = readout_of(taus)
    ends = torch.arange(1, 101, **DOUBLE) * 1e-3
    assert_close(readout(on_edges), readout.sample(on_edges, ends), 1e-9)


def test_unknown_weighting_is_named():
    with pytest.raises(ValueError, match=r"weighting must be one of.*got 'cubic'"):
        readout_of("equal").integral(some_events(), "cubic")
