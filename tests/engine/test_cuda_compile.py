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

from snn_eventprop.backends.cuda import ops as op_cuda

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


def signature(arguments):
    """Types of the arguments of a launch, as on a GPU."""
    return tuple(
        numba.types.Array(numba.from_dtype(x.numpy().dtype), x.ndim, "C")
        if isinstance(x, torch.Tensor)
        else numba.typeof(x)
        for x in arguments
    )


@pytest.fixture
def compiled(monkeypatch):
    """Operators take the GPU's way; launches compile their kernel, and compute nothing."""
    assembly = {}

    def compile_only(kernel, blocks, threads, shared, *arguments):
        ptx, _ = cuda.compile_ptx(kernel.py_func, signature(arguments), cc=HOPPER)
        assembly[kernel.py_func.__name__] = ptx
        if kernel.py_func.__name__ == "forward":  # spikes, so that they are collected
            counts = [x for x in arguments if getattr(x, "dtype", None) is torch.int64][-1]
            counts.fill_(1)

    monkeypatch.setattr(cuda_launch, "launch", compile_only)
    device = SimpleNamespace(compute_capability=HOPPER)
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)
    return assembly


@contextmanager
def on_gpu():
    with torch.library._scoped_library("snn_eventprop", "IMPL") as library:
        for name, run in op_cuda.KERNELS.items():
            library.impl(name, run, "CPU", allow_override=True)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_grid_kernels_compile(compiled, dtype):
    with on_gpu():
        GridCase(learned=True, delays=3, timed=True, weighted=True).run("cpu", dtype)
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
