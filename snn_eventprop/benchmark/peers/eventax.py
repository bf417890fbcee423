"""eventax: a recurrent ``EvNN`` of ``LIF`` neurons, integrated by Diffrax from event to event."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...events import SpikeEvents
from ..cases import TAU_MEM, TAU_SYN, Case, draw_weights
from .base import Network
from .on_jax import cross_entropy, jax, jnp, response, timed  # before eventax, which imports JAX

# isort: split
import equinox
from eventax.adjoint import EventPropAdjoint
from eventax.evnn import EvNN
from eventax.neuron_models import LIF


class Eventax(Network):
    remark = (
        "Euler steps of at most dt between events; room for 1.5 times the spikes that are wanted; "
        "readout in closed form; its forward pass is timed in a run of its own"
    )

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        weights = draw_weights(case)
        self._input = jnp.asarray(weights.input.T.numpy())
        self._recurrent = jnp.asarray(weights.recurrent.T.numpy())
        self.output = jnp.asarray(weights.output.numpy())
        self.set_gain(1.0)
        network = EvNN(
            LIF, case.hidden, case.duration, case.inputs, key=jax.random.PRNGKey(0),
            wmask=jnp.ones_like(self.weights), init_weights=self.weights, init_bias=0.0,
            thresh=1.0, tsyn=TAU_SYN, tmem=TAU_MEM, solver_stepsize=case.dt,
            max_event_steps=1 + case.events + int(1.5 * case.spikes * case.hidden),
            adjoint=EventPropAdjoint(),
        )  # fmt: skip

        def hidden_spikes(weights: Any, events: Any) -> Any:
            """Times (infinite where there is none) and neurons, ``[B, room]``."""
            weighted = equinox.tree_at(lambda n: n.neuron_model.weights, network, weights)
            times, neurons, _ = jax.vmap(weighted.record)(events)
            return times, neurons

        def loss(weights: Any, output: Any, events: Any, target: Any) -> Any:
            times, neurons = hidden_spikes(weights, events)
            there = jnp.isfinite(times)
            # Masked twice: the derivative at an infinite time is not a number.
            worth = response(jnp.where(there, times, 0.0), case.duration, TAU_MEM)
            drive = output[:, jnp.where(there, neurons, 0)]
            return cross_entropy(jnp.einsum("bs,obs->bo", jnp.where(there, worth, 0.0), drive),
                                 target)  # fmt: skip

        self._loss = jax.jit(loss)
        self._step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        self._count = jax.jit(lambda w, e: jnp.isfinite(hidden_spikes(w, e)[0]).sum())

    def encode(self, events: SpikeEvents) -> Any:
        """Spike times ``[B, inputs, K]`` in ascending order, then infinite ones."""
        samples = np.repeat(np.arange(len(events)), np.diff(events.offsets.numpy()))
        channels = samples * self.case.inputs + events.units.numpy()
        order = np.argsort(channels, kind="stable")
        counts = np.bincount(channels, minlength=len(events) * self.case.inputs)
        rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        # A power of two, so that few shapes are compiled.
        room = 1 << int(counts.max() - 1).bit_length()
        times = np.full((len(counts), room), np.inf, dtype=np.float32)
        times[channels[order], rank] = events.times.numpy()[order]
        return jnp.asarray(times.reshape(len(events), self.case.inputs, room))

    def set_gain(self, gain: float) -> None:
        self.weights = jnp.concatenate([self._recurrent, self._input * gain])

    def spikes_per_neuron(self, encoded: Any) -> float:
        return float(self._count(self.weights, encoded)) / (len(encoded) * self.case.hidden)

    def step(self, encoded: Any, target: Tensor) -> tuple[float, float]:
        arguments = self.weights, self.output, encoded, jnp.asarray(target.numpy())
        forward, total, (_, self._gradients) = timed(self._loss, self._step, *arguments)
        return forward, total

    def gradients(self) -> dict[str, Tensor]:
        both, output = (torch.tensor(np.asarray(g), dtype=torch.float64) for g in self._gradients)
        recurrent, first = both.split([self.case.hidden, self.case.inputs])
        return {"input": first.T, "recurrent": recurrent.T, "output": output}
