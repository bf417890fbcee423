"""Delayed synapses on the grid: the fast kernels against the readable float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine.test_grid_backend import TOLERANCE, make_case
from hypothesis import given, settings
from hypothesis import strategies as st

from snn_eventprop.backends.reference import grid as reference
from snn_eventprop.ops import grid as op


def leaf(array) -> torch.Tensor:
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)


def with_delays(case, longest, recurrent_longest=None):
    layer, driven, rng = case
    layer.delay = rng.uniform(0, longest, layer.weight.shape)
    if layer.recurrent is not None:
        bound = longest if recurrent_longest is None else recurrent_longest
        layer.recurrent_delay = rng.uniform(0, bound, layer.recurrent.shape)
    return layer, driven, rng


def assert_equal_to_reference(layer, driven, rng, *, trace=True, coefficients=True, events=True):
    """Spikes, trace and every gradient; without the last three the passes may skip bins.

    Args:
        trace: record it and put a loss on it.
        coefficients: want their gradient, for which the forward pass is replayed.
        events: want gradients of the input's values and times as well as of its raster.
    """
    steps, batch, _ = driven.shape
    size = len(layer.s)
    weight, delay = leaf(layer.weight), leaf(layer.delay)
    recurrent = recurrent_delay = None
    if layer.recurrent is not None:
        recurrent, recurrent_delay = leaf(layer.recurrent), leaf(layer.recurrent_delay)
    numbers = torch.tensor(np.stack([layer.s, layer.c, layer.m, layer.threshold]))
    numbers.requires_grad_(coefficients)
    raster = leaf(driven) if events else None
    given_events = op.dense_events(torch.tensor(driven), torch.float64)
    if events and given_events.values.numel() == 0:
        given_events = given_events._replace(values=torch.ones(given_events.bins.numel()).double())
    values = given_events.values.requires_grad_(events)
    stamps = given_events.bins.double().requires_grad_() if events else None
    worth = np.zeros((steps + 1, batch, size))
    worth[:steps] = rng.normal(0, 1, (steps, batch, size))
    grad_trace = rng.normal(0, 1, (steps, batch, size)) if trace else None
    floors = np.full(size, 0.05)
    spikes = op.grid_lif(
        given_events, steps, weight, numbers, torch.tensor(layer.v_reset), torch.tensor(floors),
        recurrent=recurrent, raster=raster, event_stamps=stamps, reset=layer.reset,
        delayed=layer.delayed, record=trace, delay=delay, recurrent_delay=recurrent_delay,
    )  # fmt: skip
    fired = op.to_raster(spikes, steps, size, hold=False)
    loss = (fired * torch.tensor(worth[:steps])).sum()
    if trace:
        loss = loss + (spikes.trace * torch.tensor(grad_trace)).sum()
    loss.backward()

    runs = [reference.forward(layer, driven[:, b]) for b in range(batch)]
    grads = [
        reference.backward(
            layer, runs[b], worth[:, b], floor=floors,
            grad_trace=None if grad_trace is None else grad_trace[:, b],
        )
        for b in range(batch)
    ]  # fmt: skip
    np.testing.assert_array_equal(fired.detach().numpy(), np.stack([r.spikes for r in runs], 1))
    if trace:
        np.testing.assert_allclose(
            spikes.trace.detach(), np.stack([r.trace for r in runs], 1), **TOLERANCE
        )

    def close(ours, theirs):
        scale = max(1.0, float(np.abs(theirs).max())) if np.size(theirs) else 1.0
        np.testing.assert_allclose(ours.numpy() / scale, theirs / scale, **TOLERANCE)

    close(weight.grad, sum(g.weight for g in grads))
    close(delay.grad, sum(g.delay for g in grads))
    if recurrent is not None:
        close(recurrent.grad, sum(g.recurrent for g in grads))
        close(recurrent_delay.grad, sum(g.recurrent_delay for g in grads))
    if coefficients:
        close(numbers.grad, sum(np.stack([g.s, g.c, g.m, g.threshold]) for g in grads))
    if events:
        worth_of_input = np.stack([g.driven for g in grads], 1)
        close(raster.grad, worth_of_input)
        sample = torch.repeat_interleave(torch.arange(batch), given_events.offsets.diff()).numpy()
        bins, units = given_events.bins.long().numpy(), given_events.units.numpy()
        close(values.grad, worth_of_input[bins, sample, units])
        inner = bins < steps - 1  # beyond the end the reference has no row
        change = worth_of_input[np.minimum(bins + 1, steps - 1), sample, units]
        change = (change - worth_of_input[bins, sample, units]) * values.detach().numpy()
        close(stamps.grad[inner], change[inner])
    return sum(r.spikes.sum() for r in runs)


@pytest.mark.parametrize("kind", ["exponential", "equal_taus", "synaptic"])
@pytest.mark.parametrize("recurrent", [False, True], ids=["feedforward", "recurrent"])
@pytest.mark.parametrize(
    "reset,delayed", [("subtract", False), ("zero", False), ("none", False), ("subtract", True)],
    ids=lambda v: {True: "delayed", False: "immediate"}.get(v, v),
)  # fmt: skip
def test_delays_equal_reference(kind, recurrent, reset, delayed):
    case = make_case(kind=kind, recurrent=recurrent, reset=reset, delayed=delayed)
    assert assert_equal_to_reference(*with_delays(case, 12)) > 10


@pytest.mark.parametrize("longest", [0, 3, 150], ids="{} bins".format)
@pytest.mark.parametrize("replay", [False, True], ids=["skipping", "replayed"])
def test_delays_equal_reference_over_several_segments(longest, replay):
    case = make_case(steps=2500, density=0.01, batch=2, strength=1.5)
    assert (
        assert_equal_to_reference(
            *with_delays(case, longest), trace=replay, coefficients=replay, events=replay
        )
        > 50
    )


def test_delays_longer_than_a_segment_equal_reference():
    case = make_case(steps=2500, density=0.05, batch=1, size=3, inputs=3, strength=4.0)
    assert assert_equal_to_reference(*with_delays(case, 1500)) > 50


@pytest.mark.parametrize("recurrent", [False, True], ids=["feedforward", "recurrent"])
def test_delayed_bins_without_arrivals_may_be_skipped(recurrent):
    case = make_case(steps=3100, density=0.0006, batch=3, recurrent=recurrent, strength=9.0)
    spikes = assert_equal_to_reference(
        *with_delays(case, 9), trace=False, coefficients=False, events=False
    )
    assert spikes > 10


@pytest.mark.parametrize("which", ["delay", "recurrent_delay"])
def test_one_kind_of_delay_leaves_the_other_at_zero(which):
    layer, driven, _ = with_delays(make_case(), 8)
    zero = {"delay": "recurrent_delay", "recurrent_delay": "delay"}[which]
    setattr(layer, zero, np.zeros_like(getattr(layer, zero)))
    gradients = []
    for absent in (False, True):
        given = {name: leaf(getattr(layer, name)) for name in ("delay", "recurrent_delay")}
        if absent:
            given.pop(zero)
        out = op.grid_lif(
            op.dense_events(torch.tensor(driven), torch.float64), len(driven),
            torch.tensor(layer.weight),
            torch.tensor(np.stack([layer.s, layer.c, layer.m, layer.threshold])),
            torch.tensor(layer.v_reset), torch.zeros(4).double(),
            recurrent=torch.tensor(layer.recurrent), **given,
        )  # fmt: skip
        (out.stamps**2).sum().backward()
        gradients.append(given[which].grad)
    assert gradients[0].abs().sum() > 0
    assert torch.equal(*gradients)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    steps=st.integers(1, 40),
    batch=st.integers(1, 3),
    inputs=st.integers(1, 6),
    size=st.integers(1, 70),
    density=st.sampled_from([0.0, 0.05, 0.5, 2.0]),
    recurrent=st.booleans(),
    longest=st.sampled_from([0, 1, 7, 60]),
    recurrent_longest=st.sampled_from([0, 1, 60]),
    quick=st.booleans(),
)
def test_delays_equal_reference_for_any_shape(
    seed, steps, batch, inputs, size, density, recurrent, longest, recurrent_longest, quick
):
    case = make_case(seed, steps, batch, inputs, size, density=density, recurrent=recurrent)
    assert_equal_to_reference(
        *with_delays(case, longest, recurrent_longest),
        trace=not quick, coefficients=not quick, events=not quick,
    )  # fmt: skip


def test_shifting_a_delay_by_a_bin_changes_a_linear_loss_by_its_gradient():
    # Below the threshold the grid is linear: a delay's gradient per bin, which looks one bin
    # ahead, is then no approximation but the whole change.
    layer, driven, rng = with_delays(make_case(strength=0.2, density=0.3), 20)
    layer.delay = np.rint(layer.delay)
    worth = torch.tensor(rng.normal(0, 1, (*driven.shape[:2], len(layer.s))))

    def loss(delay):
        out = op.grid_lif(
            op.dense_events(torch.tensor(driven), torch.float64), len(driven),
            torch.tensor(layer.weight),
            torch.tensor(np.stack([layer.s, layer.c, layer.m, layer.threshold * 100])),
            torch.tensor(layer.v_reset), torch.zeros(len(layer.s)).double(), record=True,
            delay=delay,
        )  # fmt: skip
        assert out.stamps.numel() == 0
        return (out.trace * worth).sum()

    delay = leaf(layer.delay)
    start = loss(delay)
    start.backward()
    for i, j in np.ndindex(*delay.shape):
        shifted = delay.detach().clone()
        shifted[i, j] += 1
        change = loss(shifted) - start.detach()
        torch.testing.assert_close(delay.grad[i, j], change, rtol=1e-9, atol=1e-9)


def test_gradients_of_delays_are_bitwise_repeatable():
    def gradient():
        layer, driven, _ = with_delays(make_case(3, 200, 9, 30, 50, strength=0.3), 30)
        delay = leaf(layer.delay)
        out = op.grid_lif(
            op.dense_events(torch.tensor(driven), torch.float64), 200, torch.tensor(layer.weight),
            torch.tensor(np.stack([layer.s, layer.c, layer.m, layer.threshold])),
            torch.tensor(layer.v_reset), torch.zeros(50).double(),
            recurrent=torch.tensor(layer.recurrent), delay=delay,
        )  # fmt: skip
        (out.stamps**2).sum().backward()
        return delay.grad

    first = gradient()
    assert first.abs().sum() > 0
    assert all(torch.equal(first, gradient()) for _ in range(3))


def test_an_empty_batch_has_gradients_of_zero():
    layer, driven, _ = with_delays(make_case(batch=0), 5)
    delay, recurrent_delay = leaf(layer.delay), leaf(layer.recurrent_delay)
    out = op.grid_lif(
        op.dense_events(torch.tensor(driven), torch.float64), len(driven),
        torch.tensor(layer.weight),
        torch.tensor(np.stack([layer.s, layer.c, layer.m, layer.threshold])),
        torch.tensor(layer.v_reset), torch.zeros(4).double(), delay=delay,
        recurrent=torch.tensor(layer.recurrent), recurrent_delay=recurrent_delay,
    )  # fmt: skip
    (out.last_voltage.sum() + out.stamps.sum()).backward()
    assert not delay.grad.any() and not recurrent_delay.grad.any()
