"""Neurons for a compiler: the functions of a neuron's module, and functions over tuples.

A neuron is a module of plain Python functions that call each other. A compiler wants to see
compiled functions in their place. ``compiled`` makes copies of them that do.

The number of state variables and constants differs from neuron to neuron, and compilers want
tuples of known length. ``per_entry`` writes out what is done to each entry.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any


@functools.cache
def compiled(module: ModuleType, decorate: Callable[[Callable], Any]) -> SimpleNamespace:
    """The names of ``module``, its functions decorated and calling each other decorated."""
    names: dict[str, Any] = dict(vars(module))
    for name, value in vars(module).items():
        if not isinstance(value, types.FunctionType):
            continue
        if value.__module__ != module.__name__:  # of a neuron that this one is made from
            names[name] = getattr(compiled(sys.modules[value.__module__], decorate), name)
        else:
            copy = types.FunctionType(value.__code__, names, name, value.__defaults__)
            copy.__module__ = value.__module__
            names[name] = decorate(copy)
    return SimpleNamespace(**names)


def per_entry(count: int, arguments: str, expression: str, **names: Any) -> Callable:
    """A function that returns ``expression`` with {i} = 0, 1, ..., as a tuple of ``count``.

    >>> per_entry(2, "rows, h", "rows[{i}][h]")([[1, 2], [3, 4]], 1)
    (2, 4)
    """
    entries = "".join(f"{expression.format(i=i)}, " for i in range(count))
    return _defined(f"def function({arguments}):\n    return ({entries})", names)


def for_each_entry(count: int, arguments: str, statement: str, **names: Any) -> Callable:
    """A function that runs ``statement`` with {i} = 0, 1, ..., ``count`` times.

    >>> out = [0, 0]
    >>> for_each_entry(2, "out, values", "out[{i}] += values[{i}]")(out, (5, 7))
    >>> out
    [5, 7]
    """
    lines = "".join(f"    {statement.format(i=i)}\n" for i in range(count))
    return _defined(f"def function({arguments}):\n{lines}    return", names)


def _defined(source: str, names: dict[str, Any]) -> Callable:
    exec(source, names)
    return names["function"]
