"""Losses in Norse's style: functions of membranes."""

from __future__ import annotations

from torch import Tensor

from ...losses import SumExpLoss


def sum_exp_loss(v: Tensor, target: Tensor, scale: float = 1.0) -> Tensor:
    """Cross-entropy of membranes [T, B, C], averaged over time with exp(-t/T), for labels [B]."""
    return SumExpLoss(scale)(v, target)
