"""Search for good options on this machine alone: ``python -m lightning_modules.sweep NAME``.

NAME is a shipped sweep (grid, random, bayes) or a YAML file in the format of W&B's sweeps. What to
try next and what to stop early is decided by W&B's own ``sweeps`` package, which needs no account
and runs in an environment of its own (made by uv, once). Every run is the command that an agent
of W&B would run, in a folder of its own under --output; started again, the same command keeps
complete runs and goes on. At the end the folder holds sweep.csv.

Options that are not listed here go to lightning_modules.fit:

    python -m lightning_modules.sweep bayes --count 20 --trainer.max_epochs 50 --data.root data/de

For many machines: docs/sweeps.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.table import Table
from wandb.sdk.launch.sweeps import utils as agent
from wandb.sdk.lib.config_util import save_config_file_from_dict

from lightning_modules.run.atomic_files import whole_file, write_json
from lightning_modules.run.configs import SWEEPS, config_folder
from lightning_modules.run.folder import CHECKPOINTS, RESULTS
from lightning_modules.studies.comparison import Run
from lightning_modules.studies.jobs import FIT, Job, RunFailed, alone, follow
from lightning_modules.studies.report import console

PARAMETERS, ENDED = "parameters.yaml", "ended.json"
SWEEP_ID = "local"
STOPPED = "stopped"
MAX_FAILURES = 3  # in a row


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
        """As W&B's package wants it."""
        history = self.history(metric)
        return {
            "name": str(self.number),
            "state": "killed" if self.state == STOPPED else self.state,
            "config": {name: {"value": value} for name, value in self.parameters.items()},
            "history": [{metric: value} for value in history],
            "summary_metrics": {metric: history[-1]} if history else {},
        }  # fmt: skip


def arguments(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m lightning_modules.sweep", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("name", metavar="NAME", type=sweep_file, help="shipped sweep, or a file")
    parser.add_argument(
        "--count", type=int, default=20, help="runs in all; a grid may end before (default: 20)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="where runs go (default: runs/sweep_NAME)"
    )
    parser.add_argument(
        "-c", "--config", action="append", default=[],
        help="as of fit; what the sweep tries goes before it",
    )
    parser.add_argument(
        "--path", action="store_true", help="print the file's path, for `wandb sweep`, and end"
    )
    return parser.parse_known_args(args)


def with_configs(config: Mapping[str, Any], files: Sequence[str]) -> dict[str, Any]:
    """The sweep with configurations in its command ahead of what it tries, as in docs/sweeps.md."""
    command = agent.create_sweep_command(list(config.get("command") or []))
    place = command.index("${args}") if "${args}" in command else len(command)
    command[place:place] = [word for file in files for word in ("--config", file)]
    return {**config, "command": command}


def sweep_file(name: str) -> Path:
    """The YAML file of a sweep: a path, or the name of a shipped one."""
    shipped = config_folder() / SWEEPS
    for path in (Path(name), shipped / f"{Path(name).name.removesuffix('.yaml')}.yaml"):
        if path.is_file():
            return path
    names = ", ".join(sorted(path.stem for path in shipped.glob("*.yaml")))
    raise argparse.ArgumentTypeError(f"no file {name!r} and no shipped sweep; there are {names}")


@contextmanager
def proposer() -> Iterator[Any]:
    """A function ``ask(what, config, runs)`` over W&B's package in a process of its own.

    Raises:
        SystemExit: there is no uv, or the package cannot be installed.
    """
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        sys.exit("error: uv is needed to run W&B's sweeps package apart: pip install uv")
    command = [uv, "run", "--quiet", "--isolated", "--no-project", "--python", sys.executable]
    command += ["--with", "sweeps", "python", "-W", "ignore"]
    command += [str(Path(__file__).with_name("proposals.py"))]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,  # Ctrl-C is for the runs
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None

    def ask(what: str, config: Mapping[str, Any], runs: Sequence[Mapping[str, Any]] = ()) -> Any:
        assert process.stdin is not None and process.stdout is not None
        question = json.dumps({"ask": what, "config": config, "runs": list(runs)})
        try:
            print(question, file=process.stdin, flush=True)
        except BrokenPipeError:
            pass
        said = process.stdout.readline()
        if not said:
            sys.exit(
                "error: W&B's sweeps package ended (see above); without a network it cannot be "
                "installed the first time: uv tool needs to reach a package index"
            )
        return json.loads(said)

    try:
        yield ask
    finally:
        process.stdin.close()
        process.wait()


def agent_command(config: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[str]:
    """The command line that ``wandb agent`` makes of a sweep's ``command`` and parameters."""
    values = agent.create_sweep_command_args(
        {"args": {name: {"value": value} for name, value in parameters.items()}}
    )
    values |= {"interpreter": ["python"], "program": [config["program"]]}
    values["env"] = ["/usr/bin/env"] if os.name == "posix" else []
    command: list[str] = []
    for word in map(str, agent.create_sweep_command(list(config.get("command") or []))):
        macro = word[2:-1] if word.startswith("${") and word.endswith("}") else None
        command += [word] if macro is None else values.get(macro, [])
    return command


def environment(folder: Path) -> dict[str, str]:
    """What an agent tells a run; W&B's server is left out."""
    mode = "offline" if os.environ.get("WANDB_MODE") == "offline" else "disabled"
    return {
        "WANDB_SWEEP_ID": SWEEP_ID, "WANDB_RUN_ID": f"{SWEEP_ID}-{folder.name}",
        "WANDB_SWEEP_PARAM_PATH": str(folder / PARAMETERS), "WANDB_MODE": mode,
        # "python" of the command is the one that runs this.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }  # fmt: skip


def run(trial: Trial, config: Mapping[str, Any], options: list[str], before: list[Trial], ask: Any
        ) -> Trial:  # fmt: skip
    """Train a trial, or go on with it, to its end or until hyperband stops it."""
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
                    state = STOPPED
                    break
    except RunFailed as error:
        console.print(str(error), style="red", markup=False)
        state = "failed"
    if (folder / RESULTS).exists():  # it came to its end before it could be stopped
        state = "finished"
    if state == STOPPED:
        history = trial.history(metric)
        print(f"run {trial.number} stopped by hyperband after {len(history)} epochs, "
              f"{metric} {history[-1]:.4g}", flush=True)  # fmt: skip
    if state != "finished":
        write_json(folder / ENDED, {"state": state})
    return trial._replace(state=state)


def trials(config: Mapping[str, Any], count: int, output: Path, options: list[str]) -> list[Trial]:
    """The runs of a sweep: those that are there, and what is missing of ``count``."""
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
            elif (folder / ENDED).exists():
                ended = json.loads((folder / ENDED).read_text(encoding="utf-8"))
                done.append(trial._replace(state=ended["state"]))
            else:
                done.append(run(trial, config, options, done, ask))
            if [one.state for one in done[-MAX_FAILURES:]] == ["failed"] * MAX_FAILURES:
                sys.exit(f"error: {MAX_FAILURES} runs in a row failed; see {folder}/log.txt")
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


def main(args: list[str] | None = None) -> Trial | None:
    """Run what is missing, write the summary, and return the best trial."""
    chosen, options = arguments(sys.argv[1:] if args is None else args)
    if chosen.path:
        print(chosen.name)
        return None
    config = with_configs(yaml.safe_load(chosen.name.read_text(encoding="utf-8")), chosen.config)
    output = chosen.output or Path("runs") / f"sweep_{chosen.name.stem}"
    return summarise(trials(config, chosen.count, output, options), config, output)


if __name__ == "__main__":
    main()
