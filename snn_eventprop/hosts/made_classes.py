"""Classes that are made at run time from classes of users, and whose instances still pickle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class MadeClass:
    """Mixin of a class that ``_maker(*_made_of)`` has made.

    Such a class cannot be found by its name. Its instances pickle as the call that makes it.
    """

    _maker: Callable[..., type]
    _made_of: tuple[type, ...]

    def __reduce_ex__(self, protocol):
        # object.__getstate__ is of Python 3.11.
        get = getattr(self, "__getstate__", self.__dict__.copy)
        return _empty_instance, (self._maker, self._made_of), get()

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)  # type: ignore[misc]


def _empty_instance(maker: Callable[..., type], made_of: tuple[type, ...]) -> Any:
    made: Any = maker(*made_of)
    return made.__new__(made)


def make_class(
    maker: Callable[..., type], made_of: tuple[type, ...], bases: tuple[type, ...],
    body: dict[str, Any],
) -> Any:  # fmt: skip
    """A class that shows the name of ``made_of[0]``."""
    shown = made_of[0]
    body = {**body, "_maker": staticmethod(maker), "_made_of": made_of}
    made: Any = type(shown.__name__, (MadeClass, *bases), body)
    made.__module__, made.__qualname__ = shown.__module__, shown.__qualname__
    return made
