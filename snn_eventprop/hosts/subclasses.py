"""Which class of ours a host's neuron gets, a subclass of users' included."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn

from .adapter import ExactGradient
from .made_classes import MadeClass, make_class

# A subclass may define these: the constructor, its display, and what Python adds to each class.
_HARMLESS = {
    "__init__", "__module__", "__doc__", "__qualname__", "__annotations__", "__annotate__",
    "__annotate_func__", "__parameters__", "__orig_bases__", "__signature__", "__dict__",
    "__weakref__", "__firstlineno__", "__static_attributes__", "__init_subclass__",
    "__abstractmethods__", "_abc_impl", "__slots__", "__hash__", "__eq__", "__repr__",
    "extra_repr", "_apply",
}  # fmt: skip


def host_class(cls: type, pairs: dict[type, Any]) -> type | None:
    """The host's neuron that ``cls`` is, or is a subclass of."""
    return next((base for base in cls.__mro__ if base in pairs), None)


def _overridden(cls: type, host: type, ours: type[ExactGradient]) -> list[str]:
    """Names that a user's subclass defines and that our neuron replaces or uses for itself."""
    between = cls.__mro__[: cls.__mro__.index(host)]
    used = set(ours._replaced).union(
        *(vars(base) for base in ours.__mro__ if base not in host.__mro__)
    )
    return sorted({name for base in between for name in vars(base)} & used - _HARMLESS)


def refusal(neuron: nn.Module, host: type, ours: type[ExactGradient]) -> str | None:
    """Why a neuron of the host, or of a subclass, cannot have an exact gradient, if so."""
    overridden = _overridden(type(neuron), host, ours)
    if overridden:
        return f"{type(neuron).__name__} overrides {', '.join(overridden)}"
    replaced = sorted(ours._replaced & set(vars(neuron)))
    if replaced:
        return f"{', '.join(replaced)} of this object is not that of its class"
    return ours.refusal(neuron)


@functools.cache
def exact_class(cls: type, host: type, ours: type[ExactGradient]) -> Any:
    """``ours``, or for a subclass ``cls`` of ``host`` one that derives from both."""
    return ours if cls is host else make_class(exact_class, (cls, host, ours), (ours, cls), {})


def original_class(cls: type, hosts: dict[type, type]) -> type | None:
    """The inverse of ``exact_class``; None for classes that it has not made.

    Args:
        hosts: our class -> the host's.
    """
    if issubclass(cls, MadeClass) and issubclass(cls, ExactGradient):
        return cls._made_of[0]
    return hosts.get(cls)
