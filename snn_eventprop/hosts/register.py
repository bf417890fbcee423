"""Make the layers and the sum-exp loss reachable under the host libraries' own names."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from types import ModuleType

from ..layers import EventPropLI, EventPropLIF


def _add(namespace: ModuleType, name: str, value: object) -> None:
    existing = getattr(namespace, name, value)
    if existing is not value:
        raise RuntimeError(
            f"{namespace.__name__}.{name} exists already and is not ours; it is left as it is. "
            f"Import the name from snn_eventprop instead"
        )
    setattr(namespace, name, value)


def register() -> None:
    """Add names to the host libraries that are installed; call it as often as you like.

    | namespace             | names                                      |
    | --------------------- | ------------------------------------------ |
    | ``snntorch``          | ``EventPropLIF``, ``EventPropLI``          |
    | ``snntorch.functional`` | ``sum_exp_loss``                         |
    | ``norse.torch``       | ``EventPropLIF``, ``EventPropLI``, ``sum_exp_loss`` |

    Raises:
        RuntimeError: the host has something else under one of these names; nothing is shadowed.
        ImportError: neither host is installed.
    """
    found = False
    if find_spec("snntorch") is not None:
        functional = importlib.import_module("snntorch.functional")
        from .snntorch.functional import sum_exp_loss

        _add_all(importlib.import_module("snntorch"), EventPropLIF, EventPropLI)
        _add(functional, "sum_exp_loss", sum_exp_loss)
        found = True
    if find_spec("norse") is not None:
        host = importlib.import_module("norse.torch")
        from .norse.functional import sum_exp_loss as norse_loss

        _add_all(host, EventPropLIF, EventPropLI)
        _add(host, "sum_exp_loss", norse_loss)
        found = True
    if not found:
        raise ImportError("register() found neither snntorch nor norse; install one of them")


def _add_all(namespace: ModuleType, *classes: type) -> None:
    for cls in classes:
        _add(namespace, cls.__name__, cls)
