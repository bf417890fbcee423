"""Training runs of a few seconds, and what they left behind."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

TINY = [
    "--config", "tiny", "--trainer.enable_progress_bar", "false", "--data.limit_samples", "48",
    "--data.batch_size", "16", "--data.duration", "0.4",
]  # fmt: skip


class Run(NamedTuple):
    """A run that several tests read; one that changes it takes a copy."""

    folder: Path
    results: dict[str, float]  # none of an interrupted run
    printed: str
    code: object  # with which an interrupted run ended

    def copy(self, to: str | Path) -> Path:
        """A run of the test's own, as new as if it had been trained now."""
        return Path(shutil.copytree(self.folder, to, copy_function=shutil.copy))


class Runs:
    """Runs of ``TINY`` with more options, each trained once: ``runs("--test", "false")``."""

    def __init__(self, folder: Path) -> None:
        from lightning_modules.run.callbacks import Figures

        self.folder = folder
        self.made: dict[tuple, Run] = {}
        self._save_figure = Figures._save

    def __call__(self, *options: str) -> Run:
        if options not in self.made:
            from lightning_modules import fit

            with self._new_folder() as (folder, printed), self._drawn():
                results = fit.main([*TINY, *options])
            self.made[options] = Run(folder, results, printed.getvalue(), None)
        return self.made[options]

    def interrupted(self, *options: str, batches: int, by: signal.Signals = signal.SIGINT) -> Run:
        """A run that gets a signal at the end of its batch with this number, from 1."""
        key = (*options, batches, by)
        if key not in self.made:
            with self._new_folder() as (folder, printed):
                code = interrupt([*TINY, *options], batches, by)
            self.made[key] = Run(folder, {}, printed.getvalue(), code)
        return self.made[key]

    @contextlib.contextmanager
    def _drawn(self) -> Iterator[None]:
        """Figures are drawn, whether the first test that asks for the run looks at them or not."""
        from lightning_modules.run.callbacks import Figures

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Figures, "_save", self._save_figure)
            yield

    @contextlib.contextmanager
    def _new_folder(self) -> Iterator[tuple[Path, io.StringIO]]:
        """Within, runs are made in a new folder, which has none, and prints are kept."""
        before, place = Path.cwd(), self.folder / str(len(self.made))
        place.mkdir()
        os.chdir(place)
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                yield place / "runs" / "0001", printed
        finally:
            os.chdir(before)


def interrupt(options: list[str], batches: int, by: signal.Signals = signal.SIGINT) -> object:
    """The exit code of a run that gets a signal at the end of its batch with this number."""
    from lightning_modules import fit
    from lightning_modules.run import callbacks

    original = callbacks.History.on_train_batch_end
    ended = []

    def after_batch(self, *args):
        original(self, *args)
        ended.append(1)
        if len(ended) == batches:
            signal.raise_signal(by)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.History, "on_train_batch_end", after_batch)
        with pytest.raises(SystemExit) as stopped:
            fit.main(options)
    return stopped.value.code


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
