"""A recorder that knows neurons, and gathers their steps into chains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.module import _global_forward_hooks

from ..linear_current import LinearDrive
from .chains import Chain, Output, Stack
from .lazy_tensor import Deferred, active, node_of
from .nodes import Call, Node, evaluate, leaves, mapped
from .recorder import Recorder


class FusingRecorder(Recorder):
    """A recorder that knows neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.chains: list[Chain] = []
        self.sequences = 0
        self.left: dict[int, int] = {}  # id of a neuron that was not swapped -> its steps
        self._latest: dict[int, Chain] = {}
        self._likes: dict[Any, Tensor] = {}

    def call(self, func: Any, args: Sequence[Any], kwargs: dict) -> Any:
        if self.modes_differ():
            return super().call(func, args, kwargs)
        if func is Tensor.__setitem__ and self._write_row(*args):
            return None
        if func is torch.stack and (*args[1:], *kwargs.values()) in ((), (0,)):
            parts = args[0]
            if len({(part.shape, part.dtype) for part in parts}) == 1:
                self.watch(*parts)
                node = Stack([node_of(part) for part in parts])
                like = torch.empty(
                    (len(parts), *parts[0].shape), dtype=parts[0].dtype, device="meta",
                    requires_grad=any(part.requires_grad for part in parts),
                )  # fmt: skip
                return Deferred(like, parts[0].device, node)
        return super().call(func, args, kwargs)

    def _write_row(self, target: Tensor, index: Any, row: Any) -> bool:
        """``target[k] = row`` of a tensor over time; False where a write would be more than that.

        The target is the stack of its rows, one of which is another one now.
        """
        step, *rest = index if isinstance(index, tuple) else (index,)
        if (
            not isinstance(target, Deferred) or not target.own or type(step) is not int
            or any(part is not Ellipsis and part != slice(None) for part in rest)
            or not target.ndim or not -len(target) <= step < len(target)
            or not isinstance(row, Tensor)
            or (row.shape, row.dtype, row.device)
            != (target.shape[1:], target.dtype, target.device)
        ):  # fmt: skip
            return False
        self.watch(row)
        if not isinstance(target.node, Stack) or target.node.used:
            whole = target.node
            target.node = Stack([Call(torch.select, (whole, 0, k)) for k in range(len(target))])
        node = node_of(row)
        node.use()
        target.node.nodes[step] = node
        target.requires_grad_(target.requires_grad or row.requires_grad)
        return True

    def like(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor without values."""
        key = (tuple(shape), dtype)
        if key not in self._likes:
            grad = torch.is_grad_enabled() and dtype.is_floating_point
            self._likes[key] = torch.empty(key[0], dtype=dtype, device="meta", requires_grad=grad)
        return self._likes[key]

    def step(
        self, neuron: Any, current: Tensor, before: dict[str, Tensor], likes: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """One step of a neuron, to be done later.

        Args:
            current: what enters.   before: its states.
            likes: what its states and spikes (named ``spk``) will look like.
        """
        self.watch(current, *before.values())
        chain = self._latest.get(id(neuron))
        nodes = {
            name: value.node if isinstance(value, Deferred) else None
            for name, value in before.items()
        }
        goes_on = (
            chain is not None
            and chain.closed is None
            and all(node is chain.outputs[-1][name] for name, node in nodes.items())
        )
        if chain is None or not goes_on:
            chain = self._latest[id(neuron)] = Chain(neuron, before)
            self.chains.append(chain)
        entering = node_of(current)
        entering.use()
        chain.inputs.append(entering)
        # A hook may keep the states of every step.
        hooked = bool(neuron._forward_hooks or _global_forward_hooks)
        outputs: dict[str, Output] = {}
        after: dict[str, Tensor] = {}
        for name, like in likes.items():
            outputs[name] = node = Output(chain, len(chain.outputs), name)
            node.like = like
            if hooked:
                node.use()
            after[name] = Deferred(like, current.device, node)
        chain.outputs.append(outputs)
        return after

    def whole(self, function: Callable, current: Tensor, state: Any) -> Any:
        """``function`` of what enters a neuron that takes sequences, computed now.

        A last linear layer of ``current`` is left to the neuron.
        """
        self.sequences += 1
        self.paused = True
        try:
            if isinstance(current, Deferred):
                node: Node = current.node
                if isinstance(node, Call) and node.function is F.linear and not node.kwargs:
                    node = Call(LinearDrive, node.args)
                evaluate([node])
                current = node.value
            return function(current, self.results(state))
        finally:
            self.paused = False

    def results(self, tree: Any) -> Any:
        """The values of a result."""
        self.check()
        nodes = [leaf.node for leaf in leaves(tree) if isinstance(leaf, Deferred)]
        for node in nodes:
            node.use()
        evaluate(nodes)
        return mapped(lambda leaf: leaf.node.value if isinstance(leaf, Deferred) else leaf, tree)


def recorder() -> FusingRecorder | None:
    """That of the forward pass that is running, if it is recorded."""
    return active()


def whole(function: Callable, current: Tensor, state: Any) -> Any:
    """``function`` of input and state of a neuron that takes whole sequences."""
    running = recorder()
    return function(current, state) if running is None else running.whole(function, current, state)
