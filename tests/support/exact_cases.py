"""Random layers of the continuous-time solver, run by the fast kernels and by the reference.

The one place in which the tests of kernels call the solver's operator and its reference directly.
"""

from __future__ import annotations

import numpy as np
import torch

from snn_eventprop.backends.reference import exact as reference
from support.exact_runs import run_exact

DURATION = 0.1


def make_layer(seed, size=6, inputs=5, *, recurrent=True, taus="each", strength=1.0):
    rng = np.random.default_rng(seed)
    tau_mem = rng.uniform(5e-3, 30e-3, size)
    tau_syn = rng.uniform(2e-3, 10e-3, size)
    if taus == "shared":
        tau_mem[:], tau_syn[:] = 20e-3, 5e-3
    if taus == "equal":
        tau_syn = tau_mem.copy()
    if taus == "reversed":  # synapses slower than membranes, and one pair all but equal
        tau_mem, tau_syn = tau_syn, tau_mem
        tau_syn[0] = tau_mem[0] * (1 + 1e-6)
    return reference.ExactLayer(
        rng.normal(0.8 * strength, strength, (inputs, size)), tau_mem, tau_syn,
        rng.uniform(0.7, 1.2, size), rng.uniform(-0.2, 0.2, size),
        rng.normal(0, 0.4 * strength, (size, size)) if recurrent else None,
    )  # fmt: skip


def make_events(seed, samples=2, events=60, inputs=5):
    rng = np.random.default_rng([seed, 1])
    times = [np.sort(rng.uniform(0, 0.08, events + b)) for b in range(samples)]
    units = [rng.integers(0, inputs, len(t)) for t in times]
    return times, units, rng


def leaves(layer, dtype=torch.float64, shared=False):
    def leaf(array, dtype=dtype):
        return torch.tensor(array, dtype=dtype, requires_grad=True)

    taus = (layer.tau_mem[:1], layer.tau_syn[:1]) if shared else (layer.tau_mem, layer.tau_syn)
    return {
        "weight": leaf(layer.weight),
        "tau_mem": leaf(taus[0], torch.float64), "tau_syn": leaf(taus[1], torch.float64),
        "threshold": leaf(layer.threshold),
        "recurrent": None if layer.recurrent is None else leaf(layer.recurrent),
    }  # fmt: skip


def run(layer, p, times, units, floor, limit=100_000):
    dtype = p["weight"].dtype
    packed = torch.tensor(np.concatenate(times), dtype=dtype, requires_grad=True)
    offsets = torch.tensor(np.cumsum([0] + [len(t) for t in times]))
    spikes = run_exact(
        packed, torch.tensor(np.concatenate(units)), offsets, DURATION, p["weight"],
        p["tau_mem"], p["tau_syn"], p["threshold"], torch.tensor(layer.v_reset, dtype=dtype),
        torch.tensor(floor, dtype=dtype), recurrent=p["recurrent"], limit=limit,
    )  # fmt: skip
    return packed, spikes


def reference_runs(layer, times, units) -> list:
    """The reference's forward pass of each sample."""
    return [reference.forward(layer, t, u, DURATION) for t, u in zip(times, units, strict=True)]


def reference_gradients(layer, runs, spikes, worth, marks=None, floor=None) -> list:
    """The reference's backward pass of each sample, for d loss / d time of every spike.

    Args:
        spikes: of the fast kernels, whose offsets part ``worth`` and ``marks`` into samples.
        marks: d loss / d mark of every spike.
        floor: [H] of the slope at a spike.
    """
    ends = spikes.offsets.numpy()
    return [
        reference.backward(
            layer, run, worth[lo:hi], marks=None if marks is None else marks[lo:hi], floor=floor
        )
        for run, lo, hi in zip(runs, ends, ends[1:], strict=False)
    ]  # fmt: skip
