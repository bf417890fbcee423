"""What a user waits for before the first step: import, and compilation where nothing is cached."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from .measure import Progress

_TIMED = """
import time
start = time.perf_counter()
import torch
torch_imported = time.perf_counter()
import snn_eventprop
imported = time.perf_counter()
from snn_eventprop.benchmark.worker import Worker
worker = Worker()
before = time.perf_counter(), time.process_time()
worker.start({method!r}, {threads}, {device!r})
after = time.perf_counter(), time.process_time()
print(torch_imported - start, imported - torch_imported, *(b - a for a, b in zip(before, after)))
"""


@dataclass
class Startup:
    """Seconds. ``first`` is a forward and a backward pass in a process of its own, and ``cpu`` the
    processor time that it took, which other processes prolong less."""

    method: str
    cached: bool
    torch: float
    package: float
    first: float
    cpu: float


def startup(
    methods: Sequence[str], threads: int, device: str, progress: Progress
) -> list[Startup]:
    """Each method in two new processes: with an empty cache of compiled kernels, and a full one."""
    found = []
    for method in methods:
        with tempfile.TemporaryDirectory() as cache:
            for cached in (False, True):
                progress(f"{method}: first use, {'cached' if cached else 'nothing compiled'}")
                done = subprocess.run(
                    [sys.executable, "-c",
                     _TIMED.format(method=method, threads=threads, device=device)],
                    env={**os.environ, "NUMBA_CACHE_DIR": cache}, check=True, text=True,
                    stdout=subprocess.PIPE,
                )  # fmt: skip
                found.append(Startup(method, cached, *map(float, done.stdout.split())))
    return found
