"""Delays in the training network: they are drawn as configured, learn, and resume."""

from __future__ import annotations

import pytest
import torch
from support.tiny_run import TINY, assert_same_weights, rows, weights

pytest.importorskip("lightning")

from lightning_modules import fit
from lightning_modules.model.network import NetworkOptions
from lightning_modules.training.classifier import SpikingClassifier

DELAYS = [
    *TINY, "--model.network.max_delay", "0.06", "--model.network.initial_delay", "0.04",
    "--model.network.initial_recurrent_delay", "0.02", "--model.lr", "5e-3",
    "--model.delay_lr", "1e-3", "--test", "false",
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("own_folder", "no_figures")


def test_training_moves_delays_and_lowers_the_loss():
    fit.main([*DELAYS, "--trainer.max_epochs", "8"])
    losses = [float(row["train/loss"]) for row in rows("runs/0001")]
    assert losses[-1] < losses[0]
    # The same seed without learning shows where the delays started.
    fit.main([*DELAYS, "--trainer.max_epochs", "1", "--model.network.learn_delays", "false"])
    for name, longest in (("delay", 0.04), ("recurrent_delay", 0.02)):
        start, end = (weights(f"runs/000{run}")[f"network.hidden.0.{name}"] for run in (2, 1))
        assert 0 <= start.min() and 0.9 * longest < start.max() <= longest
        moved = (end - start).abs()
        # Adam's steps are as long as delay_lr, 1 ms, at most: 24 steps in all.
        assert moved.median() > 1e-3 and moved.max() < 30e-3


def test_a_resumed_run_learns_delays_to_the_same_bits():
    fit.main([*DELAYS, "--run_dir", "whole", "--trainer.max_epochs", "2"])
    fit.main([*DELAYS, "--run_dir", "cut", "--trainer.max_epochs", "1"])
    fit.main([*DELAYS, "--run_dir", "cut", "--ckpt_path", "last", "--trainer.max_epochs", "2"])
    assert_same_weights("whole", "cut")


def test_the_delays_config_is_the_published_setting():
    model = SpikingClassifier(network=NetworkOptions(
        hidden=[512], max_delay=1.0, initial_delay=0.15, initial_recurrent_delay=0.0
    ))  # fmt: skip
    layer = model.network.hidden[0]
    assert layer.delay.max() <= 0.15 and abs(layer.delay.mean() - 0.075) < 1e-3
    assert not layer.recurrent_delay.any()
    groups = model.configure_optimizers().param_groups
    assert [p.shape for p in groups[2]["params"]] == [(512, 700), (512, 512)]
    assert torch.is_tensor(layer.delay) and model.delay_lr == 1e-4


def test_no_delays_with_the_exact_solver():
    with pytest.raises(ValueError, match=r'max_delay=0.1 needs solver="grid"'):
        SpikingClassifier(network=NetworkOptions(solver="exact", max_delay=0.1))
