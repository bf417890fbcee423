"""Arguments that are numbers within bounds."""

from __future__ import annotations

import math
from typing import Any


def positive(name: str, value: Any, what: str = "number") -> float:
    """``value`` as a float.

    Raises:
        TypeError: it is no number.
        ValueError: it is not finite, or not above 0.
    """
    number = _number(name, value, what)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be a positive {what}, got {value!r}")
    return number


def nonnegative(name: str, value: Any, what: str = "number") -> float:
    """The same of a number that may be 0."""
    number = _number(name, value, what)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} must be 0 or a positive {what}, got {value!r}")
    return number


def _number(name: str, value: Any, what: str) -> float:
    try:
        if not isinstance(value, str):
            return float(value)
    except (TypeError, ValueError, RuntimeError):  # the last of a tensor of several numbers
        pass
    raise TypeError(f"{name} must be a {what}, got {value!r}")
