"""Loops over time inside a model's forward pass, run layer by layer: ``swap(model, fuse=True)``.

The forward pass is taken down with tensors that are not computed yet (``deferred``). The steps of
a neuron, tied to each other by its state, form a chain, and a chain runs as one sequence on the
engine, with the linear layer in front of it folded in where the spikes that enter are sparse. What
lies between two chains (linear and convolution layers, pooling) runs once for all steps.

A forward pass that needs values while it runs, or whose layers feed back into earlier ones, runs as
written, step by step; a warning says so once.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..linear_current import LinearDrive
from .deferred import (
    REPEATABLE,
    Call,
    Deferred,
    Node,
    NotDeferrable,
    Recorder,
    active,
    evaluate,
    leaves,
    mapped,
    node_of,
)
from .module_state import Snapshot

# Functions that treat every sample alone, and the number of dimensions for which they do (0: any):
# all steps may go through them at once, as so many samples more.
_SAMPLEWISE: dict[Any, int] = {
    F.linear: 0, torch.relu: 0, F.relu: 0, Tensor.relu: 0, torch.flatten: 0, Tensor.flatten: 0,
    torch.conv1d: 3, torch.conv2d: 4, torch.conv3d: 5, F.batch_norm: 0, F.dropout: 0,
    F.max_pool1d: 3, F.max_pool2d: 4, F.max_pool3d: 5, F.avg_pool1d: 3, F.avg_pool2d: 4,
    F.avg_pool3d: 5, F.adaptive_avg_pool2d: 4, F.adaptive_max_pool2d: 4,
}  # fmt: skip
_PATIENCE = 10  # calls in a row that were no use, after which a model is no longer taken down
_STATELESS = set(_SAMPLEWISE) - {F.batch_norm, F.dropout}
REPEATABLE.update(_STATELESS)


class ChainRun(NamedTuple):
    """What a neuron gives when it has gone through the steps of a chain."""

    spikes: Tensor  # [T, ...]
    history: dict[str, Any]  # states in every step, [T, ...] or one for each step
    last: dict[str, Tensor]  # states after the last step
    remark: str  # how it ran, for users

    @staticmethod
    def told(drive: Tensor | LinearDrive, obstacle: str | None) -> str:
        """The remark on steps that ``obstacle`` has kept off the engine, or on what it has read."""
        if obstacle is not None:
            return f", one by one ({obstacle})"
        return ", linear layer folded" if isinstance(drive, LinearDrive) else ""


class Chain(Node):
    """Consecutive steps of one neuron, from an initial state."""

    def __init__(self, neuron: Any, before: dict[str, Tensor]) -> None:
        self.neuron = neuron
        self.before = {name: node_of(value) for name, value in before.items()}
        self.inputs: list[Node] = []
        self.outputs: list[dict[str, Output]] = []
        self.closed: list[Node] | None = None
        self.last: dict[str, Tensor] = {}
        self.history: dict[str, Any] = {}
        self.remark = ""
        for node in self.before.values():
            node.use()

    def needs(self) -> Sequence[Node]:
        if self.closed is None:
            drive = stacked(self.inputs)
            if isinstance(drive, Call) and drive.function is F.linear:
                drive = Call(LinearDrive, drive.args)
            self.drive = drive
            self.closed = [drive, *self.before.values()]
        return self.closed

    def compute(self) -> None:
        wanted = {
            name for step in self.outputs[:-1] for name, out in step.items() if out.used
        } - {"spk"}
        before = {name: node.value for name, node in self.before.items()}
        run: ChainRun = self.neuron._run_chain(self.drive.value, before, wanted)
        self.last, self.remark = run.last, run.remark
        self.history = {**run.history, "spk": run.spikes}
        for name, output in self.outputs[-1].items():
            value = run.spikes if name == "spk" else self.last[name]
            lead = (len(self.outputs),) if name == "spk" else ()
            like = output.like
            if value.shape != torch.Size((*lead, *like.shape)) or value.dtype != like.dtype:
                raise NotDeferrable(
                    f"states of {type(self.neuron).__name__} are not of the shape and type of its "
                    "input; start it from zeros of that shape and type"
                )

    @functools.cached_property
    def steps(self) -> dict[str, Sequence[Tensor]]:
        return {
            name: whole.unbind() if isinstance(whole, Tensor) else whole
            for name, whole in self.history.items()
        }


class Output(Node):
    """The spikes or a state after one step of a chain."""

    used = False
    like: Tensor

    def __init__(self, chain: Chain, step: int, name: str) -> None:
        self.chain, self.step, self.name = chain, step, name

    def use(self) -> None:
        self.used = True

    def needs(self) -> Sequence[Node]:
        return (self.chain,)

    def compute(self) -> Tensor:
        if self.name != "spk" and self.step == len(self.chain.outputs) - 1:
            return self.chain.last[self.name]
        return self.chain.steps[self.name][self.step]


class _Whole(Node):
    """What a chain gave in all its steps, [T, ...]."""

    def __init__(self, chain: Chain, name: str) -> None:
        self.chain, self.name = chain, name

    def needs(self) -> Sequence[Node]:
        return (self.chain,)

    def compute(self) -> Tensor:
        whole = self.chain.history[self.name]
        return whole if isinstance(whole, Tensor) else torch.stack(list(whole))


class _Stack(Node):
    """``torch.stack`` of steps, seen through once all steps are known."""

    used = False
    _simple: Node | None = None

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        for node in nodes:
            node.use()

    def use(self) -> None:
        self.used = True

    def needs(self) -> Sequence[Node]:
        if self._simple is None:
            self._simple = stacked(self.nodes)
        return (self._simple,)

    def compute(self) -> Tensor:
        assert self._simple is not None
        return self._simple.value


def stacked(nodes: Sequence[Node]) -> Node:
    """All steps as one tensor [T, ...], in as few operations as possible."""
    first, steps = nodes[0], len(nodes)
    if all(node is first for node in nodes):
        return Call(lambda value: value.expand(steps, *value.shape), (first,))
    if isinstance(first, Output):
        chain = first.chain
        every = [step[first.name] for step in chain.outputs]
        if len(every) == steps and all(a is b for a, b in zip(every, nodes, strict=True)):
            return _Whole(chain, first.name)
    if isinstance(first, Call) and first.function is torch.select and first.args[1] == 0:
        source = first.args[0]
        if all(_is_step(node, source, k) for k, node in enumerate(nodes)):
            return Call(torch.narrow, (source, 0, 0, steps))
    if isinstance(first, Call) and all(_alike(first, node) for node in nodes):
        inputs = stacked([node.args[0] for node in nodes])  # type: ignore[attr-defined]
        if first.function is F.linear:
            return Call(F.linear, (inputs, *first.args[1:]), first.kwargs)
        return Call(_at_once(first.function), (inputs, *first.args[1:]), first.kwargs)
    return Call(lambda *values: torch.stack(values), nodes)


def _is_step(node: Node, source: Node, step: int) -> bool:
    return (
        isinstance(node, Call)
        and node.function is torch.select
        and node.args[0] is source
        and node.args[1:] == (0, step)
    )


def _alike(first: Call, node: Node) -> bool:
    """Whether ``node`` does to its first argument what ``first`` does, sample by sample."""
    if not isinstance(node, Call) or node.function is not first.function:
        return False
    if node.function not in _SAMPLEWISE or not isinstance(node.args[0], Node):
        return False
    theirs, ours = ([*leaves(call.args[1:]), *leaves(call.kwargs)] for call in (node, first))
    if len(theirs) != len(ours) or not all(
        a is b or (not isinstance(a, (Tensor, Node)) and a == b)
        for a, b in zip(theirs, ours, strict=True)
    ):
        return False
    return _samplewise(node)


def _samplewise(call: Call) -> bool:
    if call.function in (torch.flatten, Tensor.flatten):
        given = (*call.args[1:], *call.kwargs.values())
        return given in ((1,), (1, -1))
    if call.function is F.dropout:
        return not (call.args[2] if len(call.args) > 2 else call.kwargs.get("training", True))
    if call.function is F.batch_norm:
        return not (call.args[5] if len(call.args) > 5 else call.kwargs.get("training", False))
    return True


def _at_once(function: Callable) -> Callable:
    def run(value: Tensor, *args, **kwargs) -> Tensor:
        if value.ndim != 1 + _SAMPLEWISE[function] and _SAMPLEWISE[function]:
            return torch.stack([function(step, *args, **kwargs) for step in value])
        out = function(value.flatten(0, 1), *args, **kwargs)
        return out.unflatten(0, value.shape[:2])

    return run


class FusingRecorder(Recorder):
    """A recorder that knows neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.chains: list[Chain] = []
        self.sequences = 0
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
                node = _Stack([node_of(part) for part in parts])
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
        if not isinstance(target.node, _Stack) or target.node.used:
            whole = target.node
            target.node = _Stack([Call(torch.select, (whole, 0, k)) for k in range(len(target))])
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
            self._likes[key] = torch.empty(
                key[0], dtype=dtype, device="meta", requires_grad=grad
            )
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
        outputs: dict[str, Output] = {}
        after: dict[str, Tensor] = {}
        for name, like in likes.items():
            outputs[name] = node = Output(chain, len(chain.outputs), name)
            node.like = like
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
    """That of the forward pass that is running, if it is taken down."""
    return active()


def whole(function: Callable, current: Tensor, state: Any) -> Any:
    """``function`` of input and state of a neuron that takes whole sequences."""
    running = recorder()
    return function(current, state) if running is None else running.whole(function, current, state)


class _OverTime:
    """Mixin in front of a model's class: its forward pass runs layer by layer where it can."""

    _unfused: type
    _reason: str | None = None
    _fusion = "not called yet"
    _idle = 0  # calls in a row that ran one step, or failed layer by layer

    @property
    def fusion(self) -> str:
        """What the last forward pass has run at once, or why nothing."""
        return self._fusion if self._reason is None else f"step by step: {self._reason}"

    def _give_up(self, reason: str) -> None:
        """Run as written from now on."""
        self._reason = reason
        warnings.warn(
            f"the forward pass of {type(self).__name__} runs step by step: {reason}", stacklevel=5
        )

    def _pass_over(self, reason: str) -> None:
        """This call ran as written, for values of its own it seems; the next one need not."""
        self._idle += 1
        if self._idle == _PATIENCE:
            return self._give_up(reason)
        self._fusion = f"step by step in the last call: {reason}"
        warnings.warn(
            f"the forward pass of {type(self).__name__} ran step by step in this call: {reason}",
            stacklevel=5,
        )

    def __reduce_ex__(self, protocol):
        # object.__getstate__ is of Python 3.11.
        get = getattr(self, "__getstate__", self.__dict__.copy)
        return _restored, (self._unfused,), get()

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)  # type: ignore[misc]


def _restored(cls: type) -> Any:
    fused: Any = fused_class(cls)
    return fused.__new__(fused)


@functools.cache
def fused_class(cls: type) -> type:
    """``cls`` with a forward pass that is taken down and runs layer by layer."""

    @functools.wraps(cls.forward)  # type: ignore[attr-defined]
    def forward(self, *args, **kwargs):
        plain = functools.partial(cls.forward, self)  # type: ignore[attr-defined]
        # ``recorder()`` is asked first: it is what torch.compile sees.
        if torch.compiler.is_compiling() or self._reason or recorder() is not None:
            return plain(*args, **kwargs)
        if any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")):
            return plain(*args, **kwargs)
        # A lazy layer changes class in its first call, which could not be undone.
        if any(is_lazy(value) for value in (*self.parameters(), *self.buffers())):
            return plain(*args, **kwargs)
        return _run(self, plain, args, kwargs)

    made = type(cls.__name__, (_OverTime, cls), {"forward": forward, "_unfused": cls})
    made.__module__, made.__qualname__ = cls.__module__, cls.__qualname__
    return made


def _run(model: Any, plain: Callable, args: tuple, kwargs: dict) -> Any:
    before = Snapshot(model)
    try:
        record, result = _layer_by_layer(model, plain, args, kwargs)
    except NotDeferrable as error:
        reason, conclude = str(error), model._give_up
    except Exception as error:
        reason, conclude = str(error) or type(error).__name__, model._pass_over
    else:
        _note(model, record)
        return result
    # Whatever the error was, the forward pass as written decides; its own errors are raised by it,
    # out here, where nothing that the attempt has made is held any longer.
    before.restore()
    result = plain(*args, **kwargs)
    conclude(reason)
    return result


def _layer_by_layer(
    model: Any, plain: Callable, args: tuple, kwargs: dict
) -> tuple[FusingRecorder, Any]:
    record = FusingRecorder()
    with record:
        result = plain(*mapped(record.defer, args), **mapped(record.defer, kwargs))
    held = _held(model)
    result, values = record.results((result, [value for *_, value in held]))
    for (module, name, _), value in zip(held, values, strict=True):
        setattr(module, name, value)
    return record, result


def _note(model: Any, record: FusingRecorder) -> None:
    """Tell the user, through ``fusion``, what has run at once."""
    if record.sequences or any(len(chain.outputs) > 1 for chain in record.chains):
        model._idle = 0
    else:
        model._idle += 1
        if model._idle == _PATIENCE:
            model._give_up("each call is one step; put the loop over time into a forward pass")
    names = {id(module): name for name, module in model.named_modules()}
    model._fusion = "; ".join(
        f"{names.get(id(chain.neuron), '')}: {len(chain.outputs)} steps{chain.remark}"
        for chain in record.chains
    ) or f"{record.sequences} sequences"


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
    the exchange of gradients and is none to take down.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return fuse(model.module)
    cls: Any = type(model)
    if issubclass(cls, _OverTime):
        _forget(model)
    else:
        model.__class__ = fused_class(cls)
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
