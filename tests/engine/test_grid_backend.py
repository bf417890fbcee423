"""The fast CPU kernels of the grid solver against the readable float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import snn_eventprop
from snn_eventprop import discretisation
from snn_eventprop.backends.reference import grid as reference
from snn_eventprop.ops import grid as op

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def make_case(
    seed=0, steps=60, batch=2, inputs=5, size=4, *, recurrent=True, reset="subtract",
    delayed=False, kind="exponential", density=0.15, dt=1e-3, strength=3.0, shared=False,
):  # fmt: skip
    rng = np.random.default_rng(seed)

    def constants(low, high):
        drawn = torch.tensor(rng.uniform(low, high, size))
        return torch.full_like(drawn, drawn[0]) if shared else drawn

    tau_mem, tau_syn = constants(5e-3, 30e-3), constants(2e-3, 10e-3)
    if kind == "exponential":
        s, c, m = discretisation.exponential(tau_mem, tau_syn, dt)
    elif kind == "equal_taus":
        s, c, m = discretisation.exponential(tau_mem, tau_mem, dt)
    elif kind == "norse":
        s, c, m = discretisation.norse(1 / tau_mem, 1 / tau_syn, dt)
    else:
        alpha = torch.exp(-dt / tau_syn) if kind == "synaptic" else torch.zeros(size).double()
        s, c, m = discretisation.snntorch(alpha, torch.exp(-dt / tau_mem))
        strength *= 0.15
    threshold = constants(0.6, 1.2)
    layer = reference.GridLayer(
        weight=rng.normal(strength * 0.5, strength, (inputs, size)),
        s=s.numpy(), c=c.numpy(), m=m.numpy(), threshold=threshold.numpy(),
        v_reset=rng.uniform(-0.3, 0.3, size) if reset != "subtract" else np.zeros(size),
        recurrent=rng.normal(0, strength * 0.5, (size, size)) if recurrent else None,
        reset=reset, delayed=delayed,
    )  # fmt: skip
    driven = rng.poisson(density, (steps, batch, inputs)).astype(float)
    return layer, driven, rng


def run_both(layer, driven, rng, floor=0.05, trace=True, marks=True, by_receiver=False):
    steps, batch, _ = driven.shape
    size = len(layer.s)

    def leaf(array):
        return torch.tensor(array, dtype=torch.float64, requires_grad=True)

    def rows(array):
        """As an operator gets it: contiguous, or as the transpose of what a layer holds."""
        given = leaf(array.T.copy()).t() if by_receiver else leaf(array)
        given.retain_grad()
        return given

    weight = rows(layer.weight)
    recurrent = None if layer.recurrent is None else rows(layer.recurrent)
    coefficients = leaf(np.stack([layer.s, layer.c, layer.m, layer.threshold]))
    raster = leaf(driven)
    current0 = leaf(rng.normal(0, 1, (batch, size)))
    voltage0 = leaf(rng.normal(0, 0.3, (batch, size)))
    worth = np.zeros((steps + 1, batch, size))
    worth[:steps] = rng.normal(0, 1, (steps, batch, size))
    mark_worth = rng.normal(0, 1, (batch, size)) * marks
    grad_trace = rng.normal(0, 1, (steps, batch, size)) if trace else None
    floors = np.full(size, floor)
    spikes = op.grid_lif(
        op.dense_events(raster, torch.float64), steps, weight, coefficients,
        torch.tensor(layer.v_reset), torch.tensor(floors), recurrent=recurrent, raster=raster,
        current0=current0, voltage0=voltage0, reset=layer.reset, delayed=layer.delayed,
        record=trace,
    )  # fmt: skip
    fired = op.to_raster(spikes, steps, size, hold=False)
    sample = torch.repeat_interleave(torch.arange(batch), spikes.offsets.diff())
    loss = (fired * torch.tensor(worth[:steps])).sum()
    loss = loss + (spikes.marks * torch.tensor(mark_worth)[sample, spikes.units.long()]).sum()
    if trace:
        loss = loss + (spikes.trace * torch.tensor(grad_trace)).sum()
    loss.backward()

    runs = [
        reference.forward(
            layer, driven[:, b], current0.detach().numpy()[b], voltage0.detach().numpy()[b]
        )
        for b in range(batch)
    ]
    grads = [
        reference.backward(
            layer, runs[b], worth[:, b], marks=mark_worth[b],
            grad_trace=None if grad_trace is None else grad_trace[:, b], floor=floors,
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
    if recurrent is not None:
        close(recurrent.grad, sum(g.recurrent for g in grads))
    close(coefficients.grad, sum(np.stack([g.s, g.c, g.m, g.threshold]) for g in grads))
    close(current0.grad, np.stack([g.current0 for g in grads]))
    close(voltage0.grad, np.stack([g.voltage0 for g in grads]))
    dense = np.stack([g.current for g in grads], 1)
    close(raster.grad, dense @ layer.weight.T)
    return sum(r.spikes.sum() for r in runs), sum(g.guarded for g in grads)


@pytest.mark.parametrize("kind", ["exponential", "equal_taus", "norse", "synaptic", "leaky"])
@pytest.mark.parametrize("recurrent", [False, True], ids=["feedforward", "recurrent"])
@pytest.mark.parametrize(
    "reset,delayed",
    [("subtract", False), ("zero", False), ("none", False), ("subtract", True), ("zero", True),
     ("zero_all", True)],
    ids=lambda v: {True: "delayed", False: "immediate"}.get(v, v),
)  # fmt: skip
def test_backend_equals_reference(kind, recurrent, reset, delayed):
    case = make_case(kind=kind, recurrent=recurrent, reset=reset, delayed=delayed)
    fired, _ = run_both(*case)
    assert fired > 10


@pytest.mark.parametrize("shared", [False, True], ids=["own-constants", "shared-constants"])
@pytest.mark.parametrize("by_receiver", [False, True], ids=["by-sender", "by-receiver"])
@pytest.mark.parametrize("size", [1, 15, 16, 37, 64, 145])
def test_kernels_cover_layers_of_any_size(size, by_receiver, shared):
    """They go by blocks of 64, 16 and single neurons, and transpose blocks of 16 by 16 weights."""
    case = make_case(size=size, inputs=37, shared=shared, strength=min(3.0, 9 / size**0.5))
    fired, _ = run_both(*case, by_receiver=by_receiver)
    assert fired > 10


def test_backend_equals_reference_over_several_replayed_segments():
    case = make_case(steps=2500, density=0.01, batch=3, strength=1.5)
    fired, guarded = run_both(*case, floor=1.0)
    assert fired > 100 and guarded > 0


@pytest.mark.parametrize("recurrent", [False, True], ids=["feedforward", "recurrent"])
def test_bins_without_events_may_be_skipped(recurrent):
    # Without a trace, input gradient or trainable coefficients both passes jump over quiet bins.
    layer, driven, rng = make_case(steps=2900, density=0.002, recurrent=recurrent, strength=8.0)
    steps, batch, _ = driven.shape
    size = len(layer.s)
    weight = torch.tensor(layer.weight, requires_grad=True)
    rows = torch.tensor(layer.recurrent, requires_grad=True) if recurrent else None
    coefficients = torch.tensor(np.stack([layer.s, layer.c, layer.m, layer.threshold]))
    spikes = op.grid_lif(
        op.dense_events(torch.tensor(driven), torch.float64), steps, weight, coefficients,
        torch.tensor(layer.v_reset), torch.zeros(size).double(), recurrent=rows,
    )  # fmt: skip
    worth = np.zeros((steps + 1, batch, size))
    worth[:steps] = rng.normal(0, 1, (steps, batch, size))
    fired = op.to_raster(spikes, steps, size, hold=False)
    (fired * torch.tensor(worth[:steps])).sum().backward()
    runs = [reference.forward(layer, driven[:, b]) for b in range(batch)]
    grads = [reference.backward(layer, runs[b], worth[:, b]) for b in range(batch)]
    np.testing.assert_array_equal(fired.detach().numpy(), np.stack([r.spikes for r in runs], 1))
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
        spikes = op.grid_lif(
            op.dense_events(torch.tensor(driven), torch.float64), steps,
            torch.tensor(layer.weight),
            torch.tensor(np.stack([layer.s, layer.c, layer.m, layer.threshold])),
            torch.tensor(layer.v_reset), torch.zeros(size).double(),
        )  # fmt: skip
        assert spikes.stamps.numel() == 0 and spikes.last_voltage.shape == (0, size)
        return
    run_both(
        *make_case(seed, steps, batch, inputs, size, density=density, recurrent=recurrent),
        trace=bool(seed % 2),
    )


def test_gradient_is_that_of_finite_differences_where_no_neuron_spikes():
    # The map is linear below the threshold: central differences are exact up to rounding.
    layer, driven, rng = make_case(strength=0.2, density=0.3)
    worth = torch.tensor(rng.normal(0, 1, (*driven.shape[:2], len(layer.s))))
    events = op.dense_events(torch.tensor(driven), torch.float64)
    start = torch.tensor(rng.normal(0, 0.1, (2, driven.shape[1], len(layer.s))))

    def loss(weight, coefficients, start):
        out = op.grid_lif(
            events, len(driven), weight, coefficients, torch.tensor(layer.v_reset),
            torch.zeros(len(layer.s)).double(), record=True, current0=start[0], voltage0=start[1],
        )  # fmt: skip
        assert out.stamps.numel() == 0
        return (out.trace * worth).sum() + out.last_current.sum() - (out.last_voltage**2).sum()

    coefficients = torch.tensor(np.stack([layer.s, layer.c, layer.m, layer.threshold * 100]))
    arguments = [torch.tensor(layer.weight), coefficients, start]
    for argument in arguments:
        argument.requires_grad_()
    assert torch.autograd.gradcheck(loss, arguments, eps=1e-6, atol=1e-6, rtol=1e-6)


def test_gradients_are_bitwise_repeatable():
    def gradient():
        layer, driven, _ = make_case(3, 200, 9, 30, 50, strength=0.3)
        weight = torch.tensor(layer.weight, requires_grad=True)
        out = op.grid_lif(
            op.dense_events(torch.tensor(driven), torch.float64), 200, weight,
            torch.tensor(np.stack([layer.s, layer.c, layer.m, layer.threshold])),
            torch.tensor(layer.v_reset), torch.zeros(50).double(),
            recurrent=torch.tensor(layer.recurrent),
        )  # fmt: skip
        (out.stamps**2).sum().backward()
        return weight.grad

    first = gradient()
    assert first.abs().sum() > 0
    assert all(torch.equal(first, gradient()) for _ in range(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("shape", [(50, 3, 7), (0, 3, 7), (5, 0, 7), (5, 3, 0)], ids=str)
@pytest.mark.parametrize("kind", ["spikes", "values", "strided"])
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
    run_both(layer, driven, rng)  # leaves its numbers in the memory for work
    current0 = torch.ones(2, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(layer.weight, requires_grad=True)
    coefficients = torch.tensor(np.stack([layer.s, layer.c, layer.m, layer.threshold]))
    zero = torch.zeros(4, dtype=torch.float64)
    out = op.grid_lif(
        op.no_events(2, zero), 0, weight, coefficients, zero, zero, current0=current0
    )
    out.last_current.sum().backward()
    assert not current0.grad.any() and not weight.grad.any()
