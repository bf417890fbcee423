"""How kernels are compiled: machine code without Python's lock, cached on disk."""

from __future__ import annotations

import hashlib
import inspect

import numpy as np
from numba import njit

from .. import equations

_EQUATIONS = hashlib.sha256(inspect.getsource(equations).encode()).hexdigest()


def cached(**options):
    """``njit`` whose cache on disk follows the equations too.

    Numba takes a cached kernel for current while the kernel's own file is unchanged, whatever
    happened to the file of a function that was compiled into it.
    """

    def compile(function):
        compiled = njit(nogil=True, cache=True, **options)(function)
        index = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
        if index is not None:  # None where compilation is switched off
            index._source_stamp = (index._source_stamp, _EQUATIONS)
        return compiled

    return compile


def equation(function):
    """A function of ``snn_eventprop.equations``, to be compiled into kernels."""
    return njit(nogil=True, error_model="numpy")(function)


# Contraction to fused multiply-adds only: NaN and infinity keep their meaning, sums their order.
kernel = cached(fastmath={"contract", "nsz"}, error_model="numpy")

# Sums that may be re-ordered into vector lanes (the order is fixed once compiled).
sum_kernel = cached(fastmath={"contract", "nsz", "reassoc"})

# Indices are unsigned in the loops that matter: a signed one that may be negative, and so count
# from the end, keeps the compiler from vectorising.
index = np.uint64
