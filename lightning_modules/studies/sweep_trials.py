"""The runs of a sweep on this machine: trained, stopped early, ranked."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.table import Table
from wandb.sdk.lib.config_util import save_config_file_from_dict

from lightning_modules.run.atomic_files import whole_file, write_json
from lightning_modules.run.folder import CHECKPOINTS, RESULTS
from lightning_modules.run.summary import console
from lightning_modules.studies.finished_runs import Run
from lightning_modules.studies.run_queue import FIT, Job, RunFailed, alone, follow
from lightning_modules.studies.sweep_agent import PARAMETERS, agent_command, environment
from lightning_modules.studies.sweep_proposer import proposer

_ENDED = "ended.json"
_STOPPED = "stopped"
_MAX_FAILURES = 3  # in a row


class Trial(NamedTuple):
    """One run of a sweep; ``state`` is running, finished, failed or stopped (by hyperband)."""

    number: int
    folder: Path
    parameters: dict[str, Any]
    state: str

    def history(self, metric: str) -> list[float]:
        if not (self.folder / "metrics.csv").exists():
            return []
        rows = Run("", 0, self.folder, {}).rows()
        return [row[metric] for row in rows if metric in row]

    def described(self, metric: str) -> dict[str, Any]:
        """As W&B's package describes a run."""
        history = self.history(metric)
        return {
            "name": str(self.number),
            "state": "killed" if self.state == _STOPPED else self.state,
            "config": {name: {"value": value} for name, value in self.parameters.items()},
            "history": [{metric: value} for value in history],
            "summary_metrics": {metric: history[-1]} if history else {},
        }  # fmt: skip


def run(trial: Trial, config: Mapping[str, Any], options: list[str], before: list[Trial], ask: Any
        ) -> Trial:  # fmt: skip
    """Train or resume a trial, to its end or until hyperband stops it."""
    folder, metric = trial.folder, config["metric"]["name"]
    command = [*agent_command(config, trial.parameters), *options]
    if (folder / CHECKPOINTS / "last.ckpt").exists():
        command = [*FIT, "--ckpt_path", "last"]
    command += ["--run_dir", str(folder)]
    job, state, seen = Job(f"run {trial.number}", folder, command), "finished", 0
    others = [one.described(metric) for one in before]
    try:
        with alone(folder) as lock, closing(
            follow(command, job, lock, environment(folder))
        ) as epochs:
            for epoch in epochs:
                if epoch == seen or "early_terminate" not in config:
                    continue
                seen = epoch
                if trial.number in ask("stop", config, [*others, trial.described(metric)]):
                    state = _STOPPED
                    break
    except RunFailed as error:
        console.print(str(error), style="red", markup=False)
        state = "failed"
    if (folder / RESULTS).exists():  # it ended before it could be stopped
        state = "finished"
    if state == _STOPPED:
        history = trial.history(metric)
        print(f"run {trial.number} stopped by hyperband after {len(history)} epochs, "
              f"{metric} {history[-1]:.4g}", flush=True)  # fmt: skip
    if state != "finished":
        write_json(folder / _ENDED, {"state": state})
    return trial._replace(state=state)


def trials(config: Mapping[str, Any], count: int, output: Path, options: list[str]) -> list[Trial]:
    """The ``count`` runs of a sweep; those that are missing are trained."""
    metric, done = config["metric"]["name"], list[Trial]()
    with proposer() as ask:
        if wrong := ask("check", config):
            sys.exit("error: W&B would refuse this sweep: " + "; ".join(wrong))
        for number in range(1, count + 1):
            folder = output / f"{number:04d}"
            if (folder / PARAMETERS).exists():
                stored = yaml.safe_load((folder / PARAMETERS).read_text(encoding="utf-8"))
                parameters = {k: v["value"] for k, v in stored.items() if isinstance(v, dict)}
            else:
                parameters = ask("next", config, [one.described(metric) for one in done])
                if parameters is None:
                    break
                folder.mkdir(parents=True, exist_ok=True)
                with whole_file(folder / PARAMETERS) as partial:
                    save_config_file_from_dict(
                        str(partial), {name: {"value": v} for name, v in parameters.items()}
                    )
            said = " ".join(f"{name}={value}" for name, value in parameters.items())
            print(f"run {number}/{count}: {said}", flush=True)
            trial = Trial(number, folder, parameters, "running")
            if (folder / RESULTS).exists():
                done.append(trial._replace(state="finished"))
            elif (folder / _ENDED).exists():
                ended = json.loads((folder / _ENDED).read_text(encoding="utf-8"))
                done.append(trial._replace(state=ended["state"]))
            else:
                done.append(run(trial, config, options, done, ask))
            if [one.state for one in done[-_MAX_FAILURES:]] == ["failed"] * _MAX_FAILURES:
                sys.exit(f"error: {_MAX_FAILURES} runs in a row failed; see {folder}/log.txt")
    return done


def summarise(done: list[Trial], config: Mapping[str, Any], output: Path) -> Trial | None:
    """Write ``sweep.csv``, print it as a table, the best run first; returns that."""
    metric, best = config["metric"]["name"], min if _lower(config) else max
    reached = {one.number: best(found) for one in done if (found := one.history(metric))}
    ranked = sorted(
        (one for one in done if one.number in reached),
        key=lambda one: reached[one.number], reverse=not _lower(config),
    )  # fmt: skip
    names = list(config["parameters"])
    columns = ["run", metric, "epochs", "state", *names]
    rows = [
        [one.number, reached.get(one.number, ""), len(one.history(metric)), one.state,
         *(one.parameters.get(name) for name in names)]
        for one in [*ranked, *(one for one in done if one not in ranked)]
    ]
    with whole_file(output / "sweep.csv") as partial, partial.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    table = Table(*(name.rpartition(".")[2] for name in columns))
    for row in rows:
        table.add_row(*(f"{x:.4g}" if isinstance(x, float) else str(x) for x in row))
    console.print(table)
    print(f"sweep.csv and runs: {output}")
    return ranked[0] if ranked else None


def _lower(config: Mapping[str, Any]) -> bool:
    return config["metric"].get("goal", "minimize") == "minimize"
