"""What people have at hand goes in: arrays, sparse tensors, one sample, tonic's events."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import pytest
import torch

import snn_eventprop._warnings as said
from snn_eventprop import EventPropLI, EventPropLIF, EventPropNeuron, SpikeEvents
from snn_eventprop.diagnostics import SILENT_PASSES, name_layers

HERE = __file__


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(said, "_said", set())


def raster(batch=2):
    return (torch.rand(60, batch, 3, generator=torch.Generator().manual_seed(0)) < 0.2).float()


def layer(solver="grid"):
    made = EventPropLIF(3, 4, solver=solver)
    torch.nn.init.constant_(made.weight, 2.0)
    return made


def test_the_exact_solver_reads_the_spikes_of_a_raster_where_their_bins_begin():
    exact = layer("exact")
    found = exact(raster())
    # Written out, not by from_dense: bin k of dt = 1 ms begins at k ms.
    samples = []
    for b in range(2):
        bins, units = np.nonzero(raster()[:, b].numpy())
        samples.append((bins * 1e-3, units))
    expected = exact(SpikeEvents.from_list(samples, num_units=3, duration=0.06))
    assert found.times.numel() > 10 and torch.equal(found.units, expected.units)
    torch.testing.assert_close(found.times, expected.times, rtol=1e-6, atol=0)
    assert found.duration == pytest.approx(0.06)
    found.times.sum().backward()
    assert exact.weight.grad.abs().sum() > 0


def test_the_exact_solver_says_what_rasters_it_does_not_take():
    with pytest.raises(ValueError, match=r"no gradient to a raster.*raster.detach\(\)"):
        layer("exact")(raster().requires_grad_())
    with pytest.raises(ValueError, match="not spike counts"):
        layer("exact")(raster() / 2)


@pytest.mark.parametrize("make", [layer, lambda: EventPropLI(3, 4)], ids=["LIF", "LI"])
def test_one_sample_arrays_and_sparse_tensors_give_what_a_batch_gives(make):
    module, whole = make(), raster()
    expected = module(whole)
    for b in range(2):
        one = module(whole[:, b])
        assert one.shape == (60, 4) and torch.equal(one, expected[:, b])
    kinds = [whole.numpy(), whole.numpy().astype(np.int64), whole.to_sparse(), whole.bool().numpy()]
    readonly = whole.numpy().copy()
    readonly.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for other in [*kinds, readonly, whole.numpy()[::-1][::-1]]:
            assert torch.equal(module(other), expected)


def test_events_of_arrays_and_of_one_sample():
    whole = raster()
    expected = SpikeEvents.from_dense(whole, 1e-3)
    for other in (whole.numpy(), whole.to_sparse(), whole.bool().numpy()):
        assert torch.equal(SpikeEvents.from_dense(other, 1e-3).units, expected.units)
    one = SpikeEvents.from_dense(whole[:, 1].numpy(), 1e-3)
    assert len(one) == 1 and torch.equal(one.times, expected[1].times)


def test_neurons_take_one_sample_too():
    neuron, current = EventPropNeuron(3, threshold=0.1), raster()
    assert torch.equal(neuron(current[:, 1]), neuron(current)[:, 1])
    assert neuron(current[:, 1]).sum() > 0


TONIC = np.dtype([("t", np.int64), ("x", np.int64), ("p", np.int64)])


def test_tonics_events_are_packed_in_seconds():
    sample = np.array([(3000, 2, 1), (1000, 0, 1)], TONIC)
    found = SpikeEvents.from_list([sample], num_units=3, duration=0.01, time_unit=1e-6)
    assert found.times.tolist() == pytest.approx([0.001, 0.003]) and found.units.tolist() == [0, 2]
    pair = SpikeEvents.from_list([([3, 1], [2, 0])], num_units=3, duration=0.01, time_unit=1e-3)
    assert torch.equal(pair.times, found.times) and torch.equal(pair.units, found.units)


def test_structured_arrays_that_say_too_little_are_named():
    sample = np.array([(3000, 2, 1), (1000, 0, 0)], TONIC)

    def pack(array, **options):
        return SpikeEvents.from_list([array], num_units=3, duration=0.01, **options)

    with pytest.raises(ValueError, match=r"sample 0 is a structured array.*time_unit=1e-6"):
        pack(sample)
    with pytest.raises(ValueError, match=r"several polarities \(field p\)"):
        pack(sample, time_unit=1e-6)
    with pytest.raises(TypeError, match="with fields t, p; it needs t and x"):
        pack(sample[["t", "p"]], time_unit=1e-6)
    with pytest.raises(ValueError, match="time_unit must be a positive number of seconds, got 0"):
        pack(sample, time_unit=0)


# Warnings, each of which points at the line that led to it


def warned(run, words):
    """The one warning of a call on a line of this file; it points at that line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    (found,) = caught
    assert words in str(found.message), found.message
    lines, first = inspect.getsourcelines(run)
    assert found.filename == HERE
    assert first <= found.lineno < first + len(lines)


@pytest.mark.parametrize(
    "run, words",
    [
        (lambda: EventPropLIF(3, 2, tau_mem=20), "a time constant of 20 s is long"),
        (lambda: EventPropLI(3, 2, tau_mem=20), "a time constant of 20 s is long"),
        (lambda: EventPropNeuron(2, tau_mem=20), "a time constant of 20 s is long"),
        (lambda: setattr(layer(), "tau_mem", 20), "a time constant of 20 s is long"),
        (lambda: setattr(EventPropLI(3, 2), "tau_syn", 20), "a time constant of 20 s is long"),
        (lambda: SpikeEvents.from_dense(raster(), dt=1), "dt=1 s is long for a bin"),
        (lambda: SpikeEvents.from_list([], num_units=1, duration=9.0).to_dense(1), "dt=1 s"),
        (lambda: SpikeEvents.from_dense(torch.zeros(20, 50, 3), 1e-3), "If it is [B, T, N]"),
        (lambda: layer()(torch.zeros(20, 50, 3)), "T=20 bins of 1 ms and B=50 samples"),
        (lambda: torch.nn.Sequential(layer(), EventPropLI(4, 2))(torch.zeros(20, 50, 3)),
         "raster.transpose(0, 1)"),  # once, though both layers see such a raster
    ],
)  # fmt: skip
def test_warnings_point_at_the_line_of_the_caller(run, words):
    warned(run, words)


def test_rasters_that_may_well_be_time_first_are_not_suspected():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for shape in ((1000, 32, 3), (200, 400, 3), (20, 30, 3), (20, 3)):
            SpikeEvents.from_dense(torch.zeros(shape), 1e-3)
            layer()(torch.zeros(shape))


# Silence


def train(module, steps, value=0.0):
    for _ in range(steps):
        module(torch.full((50, 2, 3), value))


@pytest.mark.parametrize("name", [None, "hidden.0"])
def test_a_layer_that_never_spikes_in_training_says_so_once(name):
    silent = layer()
    if name:
        model = torch.nn.ModuleDict({"hidden": torch.nn.ModuleList([silent])})
        name_layers(model)
    words = name or "a layer, EventPropLIF(3, 4"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(silent, SILENT_PASSES - 1)
        silent.eval()
        train(silent, SILENT_PASSES)
        silent.train()
        with torch.no_grad():
            train(silent, SILENT_PASSES)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(silent, 3 * SILENT_PASSES)
    (found,) = caught
    text = str(found.message)
    assert words in text and f"step {SILENT_PASSES}" in text and "Raise its input weights" in text
    assert found.filename == HERE


def test_a_layer_that_has_spiked_may_be_silent():
    lively = layer()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(lively, 1, 1.0)
        train(lively, 3 * SILENT_PASSES)


def test_exact_layers_say_that_they_are_silent_too():
    silent = layer("exact")
    with pytest.warns(UserWarning, match="has not spiked once up to training step"):
        train(silent, SILENT_PASSES)
