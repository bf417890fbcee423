"""Checkpoints of fit: read, checked, and turned into a network and its data."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.cli import instantiate_module

from lightning_modules.data.module import SpokenDigits, named
from lightning_modules.training.classifier import SpikingClassifier

_Part = TypeVar("_Part", SpikingClassifier, SpokenDigits)
_PARTS = ("state_dict", "hyper_parameters", "datamodule_hyper_parameters")


class CheckpointError(RuntimeError):
    """A file is no checkpoint of fit, or one of another network; the message says which."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a checkpoint of fit holds, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is not a checkpoint of fit.
    """
    try:
        found = TorchCheckpointIO().load_checkpoint(path)
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of fit, or is truncated") from error
    if not isinstance(found, dict) or not all(part in found for part in _PARTS):
        raise CheckpointError(f"{path} is not a checkpoint of fit")
    return found


def load_trained(path: str | Path) -> tuple[SpikingClassifier, SpokenDigits]:
    """The network of a checkpoint, on the CPU, and the data that it was trained on, not yet read.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is no checkpoint, or its network cannot be made here.
    """
    found = read_checkpoint(path)
    try:
        model = _made(SpikingClassifier, found["hyper_parameters"])
        model.on_load_checkpoint(found)
        model.load_state_dict(found["state_dict"])
        data = _made(SpokenDigits, found["datamodule_hyper_parameters"])
        if SpokenDigits.__qualname__ in found:  # not in older checkpoints
            data.load_state_dict(found[SpokenDigits.__qualname__])
    except (ImportError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return model, data


def _made(kind: type[_Part], hyper_parameters: Mapping[str, Any]) -> _Part:
    """A part of a run from the options that a checkpoint holds of it.

    As ``load_from_checkpoint`` does, which would read the file once more for each part.
    """
    known = inspect.signature(kind).parameters
    options = {name: value for name, value in hyper_parameters.items() if name in known}
    # Options from the command line are kept as text, which Lightning's parser turns into objects.
    from_command_line = "_instantiator" in hyper_parameters
    return instantiate_module(kind, options) if from_command_line else kind(**options)


def load_with_data(
    path: str | Path, transform: Callable | None
) -> tuple[SpikingClassifier, SpokenDigits]:
    """As ``load_trained``, with data that can be read.

    Args:
        path: the checkpoint.
        transform: ``data.transform`` of training, which checkpoints do not hold.

    Raises:
        FileNotFoundError, CheckpointError: as ``load_trained``, or the transform differs.
    """
    model, data = load_trained(path)
    trained = data.trained_transform
    if trained and (transform is None or named(transform) != trained):
        raise CheckpointError(
            f"{path}: the network was trained with --data.transform {trained}, which a checkpoint "
            f"cannot hold; say --transform {trained}, with the options in the run's config.yaml"
        )
    data.transform = transform
    return model, data
