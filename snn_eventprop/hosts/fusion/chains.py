"""Chains: consecutive steps of one neuron, which run as one sequence on the engine.

The linear layer in front of a chain is folded into it where the spikes that enter are sparse. What
lies between two chains (linear and convolution layers, pooling) runs once for all steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..linear_current import LinearDrive
from .lazy_tensor import node_of
from .nodes import Call, Known, Node, NotDeferrable, leaves
from .recorder import REPEATABLE

# Functions that treat every sample alone, and the number of dimensions for which they do (0: any):
# all steps may go through them at once, as further samples.
_SAMPLEWISE: dict[Any, int] = {
    F.linear: 0, torch.relu: 0, F.relu: 0, Tensor.relu: 0, torch.flatten: 0, Tensor.flatten: 0,
    torch.conv1d: 3, torch.conv2d: 4, torch.conv3d: 5, F.batch_norm: 0, F.dropout: 0,
    F.max_pool1d: 3, F.max_pool2d: 4, F.max_pool3d: 5, F.avg_pool1d: 3, F.avg_pool2d: 4,
    F.avg_pool3d: 5, F.adaptive_avg_pool2d: 4, F.adaptive_max_pool2d: 4,
}  # fmt: skip
_STATELESS = set(_SAMPLEWISE) - {F.batch_norm, F.dropout}
REPEATABLE.update(_STATELESS)


class ChainRun(NamedTuple):
    """Results of a neuron that has run the steps of a chain."""

    spikes: Tensor  # [T, ...]
    history: dict[str, Any]  # states in every step, [T, ...] or one for each step
    last: dict[str, Tensor]  # states after the last step
    remark: str  # how it ran, for users

    @classmethod
    def of_steps(
        cls,
        drive: Tensor | LinearDrive,
        states: dict[str, Tensor],
        names: Sequence[str],
        advance: Callable[[Tensor, dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]],
        obstacle: str,
    ) -> ChainRun:
        """One step after another, with the states ``names`` of each.

        ``advance`` takes a current and states to spikes and states.
        """
        history: dict[str, Any] = {name: [] for name in ("spk", *names)}
        for current in drive.dense() if isinstance(drive, LinearDrive) else drive:
            spikes, states = advance(current, states)
            for name in names:
                history[name].append(states[name])
            history["spk"].append(spikes)
        return cls(torch.stack(history.pop("spk")), history, states, remark(drive, obstacle))


def remark(drive: Tensor | LinearDrive, obstacle: str | None) -> str:
    """How a chain ran: what kept it off the engine, or whether the engine read a linear layer."""
    if obstacle is not None:
        return f", one by one ({obstacle})"
    return ", linear layer folded" if isinstance(drive, LinearDrive) else ""


class Chain(Node):
    """Consecutive steps of one neuron, from an initial state."""

    once = True

    def __init__(self, neuron: Any, before: dict[str, Tensor]) -> None:
        self.neuron = neuron
        self.before = {name: node_of(value) for name, value in before.items()}
        self.inputs: list[Node] = []
        self.outputs: list[dict[str, Output]] = []
        self.closed: list[Node] | None = None
        self.length = 0
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
        wanted = {name for step in self.outputs[:-1] for name, out in step.items() if out.used} - {
            "spk"
        }
        before = {name: node.value for name, node in self.before.items()}
        run: ChainRun = self.neuron._run_chain(self.drive.value, before, wanted)
        self.last, self.remark = run.last, run.remark
        self.history = {**run.history, "spk": run.spikes}
        self.length = len(self.outputs)
        for name, output in self.outputs[-1].items():
            value = run.spikes if name == "spk" else self.last[name]
            lead = (self.length,) if name == "spk" else ()
            like = output.like
            if value.shape != torch.Size((*lead, *like.shape)) or value.dtype != like.dtype:
                raise NotDeferrable(
                    f"states of {type(self.neuron).__name__} are not of the shape and type of its "
                    "input; start it from zeros of that shape and type"
                )

    def let_go(self) -> None:
        """Drop what has led to the results.

        Outputs refer to their chain. Were it to refer to them as well, both would wait for
        Python's garbage collector, and the memory of a forward pass with them.
        """
        self.inputs, self.outputs, self.closed, self.before = [], [], [], {}
        self.drive = Known(None)

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
        if self.name != "spk" and self.step == self.chain.length - 1:
            return self.chain.last[self.name]
        return self.chain.steps[self.name][self.step]


class Whole(Node):
    """Spikes or a state of all steps of a chain, [T, ...]."""

    def __init__(self, chain: Chain, name: str) -> None:
        self.chain, self.name = chain, name

    def needs(self) -> Sequence[Node]:
        return (self.chain,)

    def compute(self) -> Tensor:
        whole = self.chain.history[self.name]
        return whole if isinstance(whole, Tensor) else torch.stack(list(whole))


class Stack(Node):
    """``torch.stack`` of steps, which is simplified once all steps are known."""

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
            return Whole(chain, first.name)
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
