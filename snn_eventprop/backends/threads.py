"""Samples over threads, in a partition that depends on the work and the thread count alone."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

_Result = TypeVar("_Result")
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def _pool(threads: int) -> ThreadPoolExecutor:
    key = (os.getpid(), threads)  # a forked process has none of its parent's threads
    if key not in _pools:
        # Currents decay to denormal numbers within half a second of silence, and arithmetic on
        # those is a hundred times slower: these threads flush them to zero.
        _pools[key] = ThreadPoolExecutor(
            threads, "snn_eventprop", torch.set_flush_denormal, (True,)
        )
    return _pools[key]


def partition(work: np.ndarray, parts: int) -> list[tuple[int, int]]:
    """Contiguous ranges of samples with about equal sums of ``work``; never an empty range."""
    total = np.cumsum(work, dtype=np.float64)
    if len(total) == 0:
        return []
    targets = total[-1] * np.arange(1, parts) / parts
    cuts = np.unique(np.concatenate(([0], np.searchsorted(total, targets) + 1, [len(total)])))
    return [(int(lo), int(hi)) for lo, hi in itertools.pairwise(cuts)]


def over_samples(
    run: Callable[[int, int], _Result], work: np.ndarray, per_thread: int = 1
) -> list[_Result]:
    """``run(lo, hi)`` for each range of samples, on ``torch.get_num_threads()`` threads.

    ``run`` must release the GIL. Results come in sample order, so that whatever is summed over
    them is bitwise repeatable for a fixed thread count. Several ranges ``per_thread`` even out
    the load where another process slows a core down.
    """
    threads = torch.get_num_threads()
    ranges = partition(work, threads * per_thread)
    if not ranges:
        return []
    pool = _pool(min(threads, len(ranges)))
    jobs = [pool.submit(run, lo, hi) for lo, hi in ranges]
    return [job.result() for job in jobs]
