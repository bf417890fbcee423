"""``fit --seeds 0 1 2``: runs with the same options and several seeds, and their statistics."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from rich.table import Table

from lightning_modules.run.folder import new_run
from lightning_modules.studies.finished_runs import Run
from lightning_modules.studies.run_queue import Job, finished
from lightning_modules.studies.run_statistics import (
    spread,
    spreads,
    validation_curves,
    write_summary,
)

_COLUMNS = {
    "test accuracy": "test/accuracy", "speakers of the training file": "test/accuracy_seen",
    "never heard": "test/accuracy_unseen", "validation": "val/accuracy",
    "spikes/neuron": "test/spikes_per_neuron_0",
}  # fmt: skip


def chosen(args: list[str]) -> tuple[list[int], str | None, list[str]] | None:
    """The seeds, the folder and the other options, where ``args`` ask for several seeds."""
    parser = argparse.ArgumentParser(
        prog="python -m lightning_modules.fit", add_help=False, allow_abbrev=False
    )
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--run_dir")
    parser.add_argument("--ckpt_path")
    found, others = parser.parse_known_args(args)
    if found.seeds is None or {"-h", "--help"} & set(args):
        return None
    if len(set(found.seeds)) < len(found.seeds):
        sys.exit(f"error: --seeds must differ, got {found.seeds}")
    if found.ckpt_path:
        sys.exit(
            "error: --seeds resumes the runs in --run_dir by itself; leave --ckpt_path out"
        )
    return found.seeds, found.run_dir, others


def train(seeds: list[int], run_dir: str | None, options: list[str]) -> dict[str, float]:
    """Run what is missing, write the summary, and return the means."""
    folder = new_run(run_dir)
    print(f"runs: {folder} (--run_dir {folder} resumes them)")
    jobs = [
        Job(f"seed {seed}", folder / f"seed_{seed}", [*options, "--seed_everything", str(seed)])
        for seed in seeds
    ]
    runs = [
        Run(job.name, seed, job.folder, results)
        for seed, (job, results) in zip(seeds, finished(jobs), strict=True)
    ]
    return _summarise(runs, folder, options)


def _summarise(runs: list[Run], folder: Path, options: list[str]) -> dict[str, float]:
    """Write ``seeds.json``, ``seeds.md`` and ``seeds.png``; returns the means."""
    columns = {
        title: name for title, name in _COLUMNS.items() if all(name in run.results for run in runs)
    }
    table = Table("seed", *columns)
    for run in runs:
        table.add_row(str(run.seed), *(f"{run.results[name]:.3f}" for name in columns.values()))
    means = [str(spread([run.results[name] for run in runs])) for name in columns.values()]
    table.add_row("mean ± std", *means)
    values = spreads([run.results for run in runs])
    write_summary(
        folder, "seeds",
        {"options": options, "seeds": {str(run.seed): run.results for run in runs}, **values},
        {"Seeds": table},
        f"`python -m lightning_modules.fit --seeds {' '.join(str(run.seed) for run in runs)} "
        f"{shlex.join(options)}`",
        validation_curves({f"seed {run.seed}": [run] for run in runs}, {}),
    )  # fmt: skip
    return {name: float(value["mean"] or 0.0) for name, value in values.items()}
