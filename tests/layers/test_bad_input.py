"""Bad input to layers: the error names the argument, its value and the mend."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from snn_eventprop import EventPropLI, EventPropLIF, EventPropNeuron, SpikeEvents

LAYERS = {
    "LIF": lambda **options: EventPropLIF(3, 2, **options),
    "LI": lambda **options: EventPropLI(3, 2, **options),
    "neuron": lambda **options: EventPropNeuron(2, **options),
}


def raster():
    return torch.ones(5, 1, 3)


def events(num_units=3):
    return SpikeEvents.from_list([([0.001], [1])], num_units=num_units, duration=0.005)


@pytest.mark.parametrize("value", [0.0, -5e-3, math.nan, math.inf, torch.tensor([5e-3, -5e-3])],
                         ids=str)  # fmt: skip
@pytest.mark.parametrize("name", ["tau_mem", "tau_syn", "threshold"])
@pytest.mark.parametrize("layer", LAYERS)
def test_constants_must_be_positive(layer, name, value):
    if layer == "LI" and name == "threshold":
        return  # readouts have none
    unit = "" if name == "threshold" else r" \(seconds\)"
    words = rf"{name} must be positive{unit}, got {re.escape(str(value))}"
    with pytest.raises(ValueError, match=words):
        LAYERS[layer](**{name: value})


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 1), (2, 2)])
@pytest.mark.parametrize("layer", LAYERS)
def test_constants_have_one_entry_per_neuron(layer, shape):
    words = rf"tau_mem must be a number or have shape \[2\], got shape {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=words):
        LAYERS[layer](tau_mem=torch.full(shape, 0.02))


def test_constants_per_neuron_need_the_number_of_neurons():
    with pytest.raises(ValueError, match=r"tau_syn must be a number or have.*features given"):
        EventPropNeuron(tau_syn=torch.full((2,), 0.02))


@pytest.mark.parametrize("value", ["20e-3", None, [[1.0], [2.0, 3.0]]], ids=str)
def test_constants_are_numbers(value):
    with pytest.raises(TypeError, match="tau_mem must be a number or a tensor"):
        EventPropLIF(3, 2, tau_mem=value)


@pytest.mark.parametrize("dt", [0, -1e-3, math.nan, math.inf])
@pytest.mark.parametrize("layer", LAYERS)
def test_dt_must_be_a_positive_time(layer, dt):
    with pytest.raises(ValueError, match=rf"dt must be a positive time in seconds, got {dt!r}"):
        LAYERS[layer](dt=dt)


@pytest.mark.parametrize("guard", [-0.1, math.nan, math.inf])
def test_guard_must_be_finite(guard):
    with pytest.raises(ValueError, match=r"grazing_guard must be 0 or a positive number, got"):
        EventPropLIF(3, 2, grazing_guard=guard)


@pytest.mark.parametrize("name", ["dt", "grazing_guard", "max_rate"])
@pytest.mark.parametrize("value", ["1ms", None, [1.0]], ids=repr)
def test_what_is_no_number_is_named(name, value):
    with pytest.raises(TypeError, match=rf"{name} must be a .*, got {re.escape(repr(value))}"):
        EventPropLIF(3, 2, **{name: value})


@pytest.mark.parametrize("solver", ["grid", "exact"])
@pytest.mark.parametrize("name", ["log_tau_mem", "log_tau_syn"])
def test_no_solver_runs_with_time_constants_that_diverged(solver, name):
    events = SpikeEvents.from_list([([0.01], [0])], num_units=3, duration=0.1)
    layer = EventPropLIF(3, 2, learn_tau_mem=True, learn_tau_syn=True, solver=solver)
    readout = EventPropLI(3, 2)
    at = torch.tensor([0.05])
    for module in (layer, readout):
        getattr(module, name).data.view(-1)[0] = math.nan
    for run in (layer, readout, readout.integral, lambda x: readout.sample(x, at)):
        with pytest.raises(ValueError, match=f"{name} holds 1 NaN.* lower the learning rate"):
            run(events)


@pytest.mark.parametrize(
    "times, error, words",
    [
        ([0.05], TypeError, "times must be a tensor.*list"),
        (torch.tensor([[0.05]]), ValueError, r"1-d, got shape \(1, 1\)"),
        (torch.tensor([0.05, 0.02]), ValueError, "must ascend, got 0.05 s before 0.02 s; sort"),
        (torch.tensor([-1.0, 0.05]), ValueError, r"in \[0, duration=0.1\] s, got -1 to 0.05"),
        (torch.tensor([0.05, 5.0]), ValueError, "got 0.05 to 5"),
        (torch.tensor([0.05, math.nan]), ValueError, "got nan"),
    ],
)
def test_times_of_samples_are_checked(times, error, words):
    events = SpikeEvents.from_list([([0.01], [0])], num_units=3, duration=0.1)
    with pytest.raises(error, match=words):
        EventPropLI(3, 2).sample(events, times)


@pytest.mark.parametrize("size", [0, -1, 3.0, "3", None], ids=repr)
def test_sizes_are_positive_integers(size):
    for layer in (EventPropLIF, EventPropLI):
        with pytest.raises(ValueError, match=r"in_features must be an integer, at least 1, got"):
            layer(size, 2)
        with pytest.raises(ValueError, match=r"out_features must be an integer, at least 1, got"):
            layer(2, size)
    if size is not None:
        with pytest.raises(ValueError, match=r"features must be an integer, at least 1, got"):
            EventPropNeuron(size)


def test_numpy_integers_are_sizes():
    assert EventPropLIF(np.int64(3), np.int32(2)).weight.shape == (2, 3)


def test_unknown_solvers_are_named():
    with pytest.raises(ValueError, match=r"solver must be one of \('grid'.*\), got 'euler'"):
        EventPropLIF(3, 2, solver="euler")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int32, torch.complex64])
@pytest.mark.parametrize("layer", LAYERS)
def test_parameters_are_single_or_double_precision(layer, dtype):
    with pytest.raises(TypeError, match=rf"dtype must be torch.float32 or .*got {dtype}"):
        LAYERS[layer](dtype=dtype)


@pytest.mark.parametrize("layer", LAYERS)
def test_half_precision_modules_are_refused_with_the_mend(layer):
    module = LAYERS[layer]().half()
    for x in [raster()[..., :2]] if layer == "neuron" else [raster(), events()]:
        with pytest.raises(TypeError, match=r"parameters are torch.float16.*call layer.float"):
            module(x)


# Values


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("form", [raster, events])
def test_weights_that_diverged_are_named(form, bad):
    layer = EventPropLIF(3, 2, recurrent=True)
    layer.weight.data[1, 1] = bad
    with pytest.raises(ValueError, match=r"^weight holds 1 NaN or infinite values of 6; lower"):
        layer(form())
    layer = EventPropLIF(3, 2, recurrent=True)
    layer.recurrent_weight.data[0, 1] = bad
    with pytest.raises(ValueError, match=r"recurrent_weight holds 1 NaN or infinite values of 4"):
        layer(form())
    readout = EventPropLI(3, 2)
    readout.weight.data[0] = bad
    calls = [readout]
    if form is events:
        calls += [readout.integral, lambda x: readout.sample(x, torch.tensor([0.1]))]
    for call in calls:
        with pytest.raises(ValueError, match=r"^weight holds 3 NaN or infinite values of 6"):
            call(form())


def test_weights_whose_sum_overflows_are_not_refused():
    layer = EventPropLIF(3, 2)
    layer.weight.data.fill_(3e38)
    assert layer(torch.zeros(5, 1, 3)).sum() == 0


@pytest.mark.parametrize("name", ["log_tau_mem", "log_tau_syn"])
@pytest.mark.parametrize("layer", LAYERS)
def test_time_constants_that_diverged_are_named(layer, name):
    module = LAYERS[layer](learn_tau_mem=True, learn_tau_syn=True)
    getattr(module, name).data[1] = math.nan
    with pytest.raises(ValueError, match=rf"{name} holds 1 NaN or infinite"):
        module(raster() if layer != "neuron" else raster()[..., :2])


@pytest.mark.parametrize("value", [0.0, -0.5, math.nan])
def test_thresholds_that_were_learned_away_are_named(value):
    layer = EventPropLIF(3, 2, learn_threshold=True)
    layer.threshold.data[0] = value
    with pytest.raises(ValueError, match=r"threshold must stay positive, got .*learning rate"):
        layer(raster())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_input_that_is_not_finite_is_named(bad):
    x = raster()
    x[2, 0, 1] = bad
    for layer in (EventPropLIF(3, 2), EventPropLI(3, 2)):
        with pytest.raises(ValueError, match=r"^input holds 1 NaN or infinite values.*the data"):
            layer(x)
    with pytest.raises(ValueError, match=r"^current holds 1 NaN or infinite values of 15"):
        EventPropNeuron()(x)


# Shapes and kinds


@pytest.mark.parametrize("shape", [(5, 4), (5, 1, 4), (5, 1, 3, 1), (3,), ()])
@pytest.mark.parametrize("layer", ["LIF", "LI"])
def test_rasters_of_another_shape_are_named(layer, shape):
    words = rf"\[T, B, in_features=3\].* of one sample, got {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=words):
        LAYERS[layer]()(torch.zeros(shape))


@pytest.mark.parametrize("layer", ["LIF", "LI"])
def test_events_of_another_number_of_units_are_named(layer):
    with pytest.raises(ValueError, match=r"num_units=4 but the layer has in_features=3"):
        LAYERS[layer]()(events(4))


def test_currents_of_another_shape_are_named():
    with pytest.raises(ValueError, match=r"\[T, B, \.\.\.\], or .*, got \(5,\)"):
        EventPropNeuron()(torch.zeros(5))
    with pytest.raises(ValueError, match=r"got SpikeEvents"):
        EventPropNeuron()(events())
    with pytest.raises(ValueError, match=r"has 3 neurons per sample.*features=2"):
        EventPropNeuron(2)(torch.zeros(5, 1, 3))


@pytest.mark.parametrize("layer", ["LIF", "LI"])
def test_other_kinds_of_input_are_named(layer):
    with pytest.raises(TypeError, match=r"SpikeEvents, a tensor or an array, got list"):
        LAYERS[layer]()([[0.0]])
    with pytest.raises(TypeError, match=r"must hold numbers, got an array of \[\('t', '<f8'\)\]"):
        LAYERS[layer]()(np.zeros(5, [("t", "f8")]))
    with pytest.raises(TypeError, match=r"must be real, got torch.complex64"):
        LAYERS[layer]()(raster() * 1j)
    with pytest.raises(TypeError, match=r"closed form reads SpikeEvents, got Tensor.*from_dense"):
        EventPropLI(3, 2).integral(raster())


# Devices


@pytest.mark.parametrize("layer", LAYERS)
def test_input_on_another_device_is_named(layer):
    module = LAYERS[layer]()
    units = 2 if layer == "neuron" else 3
    with pytest.raises(ValueError, match=r"is on meta but the layer is on cpu.*one device"):
        module(torch.zeros(5, 1, units, device="meta"))
    if layer != "neuron":
        with pytest.raises(ValueError, match=r"events are on meta but the layer is on cpu.*'cpu'"):
            module(events().to("meta"))


@pytest.mark.parametrize("layer", LAYERS)
def test_devices_without_a_backend_are_named(layer):
    module = LAYERS[layer](device="meta")
    units = 2 if layer == "neuron" else 3
    with pytest.raises(NotImplementedError, match=r"layer is on meta, but only CPU and CUDA"):
        module(torch.zeros(5, 1, units, device="meta"))


def test_nothing_is_half_done_after_an_error():
    """The same network runs on after bad input as if that had not been."""
    net = nn.Sequential(EventPropLIF(3, 4), EventPropLI(4, 2))
    nn.init.constant_(net[0].weight, 2.0)
    before = net(raster())
    x = raster()
    x[0] = math.nan
    for bad in (x, torch.zeros(5, 1, 4)):
        with pytest.raises(ValueError):
            net(bad)
    assert torch.equal(net(raster()), before)


@pytest.mark.parametrize("layer", LAYERS)
def test_times_in_milliseconds_are_noticed(layer):
    with pytest.raises(ValueError, match=r"dt=1 s is 50 times the longest .* 1 ms is 1e-3"):
        LAYERS[layer](dt=1)
    with pytest.warns(UserWarning, match=r"a time constant of 20 s is long; .* 20 ms is 20e-3"):
        LAYERS[layer](tau_mem=20, tau_syn=5)


def test_sparse_rasters_become_events():
    found, expected = (SpikeEvents.from_dense(x, 1e-3) for x in (raster().to_sparse(), raster()))
    assert torch.equal(found.times, expected.times) and torch.equal(found.units, expected.units)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.long])
def test_events_keep_times_in_a_dtype_that_holds_them(dtype):
    with pytest.raises(TypeError, match=f"times need torch.float32 or .* got {dtype}"):
        events().to(dtype)
