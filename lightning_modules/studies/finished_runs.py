"""Finished runs of fit: their metrics over epochs, as arrays and as curves."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Run(NamedTuple):
    """One complete run of fit."""

    label: str  # of its method
    seed: int
    folder: Path
    results: dict[str, Any]

    def rows(self) -> list[dict[str, float]]:
        """Metrics of each epoch."""
        with (self.folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def by_epoch(runs: Iterable[Run], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The epochs (from 1) at which all runs have a metric, and its [runs, epochs] values."""
    found = [
        {int(row["epoch"]) + 1: row[name] for row in run.rows() if name in row} for run in runs
    ]
    epochs = sorted(set.intersection(*map(set, found))) if found else []
    return np.array(epochs, dtype=int), np.array([[one[k] for k in epochs] for one in found])


def band(
    axes: Any, x: np.ndarray, values: np.ndarray, label: str, number: int, alpha: float = 0.2
) -> None:
    """The mean over runs, and a band from the lowest to the highest; nothing without values."""
    if not values.size:
        return
    axes.plot(x, values.mean(0), label=label, color=f"C{number}", linewidth=1.2)
    axes.fill_between(x, values.min(0), values.max(0), color=f"C{number}", alpha=alpha, linewidth=0)
