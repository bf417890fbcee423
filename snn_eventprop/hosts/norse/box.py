"""``LIFBoxCell`` of Norse, exact gradient: the neuron of its NIR importer, behind ``LIBoxCell``."""

from __future__ import annotations

from typing import Any

import norse.torch as host
import torch
from norse.torch.functional.lif_box import lif_box_feed_forward_step
from norse.torch.functional.reset import reset_subtract, reset_value
from torch import Tensor

from ...diagnostics import keep_record
from ..adapter import handed_on
from ..linear_current import LinearDrive
from ..sequence import Before, Dynamics, run_sequence
from ..step import emit
from ..step_memory import Earlier, earlier_spikes
from .modules import NorseModule


class LIFBoxCell(NorseModule, host.LIFBoxCell):
    r"""``norse.torch.LIFBoxCell``; its gradient is exact for currents that are smooth in time.

    .. math:: v \leftarrow v + \Delta t\, \tau_m^{-1} (x + v_\mathrm{leak} - v)

    then v > v_th emits a spike and ``p.reset_method`` acts: v becomes v_reset, or v - v_th. Behind
    a ``LIBoxCell`` the gradient converges to the exact one as dt shrinks. Fed by spikes, v jumps
    at each of them, and no slope exists.
    """

    _tuple = host.LIFBoxParameters
    _activations = (lif_box_feed_forward_step,)

    @staticmethod
    def refusal(neuron: Any) -> str | None:
        if neuron.p.reset_method not in (reset_value, reset_subtract):
            name = getattr(neuron.p.reset_method, "__qualname__", repr(neuron.p.reset_method))
            return f"reset_method is {name}, neither reset_value nor reset_subtract"
        return NorseModule._other_step(neuron, LIFBoxCell._activations)

    def forward(self, input_tensor: Tensor, state: host.LIFBoxFeedForwardState | None = None):
        return self._step(input_tensor, state)

    def _as_state(self, values: dict[str, Tensor]) -> host.LIFBoxFeedForwardState:
        return host.LIFBoxFeedForwardState(v=values["v"])

    @property
    def _subtracts(self) -> bool:
        return self.p.reset_method is reset_subtract

    def _advance(self, input_tensor: Tensor, state: host.LIFBoxFeedForwardState):
        self._record = None
        p = self.p
        per_step = self.dt * p.tau_mem_inv
        free = state.v + per_step * (input_tensor + p.v_leak - state.v)
        with torch.no_grad():
            over = free - p.v_th
            spikes = (over > 0).to(free.dtype)
            membrane = p.reset_method(spikes, free, p.v_reset, p.v_th)
            height = p.v_th - p.v_leak
            slope = per_step * (input_tensor - height)
        counts = self._count_slope()
        spikes, membrane = emit(
            free, state.v, tested=free.detach(), spikes=spikes, membrane=membrane, slope=slope,
            floor=self.grazing_guard * per_step * height, threshold=p.v_th,
            v_reset=None if self._subtracts else p.v_reset, reset="immediate", last=self._last,
            count_slope=None if counts is None else counts(over),
        )  # fmt: skip
        self._last = handed_on(membrane)
        return spikes, host.LIFBoxFeedForwardState(v=membrane)

    def _stepped(self) -> str | None:
        if self.p.v_reset.requires_grad or self.p.v_leak.requires_grad:
            return "learned v_reset or v_leak"
        if self._subtracts and bool(self.p.v_leak.any()):
            return "reset_subtract with v_leak other than 0"
        if self._subtracts and self.count_gradient:
            # Above the threshold after a reset, V crosses nothing, and the engine keeps no slope.
            return "count_gradient with reset_subtract"
        return None

    def _obstacle(
        self, input_tensor: Tensor, state: host.LIFBoxFeedForwardState, one: torch.Size
    ) -> str | None:
        obstacle = self._off_the_engine(input_tensor)
        if obstacle:
            return obstacle
        start = torch.maximum(state.v, self.p.v_reset)
        if self.count_gradient and bool((start > self.p.v_th).any()):
            return "count_gradient with voltages above the threshold at the start"
        return None

    def _run_fused(
        self, input_tensor: Tensor | LinearDrive, state: host.LIFBoxFeedForwardState,
        one: torch.Size,
    ):  # fmt: skip
        p = self.p
        current = input_tensor
        if isinstance(current, Tensor) and current.ndim == 2:
            current = current.unsqueeze(1)
        dtype, shape = current.dtype, current.shape[1:]

        def given(value: Tensor) -> Tensor:
            return value.to(dtype).expand(one).reshape(shape)

        earlier = earlier_spikes(state.v, self._last)
        gain = (self.dt * p.tau_mem_inv).to(dtype)
        height = p.v_th - p.v_leak
        out = run_sequence(
            current,
            Dynamics(
                torch.zeros_like(gain), gain, 1 - gain, height,
                (self.grazing_guard * gain * height).detach(),
                "subtract" if self._subtracts else "zero",
                0.0 if self._subtracts else (p.v_reset - p.v_leak).detach(),
            ),
            Before(
                given(state.v) - p.v_leak, None,
                None if earlier is None else Earlier(*map(given, earlier)),
            ),
            count_slope=self._count_slope(),
        )  # fmt: skip
        keep_record(self, out.record)
        v = self._voltage(out.membrane, one)
        return out.spikes.reshape(-1, *one), host.LIFBoxFeedForwardState(v=v)
