"""Records a function of tensors as a graph.

The function runs once with ``Deferred`` tensors, which know shapes and types but hold no values.
Its operations become a graph of ``Node``, which can be rearranged and is computed at the end. An
operation that needs values at once (``if``, ``.item()``, an autograd function) raises
``NotDeferrable``. So does writing into a tensor, except for sums in place (``total += spk``) and
rows (``out[k] = spk``) of tensors that share their memory with no other.
"""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .lazy_tensor import Deferred, after_the_fact, as_node, node_of, set_active
from .nodes import Call, Known, Node, NotDeferrable, evaluate, leaves, mapped

_SET_REQUIRES_GRAD = Tensor.requires_grad.__set__  # type: ignore[attr-defined]
_CREATIONS = {torch.zeros, torch.ones, torch.empty, torch.full}
_ZERO = (torch.zeros_like, torch.ones_like, torch.full_like)
_INPLACE = {f"__i{name}__" for name in (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift"
)} | {"__setitem__", "__set__"}  # fmt: skip

_NOT_INPLACE = {
    Tensor.add_: torch.add, Tensor.sub_: torch.sub, Tensor.mul_: torch.mul, Tensor.div_: torch.div,
}  # fmt: skip
# Whether these return a view depends on strides, which tensors on the meta device do not share.
_PERHAPS_VIEWS = {Tensor.contiguous, Tensor.to}
_TRANSFERS = {"to", "cpu", "cuda", "numpy", "tolist", "type"}
_DECISIONS = {"item", "__bool__", "__float__", "__int__", "__index__", "__contains__", "equal"}


@functools.cache
def _inplace_position(function: Callable) -> int | None:
    try:
        return list(inspect.signature(function).parameters).index("inplace")
    except (ValueError, TypeError):
        return None


def _write(function: Any, args: Sequence[Any], kwargs: dict) -> str | None:
    """If ``function`` writes into a tensor: that, and how to do without."""
    name = getattr(function, "__name__", "")
    position = _inplace_position(function)
    if "out" in kwargs:
        mend = "call it without out="
    elif kwargs.get("inplace", position is not None and len(args) > position and args[position]):
        mend = "use inplace=False"
    elif name in ("__setitem__", "__set__"):
        mend = "collect the steps in a list and torch.stack it"
    elif name in _INPLACE or name in ("add_", "sub_", "mul_", "div_"):
        mend = "write total = total + spk, not total += spk"
    elif name.endswith("_") and not name.endswith("__"):
        mend = f"use {name.rstrip('_')}, which returns another tensor"
    else:
        return None
    return f"{name} writes into a tensor; {mend}"


def _stays(function: Any, args: Sequence[Any], kwargs: dict) -> bool:
    """Whether a tensor is moved to where, and to what, it is already."""
    rest = args[1:]
    if any(isinstance(leaf, Deferred) for leaf in leaves((rest, kwargs))):
        return False
    like = torch.empty(0, dtype=args[0].dtype, device=args[0].device)
    try:
        return function(like, *rest, **kwargs) is like
    except Exception:  # the forward pass as written will raise it
        return False


def _need(function: Any, error: Exception | None = None) -> str:
    """That ``function`` needs values, and how to do without."""
    name = getattr(function, "__name__", str(function))
    if name in _TRANSFERS:
        return f"{name} needs values; move .{name}() after the forward pass"
    if name in _DECISIONS:
        return f"{name} needs values; decide by those of neurons after the forward pass"
    cause = f" ({error})" if error else ""
    return f"{name} needs values{cause}; call it after the forward pass, on the results"


_REUSED = "a tensor is written into after it was used; make a new one for each step"


class _Creations(TorchFunctionMode):
    """Record tensors that are made out of nothing, so that they may be written into."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if Deferred in types:
            return Deferred.__torch_function__(func, types, args, kwargs)
        made = func(*args, **(kwargs or {}))
        if func not in _CREATIONS or self.recorder.paused or type(made) is not Tensor:
            return made
        return made if made.is_meta or made.requires_grad else self.recorder.new(made)


class Recorder:
    """Records a function of tensors. A context: inside it, ``active()`` is this object."""

    paused = False  # while values are computed inside the function

    def __init__(self) -> None:
        self._shapes: dict[Any, Any] = {}
        self._selected: dict[tuple[int, int], Deferred] = {}
        self._known: dict[Any, Deferred] = {}
        self._used: dict[int, tuple[Tensor, int]] = {}
        self._modes = self._present_modes()
        self._creations = _Creations(self)

    def __enter__(self) -> Recorder:
        set_active(self)
        self._creations.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._creations.__exit__(*error)
        del self._creations.recorder  # which is a circle
        set_active(None)

    @staticmethod
    def _present_modes() -> tuple[bool, bool, bool]:
        return (
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.is_autocast_enabled("cuda"),
        )

    def modes_differ(self) -> bool:
        """Whether the function has changed the modes in which it was called."""
        return self._present_modes() != self._modes

    def defer(self, value: Any) -> Any:
        """A tensor as one that is computed later; anything else as it is."""
        if not isinstance(value, Tensor) or isinstance(value, Deferred):
            return value
        self.watch(value)
        return Deferred(value, value.device, Known(value))

    def new(self, value: Tensor) -> Deferred:
        """A new tensor, to which nothing else refers, as a deferred one."""
        made = Deferred(value, value.device, Known(value))
        made.own = True
        return made

    def watch(self, *values: Tensor) -> None:
        """Remember that ordinary tensors are used as they are now."""
        for value in values:
            if isinstance(value, Deferred) or value.is_inference():
                continue
            version = value._version
            if self._used.setdefault(id(value), (value, version))[1] != version:
                raise NotDeferrable(_REUSED)

    def check(self) -> None:
        """Raise if a tensor was changed after it was used."""
        self.watch(*(value for value, _ in self._used.values()))

    def call(self, func: Any, args: Sequence[Any], kwargs: dict) -> Any:
        """The result of ``func``, one of PyTorch's functions, as tensors to be computed later."""
        if func == _SET_REQUIRES_GRAD and isinstance(args[0].node, Known) and args[0].own:
            # A leaf, as Norse makes of its first states; it is not written into any more.
            func(args[0].node.value, args[1])
            args[0].own = False
            return func(*args)
        write = _write(func, args, kwargs)
        if write:
            return self._written(func, args, kwargs, write)
        if self.modes_differ():
            why = (
                "it changes the grad or autocast mode, or calls an autograd.Function; do that "
                "around the forward pass, or on its results"
            )
            return self._now(func, args, kwargs, why, differentiable=False)
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda) and _stays(func, args, kwargs):
            return args[0]
        if func in _ZERO:
            like = torch.empty((), dtype=args[0].dtype, device=args[0].device)
            made = func(like.expand(args[0].shape).contiguous(), *args[1:], **kwargs)
            return made if made.requires_grad else self.new(made)
        if func in (Tensor.unbind, torch.unbind) and (*args[1:], *kwargs.values()) in ((), (0,)):
            return tuple(self._select(args[0], k) for k in range(args[0].shape[0]))
        if func is Tensor.__getitem__ and type(args[1]) is int and args[0].ndim:
            length = args[0].shape[0]
            if not -length <= args[1] < length:
                raise IndexError(f"index {args[1]} is out of bounds for {length} steps")
            return self._select(args[0], args[1] % length)
        return self._record(func, args, kwargs)

    def _written(self, func: Any, args: Sequence[Any], kwargs: dict, why: str) -> Deferred:
        """The target of an operation in place: the same tensor with another node.

        Every reference to the tensor sees the new node, as it would see the write. A node that was
        taken from it before keeps the old value. This fails where another tensor shares the memory.
        """
        target = args[0] if args else None
        owned = isinstance(target, Deferred) and target.own
        if not owned or "out" in kwargs or func.__name__ == "__set__" or self.modes_differ():
            raise NotDeferrable(why)
        assert isinstance(target, Deferred)
        given = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Deferred)]
        if all(tensor.node.free for tensor in given):
            evaluate(tensor.node for tensor in given)
            value = target.node.value
            if not isinstance(target.node, Known) or target.node.used:
                value = value.clone()
            rest = mapped(after_the_fact, (args[1:], kwargs))
            func(value, *rest[0], **rest[1])
            made = value
        elif func in _NOT_INPLACE:
            made = self._record(_NOT_INPLACE[func], args, kwargs)
        else:
            raise NotDeferrable(why)
        if (made.shape, made.dtype) != (target.shape, target.dtype):
            raise NotDeferrable(why)
        target.node = node_of(made)
        target.requires_grad_(made.requires_grad)
        return target

    def _now(
        self, func: Any, args: Sequence[Any], kwargs: dict, why: str, *, differentiable: bool
    ) -> Any:
        """The result with values, if they are known already.

        An autograd.Function around ``func`` is not recorded. Then the result must need no gradient.
        """
        given = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Deferred)]
        if not all(t.node.free and (differentiable or not t.requires_grad) for t in given):
            raise NotDeferrable(why)
        for tensor in given:
            tensor.own = False  # the result may be a view
        evaluate(t.node for t in given)
        return func(*mapped(after_the_fact, args), **mapped(after_the_fact, kwargs))

    def _select(self, source: Deferred, step: int) -> Deferred:
        node, source.own = source.node, False
        key = (id(node), step)
        if key not in self._selected:
            like = torch.empty(
                source.shape[1:], dtype=source.dtype, device="meta",
                requires_grad=source.requires_grad,
            )  # fmt: skip
            self._selected[key] = Deferred(like, source.device, Call(torch.select, (node, 0, step)))
        return self._selected[key]

    def _record(self, func: Any, args: Sequence[Any], kwargs: dict) -> Any:
        node = Call(func, mapped(as_node, args), mapped(as_node, kwargs))
        # Some functions of the same tensors, such as a layer's of an image shown in every step.
        key = _same(func, node) if func in REPEATABLE else None
        if key is not None and key in self._known:
            return self._known[key]
        try:
            (like, fresh), device = self._like(func, args, kwargs)
        except NotDeferrable as error:
            return self._now(func, args, kwargs, str(error), differentiable=True)
        if not fresh:
            for leaf in leaves((args, kwargs)):
                if isinstance(leaf, Deferred):
                    leaf.own = False
        if isinstance(like, Tensor):
            made = Deferred(like, device, node)
            made.own = fresh and key is None
            if key is not None:
                self._known[key] = made
            return made
        if isinstance(like, (tuple, list)) and all(isinstance(part, Tensor) for part in like):
            return tuple(
                Deferred(part, device, Call(lambda whole, i=i: whole[i], (node,)))
                for i, part in enumerate(like)
            )
        return self._now(func, args, kwargs, _need(func), differentiable=True)

    def _like(
        self, func: Any, args: Sequence[Any], kwargs: dict
    ) -> tuple[tuple[Any, bool], torch.device]:
        """The result on the meta device, and whether its memory is new."""
        tensors = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.watch(*tensors)
        device = next(t.device for t in tensors if isinstance(t, Deferred))
        if any(t.device != device and t.ndim for t in tensors):
            raise NotDeferrable(
                "tensors of several devices meet; move the input to that of the layers before"
            )
        try:
            key: Any = (func, _key(_description, args), _key(_description, kwargs))
            if key in self._shapes:
                return self._shapes[key], device
        except TypeError:  # not hashable
            key = None
        try:
            given = mapped(_on_meta, (args, kwargs))
            like = func(*given[0], **given[1])
        except Exception as error:
            raise NotDeferrable(_need(func, error)) from error
        found = like, func not in _PERHAPS_VIEWS and not _memory(like) & _memory(given)
        if key is not None:
            self._shapes[key] = found
        return found, device


# Functions without side effects or chance, whose results may be shared.
REPEATABLE: set[Any] = set()


def _same(func: Any, node: Call) -> Any:
    try:
        key = func, _key(_identity, node.args), _key(_identity, node.kwargs)
        hash(key)
        return key
    except TypeError:
        return None


def _key(function: Callable, tree: Any) -> Any:
    if isinstance(tree, (tuple, list)):
        return type(tree), *(_key(function, part) for part in tree)
    if type(tree) in (dict, OrderedDict):
        return tuple((name, _key(function, part)) for name, part in tree.items())
    return function(tree)


def _identity(leaf: Any) -> Any:
    return id(leaf) if isinstance(leaf, (Node, Tensor)) else (type(leaf), leaf)


def _description(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.dtype, leaf.requires_grad
    return type(leaf), leaf


def _memory(tree: Any) -> set[int]:
    """The memory of the tensors among leaves, as numbers."""
    return {
        leaf.untyped_storage()._cdata for leaf in leaves(tree) if isinstance(leaf, Tensor)
    }  # fmt: skip


def _on_meta(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return torch.empty(
        leaf.shape, dtype=leaf.dtype, device="meta", requires_grad=leaf.requires_grad
    )
