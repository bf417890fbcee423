"""Training runs of a few seconds, and what they left behind."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

TINY = [
    "--config", "tiny", "--trainer.enable_progress_bar", "false", "--data.limit_samples", "48",
    "--data.batch_size", "16", "--data.duration", "0.4",
]  # fmt: skip


def weights(run: str | Path, name: str = "last") -> dict[str, torch.Tensor]:
    checkpoint = torch.load(f"{run}/checkpoints/{name}.ckpt", weights_only=True)
    return checkpoint["state_dict"]


def assert_same_weights(one: str | Path, other: str | Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def rows(run: str | Path) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(run, "metrics.csv").open()))
