"""The CUDA kernels run by Numba's simulator; ``test_cuda_backend.py`` starts this file.

Tensors of the CPU take the GPU's way through the operators: memory, launches and kernels are those
of a GPU, threads are Python's.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from cuda_cases import RESETS, GridCase, assert_close
from test_grid_backend import make_case, run_both

from snn_eventprop import op, op_cuda
from snn_eventprop.backends import cuda_launch

sys.setswitchinterval(1e-5)  # the simulator's threads wait for each other in loops
TOLERANCE = 1e-11
ON_GPU = {op._forward: op_cuda.grid_forward, op._backward: op_cuda.grid_backward}


@contextmanager
def gpu():
    """Operators on tensors of the CPU run as they do on a GPU's."""
    on_cpu = {operator: operator._init_fn for operator in ON_GPU}
    try:
        for operator, run in ON_GPU.items():
            operator.register_kernel("cpu")(run)
        yield
    finally:
        for operator, run in on_cpu.items():
            operator.register_kernel("cpu")(run)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Four threads, which share rows by two; states every eighth bin."""
    assert cuda_launch.SIMULATED
    monkeypatch.setattr(cuda_launch, "threads_for", lambda size: 4)
    monkeypatch.setattr(cuda_launch, "LANES", 2)
    monkeypatch.setitem(op.SEGMENT, "cuda", 8)


def compare(case):
    expected = case.run("cpu")
    with gpu():
        found = case.run("cpu")
    assert_close(found, expected, TOLERANCE)
    return expected


@pytest.mark.parametrize("reset, delayed", RESETS)
@pytest.mark.parametrize("recurrent", [False, True], ids=["feedforward", "recurrent"])
def test_grid_kernels_equal_the_reference(recurrent, reset, delayed):
    with gpu():
        fired, _ = run_both(*make_case(
            steps=14, size=5, inputs=3, recurrent=recurrent, reset=reset, delayed=delayed
        ))  # fmt: skip
    assert fired > 5


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("before", ["spikes", "slopes"])
def test_spikes_before_the_first_bin(before, reset):
    compare(GridCase(before=before, reset=reset, learned=True, steps=5))
