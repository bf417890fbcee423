"""Memory for the work of kernels, in large pages, kept from one pass to the next.

Megabytes that are allocated and freed in every pass go back to the system, and to get them anew,
page by page, takes as long as to compute with them. Small pages lie anywhere in physical memory,
where some of them share places in the caches: tables that would fit do not.
"""

from __future__ import annotations

import contextlib
import mmap
import threading

import numpy as np

_PAGE = 2**21  # bytes
_KEPT = 128 * 2**20  # bytes that are kept at most
_LINE = 64
_NOTHING = np.empty(0, np.uint8)
_free: list[np.ndarray] = []
_lock = threading.Lock()


def _block(size: int) -> np.ndarray:
    """Bytes that begin on a large page, ``size`` rounded up to whole ones."""
    size = -(-size // _PAGE) * _PAGE
    with _lock:
        for number, block in enumerate(_free):
            if len(block) >= size:
                return _free.pop(number)
    memory = mmap.mmap(-1, size + _PAGE)
    with contextlib.suppress(AttributeError, OSError):  # there are none on this system
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    first = -whole.ctypes.data % _PAGE
    return whole[first : first + size]


class Workspace:
    """Lends arrays until they are given back, all at once. Threads may share it."""

    def __init__(self) -> None:
        self._blocks: list[np.ndarray] = []
        self._rest = _NOTHING  # of the last block
        self._lock = threading.Lock()

    def array(self, rows: int, columns: int, dtype: np.dtype, zeros: bool) -> np.ndarray:
        """An array [rows, columns] that begins on a cache line; zeros, or whatever was there.

        Rows that straddle cache lines take up to a quarter longer to add. Rows stay aligned where
        ``columns`` is a multiple of 16.
        """
        size = rows * columns * dtype.itemsize
        with self._lock:
            if len(self._rest) < size:
                self._rest = _block(size)
                self._blocks.append(self._rest)
            memory, self._rest = self._rest[:size], self._rest[-(-size // _LINE) * _LINE :]
        array = memory.view(dtype).reshape(rows, columns)
        if zeros:
            array[:] = 0
        return array

    def give_back(self) -> None:
        """Keep what was lent for the next passes: nobody needs it any more."""
        with _lock:
            for block in self._blocks:
                if sum(map(len, _free)) + len(block) <= _KEPT:
                    _free.append(block)
        self._blocks, self._rest = [], _NOTHING


def cache_aligned(rows: int, columns: int, dtype: np.dtype | type) -> np.ndarray:
    """Zeros [rows, columns] that begin on a cache line."""
    line = _LINE // np.dtype(dtype).itemsize
    memory = np.zeros(rows * columns + line, dtype)
    first = (-memory.ctypes.data // memory.itemsize) % line
    return memory[first : first + rows * columns].reshape(rows, columns)
