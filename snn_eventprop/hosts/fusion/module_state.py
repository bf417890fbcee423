"""Undoes the changes that a forward pass has made on the modules of a model."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

_CONTAINERS = (list, dict, set, deque)


class Snapshot:
    """The buffers, attributes and random numbers of a model at one time.

    Attributes are those of modules and the contents of lists, dictionaries and sets among them,
    nested ones too. Buffers are copied, for batch norm writes into them. No other tensor is:
    states and records are replaced in a forward pass, not written into.
    """

    def __init__(self, model: nn.Module) -> None:
        self._chance = torch.get_rng_state()
        on_gpu = torch.cuda.is_initialized()
        self._chance_on_gpus = torch.cuda.get_rng_state_all() if on_gpu else []
        self._buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
        self._contents: dict[int, tuple[Any, Any]] = {}
        for module in model.modules():
            self._hold(vars(module))

    def _hold(self, container: Any) -> None:
        if id(container) in self._contents:
            return
        self._contents[id(container)] = container, copy.copy(container)
        parts: Iterable = container.values() if isinstance(container, dict) else container
        for part in parts:
            if isinstance(part, _CONTAINERS):
                self._hold(part)

    def restore(self) -> None:
        for container, contents in self._contents.values():
            # In place: others may refer to the same list or dictionary.
            container.clear()
            getattr(container, "extend" if hasattr(container, "extend") else "update")(contents)
        for buffer, value in self._buffers:
            # Not a write for autograd: a graph that holds the buffer sees the value it has kept.
            buffer.data.copy_(value)
        torch.set_rng_state(self._chance)
        if self._chance_on_gpus:
            torch.cuda.set_rng_state_all(self._chance_on_gpus)
