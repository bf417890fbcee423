"""What the last backward pass of each layer met, kept outside autograd."""

from __future__ import annotations

from typing import NamedTuple


class Jumps(NamedTuple):
    guarded: int  # slopes raised to the guard's floor
    largest: float  # largest absolute jump of a = dL/dV


_latest: dict[int, Jumps] = {}


def record_jumps(tag: int, guarded: int, largest: float) -> None:
    _latest[tag] = Jumps(int(guarded), float(largest))


def forget(tag: int) -> None:
    _latest.pop(tag, None)


def latest_jumps(tag: int) -> Jumps | None:
    return _latest.get(tag)
