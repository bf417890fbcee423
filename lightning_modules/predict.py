"""Name what is heard in a file: ``python -m lightning_modules.predict FILE.h5``."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from lightning_modules.data.loader import BatchKey, EventDataset
from lightning_modules.data.module import same_classes
from lightning_modules.data.shd_files import DataFileError
from lightning_modules.fit import quiet
from lightning_modules.model.classifier import SpikingClassifier
from lightning_modules.run import option_errors as messages
from lightning_modules.run.atomic_files import WriteError, whole_file
from lightning_modules.run.checkpoints import CheckpointError, load_with_data
from lightning_modules.run.folder import find_checkpoint
from lightning_modules.studies.report import console


def predict(
    file: str, ckpt_path: str = "best", output: str | None = None, batch_size: int = 256,
    transform: Callable | None = None,
) -> Path:
    """Write the class probabilities of every sample of a file as CSV.

    One row per sample: its number, the class with the largest probability, the probability of each
    class (softmax of the network's scores), and the label, where the file has labels. Classes have
    the names of training, labels those of the file.

    Args:
        file: samples in SHD's layout (.h5, .hdf5, or gzipped).
        ckpt_path: a checkpoint file, or "best" or "last" of the latest run under runs/.
        output: the CSV; default: the file's name with the suffix .csv, in the working folder.
        batch_size: samples at a time.
        transform: the --data.transform of training, where there was one.
    """
    quiet()
    if batch_size < 1:
        sys.exit(f"error: --batch_size must be at least 1, got {batch_size}")
    target = Path(output or f"{Path(file).name.split('.')[0]}.csv")
    try:
        model, data = load_with_data(find_checkpoint(ckpt_path), transform)
        dataset = data.file_dataset(file)
        training = data.training_file
        numbers = tuple(map(str, range(model.hparams["num_classes"])))
        names = training.class_names if training else numbers  # of an older checkpoint
        table = _rows(model.eval(), dataset, names, batch_size)
        with whole_file(target) as partial, partial.open("w", newline="") as stream:
            csv.writer(stream).writerows(table)
    except (CheckpointError, DataFileError, FileNotFoundError, WriteError) as error:
        sys.exit(f"error: {error}")
    print(f"{len(dataset)} samples: {target}")
    return target


def _rows(
    model: SpikingClassifier, dataset: EventDataset, names: Sequence[str], batch_size: int
) -> Iterator[list[Any]]:
    yield ["sample", "predicted", *(f"p({name})" for name in names), "label"]
    labels, labelled = dataset.pool.packed.labels, _label_names(dataset, names)
    starts = range(0, len(labels), batch_size)
    for start in track(starts, "predicting", console=console, transient=True):
        indices = np.arange(start, min(start + batch_size, len(labels)))
        with torch.inference_mode():
            logits = model(dataset[BatchKey(0, 0, indices)].events).logits
        for index, row in zip(indices, logits.softmax(1).tolist(), strict=True):
            label = labelled[labels[index]] if labels[index] >= 0 else ""
            yield [index, names[int(np.argmax(row))], *(f"{p:.6f}" for p in row), label]


def _label_names(dataset: EventDataset, names: Sequence[str]) -> Sequence[str]:
    """Names of the file's labels; says so where they are not those of training."""
    theirs = dataset.pool.packed.class_names
    if same_classes(theirs, tuple(names)):
        return names
    print(
        f"the file's classes ({', '.join(theirs)}) are not those of training ({', '.join(names)}); "
        "its labels are written with its own names"
    )
    return theirs


if __name__ == "__main__":
    messages.command(predict, as_positional=True)
