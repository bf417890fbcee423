"""Small batches of events, and whether two are the same."""

from __future__ import annotations

import torch

from snn_eventprop import SpikeEvents


def three_samples(dtype=torch.float32) -> SpikeEvents:
    return SpikeEvents.from_list(
        [([0.002, 0.001], [0, 1]), ([0.003], [2]), ([], [])],
        num_units=3, duration=0.01, dtype=dtype,
    )  # fmt: skip


def same(one: SpikeEvents, other: SpikeEvents) -> bool:
    return (
        torch.equal(one.times, other.times)
        and torch.equal(one.units, other.units)
        and torch.equal(one.offsets, other.offsets)
        and (one.num_units, one.duration) == (other.num_units, other.duration)
    )
