"""Test a checkpoint: ``python -m lightning_modules.evaluate --ckpt_path PATH``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from jsonargparse import auto_cli
from lightning.pytorch import Trainer

from lightning_modules.callbacks import Figures, ProgressBar
from lightning_modules.classifier import SpikingClassifier
from lightning_modules.data import SpokenDigits
from lightning_modules.fit import quiet
from lightning_modules.report import console, summary
from lightning_modules.run_folder import find_checkpoint


def evaluate(
    ckpt_path: str = "best",
    root: str | None = None,
    output: str | None = None,
    accelerator: Literal["auto", "cpu", "cuda"] = "cpu",
    devices: int = 1,
) -> dict[str, float]:
    """Test a trained network; print the summary and draw the confusion matrix.

    Args:
        ckpt_path: a checkpoint file, or "best" or "last" of the latest run under runs/.
        root: folder of other test data in SHD's layout; default: the data of training.
        output: folder for the figures; default: evaluate/ in the run's folder.
        accelerator: where to run.
        devices: processes that share the samples, each on a device of its own.
    """
    quiet()
    try:
        checkpoint = find_checkpoint(ckpt_path)
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    other: dict[str, Any] = {"dataset": "folder", "root": root} if root else {}
    data = SpokenDigits.load_from_checkpoint(checkpoint, **other)
    model = SpikingClassifier.load_from_checkpoint(checkpoint, map_location="cpu")
    if data.num_classes != model.hparams["num_classes"]:
        sys.exit(
            f"error: the network knows {model.hparams['num_classes']} classes, the data in {root} "
            f"have {data.num_classes}"
        )
    folder = Path(output) if output else checkpoint.parent.parent / "evaluate"
    trainer = Trainer(
        accelerator=accelerator,
        devices=devices,
        logger=False,
        callbacks=[Figures(folder), ProgressBar(leave=False)],
        enable_model_summary=False,
    )
    results = dict(trainer.test(model, data, verbose=False)[0])
    if trainer.is_global_zero:
        console.print(summary(results, str(checkpoint)))
        print(f"figures: {folder}")
    return results


if __name__ == "__main__":
    auto_cli(evaluate, as_positional=False)
