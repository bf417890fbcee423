"""Give the neurons of a host library's model exact gradients, and take them back."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from .adapter import ExactGradient, option
from .fusion.fuse import fuse as _fuse
from .fusion.fuse import unfuse
from .registry import loaded_hosts, titles
from .subclasses import exact_class, host_class, original_class, refusal

_Model = TypeVar("_Model", bound=nn.Module)


class Row(NamedTuple):
    """What ``swap`` did to one module."""

    name: str
    module: str
    outcome: str


def _pairs() -> dict[type, Any]:
    """Host class -> ours, of the host libraries that are imported already."""
    return {host: ours for known in loaded_hosts() for host, ours in known.pairs().items()}


def _updated(module: Any, options: dict[str, float]) -> str:
    """Give options to a neuron of ours; what became of them."""
    changes = {name: value for name, value in options.items() if getattr(module, name) != value}
    if not changes:
        return "left: has exact gradients already"
    shown = ", ".join(f"{name} {getattr(module, name):g} -> {changes[name]:g}" for name in changes)
    module._set_options(**changes)
    return f"options updated: {shown}"


def _exact(module: nn.Module, pairs: dict[type, Any], options: dict[str, float]) -> str | None:
    """Give a host's neuron its exact gradient; what became of it, None for other modules."""
    host = host_class(type(module), pairs)
    if host is None:
        reasons = (known.reason(module) for known in loaded_hosts())
        return next((f"left: {reason}" for reason in reasons if reason), None)
    refused = refusal(module, host, pairs[host])
    if refused:
        return f"left: {refused}"
    # The same object with another class keeps its parameters, buffers, hooks and mode, and every
    # reference to it stays valid.
    module.__class__ = exact_class(type(module), host, pairs[host])  # type: ignore[arg-type]
    module._adopt(**options)  # type: ignore[operator]
    return f"swapped for {_public_name(pairs[host])}"


def _walk(
    model: nn.Module, pairs: dict[type, Any], options: dict[str, float], fuse: bool
) -> Iterator[Row]:
    for name, module in model.named_modules():
        shown = type(module).__name__
        outcome = (
            _updated(module, options)
            if isinstance(module, ExactGradient)
            else _exact(module, pairs, options)
        )
        if outcome is None:
            continue
        if fuse and isinstance(module, ExactGradient):
            why = module._stepped()
            outcome += f"; steps one by one: {why}" if why else ""
        yield Row(name, shown, outcome)


def _public_name(ours: type) -> str:
    """The name under which users import one of our neurons."""
    package = next(host.package for host in loaded_hosts() if ours in host.pairs().values())
    return f"{package}.{ours.__name__}"


def _table(rows: list[Row]) -> str:
    if not rows:
        return f"no neurons of {titles('or')} found"
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

    Spikes, states, parameters, ``state_dict`` and calls stay the same. Only the backward pass
    changes. A table lists what was swapped, what was left, and why.

    Args:
        model: any module; its submodules are searched, however deep.
        inplace: change ``model`` itself. By default a deep copy is changed and returned.
        grazing_guard: smallest slope of the membrane at a spike used in the gradient (see the
            layers). None: 0.05; neurons that are swapped already keep theirs.
        count_gradient: share of the host's surrogate gradient added to the exact one. Losses on
            spike counts or rates (``ce_rate_loss``, ``mse_count_loss``, ...) need it: the exact
            gradient describes spikes that move, so that of a count is zero. A heuristic.
            None: 0; neurons that are swapped already keep theirs.
        fuse: let a forward pass with a loop over time run layer by layer: each neuron's steps as
            one sequence on the fused engine, with the linear layer in front folded in. Spikes and
            gradients stay the same. After a call, ``model.fusion`` shows what ran as a sequence. A
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
        fused: Any = _fuse(target)
        name = next(name for name, module in target.named_modules() if module is fused)
        outcome = (
            f"forward pass runs as written: {fused._reason}"
            if fused._reason
            else "forward pass runs layer by layer: see .fusion"
        )
        rows.append(Row(name, type(fused).__name__, outcome))
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
        original = original_class(type(module), hosts)
        if original is not None:
            module._release()  # type: ignore[operator]
            module.__class__ = original
    return target
