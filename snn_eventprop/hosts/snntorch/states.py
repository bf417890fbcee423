"""Construction, options and states of snnTorch's neurons."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import snntorch
import torch
from torch import Tensor

from ..adapter import GRAZING_GUARD, ExactGradient
from ._surrogates import portable


class StatefulNeuron(ExactGradient):
    r"""The base of our neurons for snnTorch, with the gradient of ``hosts.step``.

    .. math:: I[k] = \alpha I[k-1] + X[k], \qquad U[k] = \beta U[k-1] + I[k] - R[k]\,\theta

    (alpha = 0 for Leaky.) A mixin in front of the host's class, which keeps constructor,
    parameters and names.

    Args (beyond the host's, keyword only):
        grazing_guard: smallest slope of U at a spike used in the gradient, in units of
            threshold * (1 - beta); 0 switches it off.
        count_gradient: the exact gradient of a spike count is zero, as it describes spikes that
            move. A positive number adds that share of the surrogate gradient of
            ``spike_grad`` to the exact one, for every layer so built. A heuristic.
        multi_step: ``forward`` takes a whole sequence [T, B, ...] instead of one step [B, ...].

    ``spike_grad`` and ``surrogate_disable`` are accepted; without ``count_gradient`` they have no
    effect. ``inhibition`` raises: the winner of a step has no differentiable time.
    """

    _own_arguments = ("grazing_guard", "count_gradient", "multi_step")
    _replaced = ExactGradient._replaced | {
        "fire", "fire_inhibition", "mem_reset", "_base_state_function", "_base_sub", "_base_zero",
        "_base_int", "_base_state_reset_zero",
    }  # fmt: skip
    _states: tuple[str, ...] = ("mem",)

    # What the host's classes define.
    alpha: Tensor
    beta: Tensor
    threshold: Tensor
    graded_spikes_factor: Tensor
    spk: Tensor
    syn: Tensor
    mem: Tensor
    recurrent: Callable[[Tensor], Tensor]
    spike_grad: Callable[[Tensor], Tensor]
    state_quant: Callable[[Tensor], Tensor] | None
    reset_mechanism: str
    reset_delay: bool
    inhibition: bool
    init_hidden: bool
    output: bool

    def __init__(
        self,
        *args,
        grazing_guard: float = GRAZING_GUARD,
        count_gradient: float = 0.0,
        multi_step: bool = False,
        **kwargs,
    ) -> None:
        known = snntorch.SpikingNeuron.instances
        before = len(known)
        try:
            super().__init__(*args, **kwargs)
            refusal = self.refusal(self)
            if refusal:
                raise ValueError(f"{refusal}; use snntorch.{type(self).__name__} for this layer")
            self._adopt(grazing_guard, count_gradient, multi_step)
        except Exception:
            del known[before:]  # or snntorch.utils.reset would meet half a neuron
            raise

    @staticmethod
    def refusal(neuron: snntorch.SpikingNeuron) -> str | None:
        """Why this neuron of the host cannot have an exact gradient, if so."""
        if neuron.inhibition:
            return "inhibition=True has no exact gradient: being the largest is no spike time"
        step = getattr(neuron.state_function, "__func__", neuron.state_function)
        if not step.__module__.startswith("snntorch."):
            return f"state_function is {step.__qualname__}, not one of snnTorch's"
        return None

    def _adopt(
        self,
        grazing_guard: float = GRAZING_GUARD,
        count_gradient: float = 0.0,
        multi_step: bool = False,
    ) -> None:
        """Turn an instance of the host's class, whose class has been set to ours, into ours."""
        super()._adopt(grazing_guard, count_gradient)
        self.multi_step = bool(multi_step)
        self.spike_grad = portable(self.spike_grad)
        self._enlist()
        for name in self._states:
            if name in self._buffers:
                self._non_persistent_buffers_set.discard(name)
                setattr(self, name, self._buffers.pop(name))

    def extra_repr(self) -> str:
        shown = super().extra_repr()
        return f"{shown}, multi_step=True" if self.multi_step else shown

    def _release(self) -> None:
        """Undo ``_adopt``, but for ``spike_grad``, which is the same function."""
        super()._release()
        for name in self._states:
            self.register_buffer(name, self.__dict__.pop(name).detach(), persistent=False)

    # States are plain attributes, not buffers: DDP would broadcast buffers from rank 0.
    def _init_mem(self) -> None:
        for name in self._states:
            setattr(self, name, torch.zeros(0))

    def reset_mem(self) -> Tensor | tuple[Tensor, ...]:
        """Set all states to zero, keeping their shapes, and return them."""
        for name in self._states:
            setattr(self, name, torch.zeros_like(getattr(self, name), requires_grad=False))
        states = tuple(getattr(self, name) for name in self._states)
        return states if len(states) > 1 else states[0]

    def _apply(self, fn, recurse: bool = True):
        super()._apply(fn, recurse)
        for name in self._states:
            setattr(self, name, fn(getattr(self, name)))
        return self

    def __getstate__(self) -> dict:
        state = super().__getstate__()
        for name in (*self._states, "reset"):
            if isinstance(state.get(name), Tensor):
                state[name] = state[name].detach()
        return state

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._enlist()

    def _enlist(self) -> None:
        """Be on snnTorch's list, by which ``utils.reset`` finds neurons, as a copy too.

        By a weak reference, for what stands on the list itself is never freed.
        """
        known = snntorch.SpikingNeuron.instances
        mine = self, *weakref.getweakrefs(self)
        if any(entry is own for entry in known for own in mine):
            return

        def leave(dead) -> None:
            # The place stays until the next one comes: snnTorch may be counting through the list.
            known[:] = [None if entry is dead else entry for entry in known]

        known[:] = [entry for entry in known if entry is not None]
        known.append(weakref.proxy(self, leave))

    def _start(self, given: dict[str, Tensor | None], like: Tensor) -> None:
        if self.init_hidden and any(value is not None for value in given.values()):
            names = ", ".join(name for name, value in given.items() if value is not None)
            raise TypeError(
                f"{names} must not be passed while init_hidden=True: the layer keeps its own "
                "state (clear it with reset_mem())"
            )
        for name in self._states:
            if given.get(name) is not None:
                setattr(self, name, given[name])
            if getattr(self, name).shape != like.shape:
                setattr(self, name, torch.zeros_like(like))

    def _returned(self, spikes: Tensor):
        if self.init_hidden and not self.output:
            return spikes
        return spikes, *(getattr(self, name) for name in self._states if name != "spk")

    def _kept(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self._states}

    def _keep(self, states: dict[str, Tensor]) -> None:
        for name, value in states.items():
            setattr(self, name, value)
