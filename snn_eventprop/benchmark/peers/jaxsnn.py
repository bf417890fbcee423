"""jaxsnn: a recurrent ``LIF`` population with its EventProp backward pass, in continuous time."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...events import SpikeEvents
from ..cases import TAU_SYN, Case, draw_weights
from .base import Network
from .on_jax import cross_entropy, jax, jnp, response, timed  # before jaxsnn, which imports JAX

# isort: split
from jaxsnn.event.modules import LIF, Linear, Source
from jaxsnn.event.modules.lif.lif import LIFParameters
from jaxsnn.event.topology import Topology
from jaxsnn.event.types import Spike

TAU_MEM = 2 * TAU_SYN


class Jaxsnn(Network):
    remark = (
        "its solver knows tau_mem = 2 tau_syn alone, with which it runs; room for 1.5 times the "
        "spikes that are wanted; readout in closed form; its forward pass is timed in a run of "
        "its own"
    )
    differs = "its solver knows tau_mem = 2 tau_syn alone"

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        weights = draw_weights(case)
        room = case.events + int(1.5 * case.spikes * case.hidden)
        constants = LIFParameters(v_reset=0.0, v_th=1.0, tau_syn=TAU_SYN, tau_mem=TAU_MEM)
        topology = Topology(t_max=case.duration, backprop_method="eventprop")
        first, recurrent = (jnp.asarray(w.T.numpy()) for w in (weights.input, weights.recurrent))
        topology.add({
            "input": Source(case.inputs),
            "hidden": LIF(case.hidden, room, constants),
            "first": Linear(pre_weights=first),
            "recurrent": Linear(pre_weights=recurrent),
        })
        topology.connect([
            ("input", "first"), ("first", "hidden"),
            ("hidden", "recurrent"), ("recurrent", "hidden"),
        ])
        start, apply = topology.done()
        self.parameters = dict(start(jax.random.PRNGKey(0)))
        self._initial = first
        self.output = jnp.asarray(weights.output.numpy())

        def hidden_spikes(parameters: Any, spikes: Any) -> Any:
            return apply({"input": spikes}, parameters)["hidden"]

        def loss(parameters: Any, output: Any, spikes: Any, target: Any) -> Any:
            hidden = hidden_spikes(parameters, spikes)
            worth = jnp.where(hidden.internal, response(hidden.time, case.duration, TAU_MEM), 0.0)
            logits = jnp.einsum("bs,obs->bo", worth, output[:, hidden.idx])
            return cross_entropy(logits, target)

        self._loss = jax.jit(loss)
        self._step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), allow_int=True))
        self._count = jax.jit(lambda p, s: hidden_spikes(p, s).internal.sum())

    def encode(self, events: SpikeEvents) -> Any:
        shape = len(events), self.case.events
        empty = Spike.empty(shape)
        return Spike(
            time=jnp.asarray(events.times.reshape(shape).numpy()),
            idx=jnp.asarray(events.units.reshape(shape).numpy(), dtype=empty.idx.dtype),
            current=empty.current,
            layer_idx=jnp.zeros_like(empty.layer_idx),
            internal=jnp.ones_like(empty.internal),
        )

    def set_gain(self, gain: float) -> None:
        self.parameters["first"] = self._initial * gain

    def spikes_per_neuron(self, encoded: Any) -> float:
        count = self._count(self.parameters, encoded)
        return float(count) / (encoded.time.shape[0] * self.case.hidden)

    def step(self, encoded: Any, target: Tensor) -> tuple[float, float]:
        arguments = self.parameters, self.output, encoded, jnp.asarray(target.numpy())
        return timed(self._loss, self._step, *arguments)[:2]

    def gradients(self) -> dict[str, Tensor]:
        raise NotImplementedError(self.differs)
