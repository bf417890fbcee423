"""Silence for messages of libraries that a user can do nothing about."""

from __future__ import annotations

import logging
import warnings


def quiet() -> None:
    """Silence what Lightning says at every start."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        "The '.*_dataloader' does not have many workers",  # loading needs none
        "Total length of `list` across ranks is zero",  # no validation, as requested
        "Attribute 'loss' is an instance of `nn.Module`",  # kept so that checkpoints load
        "The number of training batches",  # on log_every_n_steps, for small sets
        "Using `DistributedSampler`",  # ours repeats no sample of a test
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # Lightning with newer torch
        "Checkpoint directory .* exists and is not empty",  # on resuming, as it should
        r"\s*\S+ (parameter )?was deprecated in v4",  # jsonargparse: what older versions need
    ):
        warnings.filterwarnings("ignore", message=message)
