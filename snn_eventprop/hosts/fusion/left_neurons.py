"""Neurons that ``swap`` has left, in a forward pass that is recorded.

What such a neuron does is unknown, so its steps run one by one, with values. The layers before and
after it still run for all steps at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .chain_recorder import FusingRecorder
from .lazy_tensor import Deferred, as_node, set_active
from .module_state import Snapshot
from .nodes import Call, Node, NotDeferrable, leaves, mapped


class LeftStep(Node):
    """One call of a neuron that was left; the value is its result and its states."""

    once = True

    def __init__(
        self, neuron: LeftNeuron, args: tuple, kwargs: dict, states: dict[str, Any],
        previous: LeftStep | None,
    ) -> None:  # fmt: skip
        self.neuron = neuron
        self.given = mapped(as_node, args), mapped(as_node, kwargs), mapped(as_node, states)
        self.needed = [leaf for leaf in leaves(self.given) if isinstance(leaf, Node)]
        for node in self.needed:
            node.use()
        self.needed += [previous] if previous else []

    def needs(self) -> Sequence[Node]:
        return self.needed

    def compute(self) -> Any:
        args, kwargs, states = mapped(
            lambda leaf: leaf.value if isinstance(leaf, Node) else leaf, self.given
        )
        self.given, self.needed = ((), {}, {}), []
        return self.neuron.run(args, kwargs, states)


class LeftNeuron:
    """Stands in for ``forward`` of a neuron that was left, while the model is recorded."""

    def __init__(self, module: nn.Module, recorder: FusingRecorder) -> None:
        self.module, self.recorder = module, recorder
        self.forward: Callable = module.forward
        self.steps = 0
        self._last: LeftStep | None = None
        self._likes: dict[Any, tuple[Any, dict[str, Tensor]]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        recorder = self.recorder
        if recorder.paused:
            return self.forward(*args, **kwargs)
        if recorder.modes_differ():
            raise NotDeferrable("it is called in another grad or autocast mode than the model")
        tensors = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        recorder.watch(*tensors)
        key = tensors[0].shape, tensors[0].dtype
        if key not in self._likes:
            self._likes[key] = self._try(args, kwargs)
        result, states = self._likes[key]
        before = {name: getattr(self.module, name) for name in states}
        self._last = step = LeftStep(self, args, kwargs, before, self._last)
        self.steps += 1
        device = tensors[0].device
        count = -1

        def deferred(leaf: Any) -> Any:
            nonlocal count
            count += 1
            if not isinstance(leaf, Tensor):
                return leaf
            node = Call(lambda value, k=count: list(leaves(value[0]))[k], (step,))
            return Deferred(recorder.like(leaf.shape, leaf.dtype), device, node)

        for name, like in states.items():
            node = Call(lambda value, name=name: value[1][name], (step,))
            made = Deferred(recorder.like(like.shape, like.dtype), device, node)
            setattr(self.module, name, made)
        return mapped(deferred, result)

    def _try(self, args: tuple, kwargs: dict) -> tuple[Any, dict[str, Tensor]]:
        """What a call returns and which states it changes, found with zeros; then undone."""
        if any(isinstance(value, Deferred) for value in self._tensors().values()):
            raise NotDeferrable("the shape of its input changes between steps")

        def zeros(leaf: Any) -> Any:
            return (
                torch.zeros(leaf.shape, dtype=leaf.dtype, device=leaf.device)
                if isinstance(leaf, Tensor)
                else leaf
            )

        before, snapshot = self._tensors(), Snapshot(self.module)
        with self._recorder_rests(), torch.no_grad():
            result = self.forward(*mapped(zeros, args), **mapped(zeros, kwargs))
        after = self._tensors()
        snapshot.restore()
        changed = {name: value for name, value in after.items() if value is not before.get(name)}
        # States that do not exist yet are zeros of the shape that they will have.
        for name, value in changed.items():
            if name not in before:
                setattr(self.module, name, torch.zeros_like(value))
        return result, changed

    def _tensors(self) -> dict[str, Tensor]:
        every = {**self.module._buffers, **vars(self.module)}
        return {name: value for name, value in every.items() if isinstance(value, Tensor)}

    @contextmanager
    def _recorder_rests(self) -> Iterator[None]:
        self.recorder.paused = True
        set_active(None)
        try:
            yield
        finally:
            self.recorder.paused = False
            set_active(self.recorder)

    def run(self, args: tuple, kwargs: dict, states: dict[str, Any]) -> Any:
        """One step with values."""
        for name, value in states.items():
            setattr(self.module, name, value)
        result = self.forward(*args, **kwargs)
        return result, {name: getattr(self.module, name) for name in states}


@contextmanager
def left_neurons(
    modules: Sequence[nn.Module], recorder: FusingRecorder
) -> Iterator[list[LeftNeuron]]:
    """Record the calls of ``modules``, as long as the context lasts."""
    stand_ins = [LeftNeuron(module, recorder) for module in modules]
    for stand_in in stand_ins:
        vars(stand_in.module)["forward"] = stand_in
    try:
        yield stand_ins
    finally:
        for stand_in in stand_ins:
            vars(stand_in.module).pop("forward", None)
