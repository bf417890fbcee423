"""Optional dependencies."""

from __future__ import annotations

import functools
from importlib.util import find_spec


@functools.cache
def installed(module: str) -> bool:
    return find_spec(module) is not None


def require(module: str, *, extra: str) -> None:
    """Raise ImportError that names the extra, if ``module`` is not installed."""
    if not installed(module):
        raise ImportError(
            f"{module} is not installed; install it with: pip install 'snn-eventprop[{extra}]'"
        )
