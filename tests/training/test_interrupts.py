"""Runs that are killed, find the disk full, a folder not writable or a data file cut."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.tiny_run import TINY, assert_same_weights, rows, weights

pytest.importorskip("lightning")

from support.shd_layout import random_samples, write_shd_file

from lightning_modules import fit
from lightning_modules.run.atomic_files import WriteError, whole_file
from lightning_modules.run.checkpoint_files import WholeCheckpoints

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("own_folder", "no_figures")


@pytest.mark.slow
def test_sigkill_at_a_random_moment_then_last_ends_with_the_same_bits():
    options = [*TINY, "--data.channel_shift", "20", "--model.cosine", "true", "--test", "false",
               "--trainer.max_epochs", "24"]  # fmt: skip
    fit.main([*options, "--run_dir", "whole"])
    process = subprocess.Popen(
        [sys.executable, "-m", "lightning_modules.fit", *options, "--run_dir", "cut"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and not Path("cut/metrics.csv").exists():
        time.sleep(0.01)
    pause = random.uniform(0, 0.8)
    time.sleep(pause)
    process.kill()
    process.wait()
    done = len(rows("cut"))
    assert 1 <= done < 24, "killed too late to prove anything"
    fit.main(["--run_dir", "cut", "--ckpt_path", "last"])
    assert_same_weights("whole", "cut")
    assert len(rows("cut")) == 24, f"killed {pause:.3f} s after the first epoch"


def test_a_run_killed_before_its_first_checkpoint_starts_anew(runs, capsys):
    runs("--test", "false").copy("runs/0001")
    runs("--test", "false", "--seed_everything", "5").copy("runs/0002")
    before = weights("runs/0002")
    Path("runs/0002/checkpoints/last.ckpt").unlink()
    now = time.time()
    os.utime("runs/0001/checkpoints/last.ckpt", (now - 60, now - 60))
    fit.main(["--ckpt_path", "last"])  # the run that was active last, not the older checkpoint
    assert "runs/0002 has no checkpoint yet" in capsys.readouterr().out
    for name, values in weights("runs/0002").items():
        assert torch.equal(values, before[name]), name


@pytest.mark.slow
def test_a_full_disk_is_named_and_the_last_checkpoint_stays_whole(runs):
    resource = pytest.importorskip("resource")
    options = [*TINY, "--test", "false", "--run_dir", "run"]
    fit.main([*options, "--trainer.max_epochs", "1"])
    checkpoint = Path("run/checkpoints/last.ckpt")
    before = checkpoint.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        words = r"error: cannot write .*run/checkpoints/\w+\.ckpt \(.*--ckpt_path last"
        with pytest.raises(SystemExit, match=words):
            fit.main([*options, "--ckpt_path", "last", "--trainer.max_epochs", "3"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.read_bytes() == before
    assert [path.name for path in checkpoint.parent.iterdir() if "partial" in path.name] == []
    fit.main([*options, "--ckpt_path", "last", "--trainer.max_epochs", "3"])
    assert_same_weights(runs("--test", "false", "--trainer.max_epochs", "3").folder, "run")


def test_a_checkpoint_whose_writing_is_killed_is_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"epoch": 1}, path)

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "fsync", killed)
        WholeCheckpoints().save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}


def test_a_folder_that_cannot_be_made_is_named():
    Path("file").touch()
    with pytest.raises(SystemExit, match=r"error: cannot make the run's folder file/run .*run_dir"):
        fit.main([*TINY, "--run_dir", "file/run"])


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(WriteError, match=r"cannot write .*file/metrics\.csv.*try again"),
        whole_file(tmp_path / "file" / "metrics.csv") as partial,
    ):
        partial.write_text("")


def test_a_data_file_cut_between_two_runs_is_named_and_the_checkpoint_stays(tmp_path):
    data = tmp_path / "data"
    for split in ("train", "test"):
        write_shd_file(data / f"my_{split}.h5", random_samples(24))
    options = ["--config", "tiny", "--trainer.enable_progress_bar", "false", "--test", "false",
               "--data.root", str(data), "--data.cache_dir", str(tmp_path / "cache"),
               "--trainer.max_epochs", "1"]  # fmt: skip
    fit.main([*options, "--run_dir", "run"])
    checkpoint = Path("run/checkpoints/last.ckpt")
    before = checkpoint.read_bytes()
    train = data / "my_train.h5"
    train.write_bytes(train.read_bytes()[: train.stat().st_size // 2])
    for command in (["--run_dir", "run", "--ckpt_path", "last"], options):
        with pytest.raises(SystemExit, match=r"error: .*my_train\.h5: not a whole HDF5 file"):
            fit.main(command)
    assert checkpoint.read_bytes() == before
    assert list(Path("runs").iterdir()) == []  # the failed start left no folder behind


def test_a_saved_config_keeps_what_was_switched_off():
    options = [*TINY, "--test", "false", "--trainer.gradient_clip_val", "null", "--model.lr", "0.1"]
    fit.main([*options, "--run_dir", "a"])
    fit.main(["--config", "a/config.yaml"])
    fit.main([*TINY, "--test", "false", "--model.lr", "0.1", "--run_dir", "clipped"])
    assert_same_weights("a", "runs/0001")
    name = "network.readout.weight"
    assert not torch.equal(weights("a")[name], weights("clipped")[name])
