"""Checkpoints of fit, read and checked before anything is made of them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from lightning_modules.data.module import SpokenDigits, named
from lightning_modules.model.classifier import SpikingClassifier

_PARTS = ("state_dict", "hyper_parameters", "datamodule_hyper_parameters")


class CheckpointError(RuntimeError):
    """A file is no checkpoint of fit, or one of another network; the message says which."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a checkpoint of fit holds, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is something else.
    """
    try:
        found = TorchCheckpointIO().load_checkpoint(path)
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of fit, or was cut") from error
    if not isinstance(found, dict) or not all(part in found for part in _PARTS):
        raise CheckpointError(f"{path} is not a checkpoint of fit")
    return found


def load_trained(path: str | Path) -> tuple[SpikingClassifier, SpokenDigits]:
    """The network of a checkpoint, on the CPU, and the data that it was trained on, not yet read.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is something else, or its network cannot be made here.
    """
    read_checkpoint(path)
    try:
        model = SpikingClassifier.load_from_checkpoint(path, map_location="cpu")
        return model, SpokenDigits.load_from_checkpoint(path)
    except (ImportError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def load_with_data(
    path: str | Path, transform: Callable | None
) -> tuple[SpikingClassifier, SpokenDigits]:
    """``load_trained``, for whoever reads the data.

    Args:
        path: the checkpoint.
        transform: ``data.transform`` of training, which checkpoints do not hold.

    Raises:
        FileNotFoundError, CheckpointError: as ``load_trained``, or the transform is another one.
    """
    model, data = load_trained(path)
    trained = data.trained_transform
    if trained and (transform is None or named(transform) != trained):
        raise CheckpointError(
            f"{path}: the network was trained with --data.transform {trained}, which a checkpoint "
            f"cannot hold; say --transform {trained}, with the options of the run's config.yaml"
        )
    data.transform = transform
    return model, data
