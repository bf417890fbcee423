"""Help and mistakes are answered at once: before torch is imported, and from the same sources."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.tiny_run import TINY

pytest.importorskip("lightning")

from lightning_modules import fit
from lightning_modules.options.catalogue import own_options, trainer_options
from lightning_modules.run.checkpoints import load_trained
from lightning_modules.run.cli import FitCLI

ROOT = Path(fit.__file__).parents[1]
COMMANDS = ("fit", "evaluate", "predict", "export", "compare", "crossval", "sweep")
ANSWERED_AT_ONCE = [
    *((command, ["--help"], 0, "usage") for command in COMMANDS),
    ("fit", ["--help_all"], 0, "--trainer.max_epochs"),
    ("fit", ["--config", "tinny"], 2, "did you mean tiny?"),
    ("fit", ["tiny"], 2, "did you mean --config tiny?"),
    ("fit", ["--model.lrr", "1"], 2, "did you mean --model.lr?"),
    ("fit", ["--model.lr", "fast"], 2, "--model.lr: must be a number"),
    ("fit", ["--model.method", "evntprop"], 2, "did you mean eventprop"),
    ("fit", ["--model.loss", "SumLos"], 2, "did you mean SumLoss"),
    ("fit", ["--data.root", "nowhere/x"], 1, "no such folder with spike files"),
    ("fit", ["--ckpt_path", "nowhere.ckpt"], 1, "nowhere.ckpt: no such file"),
    ("fit", ["--ckpt_path", "last"], 1, "give the path of a checkpoint"),
    ("fit", ["--config", "mine.yaml"], 2, "mine.yaml: there is no option model.lrr"),
    ("compare", ["--max_epoch", "3"], 2, "did you mean --trainer.max_epochs?"),
    ("crossval", ["--config", "tinny"], 2, "did you mean tiny?"),
    ("sweep", ["bays"], 2, "did you mean bayes?"),
    ("sweep", ["bayes", "--config", "tinny"], 2, "did you mean tiny?"),
    ("predict", ["x.npz"], 1, "x.npz is a NumPy archive"),
    ("predict", ["nothing.h5"], 1, "nothing.h5: no such file"),
    ("evaluate", ["--root", "x.npz", "--ckpt_path", "x.npz"], 1, "x.npz is a NumPy archive"),
    ("evaluate", ["--ckpt_path", "nowhere"], 1, "no checkpoint 'nowhere'"),
    ("export", ["--ckpt_pth", "best"], 2, "did you mean --ckpt_path?"),
]


@pytest.mark.parametrize(
    ("command", "args", "code", "words"), ANSWERED_AT_ONCE,
    ids=[" ".join([command, *args]) for command, args, *_ in ANSWERED_AT_ONCE],
)  # fmt: skip
def test_help_and_mistakes_are_answered_before_torch_is_imported(
    command, args, code, words, tmp_path
):
    (tmp_path / "x.npz").write_bytes(b"PK")
    (tmp_path / "mine.yaml").write_text("model:\n  lrr: 1\n")
    # A torch that cannot be imported: nothing but an answer without it gets through.
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-m", f"lightning_modules.{command}", *args], cwd=tmp_path,
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    after = os.times()
    said = re.sub(r"\s+", " ", done.stdout + done.stderr)
    assert (done.returncode, words in said) == (code, True), said
    assert "Traceback" not in said
    spent = after.children_user + after.children_system
    assert spent - before.children_user - before.children_system < 2


def test_the_listing_holds_the_parsers_options_with_their_defaults():
    parser = FitCLI([]).parser
    defaults = dict(parser.get_defaults().items())
    defaults["model.loss"] = defaults.pop("model.loss.class_path").rpartition(".")[2]
    actions = {name: one for one in parser._actions for name in one.option_strings}
    for option in (*own_options(), *trainer_options()):
        assert f"--{option.name}" in actions, option.name
        assert option.help and option.kind, option.name
        assert option.default == defaults[option.name], option.name
        if option.choices and actions[f"--{option.name}"].choices:
            assert set(option.choices) == set(actions[f"--{option.name}"].choices), option.name
    listed = {f"--{option.name}" for option in (*own_options(), *trainer_options())}
    groups = {"--model", "--data", "--trainer", "--model.network"}
    others = {"--help", "--config", "--print_config", "--print_shtab"}
    real = {n for n in actions if n.startswith("--") and not n.endswith(("+", ".help"))}
    assert real - listed <= groups | others


def test_the_help_of_fit_shows_model_data_and_run_first(capsys):
    shown = []
    for option in ("--help", "--help_all"):
        with pytest.raises(SystemExit):
            fit.main([option])
        shown.append(capsys.readouterr().out)
    short, full = shown
    assert "--model.network.hidden" in short and "--data.root" in short and "--run_dir" in short
    assert "--trainer.max_epochs" not in short[: short.index("Options of the trainer")]
    assert full.index("--data.root") < full.index("--trainer.accelerator")
    assert len(short.splitlines()) < 320


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_half_precision_is_refused_in_a_line_that_says_what_works(precision):
    words = rf"^error: --trainer\.precision {precision}: .*use one of 32-true, 64-true, 16-mixed"
    options = [*TINY, "--trainer.precision", precision]
    with pytest.raises(SystemExit, match=words):
        fit.main(options)
    with pytest.raises(SystemExit, match=words):
        FitCLI(options)


def test_a_checkpoint_is_read_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit.main([*TINY, "--trainer.max_epochs", "1", "--test", "false", "--run_dir", "run"])
    read, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kw: read.append(args) or load(*args, **kw))
    model, data = load_trained("run/checkpoints/last.ckpt")
    assert len(read) == 1
    stored = load("run/checkpoints/last.ckpt", weights_only=True)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in stored["state_dict"].items())
    assert data.batch_size == 16 and data.training_file.class_names[0] == "zero"
