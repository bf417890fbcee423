"""``LIFCell``, ``LIF``, ``LIFRecurrentCell`` and ``LIFRecurrent`` of Norse, exact gradients."""

from __future__ import annotations

import norse.torch as host
import torch
from norse.torch.functional.adjoint.lif_adjoint import (
    lif_adjoint_step,
    lif_feed_forward_adjoint_step,
)
from norse.torch.functional.lif import lif_feed_forward_step, lif_step
from torch import Tensor
from torch.nn.functional import linear

from ... import discretisation
from ...diagnostics import keep_record
from ..adapter import handed_on
from ..fusion.chain_recorder import whole
from ..linear_current import LinearDrive
from ..sequence import Before, Dynamics, run_sequence
from ..step import emit, inverse_slopes
from ..step_memory import Earlier, earlier_spikes
from .modules import NorseModule

_RECURRENT = (host.LIFRecurrent, host.LIFRecurrentCell)


class NorseNeuron(NorseModule):
    r"""Norse's Euler step with a synaptic current, with the gradient of ``hosts.step``.

    .. math::
        i \leftarrow i + x, \qquad
        v \leftarrow v + \Delta t\, \tau_m^{-1} (v_\mathrm{leak} - v + i), \qquad
        i \leftarrow i - \Delta t\, \tau_s^{-1} i

    then v > v_th emits a spike and v becomes v_reset.
    """

    _tuple = host.LIFParameters
    _activations = (
        lif_step, lif_adjoint_step, lif_feed_forward_step, lif_feed_forward_adjoint_step,
    )  # fmt: skip

    input_weights: Tensor
    recurrent_weights: Tensor

    @staticmethod
    def refusal(neuron: torch.nn.Module) -> str | None:
        return NorseModule._other_step(neuron, NorseNeuron._activations)

    def _shape_of_a_step(self, input_tensor: Tensor | LinearDrive, steps: bool) -> torch.Size:
        one = super()._shape_of_a_step(input_tensor, steps)
        if isinstance(self, _RECURRENT):
            one = torch.Size((*one[:-1], len(self.recurrent_weights)))
        return one

    def _as_state(self, values: dict[str, Tensor]):
        if isinstance(self, _RECURRENT):
            return host.LIFState(z=values["spk"], v=values["v"], i=values["i"])
        return host.LIFFeedForwardState(v=values["v"], i=values["i"])

    def _advance(self, input_tensor: Tensor, state):
        """One step in the host's order of operations: (spikes, state)."""
        self._record = None
        p, dt = self.p, self.dt
        sparse = input_tensor.is_sparse
        recurrent = isinstance(self, _RECURRENT)
        if recurrent:
            before = state.z.to_dense() if state.z.is_sparse else state.z
            received = input_tensor.to_dense() if sparse else input_tensor
            injected = (
                state.i
                + linear(received, self.input_weights)
                + linear(before, self.recurrent_weights)
            )
        else:
            injected = state.i + input_tensor
        free = state.v + dt * p.tau_mem_inv * ((p.v_leak - state.v) + injected)
        decayed = injected + -dt * p.tau_syn_inv * injected
        with torch.no_grad():
            over = free - p.v_th
            spikes = (over > 0).to(free.dtype)
            membrane = (1 - spikes) * free + spikes * p.v_reset
            per_step = dt * p.tau_mem_inv
            floor = self.grazing_guard * per_step * (p.v_th - p.v_leak)
            slope = per_step * (injected - (p.v_th - p.v_leak))

        def recover() -> Tensor:
            with torch.no_grad():
                last = state.i / (1 - dt * p.tau_syn_inv)
                steepness = per_step * (last - (p.v_th - p.v_leak))
                fired = before != 0 if recurrent else state.v == p.v_reset
                over = torch.zeros_like(steepness)
                return inverse_slopes(
                    fired & (steepness > 0), steepness, over, floor, p.v_th - p.v_reset
                )

        counts = self._count_slope()
        spikes, membrane = emit(
            free,
            state.v,
            tested=free.detach(),
            spikes=spikes,
            membrane=membrane,
            slope=slope,
            floor=floor,
            threshold=p.v_th,
            v_reset=p.v_reset,
            reset="immediate",
            last=self._last,
            recover=recover,
            count_slope=None if counts is None else counts(over),
        )
        self._last = handed_on(membrane)
        spikes = spikes.to_sparse() if sparse else spikes
        if recurrent:
            return spikes, host.LIFState(z=spikes, v=membrane, i=decayed)
        return spikes, host.LIFFeedForwardState(v=membrane, i=decayed)

    def _stepped(self) -> str | None:
        if self.count_gradient and isinstance(self, _RECURRENT):
            return "count_gradient of a recurrent layer"
        if self.record_states:
            return "record_states"
        if self.p.v_reset.requires_grad or self.p.v_leak.requires_grad:
            return "learned v_reset or v_leak"
        return None

    def _obstacle(self, input_tensor: Tensor, state, one: torch.Size) -> str | None:
        """Why the engine would not compute exactly what the steps do, if so."""
        obstacle = self._off_the_engine(input_tensor)
        if obstacle:
            return obstacle
        if any(torch.broadcast_shapes(value.shape, one) != one for value in state):
            return "a state of more samples than the input, which goes to all of them"
        if hasattr(state, "z"):
            if not bool(((state.z == 0) | (state.z == 1)).all()):
                return "spikes at the start that are neither 0 nor 1"
            # The engine reads from z which neurons have spiked; z may have been masked since.
            earlier = earlier_spikes(state.v, self._last)
            if earlier is not None and bool(((earlier.inverse != 0) & (state.z == 0)).any()):
                return "spikes at the start that were masked"
            return None
        # Surrogates read V before its reset, which the engine knows of upward crossings alone.
        start = torch.maximum(state.v, self.p.v_reset)
        if self.count_gradient and bool((start > self.p.v_th).any()):
            return "count_gradient with voltages above the threshold at the start"
        return None

    def _drive(self, input_tensor: Tensor | LinearDrive) -> Tensor | LinearDrive:
        """Currents [T, B, ...] as the engine reads them."""
        if isinstance(input_tensor, LinearDrive):
            return input_tensor
        current = input_tensor if input_tensor.ndim > 2 else input_tensor.unsqueeze(1)
        if not isinstance(self, _RECURRENT):
            return current
        drive = LinearDrive(current.flatten(1, -2), self.input_weights)
        return drive if drive.prefers_events() else drive.dense()

    def _run_fused(self, input_tensor: Tensor | LinearDrive, state, one: torch.Size):
        p, dt = self.p, self.dt
        recurrent = None
        current = self._drive(input_tensor)
        if isinstance(self, _RECURRENT):
            recurrent = self.recurrent_weights.t()
        shape = current.shape[1:]

        def given(value: Tensor) -> Tensor:
            return value.to(current.dtype).expand(one).reshape(shape)

        earlier = earlier_spikes(state.v, self._last)
        dtype = current.dtype
        # Rates per step in the input's type, as Norse's own sums promote them.
        decay, gain, leak = discretisation.norse(
            (dt * p.tau_mem_inv).to(dtype), (dt * p.tau_syn_inv).to(dtype), 1
        )
        out = run_sequence(
            current,
            Dynamics(
                decay, gain, leak, p.v_th - p.v_leak,
                (self.grazing_guard * gain * (p.v_th - p.v_leak)).detach(), "zero",
                (p.v_reset - p.v_leak).detach(),
            ),
            Before(
                given(state.v) - p.v_leak, given(state.i),
                None if earlier is None else Earlier(*map(given, earlier)),
                None if recurrent is None else given(state.z),
            ),
            recurrent=recurrent, count_slope=self._count_slope(),
        )  # fmt: skip
        keep_record(self, out.record)
        spikes = out.spikes.reshape(-1, *one)
        i = (out.current * decay).reshape(one)
        v = self._voltage(out.membrane, one)
        if recurrent is None:
            return spikes, host.LIFFeedForwardState(v=v, i=i)
        return spikes, host.LIFState(z=spikes[-1].clone(), v=v, i=i)


class LIFCell(NorseNeuron, host.LIFCell):
    """``norse.torch.LIFCell``, whose gradient converges to the exact one as dt shrinks."""

    def forward(self, input_tensor: Tensor, state: host.LIFFeedForwardState | None = None):
        return self._step(input_tensor, state)


class LIFRecurrentCell(NorseNeuron, host.LIFRecurrentCell):
    """``norse.torch.LIFRecurrentCell``, gradient exact as dt shrinks."""

    def forward(self, input_tensor: Tensor, state: host.LIFState | None = None):
        return self._step(input_tensor, state)


class LIF(NorseNeuron, host.LIF):
    """``norse.torch.LIF`` over a sequence [T, ...], gradient exact as dt shrinks."""

    def forward(self, input_tensor: Tensor, state: host.LIFFeedForwardState | None = None):
        return whole(self._sequence, input_tensor, state)


class LIFRecurrent(NorseNeuron, host.LIFRecurrent):
    """``norse.torch.LIFRecurrent`` over a sequence [T, ..., N], gradient exact as dt shrinks."""

    def forward(self, input_tensor: Tensor, state: host.LIFState | None = None):
        return whole(self._sequence, input_tensor, state)
