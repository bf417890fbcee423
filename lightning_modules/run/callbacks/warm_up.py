"""Kernels are compiled before the clock of training starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer

from lightning_modules.data.loader import BatchKey


class WarmUp(Callback):
    """One step on two training samples before the clock starts, which compiles the kernels.

    Training does not notice: the gradients are discarded, and the random state is restored.
    """

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        samples = data.event_dataset("train", augmented=True)
        batch = samples[BatchKey(0, 0, np.arange(min(2, len(samples))))]
        batch = data.transfer_batch_to_device(batch, pl_module.device, 0)
        gpus = [pl_module.device] if pl_module.device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus):
            loss = pl_module.objective(pl_module(batch.events), batch.labels)
            weights = [p for p in pl_module.network.parameters() if p.requires_grad]
            # Not backward(), whose hooks of DDP would synchronise gradients.
            torch.autograd.grad(loss, weights, allow_unused=True)
