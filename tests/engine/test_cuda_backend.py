"""The CUDA backend: against the CPU's on a GPU where there is one, else in Numba's simulator."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
import torch
from numba.core.typing.typeof import Purpose
from support.cuda_cases import RESETS, ExactCase, GridCase, assert_close
from support.pairwise import pairwise

from snn_eventprop import (
    EventPropLI,
    EventPropLIF,
    EventPropNeuron,
    SpikeEvents,
    _extras,
    diagnostics,
)
from snn_eventprop.backends.cuda import exact_launch, grid_launch, launch, launch_helpers
from snn_eventprop.backends.cuda.arrays import Order
from snn_eventprop.layers import closed_form
from snn_eventprop.ops import grid as op
from snn_eventprop.ops.bin_times import bin_of

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
DTYPES = {"f32": torch.float32, "f64": torch.float64}
RECURRENT = {"feedforward": False, "recurrent": True}


@pytest.mark.slow
def test_kernels_compute_in_the_simulator_what_the_cpu_does():
    # In a process of its own: the simulator must be chosen before Numba is imported.
    here = Path(__file__).parent
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--timeout", "300", "-n", "0",
            here / "simulated_cuda.py",
        ],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}, cwd=here.parents[1],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_types_of_argument_groups_follow_what_is_in_them():
    def group(dtype, count):
        return Order(True, count, False, np.zeros(3, dtype))

    def types_of(groups):
        return [launch._type_of_group(g, SimpleNamespace(purpose=Purpose.argument)) for g in groups]

    groups = [group(np.float32, 8), group(np.float64, 8)]
    first, second = types_of(groups)
    assert first != second and types_of(groups) == [first, second]
    assert types_of([group(np.float64, 32)]) == [second]
    assert second.types[-1].dtype == numba.float64 and second.instance_class is Order


class _OnGpu(torch.Tensor):
    """Stands for a tensor of a GPU, of which there is none."""

    device = torch.device("cuda", 0)


def test_a_missing_compiler_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(_extras, "installed", lambda module: False)
    parameter = torch.zeros(1).as_subclass(_OnGpu)
    with pytest.raises(ImportError, match=r"numba_cuda.*pip install 'snn-eventprop\[cuda\]'"):
        op.check_backend(parameter)


@pytest.mark.parametrize("weighting", closed_form.WEIGHTINGS)
def test_readout_kernels_for_any_device_equal_the_cpu(weighting):
    times = torch.rand(40, dtype=torch.float64).sort().values * 0.1
    units, offsets = torch.randint(0, 4, (40,)), torch.tensor([0, 0, 40])
    arguments = (
        times, units, offsets, 4, torch.tensor(0.02).double(), torch.tensor(0.005).double(), 0.1,
        weighting,
    )  # fmt: skip
    any_device = torch._C.DispatchKeySet(torch._C.DispatchKey.CompositeExplicitAutograd)
    gathered, spread = (
        getattr(torch.ops.snn_eventprop, name).default
        for name in ("gathered_response", "spread_slopes")
    )
    total, slopes = gathered(*arguments)
    anywhere = gathered.redispatch(any_device, *arguments)
    torch.testing.assert_close(anywhere[0], total, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(anywhere[1], slopes, rtol=1e-10, atol=1e-13)
    grad = torch.rand(2, 4, dtype=torch.float64)
    back = (grad, units, offsets, slopes)
    torch.testing.assert_close(spread.redispatch(any_device, *back), spread(*back))


def clear_of_rounding(case, dtype, draws=10):
    """The case, with the first seed for which spikes are the same wherever rounding puts the
    membrane, and what the CPU makes of it.
    """
    # The exact solver keeps the membrane in float64 whatever the weights are in.
    within = 1e-9 if dtype is torch.float64 else 3e-7 if isinstance(case, ExactCase) else 1e-5
    for draw in range(draws):
        drawn = replace(case, seed=case.seed + 100 * draw)
        expected = drawn.run("cpu", dtype)
        moved = (
            replace(drawn, threshold=factor).run("cpu", dtype)
            for factor in (1 - within, 1 + within)
        )
        if all(torch.equal(other["units"], expected["units"]) for other in moved):
            return drawn, expected
    pytest.fail(f"in {draws} draws a neuron comes to within rounding of its threshold: {case}")


def compare(case, dtype):
    case, expected = clear_of_rounding(case, dtype)
    assert_close(case.run("cuda", dtype), expected, TOLERANCE[dtype])


@dataclass
class Grazing:
    """Spikes differ with the threshold, but for seeds from ``clear`` on."""

    clear: int
    seed: int = 0
    threshold: float = 1.0

    def run(self, device, dtype):
        return {"units": torch.tensor([self.threshold if self.seed < self.clear else 1.0])}


def test_cases_at_the_threshold_are_drawn_again_and_not_for_ever():
    case, _ = clear_of_rounding(Grazing(clear=150), torch.float32)
    assert case.seed == 200
    with pytest.raises(pytest.fail.Exception, match="in 10 draws"):
        clear_of_rounding(Grazing(clear=10_000), torch.float32)


@on_gpu
@pairwise(
    reset={f"{reset}-{'delayed' if delayed else 'immediate'}": (reset, delayed)
           for reset, delayed in RESETS},
    before={"from rest": "", "spikes before": "spikes", "slopes before": "slopes"},
    dtype=DTYPES,
    recurrent=RECURRENT,
)  # fmt: skip
def test_grid_equals_the_cpu(dtype, reset, recurrent, before):
    compare(
        GridCase(
            seed=1, steps=60, batch=3, size=40, inputs=7, strength=0.8, reset=reset, before=before,
            recurrent=recurrent, learned=True, record=True, timed=True, weighted=True, dense=True,
        ), dtype,
    )  # fmt: skip


@on_gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("seed", range(12))
def test_grid_equals_the_cpu_for_any_shape(dtype, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*choices):
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    compare(
        GridCase(
            seed=seed, steps=draw(1, 30, 300), batch=draw(1, 5, 40), inputs=draw(1, 20, 200),
            size=draw(1, 33, 257), density=draw(0.002, 0.02), strength=draw(0.1, 0.3),
            recurrent=draw(False, True), reset=draw(*RESETS), weighted=draw(False, True),
            timed=draw(False, True), learned=draw(False, True),
        ), dtype,
    )  # fmt: skip


@on_gpu
@pairwise(
    dtype=DTYPES,
    recurrent=RECURRENT,
    options={"weights": {}, "everything": {"learned": True, "timed": True, "weighted": True}},
)
def test_grid_with_delays_equals_the_cpu(dtype, recurrent, options):
    compare(
        GridCase(
            steps=150, size=40, inputs=9, density=0.02, strength=0.5, delays=30,
            recurrent=recurrent, **options,
        ), dtype,
    )  # fmt: skip


@on_gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("steps, size", [(3000, 20), (40, 1030), (6, 6000)])
def test_grid_equals_the_cpu_for_long_and_large_layers(dtype, steps, size):
    compare(
        GridCase(
            steps=steps, size=size, inputs=20, density=3 / steps, strength=0.1, learned=True,
            timed=True,
        ), dtype,
    )  # fmt: skip


@on_gpu
@pairwise(
    taus=["each", "shared", "equal"],
    shape={"one neuron": (1, 1, 30), "small": (5, 40, 60), "wide": (2, 700, 10)},
    dtype=DTYPES,
    recurrent=RECURRENT,
)
def test_exact_equals_the_cpu(dtype, taus, recurrent, shape):
    batch, size, events = shape
    compare(
        ExactCase(
            batch=batch, size=size, events=events, taus=taus, recurrent=recurrent, inputs=9,
            strength=0.6, duration=0.05, learned=True, timed=True, floor=20.0,
        ), dtype,
    )  # fmt: skip


@on_gpu
def test_spikes_without_room_are_run_again(monkeypatch):
    for case in (GridCase(learned=True), ExactCase(learned=True)):
        for launches in (grid_launch, exact_launch):
            monkeypatch.setattr(launches, "first_room", lambda *_: 1)
        monkeypatch.setattr(launch_helpers, "most_spikes", {})
        compare(case, torch.float64)


@on_gpu
@pytest.mark.parametrize("solver", ["grid", "exact"])
def test_ordered_gradients_are_bitwise_repeatable(solver):
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (
            (
                GridCase(batch=64, size=200, steps=100, strength=0.5, learned=True)
                if solver == "grid"
                else ExactCase(batch=64, size=200, events=100, strength=0.4, learned=True)
            ).run("cuda", torch.float32)
            for _ in range(2)
        )
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first[name], second[name]) for name in first)


def train_step(device, solver):
    """A two-layer network with a readout, one step on a stream of its own: loss and gradients."""
    torch.manual_seed(0)
    hidden = [
        EventPropLIF(20, 30, recurrent=True, solver=solver), EventPropLIF(30, 10, solver=solver)
    ]  # fmt: skip
    network = torch.nn.ModuleList([*hidden, EventPropLI(10, 3)]).to(device)
    for layer in hidden:
        layer.reset_parameters(mean=4 / layer.in_features)
    times = torch.rand(3, 60, dtype=torch.float64).mul(0.1).sort(1).values.flatten().float()
    events = SpikeEvents(
        times, torch.randint(0, 20, (180,)), torch.arange(0, 181, 60), 20, 0.1
    ).to(device)  # fmt: skip
    spikes = network[1](network[0](events))
    loss = network[2].integral(spikes).square().sum() + spikes.counts().square().sum() * 1e-3
    loss.backward()
    record = diagnostics.collect(network)
    return [loss.detach().cpu(), *(p.grad.cpu() for p in network.parameters())], record


@on_gpu
@pytest.mark.parametrize("solver", ["grid", "exact"])
def test_a_network_trains_on_a_stream_of_its_own(solver):
    expected, record = train_step("cpu", solver)
    with torch.cuda.stream(torch.cuda.Stream()):
        found, on_device = train_step("cuda", solver)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
    assert record.keys() == on_device.keys()
    assert all(record[n].guarded == on_device[n].guarded for n in record)


@on_gpu
def test_a_compiled_layer_is_the_layer():
    layer = EventPropLIF(20, 30, recurrent=True).cuda()
    raster = (torch.rand(50, 4, 20) < 0.1).float().cuda()
    compiled = torch.compile(layer, fullgraph=True)
    assert torch.equal(compiled(raster), layer(raster))


@on_gpu
def test_bins_and_rasters_equal_the_cpu():
    times = torch.rand(1000) * 0.3
    assert torch.equal(bin_of(times.cuda(), 1e-3, 290).cpu(), bin_of(times, 1e-3, 290))
    raster = torch.poisson(torch.full((40, 3, 5), 0.2))
    for ours, theirs in zip(
        op.dense_events(raster.cuda(), torch.float32), op.dense_events(raster, torch.float32),
        strict=True,
    ):  # fmt: skip
        assert torch.equal(ours.cpu(), theirs)
    current = torch.rand(40, 2, 6)
    neurons = EventPropNeuron(threshold=0.3)
    assert torch.equal(neurons.cuda()(current.cuda()).cpu(), neurons.cpu()(current))


@on_gpu
def test_the_backward_pass_waits_for_nothing():
    layer = EventPropLIF(20, 30, recurrent=True).cuda()
    events = SpikeEvents.from_list(
        [([0.001 * k for k in range(1, 90)], [k % 20 for k in range(1, 90)])] * 3,
        num_units=20, duration=0.1,
    ).to("cuda")  # fmt: skip
    layer(events).times.sum().backward()  # compiled by now
    loss = layer(events).times.sum()
    torch.cuda._sleep(2_000_000_000)  # cycles: about a second, far longer than the launches take
    torch.cuda.set_sync_debug_mode("error")  # names torch's own calls that wait
    try:
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    done = torch.cuda.Event()
    done.record()
    assert not done.query(), "the GPU had finished when backward() came back"
