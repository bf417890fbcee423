"""Which epochs validate."""

from __future__ import annotations

from lightning.pytorch import Trainer


def ends_with_validation(trainer: Trainer) -> bool:
    """Whether the current epoch ends with validation, if there are samples for it."""
    return (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
