"""Test a checkpoint: ``python -m lightning_modules.evaluate --ckpt_path PATH``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from lightning_modules.data.data_files import DataFileError, check_spike_file, find_files
from lightning_modules.options.parsers import command
from lightning_modules.run.atomic_files import WriteError, write_json
from lightning_modules.run.folder import RESULTS, find_checkpoint


def evaluate(
    ckpt_path: str = "best",
    root: str | None = None,
    output: str | None = None,
    accelerator: Literal["auto", "cpu", "cuda"] = "cpu",
    devices: int = 1,
    transform: Callable | None = None,
) -> dict[str, float]:
    """Test a trained network; print the summary, write results.json and draw the confusion matrix.

    Args:
        ckpt_path: a checkpoint file, or "best" or "last" of the latest run under runs/.
        root: other test data with the classes of training, in SHD's layout (docs/shd_layout.md):
            a file, or a folder with a test file; default: the data of training.
        output: folder for the results; default: evaluate/ in the run's folder, and for other data
            a folder of their name in it.
        accelerator: the device to run on.
        devices: processes that share the samples, each on a device of its own.
        transform: the --data.transform of training, where there was one.
    """
    try:
        checkpoint = find_checkpoint(ckpt_path)
        if root and Path(root).is_file():
            check_spike_file(root)
        elif root:
            find_files(root, needed=["test"])
    except (DataFileError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    # Torch and Lightning take seconds to import: only now, with files that are there.
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import Trainer

    from lightning_modules.run.callbacks import Figures, ProgressBar
    from lightning_modules.run.checkpoints import CheckpointError, load_with_data
    from lightning_modules.run.quiet import quiet
    from lightning_modules.run.summary import console, summary

    quiet()
    try:
        model, data = load_with_data(checkpoint, transform)
        if root:
            data.test_on(root)
        _check_classes(model, data)
    except (CheckpointError, DataFileError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    usual = checkpoint.parent.parent / "evaluate" / (Path(root).resolve().name if root else "")
    folder = Path(output) if output else usual
    try:
        trainer = Trainer(
            accelerator=accelerator, devices=devices, logger=False,
            callbacks=[Figures(folder), ProgressBar(leave=False)], enable_model_summary=False,
        )  # fmt: skip
    except (MisconfigurationException, ValueError) as error:
        sys.exit(f"error: --accelerator {accelerator} --devices {devices}: {error}")
    try:
        results = dict(trainer.test(model, data, verbose=False)[0])  # which draws the figures
        if root and "test/accuracy_seen" not in results:
            # No speaker in common: they have other numbers in these files, or none.
            results.pop("test/accuracy_unseen", None)
        if trainer.is_global_zero:
            write_json(folder / RESULTS, {**results, "checkpoint": str(checkpoint), "root": root})
    except WriteError as error:
        sys.exit(f"error: {error}")
    if trainer.is_global_zero:
        console.print(summary(results, str(checkpoint)))
        print(f"results.json and figures: {folder}")
    return results


def _check_classes(model: Any, data: Any) -> None:
    if data.num_classes != model.hparams["num_classes"]:
        raise DataFileError(
            f"the network knows {model.hparams['num_classes']} classes, the data have "
            f"{data.num_classes}"
        )


if __name__ == "__main__":
    command(evaluate, as_positional=False)
