"""Every CUDA kernel compiles to machine-independent assembly (PTX), which takes no GPU.

Runs where NVIDIA's compiler libraries are installed: ``pip install 'numba-cuda[cu13]'`` (or cu12).
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from types import SimpleNamespace

import numba
import pytest
import torch
from support.cuda_cases import ExactCase, GridCase

from snn_eventprop import EventPropALIF, SpikeEvents
from snn_eventprop.backends.cuda import KERNELS

pytest.importorskip("numba_cuda", reason="needs numba-cuda: pip install 'snn-eventprop[cuda]'")
from numba import cuda
from numba.cuda import dispatcher

from snn_eventprop.backends.cuda import launch as cuda_launch

HOPPER = (9, 0)


def _nothing():
    pass


def _has_compiler() -> bool:
    try:
        return bool(cuda.compile_ptx(_nothing, (), cc=HOPPER))
    except Exception:  # which one depends on what of the libraries is missing
        return False


pytestmark = pytest.mark.skipif(
    cuda_launch.SIMULATED or not _has_compiler(), reason="needs NVIDIA's compiler libraries"
)


def type_of(argument):
    """The type of a launch's argument, as on a GPU."""
    if isinstance(argument, torch.Tensor):
        return numba.types.Array(numba.from_dtype(argument.numpy().dtype), argument.ndim, "C")
    if isinstance(argument, tuple):
        entries = tuple(map(type_of, argument))
        if not hasattr(argument, "_fields"):
            return numba.types.BaseTuple.from_types(entries)
        return numba.types.BaseTuple.from_types(entries, type(argument))
    return numba.typeof(argument)


def signature(arguments):
    """Types of the arguments of a launch."""
    return tuple(map(type_of, arguments))


def flat(arguments):
    for argument in arguments:
        if isinstance(argument, tuple):
            yield from flat(argument)
        else:
            yield argument


@pytest.fixture
def compiled(monkeypatch):
    """Operators take the GPU's way; launches compile their kernel, and compute nothing."""
    assembly = {}

    def compile_only(kernel, blocks, threads, shared, *arguments):
        ptx, _ = cuda.compile_ptx(kernel.py_func, signature(arguments), cc=HOPPER)
        assembly[kernel.py_func.__name__] = ptx
        if kernel.py_func.__name__ == "forward":  # spikes, so that they are collected
            counts = [x for x in flat(arguments) if getattr(x, "dtype", None) is torch.int64][-1]
            counts.fill_(1)

    monkeypatch.setattr(cuda_launch, "launch", compile_only)
    device = SimpleNamespace(compute_capability=HOPPER)
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)
    return assembly


@contextmanager
def on_gpu():
    with torch.library._scoped_library("snn_eventprop", "IMPL") as library:
        for name, run in KERNELS.items():
            library.impl(name, run, "CPU", allow_override=True)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("case", ["dense", "delayed", "adaptive"])
def test_grid_kernels_compile(compiled, case, dtype):
    with on_gpu():
        if case == "adaptive":
            layer = EventPropALIF(3, 5, recurrent=True, learn_beta=True, dtype=dtype)
            events = SpikeEvents.from_list(
                [([0.01, 0.02], [0, 2])], num_units=3, duration=0.03, dtype=dtype
            )
            layer(events).times.sum().backward()
        else:
            delays = 3 if case == "delayed" else 0
            GridCase(learned=True, delays=delays, timed=True, weighted=True).run("cpu", dtype)
    assert compiled.keys() == {"forward", "collect", "backward"}
    if dtype is torch.float32:  # double precision is slow on most GPUs
        for name, ptx in compiled.items():
            assert not re.findall(r"\.f64", ptx), name


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_kernels_compile(compiled, dtype):
    with on_gpu():
        ExactCase(learned=True, timed=True).run("cpu", dtype)
    assert compiled.keys() == {"forward", "collect", "backward"}
