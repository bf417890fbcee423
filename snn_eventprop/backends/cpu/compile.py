"""How kernels are compiled: machine code without Python's lock, cached on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numba import njit, types

_PACKAGE = Path(__file__).parents[2]
_SOURCES = [
    path
    for room in ("neurons", "synapses", "backends")
    for path in sorted((_PACKAGE / room).rglob("*.py"))
]
_STAMP = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()


def follow_sources(compiled):
    """Make the cache on disk of a compiled function follow the equations and all kernels.

    Numba takes a cached kernel for current while the kernel's own file is unchanged, whatever
    happened to the file of a function that was compiled into it.
    """
    index = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if index is not None:  # None where compilation is switched off
        index._source_stamp = (index._source_stamp, _STAMP)
        name_files_by_content(index)
    return compiled


def name_files_by_content(index):
    """Name a cache's files by what they hold.

    Numba numbers them. Two processes that compile at once, for float32 and for float64 or before
    and after an update, can take the same number for different code, and the next process then
    runs code for another signature: memory is overwritten.
    """

    def save(key, data):
        digest = hashlib.sha256(repr((key, index._source_stamp)).encode()).hexdigest()[:16]
        name = index._data_name_pattern.replace("{number:d}", digest)
        index._save_data(name, data)
        index._save_index({**index._load_index(), key: name})

    load = index._load_index

    def load_what_is_known():
        """Entries whose types are still where they were; after an update none may be."""
        try:
            return load()
        except (AttributeError, ImportError):
            return {}

    index._load_index = load_what_is_known
    private = ("_data_name_pattern", "_save_data", "_save_index", "_load_index")
    if all(hasattr(index, name) for name in private):  # as in all versions so far
        index.save = save


def cached(parts=(), **options):
    """``njit`` with a cache on disk that follows all sources.

    Args:
        parts: what the function is made from, where it is a closure: its cache tells them apart.
    """

    def compile(function):
        compiled = njit(nogil=True, cache=True, **options)(function)
        if parts:
            name_in_cache(compiled, parts)
        return _without_literals(follow_sources(compiled))

    return compile


def name_in_cache(compiled, parts):
    """Find a closure in the cache by the names of its parts.

    Numba hashes what a closure holds, and compiled functions hash differently in every process:
    none would be found again. The rest of its key stays, such as the version of numba-cuda.
    """
    cache = getattr(compiled, "_cache", None)
    if cache is not None and hasattr(cache, "_index_key"):  # not where compilation is switched off
        cache._py_func = SimpleNamespace(__code__=cache._py_func.__code__, __closure__=None)
        key_of = cache._index_key
        cache._index_key = lambda signature, codegen: (*key_of(signature, codegen), parts)


def _without_literals(compiled):
    """Called from other kernels with the constant 0, take it for any integer.

    Numba would compile a version for that constant, and another for the variable that starts
    from it, and run the second: a tenth of all compilation. Spares time and does nothing else.
    """
    try:
        template = compiled.get_call_template
    except AttributeError:  # compilation is switched off
        return compiled

    def without(args, kws):
        plain = {name: types.unliteral(kind) for name, kind in kws.items()}
        return template(tuple(types.unliteral(kind) for kind in args), plain)

    compiled.get_call_template = without
    return compiled


# As if it stood in the kernel that uses it. For scalar functions, and for whatever is called once
# per event or bin: an array is seven arguments or more, and ten of them cost as much to pass as the
# loop over 256 neurons that follows. (At most 30 arguments; sums stay ``sum_kernel``.)
inlined: Any = njit(inline="always", error_model="numpy")

# Contraction to fused multiply-adds only: NaN and infinity keep their meaning, sums their order.
_STRICT = {"contract", "nsz"}

# Memory comes from outside, from NumPy: code that may allocate counts references to each array that
# it passes on or looks into, with atomic instructions on counters that all threads share, which
# costs more than adding a row of weights. Numba's switch for that is not a documented one, and only
# spares time.
_OPTIONS = {"error_model": "numpy", "_nrt": False}
try:
    kernel = cached(fastmath=_STRICT, **_OPTIONS)
except TypeError:
    del _OPTIONS["_nrt"]
    kernel = cached(fastmath=_STRICT, **_OPTIONS)



def kernel_of(*parts):
    """``kernel`` for closures over ``parts``: modules, which have a ``NAME``, or options."""
    names = tuple(getattr(part, "NAME", part) for part in parts)
    return cached(names, fastmath=_STRICT, **_OPTIONS)


# Sums that may be re-ordered into vector lanes (the order is fixed once compiled).
sum_kernel = cached(fastmath=_STRICT | {"reassoc"}, **_OPTIONS)

# Indices are unsigned in the loops that matter: a signed one that may be negative, and so count
# from the end, keeps the compiler from vectorising.
index = np.uint64


# Numbers at the end of each row that nobody uses: rows whose length is a power of two would share
# few places in the caches.
PAD = 16


def grown(values, used, axis=0):
    """An array twice as long, which begins with the first ``used`` entries of ``values``."""
    shape = list(values.shape)
    shape[axis] *= 2
    larger = np.empty(shape, values.dtype)
    kept = (slice(None),) * (axis % values.ndim) + (slice(used),)
    larger[kept] = values[kept]
    return larger


@kernel
def copy(out, values):
    """``out[:] = values`` for vectors that do not overlap; the assignment may allocate."""
    for j in range(out.shape[0]):
        out[index(j)] = values[index(j)]
