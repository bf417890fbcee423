"""Run by ``test_processes``, alone and under torchrun: one step of training, then validation.

    processes_script.py FOLDER PROCESSES SAMPLES_PER_PROCESS

Writes the first batch's gradients and what was logged to FOLDER, a file for each process.
"""

from __future__ import annotations

import sys

import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from lightning_modules.data.module import SpokenDigits
from lightning_modules.model.network import NetworkOptions
from lightning_modules.run.quiet import quiet
from lightning_modules.training.classifier import SpikingClassifier


class Keep(Callback):
    """Gradients of the first step and the samples of every batch."""

    def __init__(self):
        self.gradients = {}
        self.samples = {"train": [], "val": []}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if not self.gradients:
            named = pl_module.network.named_parameters()
            self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, *_):
        self.samples["train"] += batch.events.counts().sum(1).tolist()

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, *_):
        self.samples["val"] += batch.events.counts().sum(1).tolist()


def main(folder: str, processes: int, share: int) -> None:
    quiet()
    torch.set_num_threads(1)
    seed_everything(0)
    # 23 validation samples in batches of 4: 12 and 11 for two processes, 3 batches each; the
    # third of three processes would have 7, in 2.
    data = SpokenDigits(limit_samples=23, batch_size=share, eval_batch_size=4, duration=0.3)
    model = SpikingClassifier(
        num_inputs=data.num_units, num_classes=data.num_classes, rate_strength=1.0,
        network=NetworkOptions(hidden=[12], learn_tau_mem=True),
    )  # fmt: skip
    keep = Keep()
    trainer = Trainer(
        accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto",
        max_epochs=1, limit_train_batches=1, num_sanity_val_steps=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[keep],
    )  # fmt: skip
    trainer.fit(model, data)
    metrics = trainer.callback_metrics.items()
    logged = {name: float(value) for name, value in metrics if "/" in name}
    keep.samples["val"].clear()  # of the validation within fit
    logged |= trainer.validate(model, data, verbose=False)[0]
    found = {
        "gradients": keep.gradients, "logged": logged, "samples": keep.samples,
        "confusion": model.confusion.compute(),
    }  # fmt: skip
    torch.save(found, f"{folder}/{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
