"""Leave-one-speaker-out: its folds, the number of epochs they choose, and the final run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from lightning_modules.data.module import SpokenDigits
from lightning_modules.run.cli import FitCLI
from lightning_modules.run.loggers import with_folders
from lightning_modules.run.option_errors import of_options
from lightning_modules.run.quiet import quiet
from lightning_modules.studies.finished_runs import Run, by_epoch
from lightning_modules.studies.run_queue import Job, finished
from lightning_modules.studies.run_statistics import (
    spread,
    spreads,
    validation_curves,
    write_summary,
)

_RULE = (
    "epochs: the first at which validation accuracy, averaged over the held-out speakers of a "
    "seed, is highest; then trained on all speakers for as many, and tested once"
)
_TESTED = {
    "test": "test/accuracy", "speakers of the training file": "test/accuracy_seen",
    "never heard": "test/accuracy_unseen",
}  # fmt: skip


class _Options(FitCLI):
    """Reads the options as fit does, but makes the data only."""

    def instantiate_classes(self) -> None:
        with of_options(self.config):
            self.datamodule: SpokenDigits = self.parser.instantiate_classes(self.config).data


def _speakers(options: list[str]) -> tuple[int, ...]:
    """The speakers of the training file, one for each fold.

    Raises:
        SystemExit: the data or the options leave nothing to cross-validate.
    """
    quiet()
    # With nothing held out, files of a single speaker get as far as the error below.
    everything = ["--data.val_by", "speaker", "--data.val_fraction", "0"]
    config = _Options(with_folders([*options, *everything]))
    data, stated = config.datamodule, config.config
    for name in ("fold", "val_speakers"):
        if stated.data[name] is not None:
            sys.exit(f"error: crossval sets --data.fold for each run; leave --data.{name} out")
    if data.pools["val"].packed is not data.pools["train"].packed:
        sys.exit(
            "error: these data have a validation file of their own, on which fit selects: use "
            "python -m lightning_modules.fit --seeds 0 1 2"
        )
    known = data.train_file_speakers
    if len(known) < 2:
        sys.exit(
            f"error: the training file has {len(known)} speaker(s); leaving one out needs two. "
            "Validate on samples instead: python -m lightning_modules.fit --data.val_by sample"
        )
    return known


def chosen_epochs(folds: list[Run]) -> tuple[int, np.ndarray]:
    """The number of epochs that ``_RULE`` takes from the folds, and [folds] accuracies there."""
    epochs, accuracies = by_epoch(folds, "val/accuracy")
    best = int(accuracies.mean(0).argmax())
    return int(epochs[best]), accuracies[:, best]


def _fold_jobs(seed: int, known: tuple[int, ...], output: Path, options: list[str]) -> list[Job]:
    return [
        Job(
            f"seed {seed}, without speaker {speaker}", output / f"seed_{seed}" / f"voice_{speaker}",
            [*options, "--seed_everything", str(seed), "--data.fold", str(fold), "--test", "false"],
        )
        for fold, speaker in enumerate(known)
    ]


def _final_job(seed: int, epochs: int, output: Path, options: list[str]) -> Job:
    return Job(
        f"seed {seed}, all speakers, {epochs} epochs", output / f"seed_{seed}" / "all",
        [*options, "--seed_everything", str(seed), "--data.val_by", "speaker",
         "--data.val_fraction", "0", "--test", "true",
         "--trainer.callbacks+=lightning_modules.training.recipe.StopAfter",
         f"--trainer.callbacks.epochs={epochs}"],
    )  # fmt: skip


def cross_validate(seeds: list[int], output: Path, options: list[str]) -> dict[str, Any]:
    """Run what is missing, write the summary, and return what ``crossval.json`` holds.

    Args:
        seeds: independent repetitions of the whole protocol.
        output: folder for runs and summary.
        options: of fit.

    Raises:
        DataFileError: the files of the data are missing or cannot be used.
        SystemExit: the options leave nothing to cross-validate, or a run failed.
    """
    known = _speakers(options)
    print(f"{len(known)} speakers, {len(seeds)} seed(s); runs: {output}")
    folds: dict[int, list[Run]] = {}
    finals: dict[int, Run] = {}
    for seed in seeds:
        jobs = _fold_jobs(seed, known, output, options)
        folds[seed] = [Run(job.name, seed, job.folder, found) for job, found in finished(jobs)]
        last = _final_job(seed, chosen_epochs(folds[seed])[0], output, options)
        for job, results in finished([last]):
            finals[seed] = Run(job.name, seed, job.folder, results)
    return _summarise(known, folds, finals, output, options)


def _summarise(
    known: tuple[int, ...], folds: dict[int, list[Run]], finals: dict[int, Run], output: Path,
    options: list[str],
) -> dict[str, Any]:  # fmt: skip
    """Write ``crossval.json``, ``crossval.md`` and ``crossval.png``."""
    picked = {seed: chosen_epochs(runs) for seed, runs in folds.items()}
    tested = {
        title: name for title, name in _TESTED.items()
        if all(name in run.results for run in finals.values())
    }  # fmt: skip
    columns = [f"speaker {speaker}" for speaker in known]
    left_out = Table("seed", *columns, "mean ± std over speakers")
    final = Table("seed", "epochs", *tested)
    for seed, (epochs, accuracies) in picked.items():
        cells = [f"{accuracy:.3f}" for accuracy in accuracies]
        left_out.add_row(str(seed), *cells, str(spread(accuracies.tolist())))
        reached = [f"{finals[seed].results[name]:.3f}" for name in tested.values()]
        final.add_row(str(seed), str(epochs), *reached)
    if len(finals) > 1:
        over_speakers = [float(accuracies.mean()) for _, accuracies in picked.values()]
        left_out.add_row("mean ± std", *("" for _ in known), str(spread(over_speakers)))
        reached = [
            str(spread([run.results[name] for run in finals.values()])) for name in tested.values()
        ]
        final.add_row("mean ± std", "", *reached)
    values = {
        "options": options,
        "rule": _RULE,
        "voices": list(known),
        "seeds": {
            str(seed): {
                "epochs": epochs, "left_out": accuracies.tolist(),
                "left_out_mean_std": spread(accuracies.tolist()), "results": finals[seed].results,
            }
            for seed, (epochs, accuracies) in picked.items()
        },
        "test": spreads([run.results for run in finals.values()]),
    }  # fmt: skip
    command = shlex.join(["--seeds", *map(str, folds), *options])
    write_summary(
        output, "crossval", values,
        {
            "Accuracy on the speaker left out": left_out,
            "Trained on all speakers, tested once": final,
        },
        f"`python -m lightning_modules.crossval {command}`\n\nRule for the {_RULE}. The accuracies "
        "on speakers left out are those at that epoch, hence slightly optimistic; the test is not.",
        validation_curves(
            {f"seed {seed}, mean over speakers": runs for seed, runs in folds.items()},
            {f"seed {seed}, mean over speakers": epochs for seed, (epochs, _) in picked.items()},
        ),
    )  # fmt: skip
    return values
