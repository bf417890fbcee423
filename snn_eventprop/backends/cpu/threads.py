"""Samples over threads, in a partition that depends on the work and the thread count alone."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

_Result = TypeVar("_Result")
_SMALLEST, _ONE = np.finfo(np.float32).smallest_subnormal, np.float32(1)
_sharing: set[int] = set()  # processes
_PARALLEL = 2**17  # numbers, enough for torch to use all threads
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def _pool(helpers: int) -> ThreadPoolExecutor:
    key = (os.getpid(), helpers)  # a forked process has none of its parent's threads
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(helpers, "snn_eventprop")
    return _pools[key]


def share_cores() -> None:
    """For kernels that take milliseconds: keep torch's threads from spinning on their cores.

    After each of torch's parallel loops GNU OpenMP's threads spin for milliseconds, unless it knows
    of more threads than there are cores. It does after one loop from a thread of ours. (Long loops
    over many small operations of torch get slower by that, so processes without our layers are
    left alone.)
    """
    helpers = torch.get_num_threads() - 1
    if helpers > 0 and os.getpid() not in _sharing:
        _sharing.add(os.getpid())
        _pool(helpers).submit(torch.zeros, _PARALLEL).result()


@contextlib.contextmanager
def _flushed_denormals() -> Iterator[None]:
    """Denormal numbers are zero in this thread, as long as this lasts.

    Currents decay to denormal numbers within half a second of silence, and arithmetic on those is
    a hundred times slower.
    """
    if _SMALLEST * _ONE == 0:  # already so
        yield
        return
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def partition(work: np.ndarray, parts: int) -> list[tuple[int, int]]:
    """Contiguous ranges of samples with about equal sums of ``work``; never an empty range."""
    if len(work) == 0:
        return []
    total = np.cumsum(work, dtype=np.float64)
    ends = total.searchsorted(total[-1] * np.arange(1, parts) / parts) + 1
    cuts = sorted({0, len(work), *ends.tolist()})
    return list(itertools.pairwise(cuts))


def over_samples(
    run: Callable[[int, int], _Result], work: np.ndarray, per_thread: int = 1, least: float = 0
) -> list[_Result]:
    """``run(lo, hi)`` for each range of samples, on ``torch.get_num_threads()`` threads.

    ``run`` must release the GIL. Results come in sample order, so that whatever is summed over
    them is bitwise repeatable for a fixed thread count. Several ranges ``per_thread`` even out
    the load where another process slows a core down. A thread gets ``least`` work or more.
    """
    threads = torch.get_num_threads()
    if least > 0:
        threads = min(threads, max(int(work.sum() / least), 1))
    ranges = partition(work, threads * per_thread)
    results: list = [None] * len(ranges)
    to_do = collections.deque(enumerate(ranges))

    def take_part() -> None:
        with _flushed_denormals():
            while to_do:
                try:
                    i, (lo, hi) = to_do.popleft()
                except IndexError:  # another thread was faster
                    return
                results[i] = run(lo, hi)

    # The caller works as well: small work is done before another thread has woken up.
    helpers = min(threads, len(ranges)) - 1
    helping = [_pool(helpers).submit(take_part) for _ in range(helpers)]
    try:
        take_part()
    finally:
        to_do.clear()
        for helper in helping:
            helper.exception()  # it may still use memory of the caller's
    for helper in helping:
        helper.result()
    return results
