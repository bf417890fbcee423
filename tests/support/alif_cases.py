"""Layers of adaptive LIF neurons on the operator of the grid solver, and on its reference."""

from __future__ import annotations

import numpy as np
import torch

from snn_eventprop.backends.reference import grid as reference
from snn_eventprop.neurons import alif
from snn_eventprop.ops import grid as op

LEARNED = (*alif.FLOW_CONSTANTS, *alif.SPIKE_CONSTANTS)


def close(ours, theirs, tolerance=1e-10):
    scale = max(1.0, float(np.abs(theirs).max())) if np.size(theirs) else 1.0
    np.testing.assert_allclose(ours / scale, theirs / scale, rtol=tolerance, atol=tolerance)


def assert_equal_to_reference(reset, recurrent, delays, size, steps, width=None):
    """Spikes, trace and every gradient of a random layer and input.

    Args:
        width: of the threshold noise; None: exact gradients.
    """
    rng = np.random.default_rng(size)
    inputs, batch, density = 6, 2, 0.15 if steps < 100 else 0.02

    def decay(low, high):
        return np.exp(-1e-3 / rng.uniform(low, high, size))

    constants = {
        "s": decay(2e-3, 10e-3), "c": rng.uniform(0.05, 0.1, size), "m": decay(5e-3, 30e-3),
        "r": decay(20e-3, 200e-3), "threshold": rng.uniform(0.6, 1.2, size),
        "beta": rng.uniform(-0.05, 0.5, size), "v_reset": rng.uniform(-0.2, 0.2, size),
    }  # fmt: skip
    noise = None if width is None else np.full(size, width)
    layer = reference.GridLayer(
        rng.normal(1.5, 3.0, (inputs, size)), constants, reset=reset, neuron=alif, width=noise,
        recurrent=rng.normal(0, 3 / size**0.5, (size, size)) if recurrent else None,
        delay=rng.uniform(0, delays, (inputs, size)) if delays else None,
        recurrent_delay=rng.uniform(0, delays, (size, size)) if delays and recurrent else None,
    )  # fmt: skip
    driven = rng.poisson(density, (steps, batch, inputs)).astype(float)

    def leaf(array):
        return None if array is None else torch.tensor(array, requires_grad=True)

    rows, weight = leaf(np.stack(list(constants.values()))), leaf(layer.weight)
    back, delay, back_delay = map(leaf, (layer.recurrent, layer.delay, layer.recurrent_delay))
    raster, start = leaf(driven), leaf(rng.normal(0, 0.3, (3, batch, size)))
    floor = np.full(size, 0.02)
    spikes = op.grid_lif(
        op.dense_events(raster, torch.float64), steps, weight,
        op.Population(
            "alif", rows, torch.tensor(floor), reset,
            None if noise is None else torch.tensor(noise),
        ),
        recurrent=back,
        drive=op.Drive(raster=raster), delays=op.Delays(delay, back_delay),
        start=op.State(start), record=True,
    )  # fmt: skip
    fired = op.to_raster(spikes, steps, size, hold=False)
    value = np.zeros((steps + 1, batch, size))
    value[:-1] = rng.normal(0, 1, (steps, batch, size))
    of_trace = rng.normal(0, 1, (steps, batch, size))
    loss = (fired * torch.tensor(value[:-1])).sum()
    loss = loss + (spikes.trace * torch.tensor(of_trace)).sum()
    loss.backward()

    first = start.detach().numpy()
    runs = [reference.forward(layer, driven[:, b], first[:, b]) for b in range(batch)]
    grads = [
        reference.backward(layer, runs[b], value[:, b], grad_trace=of_trace[:, b], floor=floor)
        for b in range(batch)
    ]
    assert sum(run.spikes.sum() for run in runs) > 10
    if width is not None:
        assert sum(run.peaks.sum() for run in runs) == spikes.peak_bins.numel() > 10
    np.testing.assert_array_equal(fired.detach(), np.stack([run.spikes for run in runs], 1))
    close(spikes.trace.detach().numpy(), np.stack([run.trace for run in runs], 1))
    close(weight.grad.numpy(), sum(g.weight for g in grads))
    for count, name in enumerate(LEARNED):
        close(rows.grad[count].numpy(), sum(g.constants[name] for g in grads))
    close(start.grad.numpy(), np.stack([g.start for g in grads], 1))
    close(raster.grad.numpy(), np.stack([g.driven for g in grads], 1))
    for ours, name in ((back, "recurrent"), (delay, "delay"), (back_delay, "recurrent_delay")):
        if ours is not None:
            close(ours.grad.numpy(), sum(getattr(g, name) for g in grads))
