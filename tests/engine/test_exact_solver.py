"""``solver="exact"``: spike times of the continuous system, to rounding, whatever the input."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.exact_layers import DURATION, events_of, layer_of, simulated
from support.exact_runs import run_exact
from support.pairwise import pairwise

from snn_eventprop import EventPropLIF, SpikeEvents

# Spike times


TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-7}


@pairwise(
    taus={
        "each": "each", "shared": pytest.param("shared", marks=pytest.mark.slow),
        "equal": "equal", "reversed": pytest.param("reversed", marks=pytest.mark.slow),
    },
    recurrent={"feedforward": False, "recurrent": True},
    dtype={"f64": torch.float64, "f32": torch.float32},
)
def test_spike_times_are_those_of_an_independent_simulator(taus, recurrent, dtype):
    total = 0
    for seed in range(2):
        strength = {"mean": 0.15, "std": 0.15} if taus == "reversed" else {}
        layer = layer_of(seed, recurrent=recurrent, dtype=dtype, taus=taus, **strength)
        events = events_of(seed, dtype=dtype)
        spikes = layer(events)
        for b in range(len(events)):
            times, units = simulated(layer, events, b)
            mine = spikes[b]
            assert mine.units.tolist() == units.tolist()
            apart = abs(mine.times.detach().double().numpy() - times).max()
            assert apart <= TOLERANCE[dtype]
            total += len(times)
    assert total > 100


def test_long_gaps_hold_several_spikes_of_several_neurons():
    # One volley every 30 ms: what happens in between is the neurons' own doing.
    layer = layer_of(5, taus="equal", mean=2.0)
    times = np.repeat([0.001, 0.031, 0.061], 8)
    events = SpikeEvents.from_list(
        [(times, np.tile(np.arange(8), 3))], num_units=8, duration=DURATION, dtype=torch.float64
    )
    spikes = layer(events)
    expected, units = simulated(layer, events, 0)
    assert spikes.units.tolist() == units.tolist()
    np.testing.assert_allclose(spikes.times.detach(), expected, rtol=0, atol=1e-12)
    within = (expected > 0.001) & (expected < 0.031)
    assert max(np.bincount(units[within])) > 1 and len(set(units[within])) > 3
    assert (expected > 0.061).any()


def test_a_peak_that_just_reaches_the_threshold_is_found_inside_a_gap():
    layer = EventPropLIF(1, 1, solver="exact", dtype=torch.float64)
    events = SpikeEvents.from_list([([0.01], [0])], num_units=1, duration=1.0, dtype=torch.float64)
    peak = 20e-3 * 5e-3 / 15e-3 * np.log(4)
    highest = 4 ** (-4 / 3)
    for excess, spikes in ((-1e-9, 0), (1e-9, 1)):
        with torch.no_grad():
            layer.weight.fill_((1 + excess) / highest)
        out = layer(events)
        assert out.times.numel() == spikes
    # So close to grazing the crossing is sqrt(2 excess |V| / |V''|) before the peak.
    assert abs(out.times.item() - 0.01 - peak) < 1e-6


def test_neurons_alike_spike_together():
    layer = EventPropLIF(2, 3, recurrent=True, solver="exact", dtype=torch.float64)
    with torch.no_grad():
        layer.weight.fill_(3.0)
        layer.recurrent_weight.fill_(-0.5)
    events = SpikeEvents.from_list(
        [([0.01, 0.01, 0.02], [0, 1, 1])], num_units=2, duration=0.1, dtype=torch.float64
    )
    spikes = layer(events)
    assert spikes.units[:3].tolist() == [0, 1, 2] and len(set(spikes.times[:3].tolist())) == 1
    for n in range(3):  # also afterwards
        assert torch.equal(spikes.times[spikes.units == n], spikes.times[spikes.units == 0])


def test_inputs_of_one_time_are_one_group():
    together = SpikeEvents.from_list(
        [([0.01] * 4, [0, 1, 2, 3])], num_units=4, duration=0.1, dtype=torch.float64
    )
    reordered = SpikeEvents.from_list(
        [([0.01] * 4, [3, 1, 0, 2])], num_units=4, duration=0.1, dtype=torch.float64
    )
    layer = EventPropLIF(4, 1, solver="exact", dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[400.0, -380.0, 1.0, -2.0]]))
    first, second = layer(together), layer(reordered)
    assert first.times.numel() > 0  # and none that the first event alone would have caused
    torch.testing.assert_close(first.times, second.times, rtol=0, atol=1e-13)


def test_events_at_the_very_ends_count():
    layer = EventPropLIF(1, 1, solver="exact", dtype=torch.float64)
    with torch.no_grad():
        layer.weight.fill_(200.0)
    events = SpikeEvents.from_list(
        [([0.0], [0]), ([0.1], [0]), ([], [])], num_units=1, duration=0.1, dtype=torch.float64
    )
    assert layer(events).counts()[:, 0].gt(0).tolist() == [True, False, False]


@given(
    seed=st.integers(0, 10_000), size=st.integers(1, 9), inputs=st.integers(1, 5),
    counts=st.lists(st.integers(0, 12), min_size=0, max_size=3), grain=st.sampled_from([0, 5e-3]),
    recurrent=st.booleans(),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_any_batch_runs_and_agrees_with_the_simulator(
    seed, size, inputs, counts, grain, recurrent
):
    rng = np.random.default_rng(seed)
    layer = layer_of(seed, inputs, size, recurrent=recurrent)
    times = [rng.uniform(0, 0.09, n) for n in counts]
    if grain:  # many of one time
        times = [np.round(t / grain) * grain for t in times]
    events = SpikeEvents.from_list(
        [(t, rng.integers(0, inputs, len(t))) for t in times],
        num_units=inputs, duration=DURATION, dtype=torch.float64,
    )  # fmt: skip
    spikes = layer(events)
    spikes.times.sum().backward()
    assert len(spikes) == len(counts)
    for b in range(len(counts)):
        expected, units = simulated(layer, events, b)
        assert spikes[b].units.tolist() == units.tolist()
        np.testing.assert_allclose(spikes[b].times.detach(), expected, rtol=0, atol=1e-12)
    assert all(bool(torch.isfinite(p.grad).all()) for p in layer.parameters())


# Robustness


def test_runaway_excitation_ends_in_an_error_that_says_where():
    layer = EventPropLIF(4, 30, recurrent=True, solver="exact")
    with torch.no_grad():
        layer.weight.fill_(10.0)
        layer.recurrent_weight.fill_(3.0)
    quiet = ([], [])
    # The first one is named, though threads meet others before.
    trains = [quiet, ([0.4], [0]), *[([0.01], [0])] * 6]
    events = SpikeEvents.from_list(trains, num_units=4, duration=0.5)
    where = r"EventPropLIF\(4, 30\): runaway .* sample 1 .* t = 0.4"
    for _ in range(20):
        with pytest.raises(RuntimeError, match=where):
            layer(events)
    with torch.no_grad():
        layer.recurrent_weight.fill_(0.0)
    assert layer(events).times.numel() > 0


def test_weights_of_any_strides_have_their_gradients():
    layer, events = layer_of(0), events_of(0)

    def gradients(weight, recurrent):
        spikes = run_exact(
            events.times, events.units, events.offsets, events.duration, weight, layer.tau_mem,
            layer.tau_syn, layer.threshold, torch.zeros(10), torch.zeros(10),
            recurrent=recurrent, limit=10_000,
        )  # fmt: skip
        return torch.autograd.grad((spikes.times**2).sum(), [weight, recurrent])

    rows = layer.weight.t(), layer.recurrent_weight.t()
    theirs = gradients(*(weight.contiguous() for weight in rows))
    assert theirs[0].any() and theirs[1].any()
    torch.testing.assert_close(gradients(*rows), theirs)


def test_many_spikes_are_all_kept():
    layer = EventPropLIF(1, 2, solver="exact", dtype=torch.float64, max_rate=1e6)
    with torch.no_grad():
        layer.weight.fill_(1000.0)
    train = np.arange(0, 0.1, 1e-3)
    events = SpikeEvents.from_list(
        [(train, np.zeros(len(train), int))], num_units=1, duration=0.1, dtype=torch.float64
    )
    spikes = layer(events)
    assert spikes.times.numel() > 10_000
    early = SpikeEvents.from_list(
        [(train[:3], [0, 0, 0])], num_units=1, duration=3e-3, dtype=torch.float64
    )
    expected, units = simulated(layer, early, 0)
    assert spikes.units[: len(units)].tolist() == units.tolist()
    np.testing.assert_allclose(
        spikes.times[: len(units)].detach(), expected, rtol=0, atol=1e-12
    )
    # The drive is periodic by then, and so are the spikes.
    late = torch.histc(spikes.times.detach(), 20, min=0.0795, max=0.0995)
    assert late.max() - late.min() <= 2 and late.min() > 100


def test_bad_inputs_and_options_are_refused_by_name():
    layer = layer_of(0)
    with pytest.raises(TypeError, match="SpikeEvents"):
        layer("ten spikes")
    with pytest.raises(ValueError, match="in_features"):
        layer(torch.zeros(10, 2, 9))
    with pytest.raises(ValueError, match="max_rate"):
        EventPropLIF(2, 2, solver="exact", max_rate=0)
    with pytest.raises(ValueError, match="solver"):
        EventPropLIF(2, 2, solver="analytic")
    with torch.no_grad():
        layer.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="weight holds 1 NaN"):
        layer(events_of(0))


def test_results_repeat_bitwise():
    layer = layer_of(0, size=40, dtype=torch.float32)
    events = events_of(0, samples=9).to(torch.float32)
    found = []
    for _ in range(3):
        layer.zero_grad()
        spikes = layer(events)
        (spikes.times**2).sum().backward()
        found.append((spikes.times.detach().clone(), layer.weight.grad.clone()))
    for times, grad in found[1:]:
        assert torch.equal(times, found[0][0]) and torch.equal(grad, found[0][1])


def test_pytorchs_tools_work():
    layer, events = layer_of(0, dtype=torch.float32), events_of(0, dtype=torch.float32)
    events.times.requires_grad_()

    def step(net):
        spikes = net(events)
        return (spikes.times**2).sum() + (spikes.counts() ** 2).sum()

    step(layer).backward()
    grad, at = layer.weight.grad.clone(), events.times.grad.clone()
    events.times.grad = None
    again = copy.deepcopy(layer)
    again.load_state_dict(layer.state_dict())
    again.zero_grad()
    torch.compile(step)(again).backward()
    torch.testing.assert_close(again.weight.grad, grad)
    torch.testing.assert_close(events.times.grad, at)
    assert "exact" in repr(layer)
