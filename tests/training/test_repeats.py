"""Cross-validation and several seeds: what is trained on what, resuming, means and deviations."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support.tiny_run import rows, weights

pytest.importorskip("lightning")

from support.shd_layout import random_samples, write_shd_file

from lightning_modules import crossval, fit
from lightning_modules.studies import cross_validation, run_queue
from lightning_modules.studies.finished_runs import Run
from lightning_modules.studies.run_statistics import spread, validation_curves

VOICES = (2, 5, 7)


pytestmark = pytest.mark.usefixtures("own_folder", "no_figures")


def write_data(folder: Path, voices=VOICES, splits=("train", "test")) -> Path:
    """Four classes in four bands of channels, so that there is something to learn."""
    labels = np.arange(36) // 9
    for number, split in enumerate(splits):
        speakers = np.array(voices)[np.arange(36) % len(voices)]
        speakers = np.where(np.arange(36) % 5 == 4, 9, speakers) if split == "test" else speakers
        samples = [
            (times, units // 4 + 175 * label) for label, (times, units)
            in zip(labels, random_samples(36, number, mean_events=300), strict=True)
        ]
        path = folder / f"my_{split}.h5"
        write_shd_file(path, samples, labels=labels, speakers=speakers)
    return folder


@pytest.fixture
def options(tmp_path) -> list[str]:
    return [
        "--config", "tiny", "--trainer.enable_progress_bar", "false", "--trainer.max_epochs", "4",
        "--model.cosine", "true", "--model.network.hidden", "[12]", "--data.batch_size", "4",
        "--model.lr", "1e-2", "--model.network.input_mean", "0.6",
        "--model.network.input_std", "0.4",  # so that few events make spikes
        "--data.root", str(write_data(tmp_path / "data")),
        "--data.cache_dir", str(tmp_path / "cache"),
    ]  # fmt: skip


@pytest.fixture
def commands(monkeypatch) -> list[list[str]]:
    """Runs are made in this process; the options that each got."""
    seen: list[list[str]] = []

    def follow(command, job, lock, environment=None):
        assert command[:3] == [sys.executable, "-m", "lightning_modules.fit"]
        seen.append(list(command[3:]))
        fit.main(list(command[3:]))
        yield 1

    monkeypatch.setattr(run_queue, "follow", follow)
    return seen


def stated(run: Path) -> dict:
    return yaml.safe_load((run / "config.yaml").read_text())


def test_every_voice_is_left_out_once_and_the_test_file_is_used_once(options, commands, capsys):
    found = crossval.main(["--seeds", "3", "4", "--output", "out", *options])
    assert len(commands) == 2 * (len(VOICES) + 1)
    for seed in (3, 4):
        accuracies = []
        for fold, voice in enumerate(VOICES):
            run = Path(f"out/seed_{seed}/voice_{voice}")
            results = json.loads((run / "results.json").read_text())
            assert not [name for name in results if name.startswith("test/")]
            assert stated(run)["data"]["fold"] == fold and stated(run)["seed_everything"] == seed
            accuracies.append([float(row["val/accuracy"]) for row in rows(run)])
        mean = np.mean(accuracies, axis=0)
        epochs = 1 + int(np.flatnonzero(mean == mean.max())[0])
        assert mean.min() < mean.max()  # there was something to choose
        final = Path(f"out/seed_{seed}/all")
        assert stated(final)["data"]["val_fraction"] == 0
        assert stated(final)["trainer"]["max_epochs"] == 4  # the schedule of the folds
        assert len(rows(final)) == epochs and "val/accuracy" not in rows(final)[0]
        results = json.loads((final / "results.json").read_text())
        said = found["seeds"][str(seed)]
        assert said["epochs"] == epochs and said["results"] == results
        assert said["left_out"] == pytest.approx(np.array(accuracies)[:, epochs - 1])
    tests = [found["seeds"][seed]["results"]["test/accuracy"] for seed in ("3", "4")]
    assert found["test"]["test/accuracy"]["mean"] == pytest.approx(np.mean(tests))
    assert found["test"]["test/accuracy"]["std"] == pytest.approx(np.std(tests, ddof=1))
    assert json.loads(Path("out/crossval.json").read_text())["voices"] == list(VOICES)
    page = Path("out/crossval.md").read_text()
    assert "| seed | speaker 2 | speaker 5 | speaker 7 |" in page and str(spread(tests)) in page
    assert "| test | speakers of the training file | never heard |" in page
    assert Path("out/crossval.png").read_bytes()[:4] == b"\x89PNG"
    assert "never heard" in capsys.readouterr().out


def test_the_epochs_are_the_first_at_which_the_mean_over_voices_is_highest():
    curves = ([0.1, 0.5, 0.6, 0.4, 0.9], [0.2, 0.3, 0.8, 1.0])  # each best elsewhere; tied at 3, 4
    runs = []
    for voice, curve in enumerate(curves):
        Path(f"{voice}").mkdir()
        lines = ["epoch,val/accuracy", *(f"{k},{value}" for k, value in enumerate(curve))]
        Path(f"{voice}/metrics.csv").write_text("\n".join(lines))
        runs.append(Run("", 0, Path(f"{voice}"), {}))
    epochs, accuracies = cross_validation.chosen_epochs(runs)
    assert epochs == 3 and accuracies.tolist() == [0.6, 0.8]
    # Validated every second epoch.
    for voice, (second, fourth) in enumerate(((0.5, 0.6), (0.3, 0.8))):
        lines = ["epoch,val/accuracy", "0,", f"1,{second}", "2,", f"3,{fourth}"]
        Path(f"{voice}/metrics.csv").write_text("\n".join(lines))
    epochs, accuracies = cross_validation.chosen_epochs(runs)
    assert epochs == 4 and accuracies.tolist() == [0.6, 0.8]
    (axes,) = validation_curves({"both": runs}, {}).axes
    assert axes.lines[0].get_xdata().tolist() == [2, 4]
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


@pytest.mark.slow
def test_what_is_complete_is_kept_and_what_was_cut_goes_on(options, commands, monkeypatch):
    in_process = run_queue.follow

    def killed_in_the_second_fold(command, job, lock, environment=None):
        if "voice_5" in str(job.folder):
            command = [*command, "--trainer.max_epochs", "1"]
            yield from in_process(command, job, lock)
            # As after a kill at the end of the first epoch, with the options of the whole run.
            (job.folder / "results.json").unlink()
            text = (job.folder / "config.yaml").read_text()
            (job.folder / "config.yaml").write_text(
                text.replace("max_epochs: 1\n", "max_epochs: 4\n")
            )
            raise SystemExit
        yield from in_process(command, job, lock)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        # A schedule that knows nothing of the number of epochs, as that is cut short above.
        patch.setattr(run_queue, "follow", killed_in_the_second_fold)
        crossval.main(["--output", "cut", *options, "--model.cosine", "false"])
    first = Path("cut/seed_0/voice_2/results.json").stat().st_mtime_ns
    assert len(commands) == 2
    found = crossval.main(["--output", "cut", *options, "--model.cosine", "false"])
    assert Path("cut/seed_0/voice_2/results.json").stat().st_mtime_ns == first
    assert [command[:2] == ["--ckpt_path", "last"] for command in commands[2:]] == [
        True, False, False
    ]  # fmt: skip
    again = crossval.main(["--output", "uncut", *options, "--model.cosine", "false"])
    for voice in ("voice_5", "all"):
        one, other = weights(f"cut/seed_0/{voice}"), weights(f"uncut/seed_0/{voice}")
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert found["seeds"]["0"]["left_out"] == again["seeds"]["0"]["left_out"]


def test_other_options_do_not_mix_with_the_runs_that_are_there(options, commands):
    job = run_queue.Job("run", Path("out/run"), [*options, "--test", "false"])
    list(run_queue.finished([job]))
    assert len(commands) == 1
    list(run_queue.finished([job]))
    assert len(commands) == 1
    with pytest.raises(SystemExit, match=r"out/run holds a run with other options .*another fold"):
        list(run_queue.finished([job._replace(options=[*job.options, "--model.lr", "1"])]))


def test_training_on_all_voices_follows_the_schedule_of_the_folds(options, tmp_path):
    options = [*options, "--data.val_fraction", "0", "--test", "false"]
    stop = "--trainer.callbacks+=lightning_modules.training.recipe.StopAfter"
    fit.main([*options, "--run_dir", "stopped", stop, "--trainer.callbacks.epochs=2"])
    keep = "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint"
    fit.main([
        *options, "--run_dir", "full", keep, "--trainer.callbacks.dirpath=kept",
        "--trainer.callbacks.save_top_k=-1", "--trainer.callbacks.filename={epoch}",
        "--trainer.callbacks.mode=max",  # nothing but another key in checkpoints than ours
    ])  # fmt: skip
    there = torch.load("kept/epoch=1.ckpt", weights_only=True)["state_dict"]
    ours = weights("stopped")
    assert all(torch.equal(ours[name], there[name]) for name in there)
    assert len(rows("stopped")) == 2 and len(rows("full")) == 4
    # Killed after the last epoch, before the end: nothing more is trained.
    fit.main(["--run_dir", "stopped", "--ckpt_path", "last"])
    assert all(torch.equal(weights("stopped")[name], there[name]) for name in there)
    assert len(rows("stopped")) == 2


@pytest.mark.parametrize(
    ("voices", "splits", "more", "message"),
    [
        (VOICES, ("train", "valid", "test"), [], "validation file of their own.*fit --seeds 0 1 2"),
        ((4,), ("train", "test"), [], r"has 1 speaker\(s\).*val_by sample"),
        (VOICES, ("train", "test"), ["--data.fold", "1"], r"leave --data\.fold out"),
        (VOICES, ("train", "test"), ["--data.root", "nowhere"], "error: nowhere: "),
    ],
)
def test_data_that_cannot_be_cross_validated_say_so(tmp_path, voices, splits, more, message):
    root = write_data(tmp_path / "other", voices, splits)
    with pytest.raises(SystemExit, match=message):
        crossval.main(["--config", "tiny", "--data.root", str(root),
                       "--data.cache_dir", str(tmp_path / "c"), *more])  # fmt: skip
    assert not Path("runs").exists()


def test_several_seeds_give_mean_and_deviation_and_go_on(options, commands, capsys):
    means = fit.main(["--seeds", "0", "1", *options])
    found = [json.loads(Path(f"runs/0001/seed_{seed}/results.json").read_text()) for seed in (0, 1)]
    values = [one["test/accuracy"] for one in found]
    assert means["test/accuracy"] == pytest.approx(np.mean(values))
    stored = json.loads(Path("runs/0001/seeds.json").read_text())
    assert stored["test/accuracy"]["std"] == pytest.approx(np.std(values, ddof=1))
    assert stored["seeds"]["1"] == found[1]
    assert str(spread(values)) in Path("runs/0001/seeds.md").read_text()
    assert Path("runs/0001/seeds.png").exists()
    fit.main(["--seeds", "0", "1", "2", "--run_dir", "runs/0001", *options])
    assert [command[command.index("--seed_everything") + 1] for command in commands] == [
        "0", "1", "2"
    ]  # fmt: skip
    # The very run that --seed_everything makes.
    fit.main([*options, "--seed_everything", "1", "--run_dir", "alone"])
    one, other = weights("alone"), weights("runs/0001/seed_1")
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(SystemExit, match="must differ"):
        fit.main(["--seeds", "1", "1"])
    Path("mine.yaml").write_text("seeds: [0, 1]\n")
    with pytest.raises(SystemExit, match="say --seeds on the command line"):
        fit.main(["--config", "mine.yaml"])


def test_one_process_at_a_time_trains_in_a_folder(tmp_path):
    pytest.importorskip("fcntl")
    entered = threading.Event()

    def second():
        with run_queue.alone(tmp_path):
            entered.set()

    with run_queue.alone(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.3)
    assert entered.wait(5)
    thread.join()


@pytest.mark.slow
def test_killed_and_started_again_the_run_under_way_is_waited_for(options):
    """Real processes; the kill takes the one in charge, its run lives on."""
    pytest.importorskip("fcntl")
    options = [*options, "--data.fold", "0", "--test", "false"]
    job = run_queue.Job("fold 0", Path("run"), options)
    code = (
        "from lightning_modules.studies.run_queue import *; "
        f"[*finished([Job('', Path('run'), {options})])]"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(fit.__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    while process.poll() is None and not Path("run/config.yaml").exists():
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not Path("run/results.json").exists()
    ((_, results),) = run_queue.finished([job])
    assert results["complete"] and results["epochs"] == 4
    fit.main([*options, "--run_dir", "alone"])
    one, other = weights("alone"), weights("run")
    assert all(torch.equal(one[name], other[name]) for name in one)
    # One process did it all: nobody else trained in the folder beside it.
    assert Path("run/log.txt").read_text().count("checkpoints, metrics.csv") == 1
