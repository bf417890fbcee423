"""Threads of Numba's CUDA simulator one after the other, in an order drawn anew at every barrier.

The simulator itself runs them all at once, and its shared arrays are not made for that: two threads
that ask for one at the same time get one each, and wait for each other's numbers for ever.
Exactly one thread at a time is also faster, and a barrier that is missing shows more often: a
thread comes to its next barrier before another has begun.
"""

from __future__ import annotations

import random
import threading

import numpy as np
from numba.cuda.simulator import kernel
from numba.cuda.simulator.kernel import BlockManager, BlockThread


class Turns(BlockManager):
    """A block whose threads take turns, from barrier to barrier."""

    def run(self, grid_point, *args):
        self.done = threading.Semaphore(0)
        threads = [
            Turn(lambda: self._f(*args), self, grid_point, point, self._debug)
            for point in np.ndindex(*self._block_dim)
        ]
        for thread in threads:
            thread.start()
        order = random.Random(len(threads))
        while threads:
            order.shuffle(threads)
            for thread in threads:
                thread.go.release()
                self.done.acquire()
            failed = next((t.exception for t in threads if t.exception), None)
            if failed:
                for thread in threads:
                    thread.abort = True
                    thread.go.release()
                raise failed[0].with_traceback(failed[1])
            threads = [thread for thread in threads if not thread.finished]


class Turn(BlockThread):
    """One thread: waits until it is told to go, and says when it waits again or is done."""

    def __init__(self, *args):
        super().__init__(*args)
        self.go = threading.Semaphore(0)
        self.finished = False

    def run(self):
        self.go.acquire()
        super().run()
        self.finished = True
        self._manager.done.release()

    def syncthreads(self):
        self._manager.done.release()
        self.go.acquire()
        if self.abort:
            raise RuntimeError("another thread of the block failed")


def use() -> None:
    """From now on, in this process."""
    kernel.BlockManager = Turns
