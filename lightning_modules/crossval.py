"""Leave-one-speaker-out: ``python -m lightning_modules.crossval``.

For every seed, the network is trained once for each voice of the training file, which is held out
for validation. That sets the number of epochs: the first one at which the validation accuracy,
averaged over the held-out voices, is highest. Then the network is trained on all voices for so
many epochs, and tested, once. The learning rate's schedule is that of the full length, as before;
but --model.halve_on_plateau, which watched the validation accuracy, then watches that of training.
The test file takes no part in any choice, and seeds share nothing.

Every run is a process of its own, with its own folder under --output. Killed and started again,
the same command keeps complete runs and goes on with the one that was under way. At the end the
folder holds crossval.json, crossval.md and crossval.png.

Options that are not listed here go to lightning_modules.fit:

    python -m lightning_modules.crossval --seeds 0 1 2 --config shd/headline

Data with a validation file of their own (SSC) need none of this: fit selects on that file, and
fit --seeds 0 1 2 repeats it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from lightning_modules.data.module import DataFileError, SpokenDigits
from lightning_modules.fit import FitCLI, quiet
from lightning_modules.run import loggers
from lightning_modules.run import option_errors as messages
from lightning_modules.studies.comparison import Run, by_epoch
from lightning_modules.studies.jobs import Job, finished
from lightning_modules.studies.repeats import spread, spreads, validation_curves, write_summary

RULE = (
    "epochs: the first at which validation accuracy, averaged over the held-out voices of a seed, "
    "is highest; then trained on all voices for as many, and tested once"
)
TESTED = {
    "test": "test/accuracy", "voices of the training file": "test/accuracy_seen",
    "never heard": "test/accuracy_unseen",
}  # fmt: skip


class _Options(FitCLI):
    """Reads the options as fit does, but makes the data only."""

    def instantiate_classes(self) -> None:
        with messages.of_options(self.config):
            self.datamodule: SpokenDigits = self.parser.instantiate_classes(self.config).data


def arguments(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m lightning_modules.crossval", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0],
        help="independent repetitions of the whole protocol (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, default=Path("runs/crossval"), metavar="FOLDER",
        help="where runs and summary go (default: runs/crossval)",
    )  # fmt: skip
    return parser.parse_known_args(args)


def voices(options: list[str]) -> tuple[int, ...]:
    """The voices of the training file, one fold for each.

    Raises:
        SystemExit: the data or the options leave nothing to cross-validate.
    """
    quiet()
    # Nothing held out: files of a single voice must get as far as the message below.
    everything = ["--data.val_by", "speaker", "--data.val_fraction", "0"]
    config = _Options(loggers.with_folders([*options, *everything]))
    data, stated = config.datamodule, config.config
    for name in ("fold", "val_speakers"):
        if stated.data[name] is not None:
            sys.exit(f"error: crossval sets --data.fold for each run; leave --data.{name} out")
    if data.pools["val"].packed is not data.pools["train"].packed:
        sys.exit(
            "error: these data have a validation file of their own, and fit selects on it: use "
            "python -m lightning_modules.fit --seeds 0 1 2"
        )
    known = data.train_file_speakers
    if len(known) < 2:
        sys.exit(
            f"error: the training file has {len(known)} voice(s); leaving one out needs two. "
            "Validate on samples instead: python -m lightning_modules.fit --data.val_by sample"
        )
    return known


def chosen_epochs(folds: list[Run]) -> tuple[int, np.ndarray]:
    """The number of epochs that ``RULE`` takes from the folds, and [folds] accuracies there."""
    epochs, accuracies = by_epoch(folds, "val/accuracy")
    best = int(accuracies.mean(0).argmax())
    return int(epochs[best]), accuracies[:, best]


def fold_jobs(seed: int, known: tuple[int, ...], output: Path, options: list[str]) -> list[Job]:
    return [
        Job(
            f"seed {seed}, without voice {voice}", output / f"seed_{seed}" / f"voice_{voice}",
            [*options, "--seed_everything", str(seed), "--data.fold", str(fold), "--test", "false"],
        )
        for fold, voice in enumerate(known)
    ]


def final_job(seed: int, epochs: int, output: Path, options: list[str]) -> Job:
    return Job(
        f"seed {seed}, all voices, {epochs} epochs", output / f"seed_{seed}" / "all",
        [*options, "--seed_everything", str(seed), "--data.val_by", "speaker",
         "--data.val_fraction", "0", "--test", "true",
         "--trainer.callbacks+=lightning_modules.model.recipe.StopAfter",
         f"--trainer.callbacks.epochs={epochs}"],
    )  # fmt: skip


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Run what is missing, write the summary, and return what ``crossval.json`` holds."""
    chosen, options = arguments(sys.argv[1:] if args is None else args)
    try:
        known = voices(options)
    except (DataFileError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    print(f"{len(known)} voices, {len(chosen.seeds)} seed(s); runs: {chosen.output}")
    folds: dict[int, list[Run]] = {}
    finals: dict[int, Run] = {}
    for seed in chosen.seeds:
        jobs = fold_jobs(seed, known, chosen.output, options)
        folds[seed] = [Run(job.name, seed, job.folder, found) for job, found in finished(jobs)]
        last = final_job(seed, chosen_epochs(folds[seed])[0], chosen.output, options)
        for job, results in finished([last]):
            finals[seed] = Run(job.name, seed, job.folder, results)
    return summarise(known, folds, finals, chosen.output, options)


def summarise(
    known: tuple[int, ...], folds: dict[int, list[Run]], finals: dict[int, Run], output: Path,
    options: list[str],
) -> dict[str, Any]:  # fmt: skip
    """Write ``crossval.json``, ``crossval.md`` and ``crossval.png``."""
    picked = {seed: chosen_epochs(runs) for seed, runs in folds.items()}
    tested = {
        title: name for title, name in TESTED.items()
        if all(name in run.results for run in finals.values())
    }  # fmt: skip
    left_out = Table("seed", *(f"voice {voice}" for voice in known), "mean ± std over voices")
    final = Table("seed", "epochs", *tested)
    for seed, (epochs, accuracies) in picked.items():
        cells = [f"{accuracy:.3f}" for accuracy in accuracies]
        left_out.add_row(str(seed), *cells, str(spread(accuracies.tolist())))
        reached = [f"{finals[seed].results[name]:.3f}" for name in tested.values()]
        final.add_row(str(seed), str(epochs), *reached)
    if len(finals) > 1:
        over_voices = [float(accuracies.mean()) for _, accuracies in picked.values()]
        left_out.add_row("mean ± std", *("" for _ in known), str(spread(over_voices)))
        reached = [
            str(spread([run.results[name] for run in finals.values()])) for name in tested.values()
        ]
        final.add_row("mean ± std", "", *reached)
    values = {
        "options": options,
        "rule": RULE,
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
        {"Accuracy on the voice left out": left_out, "Trained on all voices, tested once": final},
        f"`python -m lightning_modules.crossval {command}`\n\nRule for the {RULE}. The accuracies "
        "on voices left out are those at that epoch, hence slightly optimistic; the test is not.",
        validation_curves(
            {f"seed {seed}, mean over voices": runs for seed, runs in folds.items()},
            {f"seed {seed}, mean over voices": epochs for seed, (epochs, _) in picked.items()},
        ),
    )  # fmt: skip
    return values


if __name__ == "__main__":
    main()
