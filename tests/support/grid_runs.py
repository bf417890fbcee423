"""Layers of LIF neurons for the operator of the grid solver and for its reference."""

from __future__ import annotations

import numpy as np
import torch

from snn_eventprop.backends.reference import grid as reference
from snn_eventprop.ops import grid as op

COEFFICIENTS = ("s", "c", "m", "threshold")


def rule(reset: str, later: bool) -> str:
    """The name of a reset rule that acts at once, or in the bin after the spike."""
    return f"later_{reset}" if later and reset != "none" else reset


def run_lif(
    events, steps, weight, coefficients, v_reset, floor, *, reset="subtract", delayed=False,
    recurrent=None, record=False, **inputs,
):  # fmt: skip
    """``grid_lif`` of LIF neurons.

    Args:
        coefficients: [4, H] rows s, c, m, threshold.   v_reset, floor: [H].
        inputs: fields of ``Drive``, of ``State`` (``current0``, ``voltage0``, ``spikes0``,
            ``slopes0``), and ``delay``, ``recurrent_delay``.
    """
    current0, voltage0 = inputs.pop("current0", None), inputs.pop("voltage0", None)
    state = None
    if current0 is not None or voltage0 is not None:
        known = current0 if voltage0 is None else voltage0
        state = torch.stack([
            torch.zeros_like(known) if given is None else given for given in (current0, voltage0)
        ])  # fmt: skip
    start = op.State(state, inputs.pop("spikes0", None), inputs.pop("slopes0", None))
    delays = op.Delays(inputs.pop("delay", None), inputs.pop("recurrent_delay", None))
    constants = torch.cat([coefficients, v_reset[None].to(coefficients)])
    return op.grid_lif(
        events, steps, weight, op.Population("lif", constants, floor, rule(reset, delayed)),
        recurrent=recurrent, record=record, drive=op.Drive(**inputs), delays=delays, start=start,
    )  # fmt: skip


def lif_layer(weight, s, c, m, threshold, v_reset, reset="subtract", delayed=False, **others):
    """The reference's layer of LIF neurons."""
    constants = {"s": s, "c": c, "m": m, "threshold": threshold, "v_reset": v_reset}
    return reference.GridLayer(weight, constants, reset=rule(reset, delayed), **others)


def coefficients_of(layer: reference.GridLayer) -> np.ndarray:
    """[4, H] rows s, c, m, threshold."""
    return np.stack([layer.constants[name] for name in COEFFICIENTS])


def coefficient_gradients(grads: reference.GridGradients) -> np.ndarray:
    return np.stack([grads.constants[name] for name in COEFFICIENTS])
