"""Comparisons of training methods: runs, resuming, report, gradient similarity."""

from __future__ import annotations

import csv
import json
import math
import sys
import time
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
import torch
from support.tiny_run import TINY, assert_same_weights, rows

pytest.importorskip("lightning")

from lightning_modules import compare, fit
from lightning_modules.run import callbacks
from lightning_modules.run.cli import FitCLI
from lightning_modules.studies import comparison_report, run_queue, similarity
from lightning_modules.studies.comparison_report import cells
from lightning_modules.studies.finished_runs import Run
from lightning_modules.studies.similarity import GradientSimilarity

pytestmark = pytest.mark.usefixtures("own_folder", "no_figures")


def test_a_method_is_a_name_and_a_bin_width():
    assert compare.entry("exact").options == [
        "--model.method", "eventprop", "--model.network.solver", "exact"
    ]  # fmt: skip
    for text in ("snntorch@5ms", "snntorch@0.005", "snntorch@5e-3"):
        found = compare.entry(text)
        assert found.label == "snntorch, 5 ms"
        assert found.options[:4] == ["--model.method", "snntorch", "--model.network.solver", "grid"]
        assert float(found.options[5]) == 5e-3
    for wrong, words in (("bptt", "no method 'bptt'"), ("grid@-1", "positive"), ("grid@x", "ms")):
        with pytest.raises(ArgumentTypeError, match=words):
            compare.entry(wrong)


@pytest.mark.slow
def test_runs_once_resumes_and_reports(monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", str(Path(compare.__file__).parents[1]))
    command = ["--methods", "exact", "eprop@5ms", "--seeds", "3", "--output", "out", *TINY]
    report = compare.main(command)
    results = Path("out/exact/3/results.json")
    before, log = results.stat().st_mtime_ns, Path("out/eprop@5ms/3/log.txt").read_text()
    Path("out/eprop@5ms/3/results.json").unlink()
    assert compare.main(command) == report
    assert results.stat().st_mtime_ns == before  # complete: not run again
    assert len(Path("out/eprop@5ms/3/log.txt").read_text()) > len(log)  # went on from last.ckpt
    page = report.read_text()
    assert page.count("data:image/png;base64,") == 2 and "EventProp, exact" in page
    table = list(csv.DictReader(Path("out/compare.csv").open()))
    assert [row["method"] for row in table] == ["EventProp, exact", "eprop, 5 ms"]
    found = json.loads(results.read_text())
    assert float(table[0]["test/accuracy"]) == found["test/accuracy"]
    assert "eprop, 5 ms" in capsys.readouterr().out
    for name in ("hidden.0.weight", "hidden.0.recurrent_weight", "readout.weight"):
        exact, other = (
            float(rows(f"out/{method}/3")[0][f"similarity/{name}"])
            for method in ("exact", "eprop@5ms")
        )
        assert exact == pytest.approx(1, abs=1e-5)
        assert -1 <= other < 0.9999


@pytest.mark.slow
def test_a_run_that_fails_is_named_with_the_end_of_its_log(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(compare.__file__).parents[1]))
    with pytest.raises(SystemExit, match=r"(?s)grid, seed 0: out/grid/0/log.txt.*max_epoch"):
        compare.main([
            "--methods", "grid", "--seeds", "0", "--output", "out", "--trainer.max_epochs", "-3",
        ])  # fmt: skip


def test_the_table_holds_means_and_standard_deviations():
    runs = [Run("a", seed, Path(), {"test/accuracy": x, "seconds": 10.0 * x})
            for seed, x in enumerate((0.5, 0.7, 0.9))]  # fmt: skip
    found = cells(runs)
    assert found[0] == "0.700 ± 0.200"
    assert found[5] == "7" and found[1] == ""


def written(label: str, columns: dict[str, list[float]], **results: float) -> Run:
    """A run of these metrics; the folder is named by its label."""
    folder = Path(label)
    folder.mkdir()
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", *columns])
        writer.writerows([k, *row] for k, row in enumerate(zip(*columns.values(), strict=True)))
    return Run(label, 0, folder, results)


def test_figures_show_all_there_is_and_read_well():
    curves = {"val/accuracy": [0.1, 0.4, 0.5], "similarity/w": [0.2, -0.7, -0.9]}
    runs = [
        written("fast", {"seconds": [2.0, 3.0, 4.0], **curves}, **{"test/accuracy": 0.0}),
        written("slow", {"seconds": [20.0, 30.0, 90.0], **curves}, **{"test/accuracy": 0.0}),
    ]
    low, high = comparison_report.similarity(runs).axes[0].get_ylim()
    assert low < -0.9 and high >= 1
    figure = comparison_report.curves(runs)
    over_time, accuracy = figure.axes[1], figure.axes[-1]
    assert over_time.get_xscale() == "log"
    assert not any(label.get_text() for label in over_time.get_xticklabels(minor=True))
    assert accuracy.get_xlim()[0] == 0


def test_measuring_similarity_changes_nothing_in_training():
    options = [*TINY, "--test", "false", "--model.rate_strength", "1.0"]
    fit.main([*options, "--run_dir", "without"])
    callback = "--trainer.callbacks+=lightning_modules.studies.similarity.GradientSimilarity"
    fit.main([*options, "--run_dir", "with", callback])
    assert_same_weights("without", "with")
    for row in rows("with"):
        cosine = float(row["similarity/readout.weight"])
        assert math.isfinite(cosine) and cosine > 0.9


def test_time_and_throughput_are_those_of_all_epochs_not_of_the_best(runs):
    # Weights that hardly move leave the first epoch the best one.
    run = runs("--trainer.max_epochs", "3", "--model.lr", "1e-12").folder
    found = json.loads((run / "results.json").read_text())
    history = rows(run)
    assert len(history) == 3 and found["seconds"] == float(history[-1]["seconds"])
    rates = sorted(float(row["samples_per_s"]) for row in history)
    assert found["samples_per_s"] == rates[1]


def test_the_clock_stands_still_while_gradients_are_compared(monkeypatch):
    original = similarity.similarities

    def slow(*args):
        time.sleep(2)
        return original(*args)

    monkeypatch.setattr(similarity, "similarities", slow)
    options = [*TINY, "--test", "false", "--trainer.max_epochs", "2", "--run_dir", "run"]
    start = time.perf_counter()
    callback = "lightning_modules.studies.similarity.GradientSimilarity"
    fit.main([*options, f"--trainer.callbacks+={callback}"])
    assert time.perf_counter() - start > 4
    found = json.loads(Path("run/results.json").read_text())
    assert 0 < found["seconds"] < 2
    assert found["samples_per_s"] > 48 / 2


def test_kernels_are_compiled_before_the_clock_starts_and_nothing_else_is_done():
    cli = FitCLI([*TINY, "--data.blend", "0.5", "--model.rate_strength", "1.0"])
    kinds = [type(callback) for callback in cli.trainer.callbacks]
    assert kinds.index(callbacks.WarmUp) < kinds.index(callbacks.History)
    model, ran = cli.model, []
    cli.trainer.datamodule = cli.datamodule
    model.network.register_forward_hook(lambda *_: ran.append(True))
    random = torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    callbacks.WarmUp().on_train_start(cli.trainer, model)
    assert ran
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())


DELAYS = ["--model.network.max_delay", "0.02"]


def test_networks_with_delays_have_no_exact_gradient_to_compare_with(monkeypatch, capsys):
    callback = "--trainer.callbacks+=lightning_modules.studies.similarity.GradientSimilarity"
    with pytest.raises(ValueError, match=r"max_delay=0\.02: the exact solver has no delays"):
        fit.main([*TINY, *DELAYS, callback])
    planned = []
    monkeypatch.setattr(run_queue, "finished", lambda jobs: planned.extend(jobs) or sys.exit())
    for options in (DELAYS, []):
        with pytest.raises(SystemExit):
            compare.main(["--methods", "grid", "--seeds", "0", *TINY, *options])
    with_delays, without = planned
    assert callback in without.options and callback not in with_delays.options
    assert capsys.readouterr().out.count("gradients are not compared") == 1


def test_similarity_needs_a_positive_interval():
    with pytest.raises(ValueError, match="every must be at least 1 epoch, got 0"):
        GradientSimilarity(every=0)


def test_similarity_is_the_cosine():
    from lightning_modules.data.loader import Batch
    from lightning_modules.model.network import NetworkOptions
    from lightning_modules.studies.similarity import similarities
    from lightning_modules.training.classifier import SpikingClassifier
    from snn_eventprop import SpikeEvents

    torch.manual_seed(0)
    options = NetworkOptions(hidden=[6], solver="exact", input_mean=1.0, input_std=0.5)
    model = SpikingClassifier(num_inputs=5, num_classes=3, network=options)
    events = SpikeEvents.from_list(
        [(0.2 * torch.rand(80), torch.randint(5, (80,))) for _ in range(4)],
        num_units=5, duration=0.2,
    )  # fmt: skip
    labels = torch.tensor([0, 1, 2, 0])
    batch = Batch(events, labels, labels)
    outcome = model(events)
    model.loss.from_logits(outcome.logits, labels).backward()
    weight = model.network.hidden[0].weight
    exact = weight.grad.clone()
    weight.grad = -2 * exact
    model.network.readout.weight.grad.add_(torch.randn(3, 6))
    found = similarities(model, batch)
    assert found["hidden.0.weight"] == pytest.approx(-1, abs=1e-6)
    assert found["hidden.0.recurrent_weight"] == pytest.approx(1, abs=1e-6)
    assert -1 < found["readout.weight"] < 0.99
