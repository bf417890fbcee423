"""Losses in the form of ``snntorch.functional``."""

from __future__ import annotations

from ..hosts.snntorch.functional import sum_exp_loss

__all__ = ["sum_exp_loss"]
