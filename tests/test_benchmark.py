"""``python -m snn_eventprop.benchmark`` runs, and says what it left out."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "snn_eventprop.benchmark", *map(str, arguments)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_a_row_for_every_method_with_its_spikes_and_memory(tmp_path):
    done = run(
        "--shapes", "20x8x2", "--events", 200, "--repeats", 2, "--methods", "grid", "snntorch",
        "--json", tmp_path / "rows.json", "--output", tmp_path / "table.txt",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ours, grid" in done.stdout and "snnTorch BPTT" in done.stdout
    assert (tmp_path / "table.txt").read_text() in done.stdout + "\n"
    text = json.dumps(json.loads((tmp_path / "rows.json").read_text()))
    assert '"grid"' in text and '"snntorch"' in text


def test_bad_options_are_named():
    for arguments in (("--shapes", "20x8"), ("--batch", "0"), ("--methods", "nobody")):
        done = run(*arguments)
        assert done.returncode == 2 and arguments[1] in done.stderr


def test_a_missing_folder_is_said_before_anything_runs(tmp_path):
    done = run("--json", tmp_path / "nowhere" / "rows.json")
    assert done.returncode == 2 and "nowhere" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said_before_anything_runs():
    done = run("--device", "cuda", "--shapes", "20x8x2")
    assert done.returncode == 2 and "torch sees no NVIDIA GPU" in done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_our_methods_are_measured_on_a_gpu_and_peers_are_left_out():
    done = run("--device", "cuda", "--shapes", "20x8x2", "--methods", "grid", "exact", "snntorch")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ours, ") >= 2 and "skipped, is measured on cpu alone" in done.stdout
