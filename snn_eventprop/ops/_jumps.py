"""What the last backward pass of each layer met, kept outside autograd."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Jumps(NamedTuple):
    guarded: int  # slopes raised to the guard's floor
    largest: float  # largest absolute jump of a = dL/dV


# As the backward pass left them: numbers, or tensors of a GPU that nobody has waited for yet.
_latest: dict[int, tuple[int | Tensor, float | Tensor]] = {}


def record_jumps(tag: int, guarded: int | Tensor, largest: float | Tensor) -> None:
    _latest[tag] = guarded, largest


def forget(tag: int) -> None:
    _latest.pop(tag, None)


def latest_jumps(tag: int) -> Jumps | None:
    if tag not in _latest:
        return None
    guarded, largest = _latest[tag]
    return Jumps(int(guarded), float(largest))


def latest_guarded(tag: int) -> int | Tensor:
    """``Jumps.guarded`` without waiting for a GPU, which is still to count."""
    return _latest[tag][0] if tag in _latest else 0
