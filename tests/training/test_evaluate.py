"""``lightning_modules.evaluate``: a trained network on other data, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import h5py
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("tonic")

from support.shd_layout import CLASSES, random_samples, write_shd_file
from tonic.transforms import TimeJitter

from lightning_modules import fit
from lightning_modules.evaluate import evaluate
from lightning_modules.options import parsers
from lightning_modules.predict import predict

pytestmark = pytest.mark.usefixtures("no_figures")
TRAINED = (2, 5, 7)
ROWS = ("test/accuracy_seen", "test/accuracy_unseen")


def voices(*known: int, count: int = 24) -> list[int]:
    return [known[sample % len(known)] for sample in range(count)]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run on three voices, one of them held out for validation."""
    folder = tmp_path_factory.mktemp("evaluate")
    for split, known in (("train", TRAINED), ("test", (5, 9))):
        write_shd_file(folder / f"data/my_{split}.h5", random_samples(24), speakers=voices(*known))
    fit.main([
        "--config", "tiny", "--trainer.enable_progress_bar", "false", "--run_dir",
        str(folder / "run"), "--data.root", str(folder / "data"), "--data.cache_dir",
        str(folder / "cache"), "--trainer.max_epochs", "1",
    ])  # fmt: skip
    return folder / "run"


def checkpoint(run: Path) -> str:
    return str(run / "checkpoints/best.ckpt")


@pytest.mark.figures
def test_numbers_are_written_beside_the_figures(run):
    results = evaluate(checkpoint(run))
    found = json.loads((run / "evaluate/results.json").read_text())
    assert found == {**results, "checkpoint": checkpoint(run), "root": None}
    trained = json.loads((run / "results.json").read_text())
    assert results == pytest.approx({name: trained[name] for name in results})
    assert set(ROWS) <= results.keys()


@pytest.mark.figures
@pytest.mark.parametrize("form", ["file", "folder"])
def test_other_data_need_no_training_file_and_have_a_folder_of_their_own(run, tmp_path, form):
    evaluate(checkpoint(run))
    before = (run / "evaluate/confusion.png").read_bytes()
    root = tmp_path / f"other_{form}"
    path = write_shd_file(root / "my_test.h5", random_samples(24, 1), speakers=voices(5, 1))
    given = path if form == "file" else root
    results = evaluate(checkpoint(run), root=str(given))
    assert set(ROWS) <= results.keys()
    assert (run / "evaluate/confusion.png").read_bytes() == before
    found = json.loads((run / "evaluate" / given.name / "results.json").read_text())
    assert found == {**results, "checkpoint": checkpoint(run), "root": str(given)}


def test_voices_are_those_of_the_training_file_not_of_the_other_folder(run, tmp_path):
    for split in ("train", "test"):  # voice 1 was never trained on
        write_shd_file(tmp_path / f"x_{split}.h5", random_samples(24), speakers=voices(1, 7))
    mixed = evaluate(checkpoint(run), root=str(tmp_path), output=str(tmp_path / "mixed"))
    assert set(ROWS) <= mixed.keys()
    halves = [mixed[name] for name in ROWS]
    assert mixed["test/accuracy"] == pytest.approx(sum(halves) / 2)


@pytest.mark.parametrize("known", [(1, 3), None])
def test_without_a_voice_in_common_neither_row_is_given(run, tmp_path, known, capsys):
    if known is None:
        write_shd_file(tmp_path / "x_test.h5", random_samples(24), leave_out=("extra/speaker",))
    else:
        write_shd_file(tmp_path / "x_test.h5", random_samples(24), speakers=voices(*known))
    found = evaluate(checkpoint(run), root=str(tmp_path), output=str(tmp_path))
    assert not found.keys() & {*ROWS}
    assert "voices" not in capsys.readouterr().out


def test_classes_of_other_data_are_those_of_training(run, tmp_path):
    path = write_shd_file(tmp_path / "x_test.h5", random_samples(24))
    with h5py.File(path, "a") as file:
        del file["extra/keys"]
        file["extra/keys"] = [b"null", b"eins", b"zwei", b"drei"]
    with pytest.raises(SystemExit, match=r"error: .*names the classes null, .* are zero, one"):
        evaluate(checkpoint(run), root=str(path))
    with h5py.File(path, "a") as file:
        del file["extra/keys"]
    assert "test/accuracy" in evaluate(checkpoint(run), root=str(path), output=str(tmp_path))


def test_older_checkpoints_take_names_and_voices_from_the_files(run, tmp_path):
    held = torch.load(checkpoint(run), weights_only=True)
    assert held.pop("SpokenDigits") == {"class_names": list(CLASSES), "speakers": list(TRAINED)}
    old = tmp_path / "old.ckpt"
    torch.save(held, old)
    path = write_shd_file(tmp_path / "x_test.h5", random_samples(24), speakers=voices(5, 1))
    found = evaluate(str(old), root=str(path), output=str(tmp_path))
    assert found == evaluate(checkpoint(run), root=str(path), output=str(tmp_path))
    held["datamodule_hyper_parameters"]["root"] = "gone"
    torch.save(held, old)
    found = evaluate(str(old), root=str(path), output=str(tmp_path))
    assert "test/accuracy" in found and not found.keys() & {*ROWS}


def test_what_cannot_be_tested_is_named(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=r"error: .*empty: no file for the test split"):
        evaluate(checkpoint(run), root=str(tmp_path / "empty"))
    Path(tmp_path / "text.ckpt").write_text("no weights")
    with pytest.raises(SystemExit, match=r"error: .*text\.ckpt is not a checkpoint of fit"):
        evaluate(str(tmp_path / "text.ckpt"))
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="error: --accelerator cuda"):
            evaluate(checkpoint(run), accelerator="cuda")


def test_a_transform_of_training_has_to_be_stated_again(run, tmp_path, monkeypatch):
    transform = "tonic.transforms.DropEvent"
    options = {"--transform": transform, "--transform.p": "0.9"}
    fit.main([
        "--config", str(run / "config.yaml"), "--run_dir", str(tmp_path / "run"),
        *(word for name, value in options.items() for word in (f"--data.{name[2:]}", value)),
    ])  # fmt: skip
    ours = checkpoint(tmp_path / "run")
    words = rf"error: .*trained with --data\.transform {transform},.*; say --transform"
    with pytest.raises(SystemExit, match=words):
        evaluate(ours)
    with pytest.raises(SystemExit, match=words):
        evaluate(ours, transform=TimeJitter(std=1.0))
    data = tmp_path / "new.h5"
    write_shd_file(data, random_samples(6))
    with pytest.raises(SystemExit, match=words):
        predict(str(data), ours, str(tmp_path / "new.csv"))
    stated = ["--ckpt_path", ours, *(word for pair in options.items() for word in pair)]
    monkeypatch.setattr(sys, "argv", ["evaluate", *stated])
    parsers.command(evaluate, as_positional=False)
    trained = json.loads((tmp_path / "run/results.json").read_text())
    found = json.loads((tmp_path / "run/evaluate/results.json").read_text())
    assert {n: trained[n] for n in trained.keys() & found.keys() if n.startswith("test/")} == (
        pytest.approx({n: v for n, v in found.items() if n.startswith("test/")})
    )
    monkeypatch.setattr(sys, "argv", ["predict", str(data), "--output", "new.csv", *stated])
    monkeypatch.chdir(tmp_path)
    parsers.command(predict, as_positional=True)
    assert len(Path("new.csv").read_text().splitlines()) == 7
