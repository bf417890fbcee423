"""Layers with delays: their gradients against finite differences of continuous time, and their API.

The kernels' own arithmetic is tested in ``test_delays_backend``.
"""

from __future__ import annotations

import copy
import functools
import io

import numpy as np
import pytest
import torch
from support import continuous

from snn_eventprop import EventPropLI, EventPropLIF, SpikeEvents, diagnostics
from snn_eventprop.synapses.delayed import within

DURATION, MAX_DELAY = 0.06, 0.02
INPUTS, HIDDEN, OUTPUTS = 4, 3, 2
SEEDS, DIRECTIONS = 4, 5
STEPS = [3e-4, 1e-4, 3e-5, 1e-5, 3e-6]


class Problem:
    """A recurrent layer with delays and a loss on the readout's time averages."""

    def __init__(self, seed: int):
        # Spikes that neither appear nor vanish when the threshold moves by 2 %.
        for attempt in range(1000):
            self.draw(np.random.default_rng([seed, attempt]))
            counts = [len(self.spikes(theta)[1]) for theta in (0.98, 1.0, 1.02)]
            if counts[0] == counts[1] == counts[2] >= 5:
                return
        raise AssertionError("no robust network found")

    def draw(self, rng):
        self.arrays = {
            "weight": rng.normal(1.4, 0.8, (HIDDEN, INPUTS)),
            "recurrent_weight": rng.normal(0, 0.4, (HIDDEN, HIDDEN)),
            "delay": rng.uniform(0.1, 0.9, (HIDDEN, INPUTS)) * MAX_DELAY,
            "recurrent_delay": rng.uniform(0.1, 0.9, (HIDDEN, HIDDEN)) * MAX_DELAY,
        }
        self.directions = {
            name: rng.normal(0, MAX_DELAY if "delay" in name else 1.0, (DIRECTIONS, *array.shape))
            for name, array in self.arrays.items()
        }
        self.out = rng.normal(0, 3.0, (OUTPUTS, HIDDEN))
        self.times = np.sort(rng.uniform(0, 0.5 * DURATION, 20))
        self.units = rng.integers(0, INPUTS, 20)
        self.score = rng.normal(0, 1, OUTPUTS)
        self.tau_mem = rng.uniform(15e-3, 25e-3, HIDDEN)
        self.tau_syn = rng.uniform(4e-3, 8e-3, HIDDEN)

    def spikes(self, threshold=1.0):
        a = self.arrays
        layer = continuous.Layer(
            a["weight"], self.tau_mem, self.tau_syn, threshold, a["recurrent_weight"],
            delay=a["delay"], recurrent_delay=a["recurrent_delay"],
        )  # fmt: skip
        return continuous.simulate_layer(layer, self.times, self.units, DURATION)

    def value(self):
        times, units = self.spikes()
        averages = continuous.integral(self.out, 20e-3, 5e-3, times, units, DURATION)
        return float(self.score @ averages), units.tolist()

    def exact(self):
        """Derivatives along ``directions``, of unit size in weights and of MAX_DELAY in delays."""
        found = {}
        for name, array in self.arrays.items():
            kept, amounts = array.copy(), np.zeros(DIRECTIONS)

            def value(array=array, kept=kept, amounts=amounts, along=self.directions[name]):
                array[...] = kept + np.tensordot(amounts, along, 1)
                return self.value()

            found[name] = continuous.central_differences(value, amounts, 1e-6)
            array[...] = kept
        return found

    def grid(self, dt: float, use_raster: bool):
        double = {"dtype": torch.float64, "dt": dt}
        layer = EventPropLIF(
            INPUTS, HIDDEN, recurrent=True, max_delay=MAX_DELAY, grazing_guard=0,
            tau_mem=torch.tensor(self.tau_mem), tau_syn=torch.tensor(self.tau_syn), **double,
        )  # fmt: skip
        readout = EventPropLI(HIDDEN, OUTPUTS, **double)
        with torch.no_grad():
            readout.weight.copy_(torch.from_numpy(self.out))
            for name, array in self.arrays.items():
                getattr(layer, name).copy_(torch.from_numpy(array))
        events = SpikeEvents.from_list(
            [(self.times, self.units)], num_units=INPUTS, duration=DURATION, dtype=torch.float64
        )
        spikes = layer(events.to_dense(dt) if use_raster else events)
        averages = readout(spikes)[:, 0].mean(0)
        (averages @ torch.tensor(self.score)).backward()
        return {
            name: np.tensordot(self.directions[name], getattr(layer, name).grad.numpy(), 2)
            for name in self.arrays
        }


@functools.cache
def problems():
    return [(problem, problem.exact()) for problem in map(Problem, range(SEEDS))]


@pytest.mark.parametrize("use_raster", [False, True], ids=["events", "raster"])
def test_gradients_of_delays_converge_first_order_in_dt(use_raster):
    logs = {}
    for problem, exact in problems():
        for dt in STEPS:
            for name, ours in problem.grid(dt, use_raster).items():
                error = np.linalg.norm(ours - exact[name]) / np.linalg.norm(exact[name])
                logs.setdefault(name, []).append(np.log(error))
    for name, errors in logs.items():
        mean = np.array(errors).reshape(SEEDS, len(STEPS)).mean(0)
        order = np.polyfit(np.log(STEPS), mean, 1)[0]
        assert order > 0.8, (name, order, np.exp(mean))
        assert np.exp(mean[-1]) < 0.005, (name, np.exp(mean))


def layer_and_events(dtype=torch.float64, recurrent=True, **options):
    torch.manual_seed(0)
    options = {"max_delay": 10e-3, **options}
    layer = EventPropLIF(6, 5, recurrent=recurrent, dtype=dtype, **options)
    layer.reset_delays(10e-3, 8e-3)
    torch.nn.init.normal_(layer.weight, 2.0, 1.0)
    if recurrent:
        torch.nn.init.normal_(layer.recurrent_weight, 0.0, 0.5)
    raster = (torch.rand(60, 3, 6) < 0.1).to(dtype)
    return layer, SpikeEvents.from_dense(raster, dt=1e-3), raster


def loss(spikes):
    if isinstance(spikes, SpikeEvents):
        return (spikes.times * (spikes.units + 1)).sum() * 1e3
    return (spikes * torch.arange(60).view(-1, 1, 1) * (torch.arange(5) + 1)).sum()


def gradients(layer):
    found = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    layer.zero_grad()
    return found


def test_an_event_arrives_its_delay_later():
    layer = EventPropLIF(1, 2, max_delay=20e-3, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.fill_(20.0)
        layer.delay.copy_(torch.tensor([[0.0], [12.4e-3]]))
    events = SpikeEvents.from_list([([0.010], [0])], num_units=1, duration=0.1)
    spikes = layer(events)
    first = [spikes.times[spikes.units == n][0].item() for n in (0, 1)]
    assert first[1] - first[0] == pytest.approx(12e-3)


def test_delays_of_zero_change_nothing():
    layer, events, _ = layer_and_events()
    plain = EventPropLIF(6, 5, recurrent=True, dtype=torch.float64)
    with torch.no_grad():
        layer.delay.zero_()
        layer.recurrent_delay.zero_()
        plain.weight.copy_(layer.weight)
        plain.recurrent_weight.copy_(layer.recurrent_weight)
    ours, theirs = layer(events), plain(events)
    assert ours.times.numel() > 20
    torch.testing.assert_close(ours.times, theirs.times, rtol=0, atol=0)
    loss(ours).backward()
    loss(theirs).backward()
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)
    torch.testing.assert_close(layer.recurrent_weight.grad, plain.recurrent_weight.grad)


def test_delaying_all_input_delays_all_spikes():
    # Time is homogeneous: the same delay of every input shifts the whole response.
    layer, events, _ = layer_and_events()
    later = []
    for delay in (0.0, 7e-3):
        torch.nn.init.constant_(layer.delay, delay)
        spikes = layer(events)
        later.append(spikes.times[spikes.times < 0.06 - 7e-3 + delay - 1e-4])
    assert len(later[0]) > 20
    torch.testing.assert_close(later[1].detach(), later[0].detach() + 7e-3)


def test_rasters_and_events_have_the_same_spikes_and_gradients_through_two_layers():
    below, _, raster = layer_and_events(recurrent=False)
    above = EventPropLIF(5, 5, max_delay=10e-3, dtype=torch.float64)
    torch.nn.init.normal_(above.weight, 2.0, 1.0)
    raster[25:] = 0
    with torch.no_grad():  # all is quiet before the last bin, whose end the two treat differently
        assert not below(raster)[-1].any() and not above(below(raster))[-1].any()
    spikes = above(below(SpikeEvents.from_dense(raster, dt=1e-3)))
    loss(spikes).backward()
    of_events = [gradients(below), gradients(above)]
    dense = above(below(raster))
    assert dense.sum() > 10 and torch.equal(spikes.to_dense(1e-3), dense)
    loss(dense).backward()
    for ours, theirs in zip(of_events, [gradients(below), gradients(above)], strict=True):
        assert ours["delay"].abs().sum() > 0
        for name, grad in ours.items():
            torch.testing.assert_close(grad, theirs[name], msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_float32_is_near_float64(dtype):
    layer, events, _ = layer_and_events(dtype=dtype)
    exact = copy.deepcopy(layer).double()
    ours, theirs = layer(events), exact(events)
    assert ours.times.dtype == dtype and layer.delay.dtype == dtype
    assert torch.equal(ours.units, theirs.units)
    loss(ours).backward()
    loss(theirs).backward()
    for name, grad in gradients(layer).items():
        truth = getattr(exact, name).grad
        assert (grad - truth).norm() < 1e-3 * truth.norm(), name


def test_delays_and_time_constants_learn_together_by_the_same_gradients():
    learned, events, _ = layer_and_events(
        learn_tau_mem=True, learn_tau_syn=True, learn_threshold=True,
        tau_mem=torch.linspace(10e-3, 30e-3, 5).double(),
    )  # fmt: skip
    fixed, _, _ = layer_and_events(tau_mem=torch.linspace(10e-3, 30e-3, 5).double())
    loss(learned(events)).backward()
    loss(fixed(events)).backward()
    assert all(grad.abs().sum() > 0 for grad in gradients(learned).values())
    for name, grad in gradients(fixed).items():
        loss(learned(events)).backward()
        torch.testing.assert_close(gradients(learned)[name], grad)


def test_fixed_delays_are_buffers_without_a_gradient():
    layer, events, _ = layer_and_events(learn_delays=False)
    learned, _, _ = layer_and_events()
    assert "delay" not in dict(layer.named_parameters())
    learned.load_state_dict(layer.state_dict())
    ours, theirs = layer(events), learned(events)
    assert torch.equal(ours.times, theirs.times)
    loss(ours).backward()
    loss(theirs).backward()
    assert torch.equal(layer.weight.grad, learned.weight.grad)


def test_state_dict_and_pickle_keep_delays():
    layer, events, _ = layer_and_events()
    assert {"delay", "recurrent_delay"} <= set(layer.state_dict())
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    for other in (again, copy.deepcopy(layer)):
        assert torch.equal(other(events).times, layer(events).times)


def test_delays_stay_within_bounds_and_find_their_way_back():
    delay = torch.tensor([-1.0, -1.0, 0.0, 0.5, 2.0, 3.0, 3.0], requires_grad=True)
    slope = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0])
    clamped = within(delay, 2.0)
    assert clamped.tolist() == [0.0, 0.0, 0.0, 0.5, 2.0, 2.0, 2.0]
    (clamped * slope).sum().backward()
    assert delay.grad.tolist() == [0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 1.0]


def test_a_delay_beyond_its_bound_acts_as_the_bound():
    layer, events, _ = layer_and_events()
    other = copy.deepcopy(layer)
    with torch.no_grad():
        layer.delay[0] = 0.5
        layer.delay[1] = -0.5
        other.delay[0] = 10e-3
        other.delay[1] = 0.0
    assert torch.equal(layer(events).times, other(events).times)


def test_delays_are_drawn_as_asked():
    layer = EventPropLIF(200, 100, recurrent=True, max_delay=50e-3)
    assert layer.delay.shape == (100, 200) and layer.recurrent_delay.shape == (100, 100)
    assert 0.049 < layer.delay.max() <= 0.05 and 0 <= layer.delay.min() < 1e-4
    assert abs(layer.delay.mean() - 0.025) < 1e-3
    assert not layer.recurrent_delay.any()
    layer.reset_delays(20e-3, 10e-3)
    assert 0.0199 < layer.delay.max() <= 0.02 and 0.0099 < layer.recurrent_delay.max() <= 0.01


def test_compiled_layer_has_the_same_gradients():
    layer, _, raster = layer_and_events()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    loss(compiled(raster)).backward()
    ours = gradients(layer)
    loss(layer(raster)).backward()
    for name, grad in gradients(layer).items():
        torch.testing.assert_close(ours[name], grad)


def test_operators_with_delays_pass_opcheck():
    from snn_eventprop.ops import grid as op

    layer, _, raster = layer_and_events()
    events = op.dense_events(raster, torch.float64)
    floor = torch.zeros(5).double()
    no = floor.new_empty(0)
    torch.library.opcheck(
        torch.ops.snn_eventprop.grid_forward.default,
        (list(events), [no, no, no],
         [layer.weight.detach().t().contiguous().requires_grad_(),
          layer._recurrent_rows().detach(), (layer.delay.detach().t() / 1e-3).requires_grad_(),
          layer.recurrent_delay.detach().t() / 1e-3],
         layer._constants(5, torch.float64).detach(), floor, no, [no, no, no], no, "lif", 60, 1,
         False, False),
        test_utils=("test_schema", "test_faketensor"),
    )  # fmt: skip


def test_autocast_leaves_delays_in_float32():
    layer, events, _ = layer_and_events(dtype=torch.float32)
    plain = layer(events).times
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(events).times, plain)


def test_diagnostics_see_layers_with_delays():
    layer, events, _ = layer_and_events()
    spikes = layer(events)
    loss(spikes).backward()
    record = diagnostics.collect(layer)[""]
    assert record.counts.sum() == spikes.times.numel()
    assert record.largest_jump > 0


@pytest.mark.parametrize(
    "options,words",
    [
        ({"max_delay": 0.0}, ["max_delay", "0.0", "positive"]),
        ({"max_delay": -1e-3}, ["max_delay", "-0.001"]),
        ({"max_delay": float("nan")}, ["max_delay", "nan"]),
        ({"max_delay": 1e-4}, ["max_delay=0.0001", "0.1 bins", "finer dt"]),
        ({"max_delay": 100.0}, ["max_delay=100", "seconds"]),
        ({"max_delay": 0.1, "solver": "exact"}, ["max_delay=0.1", 'solver="grid"']),
    ],
)
def test_bad_options_say_what_to_do(options, words):
    with pytest.raises(ValueError) as error:
        EventPropLIF(3, 2, **options)
    assert all(word in str(error.value) for word in words), error.value


def test_the_cost_of_delays_is_measured():
    from snn_eventprop.benchmark import cases, delays

    case = cases.Case(steps=100, hidden=8, batch=2, events=200, inputs=20, outputs=3)
    found = delays.measure(case, repeats=1)
    assert found.keys() == {"without", "with"} and min(found.values()) >= 0


def test_bad_delays_say_what_to_do():
    with pytest.raises(TypeError, match="max_delay must be a number"):
        EventPropLIF(3, 2, max_delay="long")
    layer, events, _ = layer_and_events()
    with pytest.raises(ValueError, match=r"longest must be between 0 and max_delay=0.01 s, got"):
        layer.reset_delays(0.02)
    with pytest.raises(ValueError, match="recurrent_longest must be between 0"):
        layer.reset_delays(0.01, -1.0)
    with pytest.raises(ValueError, match="make it with max_delay"):
        EventPropLIF(3, 2).reset_delays(0.01)
    torch.nn.init.constant_(layer.delay, float("nan"))
    with pytest.raises(ValueError, match="delay holds 30 NaN"):
        layer(events)
