"""The graph of a recorded forward pass: values that are computed later from other values."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any


class NotDeferrable(Exception):
    """The values are needed while the function runs. The message names what would help."""


def mapped(function: Callable, tree: Any) -> Any:
    """The same nest of tuples, lists and dictionaries with ``function`` of each leaf."""
    if isinstance(tree, (tuple, list)):
        parts = [mapped(function, part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if type(tree) in (dict, OrderedDict):
        return type(tree)((key, mapped(function, part)) for key, part in tree.items())
    return function(tree)


def leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, (tuple, list)):
        for part in tree:
            yield from leaves(part)
    elif type(tree) in (dict, OrderedDict):
        yield from leaves(list(tree.values()))
    else:
        yield tree


class Node:
    """A value that is computed from those of other nodes."""

    value: Any = None
    done = False
    started = False
    once = False  # computing it changes modules
    free = False  # computed from inputs alone, not from neurons: known whenever it must be

    def needs(self) -> Sequence[Node]:
        return ()

    def compute(self) -> Any:
        raise NotImplementedError

    def use(self) -> None:
        """Somebody other than the next step of a neuron wants the value."""

    def ready(self) -> bool:
        """Whether the value can be computed after the forward pass, when no neuron may run."""
        ahead: list[Node] = [self]
        while ahead:
            node = ahead.pop()
            if not node.done:
                if node.once:
                    return False
                ahead += node.needs()
        return True


class Known(Node):
    """A value that exists."""

    done = free = True
    used = False

    def __init__(self, value: Any) -> None:
        self.value = value

    def use(self) -> None:
        self.used = True


class Call(Node):
    """``function(*args, **kwargs)``, with nodes among the arguments."""

    def __init__(self, function: Callable, args: Sequence[Any], kwargs: dict | None = None) -> None:
        self.function, self.args, self.kwargs = function, tuple(args), kwargs or {}
        self._needs = [
            leaf for leaf in leaves((*self.args, *self.kwargs.values())) if isinstance(leaf, Node)
        ]
        for node in self._needs:
            node.use()
        self.free = all(node.free for node in self._needs)

    def needs(self) -> Sequence[Node]:
        return self._needs

    def compute(self) -> Any:
        return self.function(*mapped(_value, self.args), **mapped(_value, self.kwargs))


def _value(leaf: Any) -> Any:
    return leaf.value if isinstance(leaf, Node) else leaf


def evaluate(nodes: Iterable[Node]) -> None:
    """Compute nodes and all that they depend on, in the given order."""
    stack = list(nodes)[::-1]
    while stack:
        node = stack[-1]
        if node.done:
            stack.pop()
            continue
        missing = [other for other in node.needs() if not other.done]
        if missing:
            if node.started:
                raise NotDeferrable(
                    "a layer feeds back into an earlier one; recurrent connections within one "
                    "layer (RLeaky, LIFRecurrent) are fused"
                )
            node.started = True
            stack += missing[::-1]
            continue
        node.value, node.done = node.compute(), True
        stack.pop()
