"""Compiled kernels on disk, with several processes at once."""

from __future__ import annotations

import importlib
import os
import sys

import numba
import pytest

caching = pytest.importorskip("numba.core.caching")

from snn_eventprop.backends.cpu.compile import name_files_by_content  # noqa: E402


def test_processes_that_compile_at_once_do_not_read_each_others_code(tmp_path, monkeypatch):
    def cache(stamp="sources"):
        index = caching.IndexDataCacheFile(str(tmp_path), "kernel", stamp)
        name_files_by_content(index)
        return index

    one, other, older = cache(), cache(), cache("older sources")
    # All have read the index before any of them writes it.
    for index in (one, other, older):
        monkeypatch.setattr(index, "_load_index", dict)
    one.save("float32", "code for float32")
    older.save("float64", "old code for float64")
    other.save("float64", "code for float64")
    for key in ("float32", "float64"):
        assert cache().load(key) in (None, f"code for {key}")
    assert cache().load("float64") == "code for float64"
    older.save("float64", "old code for float64")
    assert cache().load("float64") is None


def test_a_kernel_is_read_from_its_cache(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")  # beside the source
    source = """
from snn_eventprop.backends.cpu.compile import kernel

@kernel
def double(x):
    return 2 * x
"""
    hits = []
    for name in ("first", "again"):
        (tmp_path / "doubling.py").write_text(source)
        os.utime(tmp_path / "doubling.py", (1e9, 1e9))  # numba asks for the time of the file
        sys.modules.pop("doubling", None)
        double = importlib.import_module("doubling").double
        assert double(2) == 4 and double(0.5) == 1.0, name
        hits.append(sum(double.stats.cache_hits.values()))
    assert hits == [0, 2]
    names = {path.name for path in tmp_path.rglob("*.nbc")}
    assert len(names) == 2 and not any(".1.nbc" in name for name in names)
