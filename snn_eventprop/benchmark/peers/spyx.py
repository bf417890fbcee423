"""Spyx: ``RCuBaLIF`` and ``LI`` in one compiled ``jax.lax.scan``."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ...events import SpikeEvents
from ..cases import TAU_MEM, TAU_SYN, Case, draw_weights
from .base import Network
from .on_jax import cross_entropy, jax, jnp, timed  # before Spyx, which imports JAX

# isort: split
import spyx.nn
from flax import nnx


class Spyx(Network):
    remark = (
        "the input product is taken out of the scan; its readout has no synaptic current; its "
        "forward pass is timed in a run of its own"
    )
    differs = "its readout has no synaptic current"

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        weights = draw_weights(case)
        alpha, beta = math.exp(-case.dt / TAU_SYN), math.exp(-case.dt / TAU_MEM)
        share, rngs = 1 - beta, nnx.Rngs(0)
        self._initial = jnp.asarray((weights.input.T * share).numpy())
        self.first = self._initial
        hidden = spyx.nn.RCuBaLIF((case.hidden,), alpha=alpha, beta=beta, rngs=rngs)
        # Its recurrent weight is [pre, post].
        hidden.recurrent_w[...] = jnp.asarray((weights.recurrent.T * share).numpy())
        second = nnx.Linear(case.hidden, case.outputs, use_bias=False, rngs=rngs)
        second.kernel[...] = jnp.asarray((weights.output.T * share).numpy())
        readout = spyx.nn.LI((case.outputs,), beta=beta, rngs=rngs)
        graph, self.parameters = nnx.split(spyx.nn.Sequential(hidden, second, readout))
        hidden_graph, self.hidden_parameters = nnx.split(hidden)
        weight = jnp.exp(-(jnp.arange(case.steps) + 1.0) / case.steps) / case.steps

        def loss(first: Any, parameters: Any, raster: Any, target: Any) -> Any:
            trace, _ = spyx.nn.run(nnx.merge(graph, parameters), raster @ first)
            logits = jnp.einsum("t,tbo->bo", weight, trace)
            return cross_entropy(logits, target)

        def mean_spikes(first: Any, parameters: Any, raster: Any) -> Any:
            spikes, _ = spyx.nn.run(nnx.merge(hidden_graph, parameters), raster @ first)
            return spikes.mean() * case.steps

        self._step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        self._loss = jax.jit(loss)
        self._mean_spikes = jax.jit(mean_spikes)

    def encode(self, events: SpikeEvents) -> Any:
        return jnp.asarray(events.to_dense(self.case.dt).numpy())

    def set_gain(self, gain: float) -> None:
        self.first = self._initial * gain

    def spikes_per_neuron(self, encoded: Any) -> float:
        return float(self._mean_spikes(self.first, self.hidden_parameters, encoded))

    def step(self, encoded: Any, target: Tensor) -> tuple[float, float]:
        arguments = self.first, self.parameters, encoded, jnp.asarray(target.numpy())
        return timed(self._loss, self._step, *arguments)[:2]

    def gradients(self) -> dict[str, Tensor]:
        raise NotImplementedError("its readout is another one")

    def peak_device_memory(self) -> int | None:
        statistics = jax.devices()[0].memory_stats()  # None on a CPU
        return statistics["peak_bytes_in_use"] if statistics else None
