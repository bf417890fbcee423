"""snnTorch's surrogate gradients are closures, which pickle cannot store; these can."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from snntorch import surrogate


class Portable:
    """A surrogate of ``snntorch.surrogate``, kept as its factory's name and arguments."""

    def __init__(self, factory: str, arguments: dict) -> None:
        self.factory, self.arguments = factory, arguments
        self._function = getattr(surrogate, factory)(**arguments)

    def __call__(self, shift):
        return self._function(shift)

    def __reduce__(self):
        return Portable, (self.factory, self.arguments)

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.factory}({given})"


def portable(function: Callable) -> Callable:
    """The same function in a form that can be pickled, where it is one of snnTorch's closures."""
    factory, _, rest = getattr(function, "__qualname__", "").partition(".<locals>")
    if not rest or getattr(function, "__module__", "") != surrogate.__name__:
        return function
    held = dict(inspect.getclosurevars(function).nonlocals)
    known = inspect.signature(getattr(surrogate, factory)).parameters
    if not set(held) <= set(known):
        return function
    return Portable(factory, held)
