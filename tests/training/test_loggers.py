"""What W&B, TensorBoard and CSV loggers get: numbers, pictures, histograms, checkpoints."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.tiny_run import TINY, assert_same_weights, rows

pytest.importorskip("lightning")

from support import offline_wandb

from lightning_modules import fit
from lightning_modules.run import callbacks, logged_media, loggers
from snn_eventprop import EventPropLIF, diagnostics

SCALARS = {
    *(f"{stage}/{name}" for stage in ("train", "val", "test")
      for name in ("loss", "accuracy", "spikes_per_neuron_0", "silent_share_0")),
    "val/accuracy_unseen", "test/accuracy_seen", "test/accuracy_unseen", "train/guarded_spikes",
    "gradient_norm/hidden.0.weight", "gradient_norm/readout.weight", "lr", "samples_per_s",
    "peak_memory_mib",
}  # fmt: skip
PICTURES = {"val/confusion", "sample/raster", "sample/readout",
            "test/confusion", "test/raster", "test/readout"}  # fmt: skip
MANY_TAUS = ["--model.network.heterogeneous", "true", "--model.network.learn_tau_mem", "true"]
HISTOGRAMS = {
    "parameters/hidden.0.weight", "parameters/hidden.0.recurrent_weight",
    "parameters/readout.weight", "tau_mem/hidden.0", "tau_syn/hidden.0",
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("own_folder", "no_account", "no_figures")


def test_wandb_gets_everything_offline_and_training_does_not_notice():
    options = [*TINY, *MANY_TAUS, "--model.lr", "0.004"]
    fit.main([*options, "--config", "loggers/wandb"])
    found = offline_wandb.read(Path("runs/0001"))
    assert found.config["model"]["lr"] == 0.004
    assert found.config["model"]["network"]["hidden"] == [16]
    assert found.config["data"]["val_by"] == "speaker" and found.config["seed_everything"] == 0
    assert SCALARS <= found.history.keys(), SCALARS - found.history.keys()
    table = rows("runs/0001")
    for name in ("train/loss", "val/accuracy", "gradient_norm/readout.weight"):
        assert found.history[name] == pytest.approx([float(row[name]) for row in table])
    for name in PICTURES:
        assert set(found.history[f"{name}/_type"]) == {"images/separated"}, name
        for files in found.history[f"{name}/filenames"]:
            (path,) = Path("runs/0001/wandb").glob(f"offline-run-*/files/{files[0]}")
            assert path.read_bytes()[:4] == b"\x89PNG"
    for name in HISTOGRAMS:
        assert set(found.history[f"{name}/_type"]) == {"histogram"}
    counts = found.history["parameters/hidden.0.weight/values"]
    assert [sum(bars) for bars in counts] == [16 * 700, 16 * 700]
    assert len(found.artifacts) == 2 and {*found.artifacts} == {f"model-{found.run_id}"}
    assert found.exit_code == 0
    fit.main([*options, "--run_dir", "silent"])
    assert_same_weights("runs/0001", "silent")


def test_a_resumed_run_goes_on_in_its_run_of_wandb(monkeypatch):
    assert loggers.wandb_id(Path()) == loggers.wandb_id(Path())
    monkeypatch.setenv("WANDB_RUN_ID", "from-the-agent")
    assert loggers.wandb_id(Path()) is None


@pytest.mark.slow
def test_tensorboard_gets_numbers_pictures_and_histograms():
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit.main([*TINY, *MANY_TAUS, "--trainer.logger", "TensorBoardLogger"])
    fit.main(["--ckpt_path", "last", "--trainer.max_epochs", "3"])
    found = EventAccumulator("runs/0001/tensorboard", size_guidance={"histograms": 0})
    found.Reload()
    tags = found.Tags()
    assert set(tags["scalars"]) >= SCALARS and set(tags["images"]) >= PICTURES
    assert set(tags["histograms"]) >= HISTOGRAMS
    losses = [event.value for event in found.Scalars("train/loss")]
    assert losses == pytest.approx([float(row["train/loss"]) for row in rows("runs/0001")])
    assert len(losses) == 3
    assert found.Histograms("tau_mem/hidden.0")[0].histogram_value.num == 16


def test_csv_gets_the_numbers():
    fit.main([*TINY, "--trainer.logger=CSVLogger"])
    folder = Path("runs/0001/csv/version_0")
    with (folder / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert SCALARS <= table[0].keys()
    assert [float(row["train/loss"]) for row in table if row["train/loss"]] == pytest.approx(
        [float(row["train/loss"]) for row in rows("runs/0001")]
    )
    assert (folder / "hparams.yaml").exists()
    assert not Path("lightning_logs").exists()


def test_without_tensorboard_the_mend_is_named(monkeypatch):
    monkeypatch.setattr(loggers, "_has_tensorboard", lambda: False)
    with pytest.raises(SystemExit, match=r"not installed: pip install .*\[tensorboard\]"):
        fit.main([*TINY, "--trainer.logger", "TensorBoardLogger"])


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--trainer.logger", "CSVLogger", "-x"],
         ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir=.", "-x"]),
        (["--trainer.logger+=lightning.pytorch.loggers.TensorBoardLogger"],
         ["--trainer.logger+=lightning.pytorch.loggers.TensorBoardLogger",
          "--trainer.logger.save_dir=."]),
        (["--trainer.logger", "false"], ["--trainer.logger", "false"]),
        (["--run_dir", "CSVLogger"], ["--run_dir", "CSVLogger"]),
    ],
)  # fmt: skip
def test_a_named_logger_writes_to_the_runs_folder(args, expected):
    assert loggers.with_folders(args) == expected


def test_gradient_norms_are_those_before_clipping():
    options = [*TINY, "--test", "false", "--trainer.max_epochs", "1"]
    fit.main([*options, "--data.batch_size", "48", "--run_dir", "free",
              "--trainer.gradient_clip_val", "null"])  # fmt: skip
    fit.main([*options, "--data.batch_size", "48", "--run_dir", "cut",
              "--trainer.gradient_clip_val", "1e-3"])  # fmt: skip
    name = "gradient_norm/readout.weight"
    assert rows("free")[0][name] == rows("cut")[0][name]
    assert float(rows("cut")[0][name]) > 1e-3


def test_gradient_norms_are_means_over_the_steps_of_an_epoch(monkeypatch):
    name, norms = "readout.weight", []
    original = callbacks.Gradients.on_before_optimizer_step

    def noted(self, trainer, model, optimizer):
        original(self, trainer, model, optimizer)
        norms.append(model.network.get_parameter(name).grad.norm().item())

    monkeypatch.setattr(callbacks.Gradients, "on_before_optimizer_step", noted)
    fit.main([*TINY, "--test", "false"])
    assert len(norms) == 6 and len(set(norms)) == 6
    logged = [float(row[f"gradient_norm/{name}"]) for row in rows("runs/0001")]
    assert logged == pytest.approx([np.mean(norms[:3]), np.mean(norms[3:])])


def test_guarded_spikes_are_those_of_all_steps_of_an_epoch(monkeypatch):
    guarded = []

    def noted(self, trainer, model):
        layers = diagnostics.collect(model.network).values()
        guarded.append(sum(layer.guarded for layer in layers))
        original(self, trainer, model)

    original = callbacks.Gradients.on_after_backward
    monkeypatch.setattr(callbacks.Gradients, "on_after_backward", noted)
    fit.main([*TINY, "--test", "false", "--model.lr", "3e-2"])
    assert len(guarded) == 6 and sum(guarded) > 0
    logged = [float(row["train/guarded_spikes"]) for row in rows("runs/0001")]
    assert logged == [sum(guarded[:3]), sum(guarded[3:])]


def test_guarded_spikes_are_summed_where_they_are_counted():
    # Tensors without memory, which cannot be read, stand for those of a GPU.
    layers = torch.nn.ModuleList([EventPropLIF(2, 3), EventPropLIF(3, 3)])
    number = torch.zeros(1, dtype=torch.int64, device="meta")
    probe = torch.zeros(2, device="meta", requires_grad=True)
    probe.grad = torch.zeros(2, device="meta")
    for layer in layers:
        diagnostics.keep_record(layer, diagnostics.LayerRecord(number, number, 3, probe))
    gradients = callbacks.Gradients()
    for _ in range(2):
        gradients.on_after_backward(None, SimpleNamespace(network=layers))
    assert gradients._guarded.is_meta


def test_histograms_leave_out_what_is_not_finite():
    logged = {}

    class Logger(loggers.WandbLogger):
        def __init__(self):
            pass

        def log_metrics(self, metrics, step=None):
            logged.update(metrics)

    class Trainer:
        is_global_zero, global_step, loggers = True, 3, (Logger(),)

    values = torch.tensor([1.0, float("nan"), 2.0, float("inf")])
    logged_media.log_histogram(Trainer(), "some", values)
    assert np.sum(logged["some"].histogram) == 2
    logged_media.log_histogram(Trainer(), "none", values[1:2])
    assert "none" not in logged


def test_the_interval_of_pictures_is_positive():
    with pytest.raises(ValueError, match="every must be at least 1 epoch, got 0"):
        logged_media.LogMedia(every=0)
