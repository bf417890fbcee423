"""``EventPropLI.sample``: the membrane at requested times is exact, and differentiable."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.continuous import psp

from snn_eventprop import EventPropLI, SpikeEvents
from snn_eventprop.layers.closed_form import membrane_at

DURATION = 0.05


def make_case(tau_mem=(20e-3, 5e-3, 3e-3), tau_syn=5e-3):
    rng = np.random.default_rng(0)
    samples = [(rng.uniform(0, DURATION, 9), rng.integers(0, 4, 9)) for _ in range(2)]
    samples.append(([], []))
    events = SpikeEvents.from_list(
        samples, num_units=4, duration=DURATION, dtype=torch.float64
    )
    # float64, lest the near-equal case is rounded to one in which the reference loses digits
    tau_mem = torch.tensor(tau_mem, dtype=torch.float64)
    readout = EventPropLI(4, 3, tau_mem=tau_mem, tau_syn=tau_syn, dtype=torch.float64)
    times = torch.tensor([0.0, 0.01, 0.01, 0.0377, DURATION], dtype=torch.float64)
    return samples, events, readout, times


@pytest.mark.parametrize("tau_syn", [5e-3, 5e-3 * (1 + 1e-10), 30e-3])
def test_membrane_at_requested_times_is_exact(tau_syn):
    samples, events, readout, times = make_case(tau_syn=tau_syn)
    expected = np.zeros((len(times), 3, 3))
    weight = readout.weight.detach().numpy()
    for b, (at, units) in enumerate(samples):
        for t, u in zip(at, units, strict=True):
            for o in range(3):
                response = psp(times.numpy() - t, readout.tau_mem[o].item(), tau_syn)
                expected[:, b, o] += (weight[o, u] * response).astype(float)
    np.testing.assert_allclose(
        readout.sample(events, times).detach().numpy(), expected, rtol=0, atol=1e-13
    )


def test_gradients_reach_event_times_weights_and_time_constants():
    _, events, readout, times = make_case()

    def trace(at, weight, tau_mem, tau_syn):
        moved = SpikeEvents(at, events.units, events.offsets, 4, DURATION, validate=False)
        return membrane_at(times, moved, weight, tau_mem, tau_syn)

    arguments = [
        t.detach().clone().requires_grad_()
        for t in (events.times, readout.weight, readout.tau_mem, readout.tau_syn)
    ]
    assert torch.autograd.gradcheck(trace, arguments, eps=1e-8, atol=1e-5)


def test_times_that_do_not_ascend_are_refused():
    _, events, readout, _ = make_case()
    with pytest.raises(ValueError, match=r"times must ascend, got 0\.02 s before 0\.01 s"):
        readout.sample(events, torch.tensor([0.02, 0.01]))
