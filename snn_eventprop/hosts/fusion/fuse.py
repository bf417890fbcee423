"""``swap(model, fuse=True)``: models whose forward pass runs layer by layer where it can.

A forward pass that needs values while it runs, or whose layers feed back into earlier ones, runs as
written, step by step. A warning says so once.
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..adapter import ExactGradient
from ..made_classes import make_class
from ..registry import loaded_hosts
from .chain_recorder import FusingRecorder, recorder
from .lazy_tensor import Deferred
from .left_neurons import left_neurons
from .module_state import Snapshot
from .nodes import NotDeferrable, leaves, mapped

_NOTHING_TO_FUSE = "no neuron in it has an exact gradient"
_PATIENCE = 10  # calls in a row without a sequence, after which a model is no longer recorded


class _OverTime:
    """Mixin in front of a model's class: its forward pass runs layer by layer where it can."""

    _unfused: type
    _reason: str | None = None
    _fusion = "not called yet"
    _idle = 0  # calls in a row that ran one step, or failed layer by layer

    @property
    def fusion(self) -> str:
        """Which neurons ran as sequences in the last forward pass, or why none did."""
        return self._fusion if self._reason is None else f"step by step: {self._reason}"

    def _give_up(self, reason: str) -> None:
        """Run as written from now on."""
        self._reason = reason
        warnings.warn(
            f"the forward pass of {type(self).__name__} runs step by step: {reason}", stacklevel=5
        )

    def _pass_over(self, reason: str) -> None:
        """This call ran as written, probably for its values. The next one is recorded again."""
        self._idle += 1
        if self._idle == _PATIENCE:
            return self._give_up(reason)
        self._fusion = f"step by step in the last call: {reason}"
        warnings.warn(
            f"the forward pass of {type(self).__name__} ran step by step in this call: {reason}",
            stacklevel=5,
        )


@functools.cache
def fused_class(cls: type) -> type:
    """``cls`` with a forward pass that is recorded and runs layer by layer."""

    @functools.wraps(cls.forward)  # type: ignore[attr-defined]
    def forward(self, *args, **kwargs):
        plain = functools.partial(cls.forward, self)  # type: ignore[attr-defined]
        # ``recorder()`` comes first: it is what torch.compile sees.
        if torch.compiler.is_compiling() or self._reason or recorder() is not None:
            return plain(*args, **kwargs)
        if any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")):
            return plain(*args, **kwargs)
        # A lazy layer changes class in its first call, which could not be undone.
        if any(is_lazy(value) for value in (*self.parameters(), *self.buffers())):
            return plain(*args, **kwargs)
        return _run(self, plain, args, kwargs)

    body = {"forward": forward, "_unfused": cls}
    return make_class(fused_class, (cls,), (_OverTime, cls), body)


def _run(model: Any, plain: Callable, args: tuple, kwargs: dict) -> Any:
    before = Snapshot(model)
    try:
        record, result = _layer_by_layer(model, plain, args, kwargs)
    except NotDeferrable as error:
        reason, conclude = f"{_place(model, error)}{error}", model._give_up
    except Exception as error:
        reason, conclude = str(error) or type(error).__name__, model._pass_over
    else:
        _note(model, record)
        for chain in record.chains:
            chain.let_go()
        return result
    # The forward pass as written decides whether there is an error. It runs out here, where nothing
    # refers to the tensors of the attempt any longer.
    before.restore()
    result = plain(*args, **kwargs)
    conclude(reason)
    return result


def _place(model: nn.Module, error: BaseException) -> str:
    """The submodule in whose forward pass an error has come up, as a prefix of its message."""
    names = {id(module): name for name, module in model.named_modules()}
    found, trace = None, error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if names.get(id(owner)) and trace.tb_frame.f_code.co_name == "forward":
            found = owner
        trace = trace.tb_next
    return "" if found is None else f"in {names[id(found)]} ({type(found).__name__}), "


def _layer_by_layer(
    model: Any, plain: Callable, args: tuple, kwargs: dict
) -> tuple[FusingRecorder, Any]:
    record = FusingRecorder()
    left = [
        module for module in model.modules() if _is_left(module) and "forward" not in vars(module)
    ]
    with record, left_neurons(left, record) as stand_ins:
        result = plain(*mapped(record.defer, args), **mapped(record.defer, kwargs))
    held = _held(model)
    kept = [(module, module._buffers, dict(module._buffers), dict(vars(module))) for module in left]
    result, values = record.results((result, [value for *_, value in held]))
    for module, buffers, contents, attributes in kept:
        # The steps have run just now. What the forward pass did after them (a reset) comes last.
        buffers.update(contents)
        vars(module).update(attributes)
    for (module, name, _), value in zip(held, values, strict=True):
        setattr(module, name, value)
    record.left = {id(one.module): one.steps for one in stand_ins if one.steps}
    return record, result


def _is_left(module: nn.Module) -> bool:
    """Whether a module is a spiking neuron of a host, as the host has it."""
    return not isinstance(module, ExactGradient) and any(
        host.is_neuron(module) and type(module) not in host.integrator_classes()
        for host in loaded_hosts()
    )


def _note(model: Any, record: FusingRecorder) -> None:
    """Report through ``fusion`` what ran as a sequence."""
    if record.sequences or any(len(chain.outputs) > 1 for chain in record.chains):
        model._idle = 0
    else:
        model._idle += 1
        if model._idle == _PATIENCE:
            model._give_up("each call is one step; put the loop over time into a forward pass")
    model._fusion = _summary(model, record) or f"{record.sequences} sequences"


def _summary(model: nn.Module, record: FusingRecorder) -> str:
    """How the chains ran. Neurons that ran alike are listed together."""
    names = {id(module): name for name, module in model.named_modules()}
    runs: dict[str, Counter[str]] = {}
    for chain in record.chains:
        how = f"{len(chain.outputs)} step{'s' * (len(chain.outputs) != 1)}{chain.remark}"
        runs.setdefault(names.get(id(chain.neuron), "(not in the model)"), Counter())[how] += 1
    for neuron, steps in record.left.items():
        runs[names[neuron]] = Counter([f"{steps} steps, one by one (not swapped)"])
    alike: dict[str, list[str]] = {}
    for name, counts in runs.items():
        parts = [how if count == 1 else f"{count} times {how}" for how, count in counts.items()]
        alike.setdefault(" and ".join(parts), []).append(name or "(model)")
    return "; ".join(
        f"{', '.join(found)}{f' ({len(found)} neurons)' if len(found) > 1 else ''}: {how}"
        for how, found in alike.items()
    )


def _held(model: nn.Module) -> list[tuple[nn.Module, str, Any]]:
    """Attributes that hold results of the forward pass: states of neurons, what users record."""
    return [
        (module, name, value)
        for module in model.modules() for name, value in vars(module).items()
        if isinstance(value, (Deferred, tuple, list, dict))
        and any(isinstance(leaf, Deferred) for leaf in leaves(value))
    ]  # fmt: skip


def fuse(model: nn.Module) -> nn.Module:
    """Let the model's forward pass run layer by layer; returns the module whose pass it is.

    Of a model that has given that up, let it try again.

    That is the model, or what ``DistributedDataParallel`` wraps, whose own forward pass prepares
    the exchange of gradients and is not to be recorded.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return fuse(model.module)
    cls: Any = type(model)
    if issubclass(cls, _OverTime):
        _forget(model)
    else:
        model.__class__ = fused_class(cls)
    if not any(isinstance(module, ExactGradient) for module in model.modules()):
        vars(model)["_reason"] = _NOTHING_TO_FUSE
    return model


def _forget(model: nn.Module) -> None:
    """Forget what earlier calls of a fused model have shown."""
    for name in ("_reason", "_fusion", "_idle"):
        vars(model).pop(name, None)


def unfuse(module: nn.Module) -> None:
    """Undo ``fuse``."""
    cls: Any = type(module)
    if issubclass(cls, _OverTime):
        module.__class__ = cls._unfused
        _forget(module)
