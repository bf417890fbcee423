"""Which layers of a model feed which, seen from one run of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

SAMPLE = "input"  # the name of what goes into the model


@dataclass
class Call:
    """A layer that was called: the names of those that feed it, and its number of outputs."""

    module: nn.Module
    sources: list[str] = field(default_factory=list)
    size: int = 0


def trace(model: nn.Module, sample: Any, known: Callable[[nn.Module], bool]) -> dict[str, Call]:
    """Run ``model(sample)`` and note the calls of its layers, by name, in their order.

    A layer may be called many times, once per step. What lies between layers must hand on the
    very object that a layer has returned.

    Args:
        model: any module; what runs inside a known layer is not looked at.
        known: whether a module is a layer that has a node in the graph.

    Raises:
        TypeError: a module without children that is not known.
        ValueError: an operation between layers, which has no node.
    """
    calls: dict[str, Call] = {}
    made: dict[int, str] = {}  # by the id of what a layer returned
    kept: list[Any] = []  # so that no id comes twice

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            again = name in calls
            call = calls.setdefault(name, Call(module))
            source = made.get(id(inputs[0]))
            if source is None and not again:
                if len(calls) > 1:
                    raise ValueError(
                        f"what goes into {name or 'the model'} ({type(module).__name__}) comes "
                        "from an operation between the layers, for which there is no node; make "
                        "the operation a layer, or export the parts before and after it"
                    )
                source = SAMPLE
            if source is not None and source not in call.sources:
                call.sources.append(source)
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, Tensor):
                call.size = first.shape[-1] if first.ndim else 0
            kept.append(first)
            made[id(first)] = name

        return note

    def refuse(name: str) -> Callable[[nn.Module, Any], None]:
        def note(module: nn.Module, inputs: Any) -> None:
            kind = type(module).__name__
            raise TypeError(f"{name or 'the model'} is a {kind}, which has no node")

        return note

    handles = []

    def watch(module: nn.Module, name: str) -> None:
        if known(module):
            handles.append(module.register_forward_hook(hook(name)))
            return
        children = list(module.named_children())
        if not children:
            handles.append(module.register_forward_pre_hook(refuse(name)))
        for child, submodule in children:
            watch(submodule, f"{name}.{child}" if name else child)

    watch(model, "")
    try:
        with torch.no_grad():
            model(sample)
    finally:
        for handle in handles:
            handle.remove()
    return calls
