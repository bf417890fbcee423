"""What the skins of the host libraries share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._checks import nonnegative


def shown_signature(cls: type, shared: type, names: tuple[str, ...]) -> inspect.Signature:
    """The arguments of a class that is a host's with the mixin ``shared``, or a subclass of it.

    The host's arguments are followed by ours, ``names``, for ``help``, IDEs and parsers.
    """
    if shared not in cls.__bases__:
        return inspect.signature(cls.__init__.__get__(object()))  # type: ignore[misc]
    host = cls.__bases__[1]
    shown = list(inspect.signature(host.__init__).parameters.values())[1:]  # type: ignore[misc]
    own_parameters = inspect.signature(shared.__init__).parameters  # type: ignore[misc]
    ours = [own_parameters[name] for name in names]
    end = len(shown)
    if shown and shown[-1].kind is inspect.Parameter.VAR_KEYWORD:
        end -= 1
    return inspect.Signature([*shown[:end], *ours, *shown[end:]])


def count_slope(
    surrogate: Callable[[Tensor], Tensor], share: float
) -> Callable[[Tensor], Tensor] | None:
    """``share`` times a surrogate's d(spike)/dV as a function of V - threshold; None: no such."""
    if share == 0 or not torch.is_grad_enabled():
        return None

    def slope(over: Tensor) -> Tensor:
        with torch.enable_grad():
            over = over.detach().requires_grad_()
            (slope,) = torch.autograd.grad(surrogate(over).sum(), over)
        return share * slope

    return slope


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


def set_options(neuron: Any, **values: float) -> None:
    """Give a neuron of ours options by name."""
    for name, value in values.items():
        setattr(neuron, name, option(name, value))


def forget_calls(neuron: Any) -> None:
    """Let go of what the last call has left: the membrane and the record."""
    for name in ("_last", "_record"):
        vars(neuron).pop(name, None)


def described(neuron: Any, hosts: str) -> str:
    """What the host shows of a neuron between brackets, and what differs from the host."""
    shown = [*([hosts] if hosts else []), "gradient=exact"]
    for name, default in (("grazing_guard", GRAZING_GUARD), ("count_gradient", 0.0)):
        if getattr(neuron, name) != default:
            shown.append(f"{name}={getattr(neuron, name):g}")
    return ", ".join(shown)


def handed_on(membrane: Tensor) -> Tensor | None:
    """What a layer keeps of the membrane that it returns, to know copies of it in the next step."""
    keep = membrane.requires_grad and not torch.compiler.is_compiling()
    return membrane if keep else None
