"""``lightning_modules.predict``: probabilities of a file's samples as CSV."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from support.tiny_run import TINY

pytest.importorskip("lightning")
pytest.importorskip("tonic")

from support.shd_layout import CLASSES, random_samples, write_shd_file

from lightning_modules.data.loader import BatchKey
from lightning_modules.predict import predict
from lightning_modules.run.cli import FitCLI
from lightning_modules.training.classifier import SpikingClassifier

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture(scope="module")
def run(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    runs("--test", "false").copy(folder / "run")
    return folder


def read(path):
    return list(csv.DictReader(Path(path).open()))


def test_probabilities_are_those_of_the_network(run):
    write_shd_file(run / "new.h5", random_samples(7))
    checkpoint = str(run / "run/checkpoints/last.ckpt")
    table = read(predict(str(run / "new.h5"), checkpoint, str(run / "new.csv"), batch_size=3))
    assert [row["sample"] for row in table] == [str(n) for n in range(7)]
    names = [name[2:-1] for name in table[0] if name.startswith("p(")]
    assert len(names) == 20

    cli = FitCLI([*TINY, "--run_dir", str(run / "other")])
    model = SpikingClassifier.load_from_checkpoint(checkpoint)
    batch = cli.datamodule.file_dataset(run / "new.h5")[BatchKey(0, 0, np.arange(7))]
    expected = model.network(batch.events).logits.softmax(1)
    for row, wanted in zip(table, expected.tolist(), strict=True):
        found = [float(row[f"p({name})"]) for name in names]
        assert found == pytest.approx(wanted, abs=1e-5)
        assert row["predicted"] == names[max(range(20), key=wanted.__getitem__)]


def test_labels_have_the_names_of_the_file(run, tmp_path, capsys):
    """Which are not those of the embedded digits."""
    checkpoint = str(run / "run/checkpoints/last.ckpt")
    path = write_shd_file(tmp_path / "new.h5", random_samples(6))
    table = read(predict(str(path), checkpoint, str(tmp_path / "not/yet/there/x.csv")))
    assert [row["label"] for row in table] == [CLASSES[k % len(CLASSES)] for k in range(6)]
    assert "classes (zero, one, two, fünf) are not those of training" in capsys.readouterr().out
    path = write_shd_file(tmp_path / "unnamed.h5", random_samples(6), leave_out=("extra/keys",))
    table = read(predict(str(path), checkpoint, str(tmp_path / "x.csv")))
    names = [name[2:-1] for name in table[0] if name.startswith("p(")]
    assert [row["label"] for row in table] == [names[k % len(CLASSES)] for k in range(6)]
    path = write_shd_file(tmp_path / "bare.h5", random_samples(6),
                          leave_out=("extra/keys", "labels"))  # fmt: skip
    assert {row["label"] for row in read(predict(str(path), checkpoint))} == {""}
    assert "those of training" not in capsys.readouterr().out


def test_a_csv_that_cannot_be_written_is_named_and_the_old_one_kept(run, tmp_path, monkeypatch):
    checkpoint = str(run / "run/checkpoints/last.ckpt")
    path = write_shd_file(tmp_path / "new.h5", random_samples(6))
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"error: cannot write .*file/x\.csv"):
        predict(str(path), checkpoint, str(tmp_path / "file/x.csv"))
    (tmp_path / "x.csv").write_text("before")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SpikingClassifier, "forward", interrupted)
        predict(str(path), checkpoint, str(tmp_path / "x.csv"))
    assert (tmp_path / "x.csv").read_text() == "before"


def interrupted(*args):
    raise KeyboardInterrupt


def test_what_cannot_be_read_is_named(run, tmp_path):
    checkpoint = str(run / "run/checkpoints/last.ckpt")
    with pytest.raises(SystemExit, match="no such file"):
        predict(str(tmp_path / "missing.h5"), checkpoint)
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF")
    with pytest.raises(SystemExit, match="not a whole HDF5 file"):
        predict(str(tmp_path / "cut.h5"), checkpoint)
    with pytest.raises(SystemExit, match="no checkpoint"):
        predict(str(tmp_path / "cut.h5"), str(tmp_path / "none.ckpt"))
    with pytest.raises(SystemExit, match=r"error: .*cut\.h5 is not a checkpoint of fit"):
        predict(str(tmp_path / "cut.h5"), str(tmp_path / "cut.h5"))
    path = write_shd_file(tmp_path / "wide.h5", [([0.1], [701])])
    with pytest.raises(SystemExit, match=r"has unit 701.*need a network that was trained with"):
        predict(str(path), checkpoint)
