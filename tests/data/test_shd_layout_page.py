"""docs/shd_layout.md: its writer writes files that the reader takes, and texts link there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("h5py")

from lightning_modules.data.data_files import LAYOUT_PAGE, DataFileError, check_spike_file
from lightning_modules.data.shd_files import read_shd_file

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / LAYOUT_PAGE).read_text(encoding="utf-8")


def test_the_pages_writer_writes_what_the_reader_reads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    assert len(code[code.index("with h5py"):].splitlines()) == 5
    exec(compile(code, LAYOUT_PAGE, "exec"), {})
    found = read_shd_file("words_train.h5")
    assert found.offsets.tolist() == [0, 3, 3, 4]
    np.testing.assert_allclose(found.times, [0.010, 0.250, 0.251, 0.100], rtol=1e-6)
    assert found.units.tolist() == [5, 12, 699, 0]
    assert found.labels.tolist() == [0, 1, 1] and found.speakers.tolist() == [0, 0, 1]
    assert found.class_names == ("yes", "no")


def test_the_page_names_every_field_that_is_read():
    source = (ROOT / "lightning_modules/data/shd_files.py").read_text(encoding="utf-8")
    read = set(re.findall(r'"((?:spikes|extra)/\w+|labels)"', source))
    assert read == set(re.findall(r"^\| `([\w/]+)` \|", PAGE, flags=re.M))


def test_every_text_that_says_shds_layout_links_to_the_page():
    folders = (("lightning_modules", "*.py"), ("configs", "*.yaml"), ("docs", "*.md"))
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md"]
    files = [path for folder, ending in folders for path in (ROOT / folder).rglob(ending)]
    for path in {*pages, *files} - {ROOT / LAYOUT_PAGE}:
        text = path.read_text(encoding="utf-8")
        said = len(re.findall(r"SHD's\s+(?:#\s+)?layout", text))
        linked = len(re.findall(r"shd_layout\.md|LAYOUT_PAGE\}", text))
        assert linked >= said, path


@pytest.mark.parametrize(
    ("name", "words"),
    [("x.npz", "is a NumPy archive"), ("x.foo", "is a .foo file"), ("x", "without a suffix")],
)
def test_files_of_other_formats_are_named(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"PK\3\4")
    with pytest.raises(DataFileError, match=rf"{words}.*\.h5, \.hdf5.*{LAYOUT_PAGE}"):
        check_spike_file(tmp_path / name)
