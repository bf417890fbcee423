"""The fast CPU kernels of the grid solver against the readable float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.grid_cases import (
    TOLERANCE,
    assert_equal_to_reference,
    events_of,
    make_case,
    raster_of,
    reference_gradients,
    reference_runs,
    solve,
    stacked,
)
from support.grid_runs import coefficients_of
from support.pairwise import pairwise

import snn_eventprop
from snn_eventprop.ops import grid as op

RESETS = {
    "subtract-immediate": ("subtract", False), "zero-immediate": ("zero", False),
    "none-immediate": ("none", False), "subtract-delayed": ("subtract", True),
    "zero-delayed": ("zero", True), "zero_all-delayed": ("zero_all", True),
}  # fmt: skip


@pairwise(
    kind=["exponential", "equal_taus", "norse", "synaptic", "leaky"],
    reset=RESETS,
    recurrent={"feedforward": False, "recurrent": True},
)
def test_backend_equals_reference(kind, recurrent, reset):
    mechanism, delayed = reset
    case = make_case(kind=kind, recurrent=recurrent, reset=mechanism, delayed=delayed)
    fired, _ = assert_equal_to_reference(*case)
    assert fired > 10


@pairwise(
    size=[1, 15, 16, 37, 64, 145],
    by_receiver={"by-sender": False, "by-receiver": True},
    shared={"own-constants": False, "shared-constants": True},
)
def test_kernels_cover_layers_of_any_size(size, by_receiver, shared):
    """They go by blocks of 64, 16 and single neurons, and transpose blocks of 16 by 16 weights."""
    case = make_case(size=size, inputs=37, shared=shared, strength=min(3.0, 9 / size**0.5))
    fired, _ = assert_equal_to_reference(*case, by_receiver=by_receiver)
    assert fired > 10


def test_backend_equals_reference_over_several_replayed_segments():
    case = make_case(steps=2500, density=0.01, batch=3, strength=1.5)
    fired, guarded = assert_equal_to_reference(*case, floor=1.0)
    assert fired > 100 and guarded > 0


@pytest.mark.parametrize("recurrent", [False, True], ids=["feedforward", "recurrent"])
def test_bins_without_events_may_be_skipped(recurrent):
    # Without a trace, input gradient or trainable coefficients both passes jump over quiet bins.
    layer, driven, rng = make_case(steps=2900, density=0.002, recurrent=recurrent, strength=8.0)
    steps, batch, _ = driven.shape
    size = layer.size
    weight = torch.tensor(layer.weight, requires_grad=True)
    rows = torch.tensor(layer.recurrent, requires_grad=True) if recurrent else None
    spikes = solve(layer, driven, weight=weight, recurrent=rows)
    worth = np.zeros((steps + 1, batch, size))
    worth[:steps] = rng.normal(0, 1, (steps, batch, size))
    fired = raster_of(spikes, steps, size)
    (fired * torch.tensor(worth[:steps])).sum().backward()
    runs = reference_runs(layer, driven)
    grads = reference_gradients(layer, runs, worth)
    np.testing.assert_array_equal(fired.detach().numpy(), stacked(runs, "spikes"))
    assert fired.sum() > 10
    scale = np.abs(sum(g.weight for g in grads)).max()
    np.testing.assert_allclose(
        weight.grad.numpy() / scale, sum(g.weight for g in grads) / scale, **TOLERANCE
    )
    if recurrent:
        scale = np.abs(sum(g.recurrent for g in grads)).max()
        np.testing.assert_allclose(
            rows.grad.numpy() / scale, sum(g.recurrent for g in grads) / scale, **TOLERANCE
        )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    steps=st.integers(1, 40),
    batch=st.integers(0, 3),
    inputs=st.integers(1, 6),
    size=st.integers(1, 70),
    density=st.sampled_from([0.0, 0.05, 0.5, 2.0]),
    recurrent=st.booleans(),
)
def test_backend_equals_reference_for_any_shape(
    seed, steps, batch, inputs, size, density, recurrent
):
    if batch == 0:
        layer, driven, _ = make_case(seed, steps, 0, inputs, size, recurrent=recurrent)
        spikes = solve(layer, driven)
        assert spikes.stamps.numel() == 0 and spikes.last_voltage.shape == (0, size)
        return
    assert_equal_to_reference(
        *make_case(seed, steps, batch, inputs, size, density=density, recurrent=recurrent),
        trace=bool(seed % 2),
    )


def test_gradient_is_that_of_finite_differences_where_no_neuron_spikes():
    # The map is linear below the threshold: central differences are exact up to rounding.
    layer, driven, rng = make_case(strength=0.2, density=0.3)
    worth = torch.tensor(rng.normal(0, 1, (*driven.shape[:2], layer.size)))
    events = events_of(driven)
    start = torch.tensor(rng.normal(0, 0.1, (2, driven.shape[1], layer.size)))

    def loss(weight, coefficients, start):
        out = solve(
            layer, driven, weight=weight, coefficients=coefficients, events=events, record=True,
            current0=start[0], voltage0=start[1],
        )  # fmt: skip
        assert out.stamps.numel() == 0
        return (out.trace * worth).sum() + out.last_current.sum() - (out.last_voltage**2).sum()

    coefficients = torch.tensor(coefficients_of(layer))
    coefficients[3] *= 100
    arguments = [torch.tensor(layer.weight), coefficients, start]
    for argument in arguments:
        argument.requires_grad_()
    assert torch.autograd.gradcheck(loss, arguments, eps=1e-6, atol=1e-6, rtol=1e-6)


def test_gradients_are_bitwise_repeatable():
    def gradient():
        layer, driven, _ = make_case(3, 200, 9, 30, 50, strength=0.3)
        weight = torch.tensor(layer.weight, requires_grad=True)
        out = solve(layer, driven, weight=weight, recurrent=torch.tensor(layer.recurrent))
        (out.stamps**2).sum().backward()
        return weight.grad

    first = gradient()
    assert first.abs().sum() > 0
    assert all(torch.equal(first, gradient()) for _ in range(3))


@pairwise(
    shape={"50x3x7": (50, 3, 7), "no bin": (0, 3, 7), "no sample": (5, 0, 7), "no unit": (5, 3, 0)},
    kind=["spikes", "values", "strided"],
    dtype={"f32": torch.float32, "f64": torch.float64},
)
def test_events_of_a_raster_are_its_entries_by_sample_bin_and_unit(shape, kind, dtype):
    generator = torch.Generator().manual_seed(0)
    raster = (torch.rand(shape, generator=generator) < 0.2).to(dtype)
    if kind != "spikes":
        raster = raster * torch.randn(shape, generator=generator)
    if kind == "strided":
        raster = raster.transpose(0, 2).contiguous().transpose(0, 2)
    events = op.dense_events(raster, dtype)
    sample, bins, units = raster.transpose(0, 1).nonzero().unbind(1)
    assert torch.equal(events.bins, bins.int()) and torch.equal(events.units, units)
    values = raster[bins, sample, units]
    assert torch.equal(events.values, values[:0] if kind == "spikes" else values)
    assert torch.equal(events.offsets.diff(), torch.bincount(sample, minlength=shape[1]))


def test_gradients_lie_in_memory_as_weights_do():
    """Else autograd copies them, and an optimiser goes through memory in two orders."""
    layer = snn_eventprop.EventPropLIF(700, 33, recurrent=True)
    events = snn_eventprop.SpikeEvents.from_dense((torch.rand(50, 2, 700) < 0.02).float(), 1e-3)
    layer(events).times.sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.stride() == parameter.stride(), name
        assert parameter.grad.abs().sum() > 0, name


def test_no_bins_leave_no_gradient_whatever_memory_held_before():
    layer, driven, rng = make_case(steps=50)
    assert_equal_to_reference(layer, driven, rng)  # leaves its numbers in the memory for work
    current0 = torch.ones(2, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(layer.weight, requires_grad=True)
    events = op.no_events(2, torch.zeros(4, dtype=torch.float64))
    out = solve(layer, driven[:0], weight=weight, events=events, current0=current0)
    out.last_current.sum().backward()
    assert not current0.grad.any() and not weight.grad.any()
