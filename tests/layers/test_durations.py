"""Recordings of different length: what comes of a sample does not depend on its neighbours."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.continuous import integral

from snn_eventprop import EventPropALIF, EventPropLI, EventPropLIF, SpikeEvents
from snn_eventprop.diagnostics import collect
from snn_eventprop.losses import (
    FirstSpikeLoss,
    LinearLoss,
    MaxLoss,
    SigmoidLoss,
    StepCrossEntropyLoss,
    SumExpLoss,
    SumLoss,
)

INPUTS, HIDDEN, CLASSES = 20, 30, 5
LENGTHS = [0.25, 1.17, 0.0505]
LABELS = [3, 0, 4]
WEIGHTS = {
    "uniform": lambda t, T: np.ones_like(t),
    "exponential": lambda t, T: np.exp(-t / T),
    "linear": lambda t, T: 1 - t / T,
}
TRACE_LOSSES = [SumLoss(3.0), SumExpLoss(3.0), LinearLoss(3.0), SigmoidLoss(), MaxLoss(),
                StepCrossEntropyLoss(2.0)]  # fmt: skip


def pairs():
    """Spikes until the very end of each recording, whose last event is at its duration."""
    rng = np.random.default_rng(1)
    found = []
    for length in LENGTHS:
        times = rng.uniform(0, length, int(400 * length))
        times[-1] = length
        found.append((times, rng.integers(0, INPUTS, times.size)))
    return found


def batch():
    return SpikeEvents.from_list(pairs(), num_units=INPUTS, duration=LENGTHS, dtype=torch.float64)


def alone():
    return [
        SpikeEvents.from_list([pair], num_units=INPUTS, duration=length, dtype=torch.float64)
        for pair, length in zip(pairs(), LENGTHS, strict=True)
    ]


def hidden_layer(kind):
    torch.manual_seed(0)
    options = {"recurrent": True, "dtype": torch.float64}
    if kind == "alif":
        layer = EventPropALIF(INPUTS, HIDDEN, **options)
    elif kind == "delays":
        layer = EventPropLIF(INPUTS, HIDDEN, max_delay=30e-3, **options)
        # None at a bound, where the gradient that would lead out is cut for the batch as a whole.
        layer.reset_delays(30e-3, 20e-3)
    else:
        layer = EventPropLIF(
            INPUTS, HIDDEN, solver=kind, learn_tau_mem=True, learn_threshold=True, **options
        )
    torch.nn.init.uniform_(layer.weight, 0, 2)
    return layer


def readout_layer(**options):
    torch.manual_seed(1)
    layer = EventPropLI(HIDDEN, CLASSES, dtype=torch.float64, **options)
    torch.nn.init.normal_(layer.weight)
    return layer


def assert_independent(parameters, scores):
    """Scores ``[B, O]`` of a batch, and gradients, are those of its samples one by one."""
    expected = [scores(one) for one in alone()]
    found = scores(batch())
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-10, atol=1e-12)
    factor = torch.linspace(-1, 2, found.numel(), dtype=torch.float64).view_as(found)
    ours = torch.autograd.grad((found * factor).sum(), parameters)
    theirs = torch.autograd.grad((torch.cat(expected) * factor).sum(), parameters)
    for one, other in zip(ours, theirs, strict=True):
        assert other.abs().sum() > 0
        assert (one - other).norm() <= 1e-9 * other.norm()


@pytest.mark.parametrize("weighting", WEIGHTS)
@pytest.mark.parametrize("kind", ["grid", "exact", "delays", "alif"])
def test_closed_form_averages_are_those_of_each_sample_alone(kind, weighting):
    layer, readout = hidden_layer(kind), readout_layer()
    assert_independent(
        [*layer.parameters(), readout.weight],
        lambda events: readout.integral(layer(events), weighting),
    )


@pytest.mark.parametrize("weighting", WEIGHTS)
@pytest.mark.parametrize("options", [{}, {"learn_tau_mem": True, "learn_tau_syn": True},
                                     {"tau_mem": torch.linspace(5e-3, 40e-3, CLASSES)}],
                         ids=["shared", "learned", "own"])  # fmt: skip
def test_closed_form_averages_are_those_of_quadrature(options, weighting):
    readout = readout_layer(**options)
    weight = torch.randn(CLASSES, INPUTS, dtype=torch.float64)
    readout.weight = torch.nn.Parameter(weight)
    readout.in_features = INPUTS
    found = readout.integral(batch(), weighting)
    for row, (times, units), length in zip(found, pairs(), LENGTHS, strict=True):
        expected = integral(
            weight.numpy(), readout.tau_mem.detach().numpy(), readout.tau_syn.detach().numpy(),
            times, units, length, lambda t, T=length: WEIGHTS[weighting](t, T),
        )  # fmt: skip
        # The readout spreads time constants that are equal, of which there are none here.
        np.testing.assert_allclose(row.detach().numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", TRACE_LOSSES, ids=lambda loss: type(loss).__name__)
def test_losses_on_traces_take_the_bins_of_each_sample(loss):
    layer, readout = hidden_layer("grid"), readout_layer()
    assert_independent(
        [*layer.parameters(), readout.weight],
        lambda events: loss.logits(readout(layer(events)), events.valid_bins(readout.dt)),
    )
    events = batch()
    trace = readout(layer(events))
    target = torch.tensor(LABELS)
    found = loss(trace, target, events.valid_bins(readout.dt))
    each = [loss(readout(layer(one)), target[[b]]) for b, one in enumerate(alone())]
    assert found.item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-10)
    assert found.item() != pytest.approx(loss(trace, target).item(), rel=1e-6) or isinstance(
        loss, MaxLoss
    )


@pytest.mark.parametrize("solver", ["grid", "exact"])
def test_counts_and_first_spikes_are_those_of_each_sample_alone(solver):
    layer = hidden_layer(solver)
    assert_independent(list(layer.parameters()), lambda events: layer(events).counts())
    output = EventPropLIF(INPUTS, CLASSES, solver=solver, dtype=torch.float64)
    torch.nn.init.normal_(output.weight, 0.2, 1.0)
    loss = FirstSpikeLoss()
    assert_independent(list(output.parameters()), lambda events: loss.logits(output(events)))


@pytest.mark.parametrize("solver", ["grid", "exact"])
def test_no_spike_follows_the_end_of_its_sample(solver):
    layer = hidden_layer(solver)
    out = layer(batch())
    longest = layer(
        SpikeEvents.from_list(pairs(), num_units=INPUTS, duration=1.17, dtype=torch.float64)
    )
    ends = out.durations[out.samples()]
    assert bool((out.times <= ends).all())
    late = longest.times > torch.tensor(LENGTHS)[longest.samples()]
    assert late.any() and out.times.numel() < longest.times.numel()
    layer(batch())
    assert collect(torch.nn.ModuleList([layer]))["0"].counts.sum() == out.times.numel()


def test_first_spike_times_are_those_of_a_loop():
    events = batch()
    found = events.first_spike_times()
    marked = events.first_spike_times(math.inf)
    for b, (times, units) in enumerate(pairs()):
        for n in range(INPUTS):
            own = times[units == n]
            assert found[b, n] == (own.min() if own.size else LENGTHS[b])
            assert marked[b, n] == (own.min() if own.size else math.inf)
    times = events.times.clone().requires_grad_()
    packed = SpikeEvents(times, events.units, events.offsets, INPUTS, LENGTHS)
    packed.first_spike_times().sum().backward()
    fired = sum(len(set(units.tolist())) for _, units in pairs())
    assert times.grad.sum() == fired and set(times.grad.tolist()) == {0.0, 1.0}


def test_a_batch_keeps_the_durations_of_its_samples():
    events = batch()
    assert events.duration == 1.17 and events.durations.tolist() == LENGTHS
    assert not events.of_one_length and "0.0505 to 1.17 s" in repr(events)
    for b, length in enumerate(LENGTHS):
        assert events[b].duration == length and events[b].of_one_length
    part = events[[2, 0]]
    assert part.duration == 0.25 and part.durations.tolist() == [0.0505, 0.25]
    again = SpikeEvents.cat(events[b] for b in range(3))
    assert again.durations.tolist() == LENGTHS and torch.equal(again.times, events.times)
    for other in (events.to(torch.float32), events.detach()):
        assert other.durations.tolist() == LENGTHS
    same = SpikeEvents.cat([events[:1], events[:1]])
    assert same.of_one_length and same.durations.tolist() == [0.25, 0.25]


def test_the_bins_of_a_sample_end_with_it():
    events = SpikeEvents.from_list(
        [([0.003, 0.001], [0, 0]), ([0.0079], [0])], num_units=1, duration=[0.003, 0.008]
    )
    assert events.num_bins(1e-3).tolist() == [3, 8]
    assert events.valid_bins(1e-3).T.int().tolist() == [[1, 1, 1, 0, 0, 0, 0, 0], [1] * 8]
    dense = events.to_dense(1e-3)
    assert dense[:, 0, 0].tolist() == [0, 1, 1, 0, 0, 0, 0, 0]  # the last bin holds its edge
    assert torch.equal(events.to_dense(2e-3)[:, 1, 0], torch.tensor([0.0, 0, 0, 1]))
    again = SpikeEvents.from_dense(dense, 1e-3, duration=[0.003, 0.008])
    assert torch.equal(again.to_dense(1e-3), dense) and again.num_bins(1e-3).tolist() == [3, 8]


@pytest.mark.parametrize(
    "duration, error, words",
    [
        ([0.1, 0.2, 0.3], ValueError, "one entry for each of 2 samples, got 3"),
        ([0.1, -0.2], ValueError, r"positive time in seconds, got -0\.2 for sample 1"),
        ([0.1, math.nan], ValueError, "got nan for sample 1"),
        ([[0.1, 0.2]], ValueError, r"got shape \(1, 2\)"),
        (["a", "b"], TypeError, r"or one for each sample, got \['a', 'b'\]"),
        ([0.1, 0.05], ValueError, r"times of sample 1 .*duration=0\.05\] s, got 0\.08; crop"),
        ([], ValueError, "empty list"),
    ],
)
def test_bad_durations_are_named(duration, error, words):
    samples = [([0.02], [0]), ([0.08], [0])]
    with pytest.raises(error, match=words):
        SpikeEvents.from_list(samples, num_units=1, duration=duration)


def test_each_sample_is_cropped_at_its_own_end():
    samples = [([0.02, 0.07], [0, 0]), ([0.07], [0])]
    events = SpikeEvents.from_list(samples, num_units=1, duration=[0.05, 0.1], outside="drop")
    assert events.counts().tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize(
    "mask, error, words",
    [
        (torch.ones(4, 2), TypeError, r"bool tensor \[T, B\].*float32"),
        (torch.ones(4, 3, dtype=torch.bool), ValueError, r"\[T, B\]=\[4, 2\], got \[4, 3\]"),
        (torch.zeros(4, 2, dtype=torch.bool), ValueError, "from the first bin"),
        (torch.tensor([[True] * 2, [False] * 2, [True] * 2, [True] * 2]), ValueError, "first bin"),
    ],
)
def test_bad_masks_are_named(mask, error, words):
    with pytest.raises(error, match=words):
        SumLoss()(torch.zeros(4, 2, 3), torch.tensor([0, 1]), mask)
    with pytest.raises(ValueError, match="takes no mask"):
        FirstSpikeLoss().logits(batch(), mask)


@pytest.mark.parametrize("loss", [*TRACE_LOSSES, FirstSpikeLoss()], ids=lambda x: type(x).__name__)
def test_losses_of_an_empty_batch_are_refused(loss):
    empty = batch()[:0] if loss.reads == "spikes" else torch.zeros(10, 0, 3)
    with pytest.raises(ValueError, match="the batch has no samples"):
        loss(empty, torch.zeros(0, dtype=torch.long))
