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


CASES = {
    "currents": GridCase(dense=True, recurrent=False),
    "currents, recurrent, spikes before": GridCase(
        dense=True, reset=("subtract", True), before="slopes", learned=True, record=True
    ),
    "times and values of input events": GridCase(weighted=True, timed=True, steps=9),
    "recorded, integrators": GridCase(record=True, reset=("none", False), learned=True),
    "states replayed from many segments": GridCase(
        steps=45, learned=True, density=0.1, weighted=True, reset=("zero", True)
    ),
    "quiet bins are skipped": GridCase(steps=80, density=0.01, strength=8.0, timed=True),
    "quiet bins are skipped up to a state": GridCase(
        steps=60, density=0.01, strength=8.0, learned=True, reset=("zero", False)
    ),
    "bins of many events and spikes": GridCase(steps=5, size=35, inputs=40, density=0.8),
    "one neuron": GridCase(size=1, inputs=1, weighted=True),
    "one bin": GridCase(steps=1, before="slopes", record=True, learned=True, timed=True),
    "no bin": GridCase(steps=0),
    "no sample": GridCase(batch=0, learned=True, timed=True),
    "no event": GridCase(density=0.0, weighted=True, timed=True),
    "guarded": GridCase(floor=1.0),
}


@pytest.mark.parametrize("name", CASES)
def test_every_option_equals_the_cpu(name):
    compare(CASES[name])


def test_quiet_bins_take_no_steps(monkeypatch):
    # A hundred thousand bins: one by one they would take the simulator minutes.
    expected = compare(GridCase(steps=100_000, density=1e-5, strength=20.0, recurrent=False))
    assert expected["stamps"].numel() > 0


def test_lists_that_exceed_shared_memory(monkeypatch):
    monkeypatch.setattr(cuda_launch, "SHARED_BYTES", 0)
    compare(GridCase(learned=True, timed=True, before="slopes"))


@pytest.mark.parametrize("room", [1, 7])
def test_spikes_without_room_are_run_again(monkeypatch, room):
    monkeypatch.setattr(op_cuda, "first_room", lambda size, steps: room)
    monkeypatch.setattr(op_cuda, "_room", {})
    expected = compare(GridCase(learned=True, record=True))
    assert expected["offsets"].diff().max() > 7
    # The next call has room at once.
    assert list(op_cuda._room.values()) == [expected["offsets"].diff().max()]


def test_ordered_gradients_are_bitwise_repeatable(monkeypatch):
    case = GridCase(batch=5, learned=True, before="slopes")
    row = 8 * case.size * (case.inputs + case.size)
    monkeypatch.setattr(op_cuda, "_PARTS_BYTES", 2 * row)  # two blocks for five samples
    torch.use_deterministic_algorithms(True)
    try:
        compare(case)
        with gpu():
            first, second = case.run("cpu"), case.run("cpu")
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_weights_that_are_no_numbers_are_named():
    case = GridCase(strength=float("nan"))
    with gpu(), pytest.raises(ValueError, match="weight holds 15 NaN"):
        case.run("cpu")
