"""What the skins of the host libraries share."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor


def host_signature(host: type, own: type, names: tuple[str, ...]) -> inspect.Signature:
    """The host's constructor arguments followed by ours, for ``help``, IDEs and parsers."""
    shown = list(inspect.signature(host.__init__).parameters.values())[1:]  # type: ignore[misc]
    own_parameters = inspect.signature(own.__init__).parameters  # type: ignore[misc]
    ours = [own_parameters[name] for name in names]
    end = len(shown)
    if shown and shown[-1].kind is inspect.Parameter.VAR_KEYWORD:
        end -= 1
    return inspect.Signature([*shown[:end], *ours, *shown[end:]])


def count_slope(
    surrogate: Callable[[Tensor], Tensor], share: float
) -> Callable[[Tensor], Tensor] | None:
    """``share`` times a surrogate's d(spike)/dV as a function of V - threshold; None: no such."""
    if share == 0 or not torch.is_grad_enabled():
        return None

    def slope(over: Tensor) -> Tensor:
        with torch.enable_grad():
            over = over.detach().requires_grad_()
            (slope,) = torch.autograd.grad(surrogate(over).sum(), over)
        return share * slope

    return slope


def nonnegative(name: str, value: float) -> float:
    """``value`` as a float; ValueError unless it is 0 or positive."""
    if not value >= 0:
        raise ValueError(f"{name} must be 0 or a positive number, got {value!r}")
    return float(value)
