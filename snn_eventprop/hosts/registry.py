"""The host libraries, each described by its own folder, without being imported.

A host is a package beside this module whose ``__init__`` defines ``HOST``. Nothing else names it.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Host:
    """One host library.

    Attributes:
        title: its name in messages.
        library: the module under which users import its neurons.
        package: the module with our neurons, under the same names.
        neurons: names of the neurons that have an exact gradient.
        integrators: names of its modules that emit no spikes.
        is_neuron: whether a module is a neuron of the library, with an exact gradient or not.
        advice: which neurons have an exact gradient, as a clause.
        losses: the module of the library that holds its losses. ``PACKAGE.functional`` has ours.
        nodes: the module that registers its layers for NIR, if it has one.
    """

    title: str
    library: str
    package: str
    neurons: tuple[str, ...]
    integrators: tuple[str, ...]
    is_neuron: Callable[[nn.Module], bool]
    advice: str
    losses: str
    nodes: str | None = None

    @property
    def installed(self) -> bool:
        return find_spec(self.library.partition(".")[0]) is not None

    @property
    def loaded(self) -> ModuleType | None:
        """The library, if it is imported already."""
        return sys.modules.get(self.library)

    def pairs(self) -> dict[type, Any]:
        """Host class -> ours. The library must be loaded."""
        ours = import_module(self.package)
        return {getattr(self.loaded, name): getattr(ours, name) for name in self.neurons}

    def integrator_classes(self) -> list[type]:
        """The classes named by ``integrators``. The library must be loaded."""
        return [getattr(self.loaded, name) for name in self.integrators]

    def reason(self, module: nn.Module) -> str | None:
        """Why ``module``, which is no instance of ``neurons``, stays; None: not of this host."""
        if type(module) in self.integrator_classes():
            return "it emits no spikes, its gradient is exact as it is"
        if self.is_neuron(module):
            return f"no exact gradient for this neuron; {self.advice}"
        return None


def hosts() -> Iterator[Host]:
    """All hosts, whether installed or not."""
    package = __name__.rpartition(".")[0]
    for info in pkgutil.iter_modules(sys.modules[package].__path__):
        if info.ispkg:
            host = getattr(import_module(f"{package}.{info.name}"), "HOST", None)
            if host is not None:
                yield host


def loaded_hosts() -> Iterator[Host]:
    """The hosts whose library is imported."""
    return (host for host in hosts() if host.loaded)


def titles(conjunction: str) -> str:
    """The hosts' names, for messages: ``"A or B"``."""
    return f" {conjunction} ".join(sorted(host.title for host in hosts()))
