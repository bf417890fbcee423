"""What Lightning does at which epochs."""

from __future__ import annotations

from lightning.pytorch import Trainer


def validates(trainer: Trainer) -> bool:
    """Whether the epoch under way ends with validation, where there are samples for it."""
    return (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
