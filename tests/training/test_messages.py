"""What is wrong with options is told in a line that names the option, without a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny_run import TINY

pytest.importorskip("lightning")

from support.shd_layout import random_samples, write_shd_file

from lightning_modules import crossval, fit
from lightning_modules.options.suggestions import suggestions
from lightning_modules.run.option_errors import blamed
from lightning_modules.training.classifier import SpikingClassifier

pytestmark = pytest.mark.usefixtures("own_folder", "no_figures")


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--model.lr", "-1", "must be positive, got -1.0"),
        ("--model.network.hidden", "[0]", "positive size"),
        ("--model.loss.scale", "-1", "scale must be a positive number, got -1.0"),
        ("--data.batch_size", "0", "at least 1, got 0"),
        ("--data.val_speakers", "[99]", "99"),
        ("--trainer.devices", "0", "not a valid input"),
        ("--trainer.devices", "foo", "should be an int > 0"),
        ("--trainer.accelerator", "gpu", "No supported gpu"),
        ("--trainer.max_epochs", "-3", "non-negative"),
    ],
)
def test_a_value_that_is_refused_is_named_with_its_option(option, value, words):
    if value == "gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as ended:
        fit.main([*TINY, option, value])
    assert str(ended.value).startswith(f"error: {option}: ") and words in str(ended.value)
    assert not list(Path("runs").iterdir())


@pytest.mark.parametrize("command", [fit.main, crossval.main])
def test_one_voice_is_too_few_to_hold_one_out(command, tmp_path):
    for split in ("train", "test"):
        write_shd_file(tmp_path / f"d/x_{split}.h5", random_samples(12), speakers=[3] * 12)
    data = ["--data.root", str(tmp_path / "d"), "--data.cache_dir", str(tmp_path / "cache")]
    with pytest.raises(SystemExit, match=r"error: .*the training file has 1 speaker\(s\)"):
        command(["--config", "tiny", *data])


def test_crossval_names_the_option_too():
    with pytest.raises(SystemExit, match=r"error: --data\.batch_size: .*at least 1"):
        crossval.main([*TINY, "--data.batch_size", "0"])


def test_errors_while_training_keep_their_traceback(monkeypatch):
    def broken(*args):
        raise ValueError("a defect")

    monkeypatch.setattr(SpikingClassifier, "training_step", broken)
    with pytest.raises(ValueError, match="a defect"):
        fit.main(TINY)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model.loss", "LastLoss"], "losses: FirstSpikeLoss, LinearLoss, MaxLoss"),
        (["--data.val_fracton", "0"], "instead of --data.val_fracton, did you mean --data.val_fr"),
        (["--monitr", "x"], "did you mean --monitor?"),
        (["--lr=1"], "instead of --lr, did you mean --model.lr?"),
    ],
)
def test_what_could_have_been_meant_is_told(args, words, capsys):
    with pytest.raises(SystemExit):
        fit.main([*TINY, *args])
    assert words in capsys.readouterr().err


def test_nothing_is_suggested_where_nothing_is_similar():
    known = ["--model.lr", "--data.root"]
    assert suggestions("unrecognized arguments: --zzz 3 stray", known) == []
    assert suggestions("another error: --model.lrr", known) == []


def test_an_option_is_blamed_by_name_first_then_by_value():
    values = {"trainer.accelerator": "gpu", "model.lr": 0.1, "model.loss.init_args.scale": 1}
    assert blamed("no gpu for lr", values) == "--model.lr: "
    assert blamed("no gpu here", values) == "--trainer.accelerator: "
    assert blamed("scale is wrong", values) == "--model.loss.scale: "
    assert blamed("something else", values) == ""


def test_a_layer_that_never_spikes_in_training_is_named(recwarn):
    fit.main([*TINY, "--data.batch_size", "4", "--model.network.threshold", "1000"])
    said = [str(w.message) for w in recwarn if "has not spiked once" in str(w.message)]
    assert len(said) == 1
    assert said[0].startswith("hidden.0 (EventPropLIF of ") and "training step 10" in said[0]
