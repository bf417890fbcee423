"""Layers of LIF neurons for the operator of the exact solver."""

from __future__ import annotations

from snn_eventprop.ops import exact as op


def run_exact(
    times, units, offsets, duration, weight, tau_mem, tau_syn, threshold, v_reset, floor, **others
):
    """``exact_lif`` with its tensors one by one."""
    return op.exact_lif(
        op.ExactEvents(times, units, offsets), duration, weight,
        op.ExactPopulation(tau_mem, tau_syn, threshold, v_reset, floor), **others,
    )  # fmt: skip
