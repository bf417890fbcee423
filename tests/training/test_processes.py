"""Several processes train as one: gradients, metrics, files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from support.tiny_run import TINY

from lightning_modules.evaluate import evaluate
from lightning_modules.run.distributed import shared_run

SCRIPT = Path(__file__).parents[1] / "support" / "processes_script.py"
FUSED_SCRIPT = Path(__file__).parents[1] / "support" / "fused_script.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run(*command: object, **options: object) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=600, env=environment,
        **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def alone_and_together(tmp_path: Path, script: Path, one=(), two=()) -> tuple[dict, list[dict]]:
    """What a script writes as one process, and as each of two."""
    alone, together = tmp_path / "one", tmp_path / "two"
    for folder in (alone, together):
        folder.mkdir()
    run(sys.executable, script, alone, *one)
    run(*TORCHRUN, script, together, *two)
    return torch.load(alone / "0.pt"), [torch.load(together / f"{rank}.pt") for rank in range(2)]


def assert_same_gradients(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for name, whole in expected.items():
        assert whole.abs().sum() > 0, name
        torch.testing.assert_close(
            found[name], whole, rtol=1e-4, atol=1e-6 * float(whole.abs().max())
        )


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one_does_on_the_joint_batch(tmp_path):
    one, two = alone_and_together(tmp_path, SCRIPT, (1, 16), (2, 8))
    assert len(one["gradients"]) == 4
    for rank in two:
        assert_same_gradients(rank["gradients"], one["gradients"])
    # Every sample once, though 23 do not divide by two.
    assert len(one["samples"]["val"]) == 23
    for part in ("train", "val"):
        shared = Counter(two[0]["samples"][part]) + Counter(two[1]["samples"][part])
        assert shared == Counter(one["samples"][part])
    assert one["confusion"].sum() == 23
    for rank in two:
        assert torch.equal(rank["confusion"], one["confusion"])
        assert rank["logged"] == pytest.approx(one["logged"], rel=1e-5)
    assert "val/accuracy" in one["logged"] and "train/spikes_per_neuron_0" in one["logged"]


@pytest.mark.slow
def test_fused_models_train_in_two_processes_as_in_one_on_the_joint_batch(tmp_path):
    pytest.importorskip("snntorch")
    one, two = alone_and_together(tmp_path, FUSED_SCRIPT)
    assert len(one) == 3
    for name, whole in one.items():
        assert "(2 neurons): 30 steps" in whole["fusion"] and "one by one" not in whole["fusion"]
        for rank in two:
            assert rank[name]["fusion"] == whole["fusion"]
            for found, expected in zip(rank[name]["gradients"], whole["gradients"], strict=True):
                assert_same_gradients(found, expected)


@pytest.mark.slow
def test_fit_in_two_processes_leaves_one_run_and_tests_every_sample_once(tmp_path, monkeypatch):
    options = [*TINY, "--data.limit_samples", 47, "--data.eval_batch_size", 10]
    run(
        sys.executable, "-m", "lightning_modules.fit", *options, "--trainer.devices", 2,
        "--trainer.max_epochs", 1, cwd=tmp_path,
    )  # fmt: skip
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["0001"]
    found = json.loads((tmp_path / "runs" / "0001" / "results.json").read_text())
    monkeypatch.chdir(tmp_path)
    alone = evaluate()
    tested = {name: value for name, value in found.items() if name.startswith("test/")}
    assert tested == pytest.approx(alone, rel=1e-6) and "test/accuracy_unseen" in tested


def test_processes_started_together_need_a_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SNN_EVENTPROP_RUN", "")  # and what shared_run sets is undone
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with pytest.raises(SystemExit, match="--run_dir"):
        shared_run(None)
    assert shared_run("here") == Path("here")
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    first = shared_run(None)
    assert first == Path("runs/0001")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert shared_run(None) == first.absolute()
    assert [path.name for path in Path("runs").iterdir()] == ["0001"]
