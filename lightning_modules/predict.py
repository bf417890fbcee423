"""Classify the samples of a file: ``python -m lightning_modules.predict FILE.h5``."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

from lightning_modules.data.data_files import DataFileError, check_spike_file
from lightning_modules.options.parsers import command
from lightning_modules.run.atomic_files import WriteError, whole_file
from lightning_modules.run.folder import find_checkpoint


def predict(
    file: str, ckpt_path: str = "best", output: str | None = None, batch_size: int = 256,
    transform: Callable | None = None,
) -> Path:
    """Write the class probabilities of every sample of a file as CSV.

    One row per sample: its number, the class with the largest probability, the probability of each
    class (softmax of the network's scores), and the label, where the file has labels. Classes have
    the names of training, labels those of the file.

    Args:
        file: samples in SHD's layout (.h5, .hdf5, or gzipped; docs/shd_layout.md).
        ckpt_path: a checkpoint file, or "best" or "last" of the latest run under runs/.
        output: the CSV; default: the file's name with the suffix .csv, in the working folder.
        batch_size: samples at a time.
        transform: the --data.transform of training, where there was one.
    """
    if batch_size < 1:
        sys.exit(f"error: --batch_size must be at least 1, got {batch_size}")
    target = Path(output or f"{Path(file).name.split('.')[0]}.csv")
    try:
        check_spike_file(file)
        checkpoint = find_checkpoint(ckpt_path)
    except (DataFileError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    # Torch and Lightning take seconds to import: only now, with files that are there.
    from lightning_modules.run.checkpoints import CheckpointError, load_with_data
    from lightning_modules.run.predictions import predictions
    from lightning_modules.run.quiet import quiet

    quiet()
    try:
        model, data = load_with_data(checkpoint, transform)
        dataset = data.file_dataset(file)
        training = data.training_file
        numbers = tuple(map(str, range(model.hparams["num_classes"])))
        names = training.class_names if training else numbers  # of an older checkpoint
        table = predictions(model.eval(), dataset, names, batch_size)
        with whole_file(target) as partial, partial.open("w", newline="") as stream:
            csv.writer(stream).writerows(table)
    except (CheckpointError, DataFileError, FileNotFoundError, WriteError) as error:
        sys.exit(f"error: {error}")
    print(f"{len(dataset)} samples: {target}")
    return target


if __name__ == "__main__":
    command(predict, as_positional=True)
