"""``lightning_modules.predict``: probabilities of a file's samples as CSV."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from tiny_run import TINY

pytest.importorskip("lightning")
pytest.importorskip("tonic")

from shd_layout import random_samples, write_shd_file

from lightning_modules import fit
from lightning_modules.classifier import SpikingClassifier
from lightning_modules.loader import BatchKey
from lightning_modules.predict import predict


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    fit.main([*TINY, "--run_dir", str(folder / "run"), "--test", "false"])
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

    cli = fit.FitCLI([*TINY, "--run_dir", str(run / "other")])
    model = SpikingClassifier.load_from_checkpoint(checkpoint)
    batch = cli.datamodule.file_dataset(run / "new.h5")[BatchKey(0, 0, np.arange(7))]
    expected = model.network(batch.events).logits.softmax(1)
    for row, wanted in zip(table, expected.tolist(), strict=True):
        found = [float(row[f"p({name})"]) for name in names]
        assert found == pytest.approx(wanted, abs=1e-5)
        assert row["predicted"] == names[max(range(20), key=wanted.__getitem__)]


def test_what_cannot_be_read_is_named(run, tmp_path):
    checkpoint = str(run / "run/checkpoints/last.ckpt")
    with pytest.raises(SystemExit, match="no such file"):
        predict(str(tmp_path / "missing.h5"), checkpoint)
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF")
    with pytest.raises(SystemExit, match="not a whole HDF5 file"):
        predict(str(tmp_path / "cut.h5"), checkpoint)
    with pytest.raises(SystemExit):
        predict(str(tmp_path / "cut.h5"), str(tmp_path / "none.ckpt"))
