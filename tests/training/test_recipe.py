"""The recipe's rules follow their published definition, and resume to the same bits."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")

from lightning.pytorch import Trainer
from support.tiny_run import TINY, assert_same_weights, interrupt, rows, weights

from lightning_modules import fit
from lightning_modules.model.network import NetworkOptions
from lightning_modules.run.checkpoints import load_trained
from lightning_modules.training import classifier
from lightning_modules.training.classifier import SpikingClassifier
from lightning_modules.training.recipe import HalveOnPlateau, LiftSilent, ease_in


def test_ease_in_grows_five_percent_a_step_from_a_thousandth():
    factor, step = 1e-3, 0
    while factor < 1:
        assert ease_in(step) == pytest.approx(factor, rel=1e-12)
        factor, step = factor * 1.05, step + 1
    assert step == 142 and ease_in(step) == 1.0 and ease_in(10**9) == 1.0


def test_halving_follows_the_two_averages():
    rng = np.random.default_rng(0)
    epochs = np.arange(400)
    accuracies = 0.9 * (1 - np.exp(-epochs / 30)) + 0.03 * rng.standard_normal(400)
    rule, fast, slow, scale, last, halved = HalveOnPlateau(gap=50), 0.0, 0.0, 1.0, 0, []
    for epoch, accuracy in zip(epochs, accuracies, strict=True):
        fast = 0.8 * fast + 0.2 * accuracy
        slow = 0.85 * slow + 0.15 * accuracy
        if fast < slow and epoch - last >= 50:
            scale, last = scale * 0.5, epoch
            halved.append(epoch)
        assert rule.update(int(epoch), float(accuracy)) == scale
    assert 3 <= len(halved) <= 8 and np.diff([0, *halved]).min() >= 50


def test_halving_never_happens_while_accuracy_rises():
    rule = HalveOnPlateau(gap=1)
    assert {rule.update(epoch, epoch / 300) for epoch in range(300)} == {1.0}


def test_halving_goes_on_from_its_state():
    whole, first, second = (HalveOnPlateau(gap=3) for _ in range(3))
    accuracies = np.random.default_rng(1).random(60).tolist()
    expected = [whole.update(k, a) for k, a in enumerate(accuracies)]
    found = [first.update(k, a) for k, a in enumerate(accuracies[:31])]
    second.load_state_dict(first.state_dict())
    found += [second.update(31 + k, a) for k, a in enumerate(accuracies[31:])]
    assert found == expected and expected[-1] < 1


class _OneProcess:
    def reduce(self, tensor, reduce_op):
        return tensor


class _Trainer:
    strategy = _OneProcess()


def test_only_neurons_silent_for_the_whole_epoch_are_lifted():
    model = SpikingClassifier(
        num_inputs=5, num_classes=3, network=NetworkOptions(hidden=[4, 2]), lift_silent=0.002
    )
    rule = LiftSilent(0.002)
    before = [w.detach().clone() for w in model.network.input_weights()]
    recurrent = [layer.recurrent_weight.detach().clone() for layer in model.network.hidden]
    for first, second in (([0, 3, 0, 0], [0, 0]), ([0, 0, 0, 1], [1, 0])):
        counts = [torch.tensor([first, [0] * 4]), torch.tensor([second, second])]
        rule.on_train_batch_end(_Trainer(), model, {"counts": counts}, None, 0)
    rule.on_train_batch_start(_Trainer(), model, None, 1)  # within the epoch: nothing yet
    for weight, old in zip(model.network.input_weights(), before, strict=True):
        assert torch.equal(weight, old)
    for _ in range(2):  # once only
        rule.on_train_batch_start(_Trainer(), model, None, 0)
    for weight, old, silent in zip(
        model.network.input_weights(), before, ([0, 2], [1]), strict=True
    ):
        expected = old.clone()
        expected[silent] += 0.002
        assert torch.equal(weight, expected)
    for layer, old in zip(model.network.hidden, recurrent, strict=True):
        assert torch.equal(layer.recurrent_weight, old)


ASLEEP = [
    *TINY, "--test", "false", "--model.network.input_mean", "0.0",
    "--model.network.input_std", "0.0",
]  # fmt: skip
LIFTED = ["--model.lift_silent", "0.05"]


@pytest.mark.usefixtures("own_folder", "no_figures")
def test_lifting_wakes_a_silent_network():
    asleep = [*ASLEEP, "--trainer.max_epochs", "4"]
    fit.main([*asleep, "--run_dir", "silent"])
    fit.main([*asleep, "--run_dir", "lifted", *LIFTED])
    share = [[float(row["train/silent_share_0"]) for row in rows(run)]
             for run in ("silent", "lifted")]  # fmt: skip
    assert share[0] == [1.0] * 4
    assert share[1][0] == 1.0 and share[1][-1] == 0.0


@pytest.mark.usefixtures("own_folder", "no_figures")
def test_a_checkpoint_holds_the_weights_that_were_validated():
    fit.main([*ASLEEP, *LIFTED, "--trainer.max_epochs", "1", "--run_dir", "run"])
    (row,) = rows("run")
    trainer = Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    (found,) = trainer.validate(*load_trained("run/checkpoints/best.ckpt"), verbose=False)
    assert found == pytest.approx({name: float(row[name]) for name in found})
    # Resumed at the end of an epoch, the neurons are still lifted, and once.
    longer = ["--trainer.max_epochs", "2"]
    fit.main(["--run_dir", "run", "--ckpt_path", "last", *longer])
    fit.main([*ASLEEP, *LIFTED, *longer, "--run_dir", "whole"])
    assert_same_weights("whole", "run")
    assert float(rows("run")[1]["train/spikes_per_neuron_0"]) > 0


EVERYTHING = [
    "--data.channel_shift", "20", "--data.blend", "0.5", "--test", "false",
    "--trainer.max_epochs", "4", "--model.ease_in", "true", "--model.lift_silent", "0.01",
    "--model.halve_on_plateau", "true", "--model.halving_gap", "1",
    "--model.network.input_mean", "0.008", "--model.network.heterogeneous", "true",
    "--model.network.learn_tau_mem", "true",
]  # fmt: skip


@pytest.mark.usefixtures("own_folder", "no_figures")
@pytest.mark.parametrize(("val_fraction", "step"), [("0.1", 7), ("0", 7), ("0.1", 6)])
def test_an_interrupted_recipe_ends_with_the_same_bits(val_fraction, step, runs, monkeypatch):
    """Cut in the middle of an epoch, with counts and averages under way, or at its end."""
    # Averages without much memory, so that four epochs see a halving.
    quick = functools.partial(HalveOnPlateau, fast=0.9, slow=0.0)
    monkeypatch.setattr(classifier, "HalveOnPlateau", quick)
    options = [*EVERYTHING, "--data.val_fraction", val_fraction]
    whole = runs(*options).folder
    interrupt([*TINY, *options, "--run_dir", "cut"], step)  # of 12 in four epochs
    assert torch.load("cut/checkpoints/last.ckpt", weights_only=True)["global_step"] == step
    fit.main(["--run_dir", "cut", "--ckpt_path", "last"])
    assert_same_weights(whole, "cut")
    rates = [float(row["lr"]) for row in rows(whole)]
    assert rates == [float(row["lr"]) for row in rows("cut")]
    steps = [2, 5, 8, 11]  # at which the last learning rate of each epoch was set
    factors = [r / (1e-3 * 1.05**k) for r, k in zip(rates, steps, strict=True)]
    assert min(factors) < 0.6 * max(factors)  # halved on the way
    # Lifting had something to do.
    unlifted = runs(*options, "--model.lift_silent", "0").folder
    name = "network.hidden.0.weight"
    assert not torch.equal(weights(unlifted)[name], weights(whole)[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(ease_in=True, warmup_steps=5), "use one of them"),
        (dict(lift_silent=-1.0), "lift_silent must be 0 or positive"),
        (dict(delay_lr=0.0), "delay_lr must be positive"),
        (dict(halving_gap=0), "halving_gap must be at least 1"),
        (dict(network=NetworkOptions(heterogeneous=True, tau_syn_min=0.1)), "tau_syn_min"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SpikingClassifier(**options)
