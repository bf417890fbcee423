"""Layers of ``solver="exact"``, input for them, and the tests' own simulator beside them."""

from __future__ import annotations

import numpy as np
import torch

from snn_eventprop import EventPropLIF, SpikeEvents
from support import continuous

DURATION = 0.1


def layer_of(seed, inputs=8, size=10, *, recurrent=True, dtype=torch.float64, taus="each",
             mean=0.6, std=0.5, **options):  # fmt: skip
    rng = np.random.default_rng(seed)
    tau_mem, tau_syn = rng.uniform(8e-3, 30e-3, size), rng.uniform(2e-3, 8e-3, size)
    if taus == "equal":
        tau_syn = tau_mem
    if taus == "reversed":
        tau_mem, tau_syn = tau_syn, tau_mem
    constants = {"tau_mem": torch.tensor(tau_mem), "tau_syn": torch.tensor(tau_syn)}
    if taus == "shared":
        constants = {"tau_mem": 20e-3, "tau_syn": 5e-3}
    layer = EventPropLIF(
        inputs, size, recurrent=recurrent, solver="exact", dtype=dtype, grazing_guard=0.0,
        threshold=torch.tensor(rng.uniform(0.8, 1.2, size)), **constants, **options,
    )  # fmt: skip
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rng.normal(mean, std, (size, inputs))))
        if recurrent:
            spread = 0.05 if taus == "reversed" else 0.2
            layer.recurrent_weight.copy_(torch.tensor(rng.normal(0, spread, (size, size))))
    return layer


def events_of(seed, inputs=8, samples=2, events=80, dtype=torch.float64):
    rng = np.random.default_rng([seed, 7])
    return SpikeEvents.from_list(
        [(np.sort(rng.uniform(0, 0.09, events)), rng.integers(0, inputs, events))
         for _ in range(samples)],
        num_units=inputs, duration=DURATION, dtype=dtype,
    )  # fmt: skip


def simulated(layer, events, sample):
    """The tests' own simulator on one sample."""
    size, recurrent = layer.out_features, layer.recurrent_weight
    twin = continuous.Layer(
        layer.weight.detach().double().numpy(),
        layer.tau_mem.detach().expand(size).numpy(), layer.tau_syn.detach().expand(size).numpy(),
        layer.threshold.detach().double().expand(size).numpy(),
        None if recurrent is None else recurrent.detach().double().numpy(),
    )  # fmt: skip
    one = events[sample]
    return continuous.simulate_layer(
        twin, one.times.detach().double().numpy(), one.units.numpy(), events.duration
    )
