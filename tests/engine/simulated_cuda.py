"""The CUDA kernels run by Numba's simulator; ``test_cuda_backend.py`` starts this file.

Tensors of the CPU take the GPU's way through the operators: memory, launches and kernels are those
of a GPU, threads are Python's.
"""

from __future__ import annotations

import math
from contextlib import contextmanager

import pytest
import torch
from support import alif_cases, in_turns
from support.cuda_cases import RESETS, ExactCase, GridCase, assert_close
from support.grid_cases import (
    assert_delays_equal_to_reference,
    assert_equal_to_reference,
    make_case,
    with_delays,
)

from snn_eventprop.backends.cuda import KERNELS, exact_launch, grid_launch, launch_helpers
from snn_eventprop.backends.cuda import exact as cuda_exact
from snn_eventprop.backends.cuda import launch as cuda_launch
from snn_eventprop.ops import grid as op

in_turns.use()
TOLERANCE = 1e-11
@contextmanager
def gpu():
    """Operators on tensors of the CPU run as they do on a GPU's."""
    with torch.library._scoped_library("snn_eventprop", "IMPL") as library:
        for name, run in KERNELS.items():
            library.impl(name, run, "CPU", allow_override=True)
        yield


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Four threads, which share rows by two; states every eighth bin."""
    assert cuda_launch.SIMULATED
    monkeypatch.setattr(cuda_launch, "threads_for", lambda size: 4)
    monkeypatch.setattr(cuda_launch, "LANES", 2)
    monkeypatch.setitem(op.SEGMENT, "cuda", 8)
    monkeypatch.setattr(cuda_exact, "SEGMENT", 8)


@pytest.fixture(autouse=True)
def used_memory(monkeypatch):
    """Memory that nobody has written to holds no zeros: NaN, and small integers."""

    def used(empty):
        def fill(*args, **options):
            tensor = empty(*args, **options)
            return tensor.fill_(math.nan if tensor.is_floating_point() else 1)

        return fill

    monkeypatch.setattr(torch, "empty", used(torch.empty))
    monkeypatch.setattr(torch.Tensor, "new_empty", used(torch.Tensor.new_empty))


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
        fired, _ = assert_equal_to_reference(*make_case(
            steps=14, size=5, inputs=3, recurrent=recurrent, reset=reset, delayed=delayed
        ))  # fmt: skip
    assert fired > 5


@pytest.mark.parametrize("longest", [0, 3, 11])
@pytest.mark.parametrize("recurrent", [False, True], ids=["feedforward", "recurrent"])
def test_delays_equal_the_reference(recurrent, longest):
    case = make_case(steps=22, size=5, inputs=3, recurrent=recurrent)
    with gpu():
        assert assert_delays_equal_to_reference(*with_delays(case, longest)) > 5


@pytest.mark.parametrize("recurrent", [False, True], ids=["feedforward", "recurrent"])
def test_bins_in_which_nothing_arrives_are_skipped(recurrent):
    case = make_case(steps=90, size=5, inputs=3, density=0.01, recurrent=recurrent, strength=8.0)
    with gpu():
        assert assert_delays_equal_to_reference(
            *with_delays(case, 9), trace=False, coefficients=False, events=False
        ) > 1  # fmt: skip


def test_delays_out_of_bounds_are_named():
    case = with_delays(make_case(steps=4, size=5, inputs=3), 4)
    case[0].delay[0, 0] = -3
    with gpu(), pytest.raises(ValueError, match="delay must be 0 to 65535 bins, got -3 to 4"):
        assert_delays_equal_to_reference(*case)


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
    "delays": GridCase(delays=3, dense=True, reset=("subtract", True), steps=20, learned=True),
}


@pytest.mark.parametrize("name", CASES)
def test_every_option_equals_the_cpu(name):
    compare(CASES[name])


@pytest.mark.parametrize(
    "reset,recurrent,delays,steps",
    [("subtract", True, 0, 30), ("zero", False, 3, 20), ("none", True, 4, 20)],
)
def test_adaptive_neurons_equal_the_reference(reset, recurrent, delays, steps):
    with gpu():
        alif_cases.assert_equal_to_reference(reset, recurrent, delays, 5, steps)


def test_quiet_bins_take_no_steps(monkeypatch):
    # A hundred thousand bins: one by one they would take the simulator minutes.
    expected = compare(GridCase(steps=100_000, density=1e-5, strength=20.0, recurrent=False))
    assert expected["stamps"].numel() > 0


def test_lists_that_exceed_shared_memory(monkeypatch):
    monkeypatch.setattr(cuda_launch, "SHARED_BYTES", 0)
    compare(GridCase(learned=True, timed=True, before="slopes"))


@pytest.mark.parametrize("room", [1, 7])
def test_spikes_without_room_are_run_again(monkeypatch, room):
    monkeypatch.setattr(grid_launch, "first_room", lambda *_: room)
    monkeypatch.setattr(launch_helpers, "most_spikes", {})
    expected = compare(GridCase(learned=True, record=True))
    assert expected["offsets"].diff().max() > 7
    # The next call has room at once.
    assert list(launch_helpers.most_spikes.values()) == [expected["offsets"].diff().max()]


def test_ordered_gradients_are_bitwise_repeatable(monkeypatch):
    case = GridCase(batch=5, learned=True, before="slopes")
    row = 8 * case.size * (case.inputs + case.size)
    monkeypatch.setattr(launch_helpers, "PARTS_BYTES", 2 * row)  # two blocks for five samples
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


EXACT_CASES = {
    "each": ExactCase(learned=True, timed=True),
    "feedforward": ExactCase(recurrent=False, learned=True, timed=True, size=9),
    "shared": ExactCase(taus="shared", learned=True, floor=60.0),
    "equal": ExactCase(taus="equal", learned=True),
    "without gradients of constants": ExactCase(batch=3),
    "together": ExactCase(together=3, learned=True, timed=True, events=15),
    "together, without own time constants": ExactCase(together=3, taus="shared", strength=2.0),
    "more together than events between states": ExactCase(
        together=20, size=20, batch=1, events=6, seed=1, recurrent=False, learned=True
    ),
    "many segments": ExactCase(events=60, learned=True, duration=0.1, strength=0.7),
    "one neuron": ExactCase(size=1, inputs=1, events=30, timed=True, learned=True),
    "no event": ExactCase(events=0, learned=True, timed=True),
    "no sample": ExactCase(batch=0, learned=True, timed=True),
    "no spike": ExactCase(strength=0.01, learned=True, timed=True),
}


@pytest.mark.parametrize("name", EXACT_CASES)
def test_exact_kernels_equal_the_cpu(name):
    expected = compare(EXACT_CASES[name])
    assert name.startswith("no ") or expected["offsets"].diff().min() > 4


def test_exact_spikes_without_room_are_run_again(monkeypatch):
    monkeypatch.setattr(exact_launch, "first_room", lambda *_: 3)
    monkeypatch.setattr(launch_helpers, "most_spikes", {})
    expected = compare(ExactCase(learned=True))
    assert list(launch_helpers.most_spikes.values()) == [expected["offsets"].diff().max()]


def test_exact_lists_that_exceed_shared_memory(monkeypatch):
    monkeypatch.setattr(cuda_launch, "SHARED_BYTES", 0)
    compare(ExactCase())


def test_exact_ordered_gradients_are_bitwise_repeatable(monkeypatch):
    case = ExactCase(batch=4, learned=True)
    row = 8 * case.size * (case.inputs + case.size)
    monkeypatch.setattr(launch_helpers, "PARTS_BYTES", 2 * row)
    torch.use_deterministic_algorithms(True)
    try:
        compare(case)
        with gpu():
            first, second = case.run("cpu"), case.run("cpu")
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_runaway_excitation_names_sample_and_time():
    case = ExactCase(limit=20, strength=3.0)
    with gpu(), pytest.raises(RuntimeError, match=r"sample 0 reached 20 spikes at t = 0.0"):
        case.run("cpu")
