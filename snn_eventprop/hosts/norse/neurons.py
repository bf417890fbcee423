"""``LIFCell``, ``LIF``, ``LIFRecurrentCell`` and ``LIFRecurrent`` of Norse, exact gradients.

Over 400 lines: what the four classes share is one mixin, which mirrors the host's steps.
"""

from __future__ import annotations

from collections.abc import Callable

import norse.torch as host
import torch
from norse.torch.functional.threshold import threshold as host_threshold
from norse.torch.module.snn import _merge_states
from torch import Tensor
from torch.nn.functional import linear

from ... import discretisation
from ...diagnostics import keep_record
from ..adapter import GRAZING_GUARD, ExactGradient, handed_on
from ..fusion.chain_recorder import recorder, whole
from ..fusion.chains import ChainRun, remark
from ..linear_current import LinearDrive
from ..sequence import Before, Dynamics, run_sequence
from ..step import emit, inverse_slopes
from ..step_memory import Earlier, earlier_spikes, remember_spikes, remembered_spikes

_RECURRENT = (host.LIFRecurrent, host.LIFRecurrentCell)


class NorseNeuron(ExactGradient):
    r"""What the four classes share: Norse's Euler step, with the gradient of ``step``.

    .. math::
        i \leftarrow i + x, \qquad
        v \leftarrow v + \Delta t\, \tau_m^{-1} (v_\mathrm{leak} - v + i), \qquad
        i \leftarrow i - \Delta t\, \tau_s^{-1} i

    then v > v_th emits a spike and v becomes v_reset. A mixin in front of the host's class.

    Args (beyond the host's, keyword only):
        grazing_guard: smallest slope of v at a spike used in the gradient, in units of
            (v_th - v_leak) * dt * tau_mem_inv per step; 0 switches it off.
        count_gradient: a loss on spike counts has a zero exact gradient, for spikes move, they do
            not appear. A positive number adds that share of the surrogate gradient ``p.method``
            to the exact one, for every layer so built. A heuristic.

    ``p.method`` and ``p.alpha`` have no effect without ``count_gradient``.
    """

    _own_arguments = ("grazing_guard", "count_gradient")

    # What the host's classes define.
    p: host.LIFParameters
    dt: float
    record_states: bool = False
    input_weights: Tensor
    recurrent_weights: Tensor
    state_fallback: Callable

    def __init__(
        self, *args, grazing_guard: float = GRAZING_GUARD, count_gradient: float = 0.0, **kwargs
    ) -> None:
        super().__init__(*args, **kwargs)
        self._adopt(grazing_guard, count_gradient)

    # ``p`` is a tuple of tensors, which modules neither move nor pickle. Its dtype stays, as in
    # Norse: float32 constants in a float64 model are part of what Norse computes.
    def _apply(self, fn, recurse: bool = True):
        super()._apply(fn, recurse)
        fields = []
        for value in self.p:
            if isinstance(value, torch.nn.Parameter):
                value.data = fn(value.data).to(value.dtype)
            elif isinstance(value, Tensor):
                value = fn(value).to(value.dtype)
            fields.append(value)
        self.p = host.LIFParameters(*fields)
        return self

    def __getstate__(self) -> dict:
        return {**super().__getstate__(), "p": tuple(self.p)}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__({**state, "p": host.LIFParameters(*state["p"])})

    def _start(self, input_tensor: Tensor | LinearDrive, state, steps: bool = False):
        """The state, of which each field fits one step of the input, or a zero one.

        Args:
            steps: the first dimension of the input is time.
        """
        if state is None:
            return self.state_fallback(input_tensor)
        one = self._shape_of_a_step(input_tensor, steps)
        for name, value in state._asdict().items():
            if value.shape == one:
                continue
            try:
                torch.broadcast_shapes(value.shape, one)
            except RuntimeError:
                raise ValueError(
                    f"state.{name} has shape {tuple(value.shape)}, but one step of the input "
                    f"{tuple(input_tensor.shape)} needs {tuple(one)}; to go on with some samples "
                    "alone, take these of every field of the state"
                ) from None
        return state

    def _shape_of_a_step(self, input_tensor: Tensor | LinearDrive, steps: bool) -> torch.Size:
        one = input_tensor.shape[steps:]
        if isinstance(self, _RECURRENT):
            one = torch.Size((*one[:-1], len(self.recurrent_weights)))
        return one

    def _step(self, input_tensor: Tensor, state):
        state = self._start(input_tensor, state)
        running = recorder()
        if running is None or input_tensor.is_sparse:
            return self._advance(input_tensor, state)
        before = _as_dict(state)
        shape: tuple[int, ...] = input_tensor.shape
        if "spk" in before:
            shape = (*shape[:-1], len(self.recurrent_weights))
        likes = {
            name: running.like(shape, torch.promote_types(input_tensor.dtype, state.v.dtype))
            for name in ("spk", "v", "i")
        }
        after = running.step(self, input_tensor, before, likes)
        return after["spk"], _as_state(after, recurrent="spk" in before)

    def _kept(self) -> dict[str, Tensor]:
        return {}  # states belong to the caller

    def _keep(self, states: dict[str, Tensor]) -> None:
        pass

    def _run_chain(
        self, input_tensor: Tensor | LinearDrive, before: dict[str, Tensor], wanted: set[str]
    ) -> ChainRun:
        recurrent = "spk" in before
        if not wanted:
            spikes, state, how = self._run(input_tensor, _as_state(before, recurrent=recurrent))
            return ChainRun(spikes, {}, _as_dict(state), how)

        def advance(current: Tensor, states: dict[str, Tensor]):
            spikes, state = self._advance(current, _as_state(states, recurrent=recurrent))
            return spikes, _as_dict(state)

        obstacle = f"{' and '.join(sorted(wanted))} of every step in use"
        return ChainRun.of_steps(input_tensor, before, sorted(wanted), advance, obstacle)

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

    def _sequence(self, input_tensor: Tensor | LinearDrive, state):
        state = self._start(input_tensor, state, steps=True)
        spikes, state, _ = self._run(input_tensor, state)
        return spikes, state

    def _run(self, input_tensor: Tensor | LinearDrive, state):
        """All steps from a state: spikes, the state, and how they ran (see ``ChainRun``)."""
        folded = input_tensor if isinstance(input_tensor, LinearDrive) else None
        one = self._shape_of_a_step(input_tensor, steps=True)
        obstacle = self._obstacle(folded.raster if folded else input_tensor, state, one)  # type: ignore[arg-type]
        if folded is not None and (obstacle or not folded.prefers_events()):
            input_tensor = folded.dense()
        how = remark(input_tensor, obstacle)
        if not obstacle:
            return *self._run_fused(input_tensor, state, one), how
        spikes, states = [], []
        for current in input_tensor:  # type: ignore[union-attr]
            out, state = self._advance(current, state)
            spikes.append(out)
            states.append(state)
        if self.record_states:
            state = _merge_states(states)
        return torch.stack(spikes), state, how

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
        v = out.membrane.reshape(one) + p.v_leak
        if out.membrane.requires_grad:
            inverse, end = remembered_spikes(out.membrane)
            remember_spikes(v, Earlier(inverse.reshape(one), end.reshape(one)))
        self._last = handed_on(v)
        if recurrent is None:
            return spikes, host.LIFFeedForwardState(v=v, i=i)
        return spikes, host.LIFState(z=spikes[-1].clone(), v=v, i=i)

    def _surrogate(self, over: Tensor) -> Tensor:
        return host_threshold(over, self.p.method, self.p.alpha)


def _as_dict(state) -> dict[str, Tensor]:
    """The fields of a state; the spikes of a recurrent one under the name of the spikes."""
    return {"spk" if name == "z" else name: value for name, value in state._asdict().items()}


def _as_state(values: dict[str, Tensor], *, recurrent: bool):
    if recurrent:
        return host.LIFState(z=values["spk"], v=values["v"], i=values["i"])
    return host.LIFFeedForwardState(v=values["v"], i=values["i"])


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
