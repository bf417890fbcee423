"""Work and memory follow events and spikes: claims that need no clock."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.grid_runs import run_lif

from snn_eventprop import EventPropLI, EventPropLIF, SpikeEvents
from snn_eventprop.ops import grid as op


def events_of(seed=0, samples=2, events=200, units=20, duration=1.0, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    return SpikeEvents.from_list(
        [(rng.uniform(0, duration, events), rng.integers(0, units, events))
         for _ in range(samples)],
        num_units=units, duration=duration, dtype=dtype,
    )  # fmt: skip


def layer_of(units=20, size=30, seed=0, **options):
    rng = np.random.default_rng(seed)
    layer = EventPropLIF(units, size, **options)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(rng.normal(2.0, 1.5, (size, units))))
        if options.get("recurrent"):
            layer.recurrent_weight.copy_(torch.from_numpy(rng.normal(0, 0.3, (size, size))))
    return layer


def saved_bytes(run):
    """Bytes that autograd keeps for the backward pass, each storage once."""
    sizes = {}

    def pack(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = run()
    return sum(sizes.values()), out


def test_memory_grows_with_spikes():
    layer = layer_of(recurrent=True)
    found = []
    for events in (100, 1000, 10_000):
        x = events_of(events=events)
        kept, out = saved_bytes(lambda x=x: layer(x))
        found.append((out.times.numel() + x.times.numel(), kept))
    (few, small), _, (many, large) = found
    assert many > 20 * few
    assert (large - small) / (many - few) < 64  # bytes per event or spike


def test_memory_does_not_grow_with_steps():
    kept = []
    for dt in (1e-3, 1e-5):
        layer = layer_of(recurrent=True, dt=dt)
        bytes_kept, out = saved_bytes(lambda layer=layer: layer(events_of()))
        kept.append(bytes_kept / (out.times.numel() + 400))
    assert kept[1] < 1.2 * kept[0]


@pytest.mark.parametrize("recurrent", [False, True], ids=["feedforward", "recurrent"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_skipping_bins_gives_the_spikes_of_stepping_through_them(recurrent, dtype):
    """A recorded trace makes the kernel visit every bin; so does a gradient of the raster."""
    layer = layer_of(recurrent=recurrent, dt=1e-4, dtype=dtype)
    x = events_of(events=150, dtype=dtype)
    steps = 10_000
    packed = op.dense_events(x.to_dense(1e-4), dtype)
    coefficients = layer._constants(30, dtype)[:4]
    zero = torch.zeros(30, dtype=dtype)
    worth = torch.linspace(0, 1, 7, dtype=dtype)
    runs = []
    for record in (False, True):
        weight = layer.weight.detach().t().contiguous().requires_grad_()
        rows = layer._recurrent_rows()
        spikes = run_lif(
            packed, steps, weight, coefficients, zero, zero,
            recurrent=None if rows is None else rows.detach(), record=record,
        )  # fmt: skip
        loss = (spikes.stamps / steps * worth[spikes.units.long() % 7]).sum()
        if record:
            loss = loss + 0 * spikes.trace.sum()
        loss.backward()
        runs.append((spikes, weight.grad))
    (skipped, ours), (stepped, theirs) = runs
    assert skipped.bins.numel() > 500
    assert torch.equal(skipped.bins, stepped.bins) and torch.equal(skipped.units, stepped.units)
    tolerance = 1e-3 if dtype == torch.float32 else 1e-9
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def test_one_sample_of_100_000_steps():
    """A long silence between two bursts; the second answers as the first did."""
    dt = 1e-3
    first = events_of(samples=1, events=60, duration=0.1, dtype=torch.float32)
    late = first.times.double() + 99.5
    x = SpikeEvents(
        torch.cat([first.times, late.float()]), first.units.repeat(2), torch.tensor([0, 120]),
        20, 100.0,
    )  # fmt: skip
    layer = layer_of(recurrent=True, dt=dt)
    kept, out = saved_bytes(lambda: layer(x))
    bins = (out.times.double() / dt).round().long()
    early = bins < 50_000
    assert early.sum() > 10
    # float32 times at 100 s are off by up to 4 us, which may move an event over a bin's edge.
    assert abs(int(early.sum()) - int((~early).sum())) <= 0.1 * int(early.sum())
    assert kept < 100_000
    (out.times.sum() + out.counts().square().sum()).backward()
    assert torch.isfinite(layer.weight.grad).all() and layer.weight.grad.abs().sum() > 0


def test_4_096_samples_are_each_the_single_sample():
    x = events_of(samples=4096, events=30, units=10, duration=0.1, dtype=torch.float32)
    layer = layer_of(10, 16, recurrent=True)
    readout = EventPropLI(16, 3)
    out = layer(x)
    assert len(out) == 4096 and out.times.numel() > 4096
    for b in (0, 1, 2047, 4095):
        alone = layer(x[b])
        assert torch.equal(alone.times, out[b].times) and torch.equal(alone.units, out[b].units)
    kept, _ = saved_bytes(lambda: layer(x))
    assert kept < 64 * (out.times.numel() + x.times.numel() + 4096)
    readout.integral(out).square().mean().backward()
    assert torch.isfinite(layer.weight.grad).all()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_the_number_of_threads(threads):
    layer = layer_of(recurrent=True, dtype=torch.float64)
    x = events_of(samples=7)
    kept = torch.get_num_threads()
    found = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            layer.zero_grad()
            out = layer(x)
            out.times.square().sum().backward()
            found.append((out, layer.weight.grad.clone()))
    finally:
        torch.set_num_threads(kept)
    (one, ours), (many, theirs) = found
    assert torch.equal(one.times, many.times) and torch.equal(one.units, many.units)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
