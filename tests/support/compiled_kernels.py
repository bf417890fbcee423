"""Compiled kernels for copies of the packages, which would compile for minutes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]


def lend_kernels(folder: Path) -> None:
    """Let the packages that lie in ``folder`` use what ours have compiled.

    Numba keeps kernels beside their sources and takes them for current while the source has its
    size and time. A file that differs from ours compiles its own, as it should.
    """
    for name in ("snn_eventprop", "lightning_modules"):
        for source in (ROOT / name).rglob("*.py"):
            copy = folder / source.relative_to(ROOT)
            if copy.exists() and copy.read_bytes() == source.read_bytes():
                times = source.stat()
                os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
        for kernel in (ROOT / name).rglob("__pycache__/*.nb[ci]"):
            place = (folder / kernel.relative_to(ROOT)).parent
            if place.parent.exists():
                place.mkdir(exist_ok=True)
                shutil.copy2(kernel, place)
