"""Random layers of the grid solver, run by the fast kernels and by the readable reference.

The one place in which the tests call the solver's operator and its reference directly.
"""

from __future__ import annotations

import numpy as np
import torch

from snn_eventprop import discretisation
from snn_eventprop.backends.reference import grid as reference
from snn_eventprop.ops import grid as op
from support.grid_runs import coefficient_gradients, coefficients_of, lif_layer, run_lif

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def leaf(array) -> torch.Tensor:
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)


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
    layer = lif_layer(
        weight=rng.normal(strength * 0.5, strength, (inputs, size)),
        s=s.numpy(), c=c.numpy(), m=m.numpy(), threshold=threshold.numpy(),
        v_reset=rng.uniform(-0.3, 0.3, size) if reset != "subtract" else np.zeros(size),
        recurrent=rng.normal(0, strength * 0.5, (size, size)) if recurrent else None,
        reset=reset, delayed=delayed,
    )  # fmt: skip
    driven = rng.poisson(density, (steps, batch, inputs)).astype(float)
    return layer, driven, rng


def events_of(driven) -> op.Events:
    """The entries of a raster [T, B, N] as events."""
    return op.dense_events(torch.as_tensor(driven), torch.float64)


def solve(layer, driven, *, weight=None, coefficients=None, floor=0.0, events=None, **options):
    """Spikes by the fast kernels, in float64, of a layer that is stated as the reference's.

    Args:
        weight, coefficients: take the place of the layer's own, which want no gradients.
        floor: of the slope at a spike, for all neurons.
        events: take the place of the raster's.
        options: go to the operator; without ``recurrent`` the layer is a feed-forward one.
    """
    return run_lif(
        events_of(driven) if events is None else events, len(driven),
        torch.tensor(layer.weight) if weight is None else weight,
        torch.tensor(coefficients_of(layer)) if coefficients is None else coefficients,
        torch.tensor(layer.constants["v_reset"]),
        torch.full((layer.size,), floor, dtype=torch.float64), **options,
    )  # fmt: skip


def raster_of(spikes, steps: int, size: int) -> torch.Tensor:
    """Spikes [T, B, H] as 0 and 1, through which gradients reach the spikes."""
    return op.to_raster(spikes, steps, size, hold=False)


def reference_runs(layer, driven, current0=None, voltage0=None) -> list:
    """The reference's forward pass of each sample of ``driven`` [T, B, N]."""
    start = None if current0 is None else np.stack([current0, voltage0])
    return [
        reference.forward(layer, driven[:, b], *(() if start is None else (start[:, b],)))
        for b in range(driven.shape[1])
    ]


def reference_gradients(layer, runs, worth, *, marks=None, grad_trace=None, floor=None) -> list:
    """The reference's backward pass of each sample; ``worth`` [T + 1, B, H] of spikes."""
    return [
        reference.backward(
            layer, run, worth[:, b], marks=None if marks is None else marks[b],
            grad_trace=None if grad_trace is None else grad_trace[:, b],
            floor=None if floor is None else np.full(layer.size, floor),
        )
        for b, run in enumerate(runs)
    ]  # fmt: skip


def stacked(runs, name: str) -> np.ndarray:
    """An array [T, B, H] of the reference's runs."""
    return np.stack([getattr(run, name) for run in runs], 1)


def assert_close(ours, theirs) -> None:
    """To within the tolerance of the largest entry."""
    scale = max(1.0, float(np.abs(theirs).max())) if np.size(theirs) else 1.0
    np.testing.assert_allclose(ours.numpy() / scale, theirs / scale, **TOLERANCE)


def assert_equal_to_reference(
    layer, driven, rng, floor=0.05, trace=True, marks=True, by_receiver=False
):
    """Spikes, trace and every gradient; returns the numbers of spikes and of guarded ones.

    Args:
        trace: record it and put a loss on it.
        marks: put a loss on the marks of spikes.
        by_receiver: weights lie in memory as the transpose of what the kernels read.
    """
    steps, batch, _ = driven.shape
    size = layer.size

    def rows(array):
        given = leaf(array.T.copy()).t() if by_receiver else leaf(array)
        given.retain_grad()
        return given

    weight = rows(layer.weight)
    recurrent = None if layer.recurrent is None else rows(layer.recurrent)
    coefficients = leaf(coefficients_of(layer))
    raster = leaf(driven)
    current0 = leaf(rng.normal(0, 1, (batch, size)))
    voltage0 = leaf(rng.normal(0, 0.3, (batch, size)))
    worth = np.zeros((steps + 1, batch, size))
    worth[:steps] = rng.normal(0, 1, (steps, batch, size))
    mark_worth = rng.normal(0, 1, (batch, size)) * marks
    grad_trace = rng.normal(0, 1, (steps, batch, size)) if trace else None
    spikes = solve(
        layer, driven, weight=weight, coefficients=coefficients, floor=floor,
        events=events_of(raster), recurrent=recurrent, raster=raster, current0=current0,
        voltage0=voltage0, reset=layer.reset, record=trace,
    )  # fmt: skip
    fired = raster_of(spikes, steps, size)
    sample = torch.repeat_interleave(torch.arange(batch), spikes.offsets.diff())
    loss = (fired * torch.tensor(worth[:steps])).sum()
    loss = loss + (spikes.marks * torch.tensor(mark_worth)[sample, spikes.units.long()]).sum()
    if trace:
        loss = loss + (spikes.trace * torch.tensor(grad_trace)).sum()
    loss.backward()

    runs = reference_runs(layer, driven, current0.detach().numpy(), voltage0.detach().numpy())
    grads = reference_gradients(
        layer, runs, worth, marks=mark_worth, grad_trace=grad_trace, floor=floor
    )
    np.testing.assert_array_equal(fired.detach().numpy(), stacked(runs, "spikes"))
    if trace:
        np.testing.assert_allclose(spikes.trace.detach(), stacked(runs, "trace"), **TOLERANCE)
    assert_close(weight.grad, sum(g.weight for g in grads))
    if recurrent is not None:
        assert_close(recurrent.grad, sum(g.recurrent for g in grads))
    assert_close(coefficients.grad, sum(coefficient_gradients(g) for g in grads))
    assert_close(current0.grad, np.stack([g.start[0] for g in grads]))
    assert_close(voltage0.grad, np.stack([g.start[1] for g in grads]))
    assert_close(raster.grad, stacked(grads, "current") @ layer.weight.T)
    return sum(r.spikes.sum() for r in runs), sum(g.guarded for g in grads)


def with_delays(case, longest, recurrent_longest=None):
    """The case with random delays of up to so many bins."""
    layer, driven, rng = case
    layer.delay = rng.uniform(0, longest, layer.weight.shape)
    if layer.recurrent is not None:
        bound = longest if recurrent_longest is None else recurrent_longest
        layer.recurrent_delay = rng.uniform(0, bound, layer.recurrent.shape)
    return layer, driven, rng


def assert_delays_equal_to_reference(
    layer, driven, rng, *, trace=True, coefficients=True, events=True
):
    """The same with delays; without the last three the passes may skip bins.

    Args:
        trace: record it and put a loss on it.
        coefficients: want their gradient, for which the forward pass is replayed.
        events: want gradients of the input's values and times as well as of its raster.
    """
    steps, batch, _ = driven.shape
    size = layer.size
    weight, delay = leaf(layer.weight), leaf(layer.delay)
    recurrent = recurrent_delay = None
    if layer.recurrent is not None:
        recurrent, recurrent_delay = leaf(layer.recurrent), leaf(layer.recurrent_delay)
    numbers = torch.tensor(coefficients_of(layer)).requires_grad_(coefficients)
    raster = leaf(driven) if events else None
    given = events_of(driven)
    if events and given.values.numel() == 0:
        given = given._replace(values=torch.ones(given.bins.numel()).double())
    values = given.values.requires_grad_(events)
    stamps = given.bins.double().requires_grad_() if events else None
    worth = np.zeros((steps + 1, batch, size))
    worth[:steps] = rng.normal(0, 1, (steps, batch, size))
    grad_trace = rng.normal(0, 1, (steps, batch, size)) if trace else None
    spikes = solve(
        layer, driven, weight=weight, coefficients=numbers, floor=0.05, events=given,
        recurrent=recurrent, raster=raster, event_stamps=stamps, reset=layer.reset,
        record=trace, delay=delay, recurrent_delay=recurrent_delay,
    )  # fmt: skip
    fired = raster_of(spikes, steps, size)
    loss = (fired * torch.tensor(worth[:steps])).sum()
    if trace:
        loss = loss + (spikes.trace * torch.tensor(grad_trace)).sum()
    loss.backward()

    runs = reference_runs(layer, driven)
    grads = reference_gradients(layer, runs, worth, grad_trace=grad_trace, floor=0.05)
    np.testing.assert_array_equal(fired.detach().numpy(), stacked(runs, "spikes"))
    if trace:
        np.testing.assert_allclose(spikes.trace.detach(), stacked(runs, "trace"), **TOLERANCE)
    assert_close(weight.grad, sum(g.weight for g in grads))
    assert_close(delay.grad, sum(g.delay for g in grads))
    if recurrent is not None:
        assert_close(recurrent.grad, sum(g.recurrent for g in grads))
        assert_close(recurrent_delay.grad, sum(g.recurrent_delay for g in grads))
    if coefficients:
        assert_close(numbers.grad, sum(coefficient_gradients(g) for g in grads))
    if events:
        of_input = stacked(grads, "driven")
        assert_close(raster.grad, of_input)
        sample = torch.repeat_interleave(torch.arange(batch), given.offsets.diff()).numpy()
        bins, units = given.bins.long().numpy(), given.units.numpy()
        assert_close(values.grad, of_input[bins, sample, units])
        inner = bins < steps - 1  # beyond the end the reference has no row
        change = of_input[np.minimum(bins + 1, steps - 1), sample, units]
        change = (change - of_input[bins, sample, units]) * values.detach().numpy()
        assert_close(stamps.grad[inner], change[inner])
    return sum(r.spikes.sum() for r in runs)
