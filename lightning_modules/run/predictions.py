"""Class probabilities of samples, as rows of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from rich.progress import track

from lightning_modules.data.loader import BatchKey, EventDataset
from lightning_modules.data.sources import same_classes
from lightning_modules.run.summary import console
from lightning_modules.training.classifier import SpikingClassifier


def predictions(
    model: SpikingClassifier, dataset: EventDataset, names: Sequence[str], batch_size: int
) -> Iterator[list[Any]]:
    """The rows of a table, the head first: see ``lightning_modules.predict``."""
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
    """Names of the file's labels; prints a line if they differ from those of training."""
    theirs = dataset.pool.packed.class_names
    if same_classes(theirs, tuple(names)):
        return names
    print(
        f"the file's classes ({', '.join(theirs)}) are not those of training ({', '.join(names)}); "
        "its labels are written with its own names"
    )
    return theirs
