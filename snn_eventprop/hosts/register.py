"""Make the layers and the sum-exp loss reachable under the host libraries' own names."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from ..layers import EventPropLI, EventPropLIF
from .registry import hosts, titles


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
        ImportError: no host is installed.
    """
    installed = [host for host in hosts() if host.installed]
    if not installed:
        raise ImportError(f"register() needs {titles('or')}, and none is installed; install one")
    for host in installed:
        library = import_module(host.library)
        for layer in (EventPropLIF, EventPropLI):
            _add(library, layer.__name__, layer)
        loss = import_module(f"{host.package}.functional").sum_exp_loss
        _add(import_module(host.losses), "sum_exp_loss", loss)
