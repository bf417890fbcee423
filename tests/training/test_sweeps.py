"""Sweeps: W&B takes the shipped files, an agent's command line runs, a search comes to its end."""

from __future__ import annotations

import csv
import json
import queue
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
import torch
import yaml
from support.tiny_run import TINY, rows

pytest.importorskip("lightning")

from support import offline_wandb

from lightning_modules import fit, sweep
from lightning_modules.options.config_files import config_folder
from lightning_modules.run.cli import FitCLI
from lightning_modules.studies import sweep_agent, sweep_proposer, sweep_trials

FILES = sorted((config_folder() / "sweeps").glob("*.yaml"))
PAGE = Path(__file__).parents[2] / "docs" / "sweeps.md"
QUICK = [*TINY, "--data.limit_samples", "32", "--trainer.max_epochs", "3"]


@pytest.fixture(autouse=True)
def wandb_offline(own_folder, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("PYTHONPATH", str(Path(fit.__file__).parents[1]))


@pytest.fixture
def ask():
    """W&B's own package, in an environment of its own."""
    try:
        with sweep_proposer.proposer() as asked:
            asked("check", {"method": "grid", "parameters": {"a": {"values": [1]}}})
            yield asked
    except SystemExit as error:
        pytest.skip(f"W&B's sweeps package cannot be had here: {error}")


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def ends(parameter: dict) -> list:
    """The first and the last value of a parameter."""
    values = parameter.get("values") or [parameter["min"], parameter["max"]]
    return [values[0], values[-1]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_fit_takes_the_command_line_at_both_ends_of_every_parameter(path):
    config = read(path)
    for end in (0, 1):
        chosen = {name: ends(one)[end] for name, one in config["parameters"].items()}
        command = sweep_agent.agent_command(config, chosen)
        assert command[-len(chosen):] == [f"--{name}={value}" for name, value in chosen.items()]
        assert command[:4] == ["/usr/bin/env", "python", "-m", "lightning_modules.fit"]
        cli = FitCLI([*command[4:], "--wandb=false"])
        for name, value in chosen.items():
            value = yaml.safe_load(value) if isinstance(value, str) else value
            assert cli.config[name] == value, name
        assert cli.config.test is False  # a search does not look at the test file


def test_the_command_is_the_one_that_wandbs_agent_starts(monkeypatch):
    from wandb import wandb_agent

    started = []

    class Process:
        def __init__(self, command, env, **options):
            started.append((command, env))

    monkeypatch.setattr(wandb_agent, "AgentProcess", Process)
    monkeypatch.setenv("WANDB_DIR", str(Path.cwd()))
    for path in FILES:
        config = read(path)
        parameters = {name: ends(one)[0] for name, one in config["parameters"].items()}
        agent = wandb_agent.Agent(object(), queue.Queue(), sweep_id="s", function=None)
        agent._sweep_command = list(config["command"])
        agent._command_run({
            "run_id": "r1", "program": config["program"],
            "args": {name: {"value": value} for name, value in parameters.items()},
        })  # fmt: skip
        command, environment = started[-1]
        assert sweep_agent.agent_command(config, parameters) == command
        ours = sweep_agent.environment(Path("0001"))
        assert {name for name in ours if name.startswith("WANDB")} - {"WANDB_MODE"} <= set(
            environment
        ) | {"WANDB_SWEEP_ID"}
        stored = read(Path(environment["WANDB_SWEEP_PARAM_PATH"]))
        assert {k: v["value"] for k, v in stored.items() if k != "wandb_version"} == parameters


def test_sweeps_are_found_by_name():
    assert [path.stem for path in FILES] == ["bayes", "grid", "random"]
    assert sweep.sweep_file("grid") == sweep.sweep_file("sweeps/grid.yaml") == FILES[1]
    Path("mine.yaml").write_text("method: grid\n")
    assert sweep.sweep_file("mine.yaml") == Path("mine.yaml")
    with pytest.raises(ArgumentTypeError, match="no shipped sweep; there are bayes, grid, random"):
        sweep.sweep_file("anneal")


def test_the_page_names_commands_that_exist():
    page = PAGE.read_text(encoding="utf-8")
    assert "python -m lightning_modules.sweep" in page and "wandb agent" in page
    for path in FILES:
        assert f"`{path.stem}`" in page


class Proposer:
    """Stands in for W&B's package: three values of lr, and whom to stop when."""

    def __init__(self, stop: dict[int, int]) -> None:
        self.stop = stop
        self.asked: list[str] = []

    def __call__(self, what, config, runs=()):
        if what == "check":
            return []
        self.asked.append(what)
        if what == "next":
            lr = [0.1, 0.2, 0.3]
            return {"model.lr": lr[len(runs)]} if len(runs) < 3 else None
        now = runs[-1]
        number = int(now["name"])
        assert now["state"] == "running"
        return [number] if len(now["history"]) >= self.stop.get(number, 99) else []


@pytest.fixture
def trained(monkeypatch):
    """Runs that are made up: accuracies that rise with lr, five epochs, no processes."""
    from contextlib import contextmanager

    commands: list[list[str]] = []

    def follow(command, job, lock, environment=None):
        commands.append(list(command))
        number = int(job.folder.name)
        for epoch in range(1, 6):
            with (job.folder / "metrics.csv").open("w", newline="") as file:
                table = csv.writer(file)
                table.writerow(["epoch", "val/accuracy"])
                table.writerows([[k, number / 10 + k / 100] for k in range(epoch)])
            yield epoch
        (job.folder / "results.json").write_text("{}")

    def with_proposer(stop):
        asked = Proposer(stop)

        @contextmanager
        def proposer():
            yield asked

        monkeypatch.setattr(sweep_trials, "proposer", proposer)
        return asked

    monkeypatch.setattr(sweep_trials, "follow", follow)
    return commands, with_proposer


def local_sweep() -> str:
    Path("lr.yaml").write_text(yaml.safe_dump({
        **read(FILES[0]), "parameters": {"model.lr": {"min": 0.1, "max": 0.3}},
    }))  # fmt: skip
    return "lr.yaml"


def test_a_search_keeps_what_is_there_stops_what_lags_and_ranks(trained, capsys):
    commands, with_proposer = trained
    with_proposer({2: 2})
    best = sweep.main([local_sweep(), "--count", "2", "--output", "out", "--data.blend", "0"])
    assert best.number == 2 and best.state == "stopped"
    assert best.described("val/accuracy")["state"] == "killed"  # as W&B calls it
    assert json.loads(Path("out/0002/ended.json").read_text()) == {"state": "stopped"}
    assert "run 2 stopped by hyperband after 2 epochs" in capsys.readouterr().out
    assert commands[0][-5:] == ["--model.lr=0.1", "--data.blend", "0", "--run_dir", "out/0001"]
    with_proposer({})
    best = sweep.main([local_sweep(), "--count", "9", "--output", "out", "--data.blend", "0"])
    assert len(commands) == 3  # the third, and no fourth
    assert best.number == 3 and best.parameters == {"model.lr": 0.3}
    table = list(csv.DictReader(Path("out/sweep.csv").open()))
    assert [row["run"] for row in table] == ["3", "2", "1"]
    assert [row["epochs"] for row in table] == ["5", "2", "5"]
    assert [row["state"] for row in table] == ["finished", "stopped", "finished"]
    assert float(table[1]["val/accuracy"]) == pytest.approx(0.21)
    assert "model.lr=0.3" in capsys.readouterr().out


def test_a_failing_run_is_recorded_and_three_in_a_row_end_the_search(trained, monkeypatch):
    _, with_proposer = trained
    with_proposer({})

    def fails(command, job, lock, environment=None):
        raise sweep_trials.RunFailed(f"{job.name}: weights diverged")
        yield

    monkeypatch.setattr(sweep_trials, "follow", fails)
    assert sweep.main([local_sweep(), "--count", "2", "--output", "out"]) is None
    assert json.loads(Path("out/0001/ended.json").read_text()) == {"state": "failed"}
    with pytest.raises(SystemExit, match=r"3 runs in a row failed; see out/0003/log\.txt"):
        sweep.main([local_sweep(), "--count", "3", "--output", "out"])


@pytest.mark.slow
def test_wandbs_schema_takes_the_shipped_sweeps_and_refuses_others(ask):
    for path in FILES:
        assert ask("check", read(path)) == [], path
    wrong = read(FILES[0]) | {"method": "anneal"}
    assert any("anneal" in violation for violation in ask("check", wrong))
    wrong = read(FILES[0])
    wrong["early_terminate"]["min_iter"] = "soon"
    assert ask("check", wrong)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_wandbs_package_proposes_parameters_within_bounds(ask, path):
    config, runs, seen = read(path), [], []
    for number in range(1, 20):
        chosen = ask("next", config, runs)
        if chosen is None:
            break
        assert chosen.keys() == config["parameters"].keys()
        for name, value in chosen.items():
            asked = config["parameters"][name]
            assert value in asked["values"] if "values" in asked else (
                asked["min"] <= value <= asked["max"]
            )
        seen.append(tuple(chosen.values()))
        trial = sweep_trials.Trial(number, Path("none"), chosen, "finished")
        described = trial.described("val/accuracy")
        runs.append(described | {"summary_metrics": {"val/accuracy": 0.5 + number / 100}})
    assert len(set(seen)) == len(seen) == (18 if config["method"] == "grid" else 19)


@pytest.mark.slow
def test_hyperband_stops_the_run_that_lags(ask):
    config = read(FILES[0]) | {"early_terminate": {"type": "hyperband", "min_iter": 2, "eta": 2}}
    runs = [
        {"name": str(number), "state": "finished", "config": {},
         "history": [{"val/accuracy": number / 10}] * 4}
        for number in (5, 6, 7)
    ]  # fmt: skip
    running = {"state": "running", "config": {}}
    late = [{"val/accuracy": 0.1}] * 2
    assert ask("stop", config, [*runs, {**running, "name": "9", "history": late[:1]}]) == []
    assert ask("stop", config, [*runs, {**running, "name": "9", "history": late}]) == [9]
    good = [{"val/accuracy": 0.8}] * 2
    assert ask("stop", config, [*runs, {**running, "name": "9", "history": good}]) == []


@pytest.mark.slow
def test_hyperband_ends_a_real_run_that_lags_and_spares_the_one_that_learns(ask, capsys):
    config = read(FILES[0]) | {
        "method": "grid", "parameters": {"model.lr": {"values": [1.0e-2, 1.0e-9]}},
        "early_terminate": {"type": "hyperband", "min_iter": 3, "eta": 3},
    }  # fmt: skip
    Path("lr.yaml").write_text(yaml.safe_dump(config))
    epochs = 40  # the last of which a run would reach long after it is told to stop
    options = ["--data.limit_samples", "192", "--data.duration", "0.7", "--model.warmup_steps", "0",
               "--model.network.hidden", "[32]", "--trainer.max_epochs", str(epochs),
               "--trainer.enable_progress_bar", "false"]  # fmt: skip
    command = ["lr.yaml", "--output", "out", *options]
    assert sweep.main(command).number == 1
    learns, lags = csv.DictReader(Path("out/sweep.csv").open())
    assert (learns["run"], learns["state"], learns["epochs"]) == ("1", "finished", str(epochs))
    assert (lags["run"], lags["state"]) == ("2", "stopped")
    assert 3 <= int(lags["epochs"]) < epochs
    assert f"run 2 stopped by hyperband after {lags['epochs']} epochs" in capsys.readouterr().out

    folder = Path("out/0002")
    assert Path("out/0001/results.json").exists() and not (folder / "results.json").exists()
    assert "go on with --ckpt_path last" in (folder / "log.txt").read_text()
    last = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert last["epoch"] >= int(lags["epochs"]) - 1
    found = offline_wandb.read(folder)
    assert len(found.history["val/accuracy"]) == int(lags["epochs"]) and found.exit_code == 0

    before = Path("out/sweep.csv").read_text()
    sweep.main(command)
    assert Path("out/sweep.csv").read_text() == before  # neither is trained again


@pytest.mark.slow
def test_a_bayesian_search_runs_an_agents_commands_offline_to_its_end(ask):
    """Everything real: W&B's proposals, an agent's command lines in processes, W&B offline."""
    sweep.main(["bayes", "--count", "2", "--output", "out", *QUICK])
    table = {row["run"]: row for row in csv.DictReader(Path("out/sweep.csv").open())}
    assert len(table) == 2 and table["1"]["model.lr"] != table["2"]["model.lr"]
    for number in ("1", "2"):
        folder = Path(f"out/000{number}")
        found = offline_wandb.read(folder)
        assert found.sweep_id == "local" and found.run_id == f"local-000{number}"
        lr = float(table[number]["model.lr"])
        assert found.config["model.lr"] == lr and found.config["model"]["lr"] == lr
        stated = read(folder / "config.yaml")
        assert stated["model"]["lr"] == lr
        accuracies = [float(row["val/accuracy"]) for row in rows(folder)]
        assert float(table[number]["val/accuracy"]) == max(accuracies)
        assert found.history["val/accuracy"] == pytest.approx(accuracies)
