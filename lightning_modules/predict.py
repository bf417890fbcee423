"""Name what is heard in a file: ``python -m lightning_modules.predict FILE.h5``."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from rich.progress import track

from lightning_modules.classifier import SpikingClassifier
from lightning_modules.data import SpokenDigits
from lightning_modules.fit import quiet
from lightning_modules.loader import BatchKey
from lightning_modules.report import console
from lightning_modules.run_folder import find_checkpoint
from lightning_modules.shd_files import DataFileError


def predict(
    file: str, ckpt_path: str = "best", output: str | None = None, batch_size: int = 256
) -> Path:
    """Write the class probabilities of every sample of a file as CSV.

    One row per sample: its number, the class with the largest probability, the probability of each
    class (softmax of the network's scores), and the label, where the file has labels.

    Args:
        file: samples in SHD's layout (.h5, .hdf5, or gzipped).
        ckpt_path: a checkpoint file, or "best" or "last" of the latest run under runs/.
        output: the CSV; default: the file's name with the suffix .csv, in the working folder.
        batch_size: samples at a time.
    """
    quiet()
    if batch_size < 1:
        sys.exit(f"error: batch_size must be at least 1, got {batch_size}")
    try:
        checkpoint = find_checkpoint(ckpt_path)
        data = SpokenDigits.load_from_checkpoint(checkpoint)
        dataset = data.file_dataset(file)
    except (FileNotFoundError, DataFileError) as error:
        sys.exit(f"error: {error}")
    model = SpikingClassifier.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    names = _class_names(data, model.hparams["num_classes"])
    target = Path(output or f"{Path(file).name.split('.')[0]}.csv")
    labels = dataset.pool.packed.labels
    with target.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["sample", "predicted", *(f"p({name})" for name in names), "label"])
        starts = range(0, len(labels), batch_size)
        for start in track(starts, "predicting", console=console, transient=True):
            indices = np.arange(start, min(start + batch_size, len(labels)))
            with torch.inference_mode():
                logits = model(dataset[BatchKey(0, 0, indices)].events).logits
            for index, row in zip(indices, logits.softmax(1).tolist(), strict=True):
                label = labels[index]
                table.writerow([
                    index, names[int(np.argmax(row))], *(f"{p:.6f}" for p in row),
                    names[label] if 0 <= label < len(names) else "",
                ])  # fmt: skip
    print(f"{len(labels)} samples: {target}")
    return target


def _class_names(data: SpokenDigits, count: int) -> tuple[str, ...]:
    """Of the data of training, or numbers where these are not to be had any more."""
    try:
        data.setup()
    except (DataFileError, FileNotFoundError):
        return tuple(map(str, range(count)))
    return data.class_names


if __name__ == "__main__":
    auto_cli(predict, as_positional=True)
