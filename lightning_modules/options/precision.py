"""Precisions of the trainer in which networks train."""

from __future__ import annotations

_HALF = ("16-true", "bf16-true", "transformer-engine", "transformer-engine-float16")
_WORKING = ("32-true", "64-true", "16-mixed", "bf16-mixed")


def refused(precision: str | None, method: str) -> str | None:
    """Why a network cannot train in a precision, and in which it can; None: it can.

    Args:
        precision: as ``--trainer.precision`` takes it.
        method: as ``--model.method`` takes it. Those of surrogate gradients train in float16.
    """
    if precision not in _HALF or (precision == "16-true" and method != "eventprop"):
        return None
    return (
        f"--trainer.precision {precision}: spike times need weights of 32 bits or more; use one of "
        f"{', '.join(_WORKING)}"
    )
