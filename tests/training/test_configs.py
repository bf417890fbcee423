"""Configurations: every shipped one builds and trains a step; files build upon each other."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("tonic")

from support.shd_layout import random_samples, write_shd_file

from lightning_modules.options.config_files import config_folder, config_names
from lightning_modules.run.cli import FitCLI

RECIPE_PAGE = Path(__file__).parents[2] / "docs" / "recipe.md"


@pytest.fixture(scope="session")
def downloads(tmp_path_factory):
    """A folder in which tonic's loaders would find SHD and SSC, with a few samples in each file."""
    root = tmp_path_factory.mktemp("downloads")
    for name, splits in (("shd", ("train", "test")), ("ssc", ("train", "valid", "test"))):
        for split in splits:
            path = root / name.upper() / f"{name}_{split}.h5"
            write_shd_file(path, random_samples(24), speakers=np.arange(24) // 2 % 10)
    return root


@pytest.fixture
def build(downloads, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def cli(*args: str) -> FitCLI:
        arguments = list(args)
        if any(arg.startswith("shd/") for arg in args):
            arguments += ["--data.root", str(downloads), "--data.cache_dir", str(tmp_path / "c")]
        return FitCLI(arguments)

    return cli


@pytest.mark.parametrize("name", config_names())
def test_every_shipped_config_builds_and_learns_from_a_batch(name, build):
    cli = build("--config", name)
    assert cli.trainer.max_epochs >= 1
    batch = cli.datamodule.batch("train", [0, 1, 2])
    loss = cli.model.loss.from_logits(cli.model.network(batch.events).logits, batch.labels)
    loss.backward()
    gradients = [p.grad for p in cli.model.network.parameters()]
    assert torch.isfinite(loss) and all(g is None or g.isfinite().all() for g in gradients)


def test_there_is_a_config_for_every_published_setting():
    names = set(config_names())
    for size in (64, 128, 256, 512, 1024):
        assert {f"shd/recurrent_{size}", f"shd/feedforward_{size}"} <= names
    for loss in ("sum", "sum_exp", "linear", "sigmoid", "max", "step_cross_entropy", "first_spike"):
        assert f"shd/loss_{loss}" in names
    assert {"shd/headline", "shd/ssc", "shd/delay_line", "shd/blend"} <= names
    assert {"shd/delays", "shd/ssc_delays"} <= names


def test_the_headline_setting_is_the_published_one(build):
    cli = build("--config", "shd/headline")
    data, layer = cli.datamodule, cli.model.network.hidden[0]
    assert (data.delay_line.copies, data.delay_line.delay) == (10, 0.03)
    assert data.num_units == 7700 and data.unique_dt == layer.dt == 2e-3
    assert [repr(a) for a in data.augmentations] == ["ChannelShift(max_shift=40)"]
    assert layer.out_features == 512 and layer.recurrent
    assert isinstance(layer.log_tau_mem, torch.nn.Parameter)
    assert isinstance(layer.log_tau_syn, torch.nn.Parameter)
    # Gamma of shape 3: mean 20 ms, standard deviation 20 / sqrt(3), before clipping to 3..60 ms.
    assert layer.tau_mem.min() >= 2.999e-3 and layer.tau_mem.max() <= 60.01e-3
    assert layer.tau_mem.mean().item() == pytest.approx(20e-3, rel=0.1)
    assert layer.tau_syn.min() >= 0.999e-3 and layer.tau_syn.max() <= 15.01e-3
    assert layer.weight.mean().item() == pytest.approx(3e-3, rel=0.02)
    assert layer.weight.std().item() == pytest.approx(1e-3, rel=0.02)


def test_ssc_validates_on_its_own_file(build):
    data = build("--config", "shd/ssc").datamodule
    assert data.dataset == "ssc" and data.pools["val"].indices.size == 24
    assert data.pools["val"].packed is not data.pools["train"].packed


def test_configs_compose_and_later_ones_win(build):
    Path("mine.yaml").write_text("model:\n  lr: 0.5\n  network:\n    tau_mem: 0.04\n")
    cli = build("--config", "tiny", "--config", "mine.yaml", "--model.lr", "0.25")
    assert cli.model.lr == 0.25
    assert cli.model.network.hidden[0].tau_mem.item() == pytest.approx(0.04)
    assert cli.model.network.hidden[0].out_features == 16


def test_a_config_builds_upon_files_beside_it_and_shipped_ones(build):
    Path("sub").mkdir()
    Path("sub/first.yaml").write_text("base: tiny\nmodel:\n  lr: 0.5\n  weight_decay: 0.125\n")
    Path("sub/second.yaml").write_text("model:\n  lr: 0.25\n  loss: SumLoss\n")
    Path("sub/mine.yaml").write_text("base: [first, second]\ndata:\n  batch_size: 7\n")
    cli = build("--config", "sub/mine.yaml")
    assert cli.model.network.hidden[0].out_features == 16
    assert (cli.model.lr, cli.model.weight_decay, cli.datamodule.batch_size) == (0.25, 0.125, 7)
    assert type(cli.model.loss).__name__ == "SumLoss"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: nowhere\n", "no file 'nowhere' and no shipped"),
        ("base: mine\n", "bases go in a circle"),
        ("- 1\n", "must hold options"),
        ("model: [\n", "not valid YAML"),
        ("model:\n  lrr: 1\n", "lrr"),
    ],
)
def test_a_config_that_is_wrong_says_what(build, capsys, text, message):
    Path("mine.yaml").write_text(text)
    with pytest.raises(SystemExit):
        build("--config", "mine.yaml")
    assert message in capsys.readouterr().err


def test_an_unknown_config_lists_the_shipped_ones(build, capsys):
    with pytest.raises(SystemExit):
        build("--config", "defualt")
    said = capsys.readouterr().err.replace("\n", " ")
    assert "default, loggers/tensorboard, loggers/wandb, plain, sfsdd, shd/base" in said


def test_the_recipes_page_names_options_and_configs_that_exist(build):
    page = RECIPE_PAGE.read_text(encoding="utf-8")
    known = {
        option for action in build("--config", "tiny").parser._actions
        for option in action.option_strings
    }  # fmt: skip
    named = set(re.findall(r"`(--(?:model|data|trainer)\.[\w.]+)", page))
    assert len(named) > 20 and named <= known, named - known
    configs = set(re.findall(r"`(shd/\w+)`", page))
    assert len(configs) > 5 and configs <= set(config_names()), configs - set(config_names())


def test_small_configs_are_small():
    """A file that names a base states little itself."""
    for path in (config_folder() / "shd").glob("*.yaml"):
        if path.name != "base.yaml":
            text = path.read_text(encoding="utf-8")
            assert "base:" in text and len(text.splitlines()) <= 20, path
