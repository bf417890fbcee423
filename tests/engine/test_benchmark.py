"""``python -m snn_eventprop.benchmark`` runs, says what it left out, and fits what it measured."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from snn_eventprop.benchmark import cost_model, fuse
from snn_eventprop.benchmark.__main__ import main
from snn_eventprop.benchmark.cases import Case, draw_events, draw_targets
from snn_eventprop.benchmark.cost_model import TERMS, Load, Point
from snn_eventprop.benchmark.epoch import floor
from snn_eventprop.benchmark.peers import PEERS, method

TINY = Case(steps=100, hidden=8, batch=2, events=300, spikes=3.0, duration=0.1)


def refused(capsys, *arguments: object) -> str:
    """What the command says of options that it does not take."""
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.slow
def test_a_row_for_every_method_with_its_spikes_memory_gradient_and_epoch(tmp_path):
    arguments = (
        "--shapes", "20x8x2", "--duration", 0.02, "--events", 200, "--spikes", 1,
        "--repeats", 2, "--threads", 1, "--methods", "grid", "snntorch", "--gradients", "--epoch",
        "--epoch-samples", 3, "--json", tmp_path / "rows.json", "--output", tmp_path / "table.txt",
        "--png", tmp_path / "rows.png",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "snn_eventprop.benchmark", *map(str, arguments)],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ours, grid" in done.stdout and "snnTorch BPTT" in done.stdout
    assert (tmp_path / "table.txt").read_text() in done.stdout + "\n"
    assert (tmp_path / "rows.png").read_bytes()[:4] == b"\x89PNG"
    found = json.loads((tmp_path / "rows.json").read_text())
    for part in ("shapes", "gradients", "epochs"):
        assert [row["method"] for row in found[part]] == ["grid", "snntorch"]
        assert not any(row["skipped"] for row in found[part])
    for row in found["shapes"]:
        assert 0 < min(row["forward"]) < max(row["seconds"]) and row["peak_mib"] > 0
    for row in found["gradients"]:
        assert set(row["cosine"]) == {"input", "recurrent", "output"}
        assert all(-1 <= cosine <= 1 for cosine in row["cosine"].values())
    assert all(row["whole"] > row["steps"] > 0 for row in found["epochs"])


def test_bad_options_are_named(capsys):
    for arguments in (
        ("--shapes", "20x8"), ("--batch", "0"), ("--methods", "nobody"), ("--dt", "-1"),
    ):
        assert arguments[1] in refused(capsys, *arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said(capsys):
    assert "torch.cuda.is_available() is False" in refused(capsys, "--device", "cuda")


def test_a_missing_folder_is_said_before_anything_runs(tmp_path, capsys):
    assert "nowhere" in refused(capsys, "--json", tmp_path / "nowhere" / "rows.json")


@pytest.mark.parametrize("name", [name for name in PEERS if PEERS[name].module != "ours"])
def test_gradients_of_peers_are_in_our_units(name):
    """On a fine grid every library's readout gradient is near that of continuous time: it depends
    on the spikes alone. A factor forgotten would show."""
    if not PEERS[name].installed():
        pytest.skip("not installed")
    fine = Case(
        steps=1000, hidden=8, batch=4, events=2000, spikes=22.0, duration=0.5, inputs=50
    )  # fmt: skip
    found = {}
    for each in (name, "reference"):
        network = method(each).load()(fine)
        if network.differs:
            pytest.skip(network.differs)
        network.set_gain(2.5)
        network.step(network.encode(draw_events(fine)), draw_targets(fine))
        found[each] = network.gradients()
    ours, exact = found[name]["output"], found["reference"]["output"]
    assert exact.abs().sum() > 0
    assert (ours - exact).norm() < 0.2 * exact.norm()
    assert found[name]["input"].shape == found["reference"]["input"].shape


def test_a_cost_model_finds_the_coefficients_of_made_up_costs():
    rng = np.random.default_rng(0)
    true = {"S": 3e-8, "S H": 5e-10, "K H (recurrent)": 8e-10, "T H": 1e-9}
    points = []
    for _ in range(20):
        load = Load(*rng.uniform([1e3, 1e3, 64, 100], [2e4, 2e4, 1024, 4000]))
        seconds = sum(c * TERMS[name](load) for name, c in true.items())
        points.append(Point(TINY, load, seconds, 0.0))
    fitted = cost_model.fit(points, [p.seconds for p in points], TERMS)
    for name, value in true.items():
        assert fitted.coefficients[name] == pytest.approx(value, rel=1e-6)
    assert max(map(abs, fitted.residuals)) < 1e-6


def test_the_floor_counts_rows():
    least = floor(TINY, samples=10, spikes=3.0, threads=1, device="cpu")
    assert least.rows == 10 * (3 * 300 + 4 * 3 * 8)
    assert least.gigabytes == pytest.approx(least.rows * 4 * 8 / 1e9)
    assert least.seconds == pytest.approx(least.gigabytes / least.gigabytes_per_s)


@pytest.mark.parametrize("neuron", ["Leaky", "Synaptic"])
def test_the_benchmark_of_fused_models_times_a_model_before_and_after(neuron, monkeypatch, capsys):
    pytest.importorskip("snntorch")
    monkeypatch.setattr(sys, "argv", [
        "fuse", "--steps", "20", "--batch", "2", "--hidden", "8", "--events", "200",
        "--repeats", "1", "--neuron", neuron,
    ])  # fmt: skip
    threads = torch.get_num_threads()
    try:
        fuse.main()
    finally:
        torch.set_num_threads(threads)
    head, names, *rows, fusion = capsys.readouterr().out.splitlines()
    assert f"{neuron}, T=20, H=8, B=2" in head and names.split() == ["ms", "per", "sample", "speed"]
    assert [row.split("  ")[0] for row in rows] == [
        "before, surrogate gradients", "swap(model)", "swap(model, fuse=True)"
    ]  # fmt: skip
    assert all(float(row.split()[-2]) > 0 for row in rows)
    assert fusion.count("20 steps") == 2 and "lif1: 20 steps, linear layer folded" in fusion
