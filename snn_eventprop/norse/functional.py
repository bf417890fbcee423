"""Losses in the form of ``norse.torch``."""

from __future__ import annotations

from ..hosts.norse.functional import sum_exp_loss

__all__ = ["sum_exp_loss"]
