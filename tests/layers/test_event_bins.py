"""SpikeEvents, bins and rasters: each event has its bin, and there and back nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.event_cases import three_samples

from snn_eventprop import EventPropLIF, SpikeEvents
from snn_eventprop.ops.bin_times import bin_of, num_bins

# Bins


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dt", [1e-3, 1e-4, 3e-4, 0.7e-3, 1 / 3000, 0.02])
def test_events_on_bin_edges_keep_their_bin_at_100_000_steps(dt, dtype):
    bins = torch.arange(100_000, dtype=torch.int32)
    times = (bins.double() * dt).to(dtype)
    assert torch.equal(bin_of(times, dt), bins)
    assert num_bins(100_000 * dt, dt) == 100_000
    events = SpikeEvents(times, torch.zeros_like(bins), torch.tensor([0, 100_000]), 1,
                         100_000 * dt)  # fmt: skip
    raster = events.to_dense(dt)
    assert raster.shape == (100_000, 1, 1) and bool((raster == 1).all())
    assert torch.equal(SpikeEvents.from_dense(raster, dt).times, times)


@pytest.mark.parametrize("dt", [1e-3, 0.7e-3, 1 / 3000])
def test_a_layers_own_spike_times_keep_their_bin_at_100_000_steps(dt):
    late = torch.arange(99_000, 100_000)
    events = SpikeEvents((late.double() * dt).float(), torch.zeros_like(late),
                         torch.tensor([0, 1000]), 1, 100_000 * dt)  # fmt: skip
    layer = EventPropLIF(1, 1, dt=dt)
    with torch.no_grad():
        layer.weight.fill_(1e4)  # every input spike makes one
    assert torch.equal(bin_of(layer(events).times, dt), late)


def test_a_time_between_edges_belongs_to_the_bin_it_is_in():
    assert bin_of(torch.tensor([0.0, 0.5e-3, 0.98e-3, 1e-3, 1.5e-3]), 1e-3).tolist() == [
        0, 0, 0, 1, 1,
    ]  # fmt: skip


@pytest.mark.parametrize("dt", [0.01, 0.011, 0.5, 100.0])
def test_a_bin_longer_than_the_duration_holds_everything(dt):
    events = three_samples()
    raster = events.to_dense(dt)
    assert raster.shape == (1, 3, 3) and raster.sum() == 3
    assert torch.equal(raster[0], events.counts())


@pytest.mark.parametrize("dt", [0.0, -1e-3, float("nan"), float("inf")])
def test_bad_dt_is_named(dt):
    ones = torch.ones(2, 1, 1)
    for call in (three_samples().to_dense, lambda dt: SpikeEvents.from_dense(ones, dt)):
        with pytest.raises(ValueError, match="dt must be a positive time in seconds"):
            call(dt)


def test_bins_that_cannot_be_counted_are_refused():
    events = SpikeEvents.from_list([([0.5], [0])], num_units=1, duration=1e7)
    with pytest.raises(ValueError, match=r"dt=0.001 s cuts duration=10000000.0 s into 1000000"):
        EventPropLIF(1, 1, dt=1e-3)(events)
    assert len(EventPropLIF(1, 1, dt=0.01)(events)) == 1


# Rasters


@settings(max_examples=60, deadline=None)
@given(
    counts=hnp.arrays(
        np.int64, st.tuples(st.integers(1, 40), st.integers(0, 4), st.integers(1, 5)),
        elements=st.sampled_from([0, 0, 0, 1, 2, 5]),
    ),
    dt=st.sampled_from([1e-3, 1e-4, 7e-4, 0.3, 1 / 3]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int32]),
)  # fmt: skip
def test_raster_events_raster_is_the_identity(counts, dt, dtype):
    raster = torch.from_numpy(counts).to(dtype)
    events = SpikeEvents.from_dense(raster, dt)
    assert events.times.numel() == counts.sum()
    assert torch.equal(events.to_dense(dt, dtype), raster)
    assert torch.equal(events.counts(), raster.sum(0).to(events.dtype))


@settings(max_examples=60, deadline=None)
@given(
    samples=st.lists(
        st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 6)), max_size=30), max_size=4
    ),
    dt=st.sampled_from([1e-3, 3e-3, 0.01, 0.6]),
)
def test_packing_loses_nothing(samples, dt):
    pairs = [([t for t, _ in s], [u for _, u in s]) for s in samples]
    events = SpikeEvents.from_list(pairs, num_units=7, duration=0.5, dtype=torch.float64)
    for sample, ours in zip(samples, events, strict=True):
        theirs = sorted(zip(ours.times.tolist(), ours.units.tolist(), strict=True))
        assert theirs == sorted(sample)
    raster = events.to_dense(dt)
    assert raster.sum() == sum(len(s) for s in samples)
    assert torch.equal(raster.sum(0), events.counts())
    SpikeEvents(  # what was built passes its own checks
        events.times, events.units, events.offsets, events.num_units, events.duration
    )


def test_duplicate_events_are_counted():
    events = SpikeEvents.from_list([([0.001] * 3, [1, 1, 1])], num_units=2, duration=0.002)
    assert events.to_dense(1e-3)[:, 0].tolist() == [[0, 0], [0, 3]]
    assert events.counts().tolist() == [[0, 3]]


def test_boolean_and_half_precision_rasters_keep_their_bins():
    raster = torch.ones(3000, 1, 1)
    for kind in (torch.bool, torch.float16, torch.bfloat16, torch.uint8):
        events = SpikeEvents.from_dense(raster.to(kind), 1e-3)
        assert events.dtype == torch.float32
        assert torch.equal(events.to_dense(1e-3), raster)


@pytest.mark.parametrize(
    "raster,error,words",
    [
        (torch.zeros(3), ValueError, r"shape \[T, B, N\].*\(3,\)"),
        (torch.zeros(0, 1, 2), ValueError, r"T and N at least 1, got \(0, 1, 2\)"),
        (torch.zeros(3, 1, 0), ValueError, r"T and N at least 1, got \(3, 1, 0\)"),
        (torch.full((1, 1, 1), 0.5), ValueError, "not spike counts.*neuron-only"),
        (torch.full((1, 1, 1), -1.0), ValueError, "negative"),
        (torch.full((1, 1, 1), torch.nan), ValueError, "NaN or infinite"),
        (torch.full((1, 1, 1), torch.inf), ValueError, "NaN or infinite"),
        (torch.full((1, 1, 1), 1j), ValueError, "not spike counts"),
        (np.array([[["a"]]]), TypeError, "must hold numbers, got an array of <U1"),
        ([[[1]]], TypeError, "raster must be a tensor or an array.*list"),
    ],
)
def test_bad_rasters_are_named(raster, error, words):
    with pytest.raises(error, match=words):
        SpikeEvents.from_dense(raster, 1e-3)
