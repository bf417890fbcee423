"""The base of our neurons for Norse: parameters in a tuple, states kept by the caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from norse.torch.functional.threshold import threshold as host_threshold
from norse.torch.module.snn import _merge_states
from torch import Tensor

from ..adapter import GRAZING_GUARD, ExactGradient, handed_on
from ..fusion.chain_recorder import recorder
from ..fusion.chains import ChainRun, remark
from ..linear_current import LinearDrive
from ..step_memory import Earlier, remember_spikes, remembered_spikes


class NorseModule(ExactGradient):
    """A mixin in front of one of Norse's classes.

    Classes define ``_tuple`` (the type of ``p``), ``_activations``, ``_as_state``, ``_advance``,
    ``_obstacle`` and ``_run_fused``.

    Args (beyond the host's, keyword only):
        grazing_guard: smallest slope of v at a spike used in the gradient, in units of
            (v_th - v_leak) * dt * tau_mem_inv per step; 0 switches it off.
        count_gradient: the exact gradient of a spike count is zero, as it describes spikes that
            move. A positive number adds that share of the surrogate gradient ``p.method``
            to the exact one, for every layer so built. A heuristic.

    ``p.method`` and ``p.alpha`` have no effect without ``count_gradient``.
    """

    _tuple: ClassVar[Callable[..., Any]]
    _activations: ClassVar[tuple[Callable, ...]]  # the host's steps

    # What the host's classes define.
    p: Any
    dt: float
    record_states: bool = False
    state_fallback: Callable

    def __init__(
        self, *args, grazing_guard: float = GRAZING_GUARD, count_gradient: float = 0.0, **kwargs
    ) -> None:
        super().__init__(*args, **kwargs)
        self._adopt(grazing_guard, count_gradient)

    @staticmethod
    def _other_step(neuron: torch.nn.Module, known: tuple[Callable, ...]) -> str | None:
        activation: Any = neuron.activation
        if activation in known:
            return None
        name = getattr(activation, "__qualname__", repr(activation))
        return f"its activation is {name}, not a step of Norse's for this neuron"

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
        self.p = type(self.p)(*fields)
        return self

    def __getstate__(self) -> dict:
        return {**super().__getstate__(), "p": tuple(self.p)}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__({**state, "p": self._tuple(*state["p"])})

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
        return input_tensor.shape[steps:]

    def _step(self, input_tensor: Tensor, state):
        state = self._start(input_tensor, state)
        running = recorder()
        if running is None or input_tensor.is_sparse:
            return self._advance(input_tensor, state)
        before = _as_dict(state)
        shape = self._shape_of_a_step(input_tensor, steps=False)
        like = running.like(shape, torch.promote_types(input_tensor.dtype, state.v.dtype))
        after = running.step(self, input_tensor, before, dict.fromkeys(("spk", *before), like))
        return after["spk"], self._as_state(after)

    def _kept(self) -> dict[str, Tensor]:
        return {}  # states belong to the caller

    def _keep(self, states: dict[str, Tensor]) -> None:
        pass

    def _run_chain(
        self, input_tensor: Tensor | LinearDrive, before: dict[str, Tensor], wanted: set[str]
    ) -> ChainRun:
        if not wanted:
            spikes, state, how = self._run(input_tensor, self._as_state(before))
            return ChainRun(spikes, {}, _as_dict(state), how)

        def advance(current: Tensor, states: dict[str, Tensor]):
            spikes, state = self._advance(current, self._as_state(states))
            return spikes, _as_dict(state)

        obstacle = f"{' and '.join(sorted(wanted))} of every step in use"
        return ChainRun.of_steps(input_tensor, before, sorted(wanted), advance, obstacle)

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

    def _advance(self, input_tensor: Tensor, state: Any):
        """One step in the host's order of operations: (spikes, state)."""
        raise NotImplementedError

    def _obstacle(self, input_tensor: Tensor, state: Any, one: torch.Size) -> str | None:
        """Why the engine would not compute exactly what the steps do, if so."""
        raise NotImplementedError

    def _run_fused(self, input_tensor: Tensor | LinearDrive, state: Any, one: torch.Size):
        """All steps on the engine: spikes and the state."""
        raise NotImplementedError

    def _as_state(self, values: dict[str, Tensor]) -> Any:
        """The inverse of ``_as_dict``; ``values`` may have the spikes in any case."""
        raise NotImplementedError

    def _voltage(self, membrane: Tensor, one: torch.Size) -> Tensor:
        """v of the last step, from the engine's membrane, with the data for the next step."""
        v = membrane.reshape(one) + self.p.v_leak
        if membrane.requires_grad:
            inverse, end = remembered_spikes(membrane)
            remember_spikes(v, Earlier(inverse.reshape(one), end.reshape(one)))
        self._last = handed_on(v)
        return v

    def _surrogate(self, over: Tensor) -> Tensor:
        return host_threshold(over, self.p.method, self.p.alpha)


def _as_dict(state) -> dict[str, Tensor]:
    """The fields of a state; the spikes of a recurrent one under the name of the spikes."""
    return {"spk" if name == "z" else name: value for name, value in state._asdict().items()}
