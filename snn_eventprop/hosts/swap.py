"""Give the neurons of a host library's model exact gradients, and take them back."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from .adapter import option
from .fusion.fuse import fuse as _fuse
from .fusion.fuse import unfuse

_Model = TypeVar("_Model", bound=nn.Module)

# Host module -> (our skin, the neurons it has, the host's modules that need no swap, and those of
# its neurons that do not show it by a base class or method).
_HOSTS = {
    "snntorch": (
        "snn_eventprop.snntorch",
        ("Leaky", "RLeaky", "Synaptic", "RSynaptic"),
        (),
        ("LeakyParallel",),
    ),
    "norse.torch": (
        "snn_eventprop.norse",
        ("LIFCell", "LIF", "LIFRecurrentCell", "LIFRecurrent"),
        ("LI", "LICell", "LILinearCell"),
        ("CobaLIFCell", "LIFCorrelation"),
    ),
}


class Row(NamedTuple):
    """What ``swap`` did to one module."""

    name: str
    module: str
    outcome: str


def _pairs() -> dict[type, Any]:
    """Host class -> ours, of the host libraries that are imported already."""
    pairs: dict[type, Any] = {}
    for host_name, (skin_name, names, *_) in _HOSTS.items():
        if host_name in sys.modules:
            skin = importlib.import_module(skin_name)
            host = sys.modules[host_name]
            pairs.update({getattr(host, name): getattr(skin, name) for name in names})
    return pairs


def _reason(module: nn.Module, pairs: dict[type, Any]) -> str | None:
    """Why a host's neuron is left as it is; None for modules that are no neurons of a host."""
    cls = type(module)
    if cls in pairs:
        return f"left: {pairs[cls].refusal(module)}"
    if any(isinstance(module, known) for known in pairs):
        return "left: a subclass, whose own forward pass is unknown"
    for host_name, (_, _, exact, others) in _HOSTS.items():
        host = sys.modules.get(host_name)
        if host is None:
            continue
        if cls in [getattr(host, name) for name in exact]:
            return "left: it emits no spikes, its gradient is exact as it is"
        if any(isinstance(module, getattr(host, name, ())) for name in others):
            return _unknown(host_name)
    snntorch = sys.modules.get("snntorch")
    if snntorch is not None and isinstance(module, snntorch.SpikingNeuron):
        return _unknown("snntorch")
    if cls.__module__.startswith("norse.torch.module.") and hasattr(module, "state_fallback"):
        return _unknown("norse.torch")
    return None


def _unknown(host_name: str) -> str:
    known = "Leaky and Synaptic have" if host_name == "snntorch" else "LIF has"
    return f"left: no exact gradient for this neuron; {known} one"


def _updated(module: Any, options: dict[str, float]) -> str:
    """Give options to a neuron of ours; what became of them."""
    changes = {name: value for name, value in options.items() if getattr(module, name) != value}
    if not changes:
        return "left: has exact gradients already"
    told = ", ".join(f"{name} {getattr(module, name):g} -> {changes[name]:g}" for name in changes)
    module._set_options(**changes)
    return f"options updated: {told}"


def _walk(
    model: nn.Module, pairs: dict[type, Any], options: dict[str, float], fuse: bool
) -> Iterator[Row]:
    ours = set(pairs.values())
    for name, module in model.named_modules():
        cls: Any = type(module)
        outcome: str | None
        if cls in ours:
            outcome = _updated(module, options)
        elif cls in pairs and pairs[cls].refusal(module) is None:
            # The same object with another class: parameters, buffers, hooks, mode, whatever else
            # the user has put on it, and every reference to it stay what they are.
            module.__class__ = pairs[cls]
            module._adopt(**options)  # type: ignore[operator]
            outcome = f"swapped for {pairs[cls].__module__.rsplit('.', 1)[0]}"
        else:
            outcome = _reason(module, pairs)
        if outcome is None:
            continue
        if fuse and type(module) in ours:
            why = module._stepped()  # type: ignore[operator]
            outcome += f"; steps one by one: {why}" if why else ""
        yield Row(name, cls.__name__, outcome)


def _table(rows: list[Row]) -> str:
    if not rows:
        return "no neurons of snnTorch or Norse found"
    rows = [Row("module", "class", "outcome"), *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(
        f"{row.name or '(model)':{max(widths[0], 7)}}  {row.module:{widths[1]}}  {row.outcome}"
        for row in rows
    )


def _copied(model: _Model) -> _Model:
    """A deep copy; states that are still part of a graph leave it in the copy."""
    memo: dict = {}
    for module in model.modules():
        for value in (*module._buffers.values(), *module.__dict__.values()):
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)


def swap(
    model: _Model,
    inplace: bool = False,
    *,
    grazing_guard: float | None = None,
    count_gradient: float | None = None,
    fuse: bool = False,
    verbose: bool = True,
) -> _Model:
    """Give every neuron of snnTorch or Norse in ``model`` its exact gradient.

    Spikes, states, parameters, ``state_dict`` and calls stay what they are; only the backward
    pass changes. A table tells what was swapped, what was left, and why.

    Args:
        model: any module; its submodules are searched, however deep.
        inplace: change ``model`` itself. By default a deep copy is changed and returned.
        grazing_guard: smallest slope of the membrane at a spike used in the gradient (see the
            layers). None: 0.05, or what neurons have that are swapped already.
        count_gradient: share of the host's surrogate gradient added to the exact one. Losses on
            spike counts or rates (``ce_rate_loss``, ``mse_count_loss``, ...) need it: spikes
            move, they do not appear, so the exact gradient of a count is zero. A heuristic.
            None: 0, or what neurons have that are swapped already.
        fuse: let a forward pass with a loop over time run layer by layer: each neuron's steps as
            one sequence on the fused engine, the linear layer in front folded in. The same spikes
            and gradients, sooner. ``model.fusion`` tells after a call what was run at once; a
            forward pass that needs values while it runs stays as written, with one warning, until
            it is swapped with ``fuse=True`` again. Of a model in ``DistributedDataParallel``, its
            ``module`` is fused.
        verbose: print the table.

    Returns:
        The model with swapped neurons.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: an option is no finite number, or negative; ``model`` is as it was.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    given = {"grazing_guard": grazing_guard, "count_gradient": count_gradient}
    options = {name: option(name, value) for name, value in given.items() if value is not None}
    target = model if inplace else _copied(model)
    rows = list(_walk(target, _pairs(), options, fuse))
    if fuse:
        fused = _fuse(target)
        name = next(name for name, module in target.named_modules() if module is fused)
        rows.append(
            Row(name, type(fused).__name__, "forward pass runs layer by layer: see .fusion")
        )
    if verbose:
        print(_table(rows))
        if not count_gradient and any(row.outcome.startswith("swapped") for row in rows):
            print("losses on spike counts alone have no exact gradient: see count_gradient")
    return target


def unswap(model: _Model, inplace: bool = False) -> _Model:
    """The inverse of ``swap``: the host's own neurons, with the parameters as they are now."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    target = model if inplace else _copied(model)
    hosts = {ours: host for host, ours in _pairs().items()}
    for module in target.modules():
        unfuse(module)
        if type(module) in hosts:
            module._release()  # type: ignore[operator]
            module.__class__ = hosts[type(module)]
    return target
