"""Tensors with a shape and a type but no values yet. Each refers to a node of the graph."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from .nodes import Known, Node, NotDeferrable, evaluate, mapped

_state = threading.local()


class Deferred(Tensor):
    """A tensor that is not computed yet."""

    node: Node
    own = False  # no other tensor shares its memory: a write may give it another node

    @staticmethod
    def __new__(cls, like: Tensor, device: torch.device, node: Node) -> Deferred:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, like.shape, dtype=like.dtype, device=device, requires_grad=like.requires_grad
        )
        made.node = node
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Deferred({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        recorder = active()
        with torch._C.DisableTorchFunctionSubclass():
            if _is_metadata(func):
                return func(*args, **(kwargs or {}))
            if recorder is not None:
                return recorder.call(func, args, kwargs or {})
        return func(*mapped(after_the_fact, args), **mapped(after_the_fact, kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[override]
        raise NotDeferrable(f"{func} acts on values below PyTorch's Python functions")


def after_the_fact(leaf: Any) -> Any:
    if not isinstance(leaf, Deferred):
        return leaf
    if not leaf.node.done:
        # A forward hook has kept it, say. No neuron may run any more to compute it.
        if not leaf.node.ready():
            raise RuntimeError(
                "this tensor was made inside a forward pass that ran layer by layer, and nothing "
                "that the pass has returned needs it, so it was not computed: return it, keep it "
                "as an attribute of a module, or swap without fuse=True"
            )
        evaluate([leaf.node])
    return leaf.node.value


_METADATA = {
    getattr(Tensor, name)
    for name in (
        "size", "dim", "ndimension", "numel", "nelement", "__len__", "is_floating_point",
        "is_complex", "element_size", "get_device", "__hash__",
    )
}  # fmt: skip
_METADATA_FIELDS = {
    getattr(Tensor, name)
    for name in (
        "shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_sparse", "is_cuda",
        "is_leaf", "is_meta", "is_quantized", "is_nested", "is_mps", "is_xpu", "_version",
        "grad_fn", "itemsize",
    )
}  # fmt: skip


def _is_metadata(function: Any) -> bool:
    if getattr(function, "__name__", "") == "__get__":
        return function.__self__ in _METADATA_FIELDS
    return function in _METADATA


def as_node(leaf: Any) -> Any:
    return leaf.node if isinstance(leaf, Deferred) else leaf


def node_of(value: Tensor) -> Node:
    """The node behind a tensor, which may be an ordinary one."""
    return value.node if isinstance(value, Deferred) else Known(value)


def active() -> Any:
    """The recorder of the function that is running, if one is."""
    return None if torch.compiler.is_compiling() else getattr(_state, "recorder", None)


def set_active(recorder: Any) -> None:
    """Set the recorder that ``active`` returns in this thread; None: no recorder."""
    _state.recorder = recorder
