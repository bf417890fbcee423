"""The base of the neurons of all hosts: options, signatures, records, first checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .._checks import nonnegative
from ..diagnostics import LayerRecord
from ..ops.grid import has_backend, transformed
from .fusion.chains import ChainRun
from .linear_current import LinearDrive
from .sequence import KERNEL_DTYPES

GRAZING_GUARD = 0.05
_HINTS = {
    "grazing_guard": f"{GRAZING_GUARD} is the default, 0 switches it off",
    "count_gradient": "0 keeps the exact gradient alone, 1.0 adds the whole surrogate gradient",
}


def option(name: str, value: Any) -> float:
    """The value of an option of our neurons as a float.

    Raises:
        TypeError: it is no number.
        ValueError: it is not finite, or negative.
    """
    try:
        return nonnegative(name, value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error}: {_HINTS[name]}") from None


class ExactGradient(nn.Module):
    """Base of our neurons: ``class Leaky(Mixin, host.Leaky)``, with a mixin for each host.

    The mixin derives from this class. It defines ``_own_arguments``, ``_replaced``, ``_surrogate``,
    ``_run_chain`` and ``_stepped``.

    Args (beyond the host's, keyword only):
        grazing_guard: smallest slope of the membrane at a spike used in the gradient.
        count_gradient: share of the host's surrogate gradient added to the exact one. A heuristic.
    """

    _own_arguments: ClassVar[tuple[str, ...]] = ("grazing_guard", "count_gradient")
    # Methods of the host that ours replace. A subclass that overrides one is another neuron.
    _replaced: ClassVar[frozenset[str]] = frozenset({"forward", "__call__"})

    # Attributes that a call leaves for the next one. Copies and pickles omit them.
    _of_last_call: ClassVar[tuple[str, ...]] = ("_last",)
    _last: Tensor | None = None  # the membrane returned last
    _record: LayerRecord | None = None

    grazing_guard: float
    count_gradient: float

    def __init_subclass__(cls) -> None:
        mixin, *host = cls.__bases__
        if host and issubclass(mixin, ExactGradient):
            cls.__signature__ = _signature(mixin, host[0])  # type: ignore[attr-defined]
        elif "__init__" in vars(cls):
            shown = inspect.signature(cls.__init__.__get__(object()))  # type: ignore[misc]
            cls.__signature__ = shown  # type: ignore[attr-defined]

    @staticmethod
    def refusal(neuron: nn.Module) -> str | None:
        """Why this neuron of the host cannot have an exact gradient, if so."""
        return None

    def _adopt(self, grazing_guard: float = GRAZING_GUARD, count_gradient: float = 0.0) -> None:
        """Turn an instance of the host's class, whose class has been set to ours, into ours."""
        self._set_options(grazing_guard=grazing_guard, count_gradient=count_gradient)

    def _release(self) -> None:
        """Undo ``_adopt``."""
        for name in self._own_arguments:
            delattr(self, name)
        self._forget_calls()

    def _set_options(self, **values: float) -> None:
        for name, value in values.items():
            setattr(self, name, option(name, value))

    def _forget_calls(self) -> None:
        for name in (*self._of_last_call, "_record"):
            vars(self).pop(name, None)

    def extra_repr(self) -> str:
        hosts = super().extra_repr()
        shown = [*([hosts] if hosts else []), "gradient=exact"]
        for name, default in (("grazing_guard", GRAZING_GUARD), ("count_gradient", 0.0)):
            if getattr(self, name) != default:
                shown.append(f"{name}={getattr(self, name):g}")
        return ", ".join(shown)

    def __getstate__(self) -> dict:
        """For pickle and deepcopy, which take no part of a graph."""
        state = self.__dict__.copy()
        for name in self._of_last_call:
            state.pop(name, None)
        return state

    def _surrogate(self, over: Tensor) -> Tensor:
        """The host's spikes as a function of V - threshold, with its surrogate gradient."""
        raise NotImplementedError

    def _count_slope(self) -> Callable[[Tensor], Tensor] | None:
        """``count_gradient`` times the surrogate's d(spike)/dV, of V - threshold; None: zero."""
        share = self.count_gradient
        if share == 0 or not torch.is_grad_enabled():
            return None

        def slope(over: Tensor) -> Tensor:
            with torch.enable_grad():
                over = over.detach().requires_grad_()
                (slope,) = torch.autograd.grad(self._surrogate(over).sum(), over)
            return share * slope

        return slope

    def _run_chain(
        self, input_: Tensor | LinearDrive, before: dict[str, Tensor], wanted: set[str]
    ) -> ChainRun:
        """All steps from the states ``before``, with those states of every step in ``wanted``."""
        raise NotImplementedError

    def _stepped(self) -> str | None:
        """The option for which sequences run step by step, if there is one."""
        raise NotImplementedError

    def _off_the_engine(self, input_: Tensor) -> str | None:
        """Why the engine cannot run a sequence of inputs [T, B, ...], whatever the state."""
        if input_.is_sparse:
            return "sparse input"
        if input_.numel() == 0 or input_.ndim < 2:
            return "no batch"
        if input_.dtype not in KERNEL_DTYPES or not has_backend(input_.device):
            return f"no kernel for {input_.dtype} on {input_.device.type}"
        if transformed():
            return "a transform of torch.func"
        return self._stepped()


def _signature(mixin: type[ExactGradient], host: type) -> inspect.Signature:
    """The host's arguments followed by ours, for ``help``, IDEs and parsers."""
    shown = list(inspect.signature(host.__init__).parameters.values())[1:]  # type: ignore[misc]
    own_parameters = inspect.signature(mixin.__init__).parameters
    ours = [own_parameters[name] for name in mixin._own_arguments]
    end = len(shown)
    if shown and shown[-1].kind is inspect.Parameter.VAR_KEYWORD:
        end -= 1
    return inspect.Signature([*shown[:end], *ours, *shown[end:]])


def handed_on(membrane: Tensor) -> Tensor | None:
    """The membrane that a layer returns, kept to recognise copies of it in the next step."""
    keep = membrane.requires_grad and not torch.compiler.is_compiling()
    return membrane if keep else None
