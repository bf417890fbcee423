"""Training runs from the command line's entry points: what they leave, resuming, interrupts."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_run import TINY, assert_same_weights, interrupt, rows, weights

pytest.importorskip("lightning")

from lightning_modules import evaluate, export, fit, predict
from lightning_modules.options import parsers
from lightning_modules.run import callbacks, figures, wandb_mode
from lightning_modules.run.cli import FitCLI
from lightning_modules.run.folder import find_checkpoint
from lightning_modules.training.metrics import SilentShare, SpikesPerNeuron

pytestmark = pytest.mark.usefixtures("own_folder", "no_account", "no_figures")
UNTESTED = ("--test", "false")


def test_a_run_leaves_checkpoints_metrics_config_and_figures(runs):
    run, results, table, _ = runs()
    for name in (
        "checkpoints/best.ckpt", "checkpoints/last.ckpt", "config.yaml", "metrics.csv",
        "learning_curves.png", "raster.png", "readout.png", "confusion.png",
    ):  # fmt: skip
        assert (run / name).stat().st_size > 0, name
    for name in (
        "test/accuracy", "test/accuracy_seen", "test/accuracy_unseen", "val/accuracy",
        "test/spikes_per_neuron_0", "test/silent_share_0", "samples_per_s",
    ):  # fmt: skip
        assert np.isfinite(results[name]), name
    stored = json.loads((run / "results.json").read_text())
    assert {name: stored[name] for name in results} == results
    assert stored["complete"] is True and stored["epochs"] == 2
    assert stored["seconds"] > 0 and stored["peak_memory_mib"] > 0
    found = rows(run)
    assert [row["epoch"] for row in found] == ["0.0", "1.0"]
    assert {"train/loss", "train/accuracy", "val/loss", "train/guarded_spikes"} <= found[0].keys()
    for words in ("speakers of the training file", "speakers never heard", "spikes per neuron",
                  "samples/s", "peak memory"):  # fmt: skip
        assert words in table


def test_training_lowers_the_loss():
    fit.main([*TINY, "--trainer.max_epochs", "8", "--model.lr", "5e-3", "--test", "false"])
    losses = [float(row["train/loss"]) for row in rows("runs/0001")]
    assert losses[-1] < 0.98 * losses[0]


UNVALIDATED = ("--data.val_fraction", "0", "--seed_everything", "1")


@pytest.mark.figures
def test_evaluate_finds_what_the_run_found(runs):
    results = runs().results
    runs().copy("runs/0001")
    again = evaluate.evaluate("best")
    for name, value in again.items():
        assert value == pytest.approx(results[name], rel=1e-6), name
    assert Path("runs/0001/evaluate/confusion.png").exists()


def test_the_latest_run_is_evaluated_though_an_older_one_has_a_best_checkpoint(runs, capsys):
    runs().copy("runs/0001")
    latest = runs(*UNVALIDATED)
    latest.copy("runs/0002")
    results = latest.results
    again = evaluate.evaluate()
    assert "runs/0002 has no best.ckpt" in capsys.readouterr().out
    assert again == pytest.approx({name: results[name] for name in again})
    for kind in ("best", "last"):
        Path(f"runs/0002/checkpoints/{kind}.ckpt").unlink(missing_ok=True)
    with pytest.raises(SystemExit, match=r"no checkpoints/best\.ckpt in runs/0002"):
        evaluate.evaluate()


def test_the_latest_run_may_be_one_of_several_seeds(runs):
    runs(*UNTESTED).copy("runs/0001/seed_0")
    runs(*UNTESTED, "--seed_everything", "5").copy("runs/0001/seed_1")
    assert find_checkpoint("last") == Path("runs/0001/seed_1/checkpoints/last.ckpt")


def test_lines_of_epochs_without_validation_do_not_repeat_the_last_one(capsys):
    options = ["--trainer.enable_progress_bar", "true", "--trainer.check_val_every_n_epoch", "2"]
    fit.main([*TINY, *options, "--trainer.max_epochs", "3", "--test", "false"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert ["val/loss" in line for line in lines] == [False, True, False]


@pytest.mark.parametrize("command", [evaluate.evaluate, export.export, predict.predict])
def test_a_misspelled_option_is_told_with_the_right_one(command, capsys):
    with pytest.raises(SystemExit):
        parsers.command(command, args=["--ckpt_pth=best"], as_positional=False)
    assert "instead of --ckpt_pth, did you mean --ckpt_path?" in capsys.readouterr().err


def test_same_seed_same_weights_and_another_seed_others(runs):
    one, other = (runs(*UNTESTED, "--seed_everything", seed).folder for seed in ("5", "4"))
    fit.main([*TINY, *UNTESTED, "--run_dir", "again", "--seed_everything", "5"])
    assert_same_weights(one, "again")
    name = "network.readout.weight"
    assert not torch.equal(weights(one)[name], weights(other)[name])


def test_a_saved_config_repeats_its_run():
    options = ["--model.network.hidden", "[7, 5]", "--model.loss", "SumLoss", "--test", "false"]
    fit.main([*TINY, *options, "--run_dir", "a"])
    fit.main(["--config", "a/config.yaml", "--run_dir", "b"])
    assert_same_weights("a", "b")


def test_resuming_ends_with_the_weights_of_one_long_run():
    augmented = [*TINY, "--data.channel_shift", "20", "--test", "false"]
    fit.main([*augmented, "--run_dir", "long", "--trainer.max_epochs", "4"])
    fit.main([*augmented, "--run_dir", "short"])
    fit.main(["--run_dir", "short", "--ckpt_path", "last", "--trainer.max_epochs", "4"])
    assert_same_weights("long", "short")
    assert [row["train/loss"] for row in rows("short")] == [
        row["train/loss"] for row in rows("long")
    ]


TIMES = ("samples_per_s", "seconds", "peak_memory_mib")


def assert_same_rows(one, other):
    """The metrics of each epoch, but for what was measured by a clock."""
    for row, expected in zip(rows(other), rows(one), strict=True):
        for name in expected.keys() - {*TIMES}:
            assert float(row[name]) == pytest.approx(float(expected[name]), rel=1e-6), name


@pytest.mark.parametrize(
    ("step", "number", "code"),
    [
        (2, signal.SIGINT, 1), (3, signal.SIGINT, 1), (5, signal.SIGINT, 1),
        (5, signal.SIGTERM, None), (6, signal.SIGINT, 1),
    ],
)
def test_a_signal_leaves_a_checkpoint_that_resumes_to_the_same_weights(step, number, code, runs):
    """Three batches an epoch: in the middle of an epoch, at its end, in the second, at the end."""
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    augmented = ["--data.channel_shift", "20", *UNTESTED]
    augmented += ["--model.cosine", "true", "--model.warmup_steps", "2"]
    whole = runs(*augmented).folder
    stopped = runs.interrupted(*augmented, batches=step, by=number)
    assert stopped.code == code and "--ckpt_path last" in stopped.printed
    stopped.copy("cut")
    checkpoint = torch.load("cut/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == step
    fit.main(["--run_dir", "cut", "--ckpt_path", "last"])
    assert_same_weights(whole, "cut")
    assert_same_rows(whole, "cut")
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_signal_waits_until_accumulated_gradients_are_used():
    options = [*TINY, "--data.batch_size", "8", "--trainer.accumulate_grad_batches", "4",
               "--test", "false"]  # fmt: skip
    fit.main([*options, "--run_dir", "whole"])
    # Six batches an epoch, hence two steps.
    interrupt([*options, "--run_dir", "cut"], 8)
    assert torch.load("cut/checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    fit.main(["--run_dir", "cut", "--ckpt_path", "last"])
    assert_same_weights("whole", "cut")
    assert_same_rows("whole", "cut")


def test_the_time_of_an_interrupted_epoch_is_that_of_all_its_batches(monkeypatch):
    options = [*TINY, "--test", "false", "--trainer.max_epochs", "1", "--run_dir", "cut"]
    original = callbacks.Gradients.on_after_backward

    def slow(self, *args):
        time.sleep(0.5)
        original(self, *args)

    monkeypatch.setattr(callbacks.Gradients, "on_after_backward", slow)
    interrupt(options, 2)
    fit.main(["--run_dir", "cut", "--ckpt_path", "last"])
    (row,) = rows("cut")
    assert 3 < float(row["samples_per_s"]) <= 16 / 0.5
    assert float(row["seconds"]) >= 3 * 0.5


def test_last_without_a_run_says_so():
    with pytest.raises(SystemExit, match=r"no checkpoints/last\.ckpt in runs"):
        fit.main(["--ckpt_path", "last"])


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_refused_resume_leaves_the_run_as_it_was(runs):
    runs().copy("run")
    before = contents("run")
    assert Path("run/results.json") in before
    words = r"error: .*last.ckpt: .*another network: .* \(16, 700\) there and \(9, 700\)"
    with pytest.raises(SystemExit, match=words):
        fit.main(["--ckpt_path", "last", "--run_dir", "run", "--model.network.hidden", "[9]"])
    assert contents("run") == before


def test_a_resume_that_fails_later_leaves_the_run_as_it_was(runs, monkeypatch):
    """While Lightning restores what the check knows nothing of."""
    runs().copy("run")
    before = contents("run")
    monkeypatch.setattr(callbacks.History, "load_state_dict", lambda self, state: state["no such"])
    with pytest.raises(KeyError, match="no such"):
        fit.main(["--ckpt_path", "last", "--run_dir", "run", "--trainer.max_epochs", "3"])
    assert contents("run") == before


def test_what_is_no_checkpoint_is_named():
    Path("text.ckpt").write_text("nothing")
    torch.save({"weights": 1}, "other.ckpt")
    for name in ("text.ckpt", "other.ckpt"):
        with pytest.raises(SystemExit, match=f"error: {name} is not a checkpoint of fit"):
            fit.main([*TINY, "--ckpt_path", name])
    assert not list(Path("runs").iterdir())


@pytest.mark.parametrize("name", ["val/acuracy", "val/accuracy_seen", "val/spikes_per_neuron_0"])
def test_a_metric_that_cannot_pick_a_checkpoint_is_refused_with_the_choices(name):
    words = f"error: --monitor must be one of val/loss, val/accuracy, .*got {name}"
    with pytest.raises(SystemExit, match=words):
        fit.main([*TINY, "--monitor", name])
    assert not list(Path("runs").iterdir())


@pytest.mark.parametrize(
    ("name", "least"),
    [("train/accuracy", False), ("val/silent_share_0", True), ("train/guarded_spikes", True)],
)
def test_the_best_checkpoint_is_that_of_the_best_epoch(name, least):
    options = ["--model.lr", "3e-2", "--trainer.max_epochs", "5", "--test", "false"]
    fit.main([*TINY, *options, "--monitor", name])
    values = [float(row[name]) for row in rows("runs/0001")]
    assert len(set(values)) > 1
    epoch = torch.load("runs/0001/checkpoints/best.ckpt", weights_only=True)["epoch"]
    assert epoch == values.index(min(values) if least else max(values))


def test_a_resumed_run_keeps_the_best_checkpoint_of_its_last_epoch():
    """Weights that hardly move leave the first epoch the best one."""
    options = [*TINY, "--model.lr", "1e-12", "--test", "false", "--run_dir", "run"]
    fit.main([*options, "--trainer.max_epochs", "1"])
    fit.main(["--run_dir", "run", "--ckpt_path", "last", "--trainer.max_epochs", "2"])
    assert torch.load("run/checkpoints/best.ckpt", weights_only=True)["epoch"] == 0


def test_metrics_are_those_of_the_checkpoint_that_is_tested(runs):
    """Weights that hardly move leave the first epoch the best one."""
    run, _, printed, _ = runs("--trainer.max_epochs", "3", "--model.lr", "1e-12")
    found = json.loads((run / "results.json").read_text())
    assert (found["checkpoint"], found["checkpoint_epoch"], found["epochs"]) == ("best.ckpt", 1, 3)
    first, _, last = rows(run)
    names = [name for name in first if "/" in name]
    assert {name: found[name] for name in names} == {name: float(first[name]) for name in names}
    assert found["train/loss"] != float(last["train/loss"])
    assert "epoch 1 of 3 (best.ckpt)" in printed


def test_epochs_without_validation_have_no_metrics_of_it(monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "learning_curves", lambda rows: drawn.append(rows))
    monkeypatch.setattr(callbacks.Figures, "_save", lambda *args: None)
    every = ["--trainer.check_val_every_n_epoch", "2", "--trainer.max_epochs", "3"]
    fit.main([*TINY, *every, "--run_dir", "run", "--test", "false"])
    fit.main(["--run_dir", "run", "--ckpt_path", "last", "--trainer.max_epochs", "5"])
    validated = [{name for name, value in row.items() if name.startswith("val/") and value}
                 for row in rows("run")]  # fmt: skip
    assert [bool(names) for names in validated] == [False, True, False, True, False]
    assert all("train/loss" in row for row in rows("run"))
    assert [row["epoch"] for row in drawn[-1] if "val/loss" in row] == [1.0, 3.0]


def test_without_test_batches_nothing_is_tested():
    results = fit.main([*TINY, "--trainer.limit_test_batches", "0"])
    assert "val/accuracy" in results
    assert not [name for name in results if name.startswith("test/")]


def test_without_validation_the_last_checkpoint_is_tested(runs):
    run, results, *_ = runs(*UNVALIDATED)
    stored = json.loads((run / "results.json").read_text())
    assert (stored["checkpoint"], stored["checkpoint_epoch"]) == ("last.ckpt", 2)
    assert not (run / "checkpoints/best.ckpt").exists()
    assert "val/accuracy" not in results and "test/accuracy" in results


@pytest.mark.figures
@pytest.mark.parametrize(
    "loss",
    ["SumLoss", "SumExpLoss", "LinearLoss", "SigmoidLoss", "MaxLoss", "StepCrossEntropyLoss",
     "FirstSpikeLoss"],
)  # fmt: skip
def test_every_loss_trains_from_the_command_line(loss):
    results = fit.main([*TINY, "--model.loss", loss, "--trainer.max_epochs", "1"])
    assert np.isfinite(results["test/loss"])
    assert Path("runs/0001/readout.png").exists()


def test_every_option_has_a_line_of_help():
    parser = FitCLI(["--config", "tiny"]).parser
    groups = ("--model", "--data", "--run_dir", "--ckpt_path", "--wandb", "--monitor", "--test")
    own = [
        action for action in parser._actions
        if action.option_strings and action.option_strings[0].startswith(groups)
    ]  # fmt: skip
    assert len(own) > 50
    for action in own:
        assert action.help and len(action.help) > 8, action.option_strings


def test_wandb_logs_offline_without_an_account(capsys):
    fit.main([*TINY, "--wandb", "true", "--test", "false"])
    assert "logging offline" in capsys.readouterr().out
    assert list(Path("runs/0001/wandb").glob("offline-run-*/*.wandb"))


def test_wandb_is_left_alone_where_its_mode_is_chosen(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode.settle() == "disabled"


def test_wandb_goes_offline_where_the_server_cannot_be_reached(monkeypatch, capsys):
    monkeypatch.setattr(wandb_mode, "getproxies", dict)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        assert wandb_mode.settle() == "online"
    assert wandb_mode.settle() == "offline"
    assert "cannot be reached" in capsys.readouterr().out


def test_activity_metrics_are_those_of_all_batches_together():
    rng = np.random.default_rng(0)
    batches = [rng.poisson(0.3, (size, 11)) for size in (5, 3, 1)]
    rate, silent = SpikesPerNeuron(11), SilentShare(11)
    for batch in batches:
        rate.update(torch.from_numpy(batch))
        silent.update(torch.from_numpy(batch))
    together = np.concatenate(batches)
    assert rate.compute().item() == pytest.approx(together.mean())
    assert silent.compute().item() == pytest.approx((together.sum(0) == 0).mean())
