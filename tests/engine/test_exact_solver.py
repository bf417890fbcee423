"""``solver="exact"``: spike times and gradients of the continuous system, to rounding."""

from __future__ import annotations

import copy
import functools
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import continuous
from torch import nn

from snn_eventprop import EventPropLI, EventPropLIF, SpikeEvents, diagnostics, losses
from snn_eventprop.ops import exact as op_exact

DURATION = 0.1


def layer_of(seed, inputs=8, size=10, *, recurrent=True, dtype=torch.float64, taus="each",
             mean=0.6, std=0.5, **options):  # fmt: skip
    rng = np.random.default_rng(seed)
    tau_mem, tau_syn = rng.uniform(8e-3, 30e-3, size), rng.uniform(2e-3, 8e-3, size)
    if taus == "equal":
        tau_syn = tau_mem
    if taus == "reversed":
        tau_mem, tau_syn = tau_syn, tau_mem
    constants = {"tau_mem": torch.tensor(tau_mem), "tau_syn": torch.tensor(tau_syn)}
    if taus == "shared":
        constants = {"tau_mem": 20e-3, "tau_syn": 5e-3}
    layer = EventPropLIF(
        inputs, size, recurrent=recurrent, solver="exact", dtype=dtype, grazing_guard=0.0,
        threshold=torch.tensor(rng.uniform(0.8, 1.2, size)), **constants, **options,
    )  # fmt: skip
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rng.normal(mean, std, (size, inputs))))
        if recurrent:
            spread = 0.05 if taus == "reversed" else 0.2
            layer.recurrent_weight.copy_(torch.tensor(rng.normal(0, spread, (size, size))))
    return layer


def events_of(seed, inputs=8, samples=2, events=80, dtype=torch.float64):
    rng = np.random.default_rng([seed, 7])
    return SpikeEvents.from_list(
        [(np.sort(rng.uniform(0, 0.09, events)), rng.integers(0, inputs, events))
         for _ in range(samples)],
        num_units=inputs, duration=DURATION, dtype=dtype,
    )  # fmt: skip


def simulated(layer, events, sample):
    """The tests' own simulator on one sample."""
    size, recurrent = layer.out_features, layer.recurrent_weight
    twin = continuous.Layer(
        layer.weight.detach().double().numpy(),
        layer.tau_mem.detach().expand(size).numpy(), layer.tau_syn.detach().expand(size).numpy(),
        layer.threshold.detach().double().expand(size).numpy(),
        None if recurrent is None else recurrent.detach().double().numpy(),
    )  # fmt: skip
    one = events[sample]
    return continuous.simulate_layer(
        twin, one.times.detach().double().numpy(), one.units.numpy(), events.duration
    )


# Spike times


@pytest.mark.parametrize("taus", ["each", "shared", "equal", "reversed"])
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-7)])
def test_spike_times_are_those_of_an_independent_simulator(taus, recurrent, dtype, tolerance):
    total = 0
    for seed in range(2):
        strength = {"mean": 0.15, "std": 0.15} if taus == "reversed" else {}
        layer = layer_of(seed, recurrent=recurrent, dtype=dtype, taus=taus, **strength)
        events = events_of(seed, dtype=dtype)
        spikes = layer(events)
        for b in range(len(events)):
            times, units = simulated(layer, events, b)
            mine = spikes[b]
            assert mine.units.tolist() == units.tolist()
            assert abs(mine.times.detach().double().numpy() - times).max() <= tolerance
            total += len(times)
    assert total > 100


def test_long_gaps_hold_several_spikes_of_several_neurons():
    # One volley every 30 ms: what happens in between is the neurons' own doing.
    layer = layer_of(5, taus="equal", mean=2.0)
    times = np.repeat([0.001, 0.031, 0.061], 8)
    events = SpikeEvents.from_list(
        [(times, np.tile(np.arange(8), 3))], num_units=8, duration=DURATION, dtype=torch.float64
    )
    spikes = layer(events)
    expected, units = simulated(layer, events, 0)
    assert spikes.units.tolist() == units.tolist()
    np.testing.assert_allclose(spikes.times.detach(), expected, rtol=0, atol=1e-12)
    within = (expected > 0.001) & (expected < 0.031)
    assert max(np.bincount(units[within])) > 1 and len(set(units[within])) > 3
    assert (expected > 0.061).any()


def test_a_peak_that_just_reaches_the_threshold_is_found_inside_a_gap():
    layer = EventPropLIF(1, 1, solver="exact", dtype=torch.float64)
    events = SpikeEvents.from_list([([0.01], [0])], num_units=1, duration=1.0, dtype=torch.float64)
    peak = 20e-3 * 5e-3 / 15e-3 * np.log(4)
    highest = 4 ** (-4 / 3)
    for excess, spikes in ((-1e-9, 0), (1e-9, 1)):
        with torch.no_grad():
            layer.weight.fill_((1 + excess) / highest)
        out = layer(events)
        assert out.times.numel() == spikes
    # So close to grazing the crossing is sqrt(2 excess |V| / |V''|) before the peak.
    assert abs(out.times.item() - 0.01 - peak) < 1e-6


def test_neurons_alike_spike_together():
    layer = EventPropLIF(2, 3, recurrent=True, solver="exact", dtype=torch.float64)
    with torch.no_grad():
        layer.weight.fill_(3.0)
        layer.recurrent_weight.fill_(-0.5)
    events = SpikeEvents.from_list(
        [([0.01, 0.01, 0.02], [0, 1, 1])], num_units=2, duration=0.1, dtype=torch.float64
    )
    spikes = layer(events)
    assert spikes.units[:3].tolist() == [0, 1, 2] and len(set(spikes.times[:3].tolist())) == 1
    for n in range(3):  # also afterwards
        assert torch.equal(spikes.times[spikes.units == n], spikes.times[spikes.units == 0])


def test_inputs_of_one_time_are_one_group():
    together = SpikeEvents.from_list(
        [([0.01] * 4, [0, 1, 2, 3])], num_units=4, duration=0.1, dtype=torch.float64
    )
    reordered = SpikeEvents.from_list(
        [([0.01] * 4, [3, 1, 0, 2])], num_units=4, duration=0.1, dtype=torch.float64
    )
    layer = EventPropLIF(4, 1, solver="exact", dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[400.0, -380.0, 1.0, -2.0]]))
    first, second = layer(together), layer(reordered)
    assert first.times.numel() > 0  # and none that the first event alone would have caused
    torch.testing.assert_close(first.times, second.times, rtol=0, atol=1e-13)


def test_events_at_the_very_ends_count():
    layer = EventPropLIF(1, 1, solver="exact", dtype=torch.float64)
    with torch.no_grad():
        layer.weight.fill_(200.0)
    events = SpikeEvents.from_list(
        [([0.0], [0]), ([0.1], [0]), ([], [])], num_units=1, duration=0.1, dtype=torch.float64
    )
    assert layer(events).counts()[:, 0].gt(0).tolist() == [True, False, False]


@given(
    seed=st.integers(0, 10_000), size=st.integers(1, 9), inputs=st.integers(1, 5),
    counts=st.lists(st.integers(0, 12), min_size=0, max_size=3), grain=st.sampled_from([0, 5e-3]),
    recurrent=st.booleans(),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_any_batch_runs_and_agrees_with_the_simulator(
    seed, size, inputs, counts, grain, recurrent
):
    rng = np.random.default_rng(seed)
    layer = layer_of(seed, inputs, size, recurrent=recurrent)
    times = [rng.uniform(0, 0.09, n) for n in counts]
    if grain:  # many of one time
        times = [np.round(t / grain) * grain for t in times]
    events = SpikeEvents.from_list(
        [(t, rng.integers(0, inputs, len(t))) for t in times],
        num_units=inputs, duration=DURATION, dtype=torch.float64,
    )  # fmt: skip
    spikes = layer(events)
    spikes.times.sum().backward()
    assert len(spikes) == len(counts)
    for b in range(len(counts)):
        expected, units = simulated(layer, events, b)
        assert spikes[b].units.tolist() == units.tolist()
        np.testing.assert_allclose(spikes[b].times.detach(), expected, rtol=0, atol=1e-12)
    assert all(bool(torch.isfinite(p.grad).all()) for p in layer.parameters())


# Gradients


class Net(nn.Module):
    """Two recurrent layers and a readout, everything trainable, for one loss."""

    def __init__(self, seed, hidden, loss, dtype=torch.float64, mean=0.6):
        super().__init__()
        learn = {"learn_tau_mem": True, "learn_tau_syn": True}
        self.first = layer_of(
            seed, 8, hidden, dtype=dtype, mean=mean, learn_threshold=True, **learn
        )
        self.second = layer_of(
            seed + 100, hidden, hidden, dtype=dtype, mean=4.0 / hidden, std=3.0 / hidden**0.5,
            learn_threshold=True, **learn,
        )  # fmt: skip
        rng = np.random.default_rng(seed)
        self.loss = loss
        if loss.reads == "spikes":
            self.readout = layer_of(
                seed + 200, hidden, 3, recurrent=False, dtype=dtype, mean=8.0 / hidden,
                std=2.0 / hidden**0.5, learn_threshold=True, **learn,
            )  # fmt: skip
        else:
            self.readout = EventPropLI(hidden, 3, dtype=dtype, **learn)
            with torch.no_grad():
                self.readout.weight.copy_(torch.tensor(rng.normal(0, 0.5, (3, hidden))))

    def forward(self, events, target):
        """The loss, and everything that must not change for it to be differentiable."""
        spikes = [self.first(events)]
        spikes.append(self.second(spikes[0]))
        if self.loss.reads == "spikes":
            spikes.append(self.readout(spikes[1]))
            value = self.loss(spikes[2], target)
        elif self.loss.weighting is not None:
            averages = self.readout.integral(spikes[1], self.loss.weighting)
            value = self.loss.from_logits(self.loss.scale * averages, target)
        else:
            at = torch.linspace(1e-3, DURATION, 40, dtype=torch.float64)
            trace = self.readout.sample(spikes[1], at)
            spikes.append(trace.detach().argmax(0))
            value = self.loss(trace, target)
        order = [order_of(before, after) for before, after in itertools.pairwise([events, *spikes])
                 if isinstance(after, SpikeEvents)]  # fmt: skip
        return value, order + [s.tolist() for s in spikes if isinstance(s, torch.Tensor)]


def order_of(inputs, spikes):
    """Who spikes in which order, and between which inputs: where it changes, times have kinks."""
    between = [
        torch.searchsorted(inputs[b].times.detach(), spikes[b].times.detach()).tolist()
        for b in range(len(spikes))
    ]
    return spikes.units.tolist(), between


LOSSES = {
    "sum": losses.SumLoss, "sum-exp": losses.SumExpLoss, "linear": losses.LinearLoss,
    "sigmoid": losses.SigmoidLoss, "max": losses.MaxLoss,
    "cross-entropy": losses.StepCrossEntropyLoss, "first-spike": losses.FirstSpikeLoss,
}  # fmt: skip


def five_points(value, where, direction, step):
    """Derivative along a direction, to fourth order in step; None where the spike order changes."""
    start, found, orders = where.detach().clone(), [], []
    for k in (-2, -1, 1, 2):
        with torch.no_grad():
            where.copy_(start + k * step * direction)
        loss, order = value()
        found.append(loss.item())
        orders.append(order)
    with torch.no_grad():
        where.copy_(start)
    if any(order != orders[0] for order in orders):
        return None
    return (found[0] - 8 * found[1] + 8 * found[2] - found[3]) / (12 * step)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_exact(name):
    check_gradients(name, hidden=20, seeds=2)


def test_gradients_are_exact_in_a_large_network():
    check_gradients("sum-exp", hidden=200, seeds=1, inputs=8, mean=1.4)


def check_gradients(name, hidden, seeds, inputs=80, mean=0.6):
    checked = dict.fromkeys(["times", "weight", "recurrent_weight", "log_tau", "threshold"], 0)
    for seed in range(seeds):
        net = Net(seed, hidden, LOSSES[name](), mean=mean)
        events = events_of(seed, events=inputs)
        events.times.requires_grad_()
        target = torch.tensor([0, 2])
        loss, order = net(events, target)
        loss.backward()
        assert len(order[0][0]) > 50 and len(order[1][0]) > 50
        rng = np.random.default_rng(seed)
        value = functools.partial(net, events, target)
        wanted = {"times": events.times, **dict(net.named_parameters())}
        for parameter, where in wanted.items():
            scale = 1e-3 if parameter == "times" else 1.0
            exact, numeric = [], []
            for _ in range(3):
                direction = torch.tensor(rng.normal(0, scale, where.shape))
                for step in (1e-5, 1e-6, 1e-7):
                    slope = five_points(value, where, direction, step)
                    if slope is not None:
                        exact.append((where.grad * direction).sum().item())
                        numeric.append(slope)
                        break
            if exact:
                error = np.linalg.norm(np.subtract(exact, numeric))
                # What is zero but for rounding has no relative error.
                assert error <= 1e-6 * np.linalg.norm(numeric) + 1e-12, (parameter, exact, numeric)
            for kind in checked:
                checked[kind] += len(exact) * (kind in parameter)
    assert min(checked.values()) >= 3, checked


def test_float32_gradients_are_within_a_thousandth():
    for seed in range(2):
        grads = {}
        for dtype in (torch.float64, torch.float32):
            net = Net(seed, 20, losses.SumExpLoss(), torch.float32).to(dtype)
            events = events_of(seed, dtype=torch.float32).to(dtype)
            events.times.requires_grad_()
            loss, order = net(events, torch.tensor([0, 2]))
            loss.backward()
            grads[dtype] = order, {
                "times": events.times.grad, **{n: p.grad for n, p in net.named_parameters()}
            }
        assert grads[torch.float32][0] == grads[torch.float64][0]
        for parameter, exact in grads[torch.float64][1].items():
            error = (grads[torch.float32][1][parameter].double() - exact).norm()
            assert error <= 1e-3 * exact.norm(), parameter


def test_the_grid_converges_to_it_at_first_order():
    layer = layer_of(1, size=4, taus="shared", mean=1.5)
    events = events_of(1, samples=1, events=12)
    exact = layer(events)
    (exact.times**2).sum().backward()
    truth = layer.weight.grad.clone()
    apart, off = [], []
    steps = [1e-5, 3e-6, 1e-6, 3e-7]
    for dt in steps:
        grid = copy.deepcopy(layer)
        grid.solver, grid.dt = "grid", dt
        grid.zero_grad()
        spikes = grid(events)
        assert sorted(spikes.units.tolist()) == sorted(exact.units.tolist())
        (spikes.times**2).sum().backward()
        per_unit = [
            (spikes.times[spikes.units == n] - exact.times[exact.units == n]).abs()
            for n in range(4)
        ]
        apart.append(torch.cat(per_unit).max().item())
        off.append((grid.weight.grad - truth).norm().item() / truth.norm().item())
    for errors in (apart, off):
        for (dt, error), (finer, less) in itertools.pairwise(zip(steps, errors, strict=True)):
            order = np.log(error / less) / np.log(dt / finer)
            assert 0.5 < order < 1.6, (steps, errors)
        assert errors[-1] < errors[0] / 15


def test_counts_have_the_straight_through_gradient():
    # One neuron, one spike: adding 1 to dL/dV at the spike is worth psp(t - s) to the weight.
    layer = EventPropLIF(1, 1, solver="exact", dtype=torch.float64)
    events = SpikeEvents.from_list([([0.01], [0])], num_units=1, duration=0.1, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.fill_(7.0)
    spikes = layer(events)
    assert spikes.times.numel() == 1
    spikes.counts().sum().backward()
    gap = spikes.times.item() - 0.01
    psp = -1 / 3 * (np.exp(-gap / 5e-3) - np.exp(-gap / 20e-3))
    assert layer.weight.grad.item() == pytest.approx(psp, rel=1e-10)


def test_grazing_spikes_are_guarded_and_counted():
    layer = EventPropLIF(1, 1, solver="exact", dtype=torch.float64, grazing_guard=0.05)
    free = EventPropLIF(1, 1, solver="exact", dtype=torch.float64, grazing_guard=0.0)
    events = SpikeEvents.from_list([([0.01], [0])], num_units=1, duration=0.1, dtype=torch.float64)
    weight = 1.00001 * 4 ** (4 / 3)  # V peaks at w 4^(-4/3)
    for each in (layer, free):
        with torch.no_grad():
            each.weight.fill_(weight)
        spikes = each(events)
        assert spikes.times.numel() == 1
        spikes.times.sum().backward()
    gap = spikes.times.item() - 0.01
    current = weight * np.exp(-gap / 5e-3)
    slope = (current - 1) / 20e-3
    assert 0 < slope < 0.05 / 20e-3
    psp = -1 / 3 * (np.exp(-gap / 5e-3) - np.exp(-gap / 20e-3))
    assert free.weight.grad.item() == pytest.approx(-psp / slope, rel=1e-6)
    assert layer.weight.grad.item() == pytest.approx(-psp / (0.05 / 20e-3), rel=1e-10)
    assert diagnostics.collect(nn.ModuleList([layer, free]))["0"].guarded == 1
    assert diagnostics.collect(nn.ModuleList([layer, free]))["1"].guarded == 0


# Robustness


def test_runaway_excitation_ends_in_an_error_that_says_where():
    layer = EventPropLIF(4, 30, recurrent=True, solver="exact")
    with torch.no_grad():
        layer.weight.fill_(10.0)
        layer.recurrent_weight.fill_(3.0)
    quiet = ([], [])
    # The first one is named, though threads meet others before.
    trains = [quiet, ([0.4], [0]), *[([0.01], [0])] * 6]
    events = SpikeEvents.from_list(trains, num_units=4, duration=0.5)
    where = r"EventPropLIF\(4, 30\): runaway .* sample 1 .* t = 0.4"
    for _ in range(20):
        with pytest.raises(RuntimeError, match=where):
            layer(events)
    with torch.no_grad():
        layer.recurrent_weight.fill_(0.0)
    assert layer(events).times.numel() > 0


def test_weights_of_any_strides_have_their_gradients():
    layer, events = layer_of(0), events_of(0)

    def gradients(weight, recurrent):
        spikes = op_exact.exact_lif(
            events.times, events.units, events.offsets, events.duration, weight, layer.tau_mem,
            layer.tau_syn, layer.threshold, torch.zeros(10), torch.zeros(10),
            recurrent=recurrent, limit=10_000,
        )  # fmt: skip
        return torch.autograd.grad((spikes.times**2).sum(), [weight, recurrent])

    rows = layer.weight.t(), layer.recurrent_weight.t()
    theirs = gradients(*(weight.contiguous() for weight in rows))
    assert theirs[0].any() and theirs[1].any()
    torch.testing.assert_close(gradients(*rows), theirs)


def test_many_spikes_are_all_kept():
    layer = EventPropLIF(1, 2, solver="exact", dtype=torch.float64, max_rate=1e6)
    with torch.no_grad():
        layer.weight.fill_(1000.0)
    train = np.arange(0, 0.1, 1e-3)
    events = SpikeEvents.from_list(
        [(train, np.zeros(len(train), int))], num_units=1, duration=0.1, dtype=torch.float64
    )
    spikes = layer(events)
    assert spikes.times.numel() > 10_000
    early = SpikeEvents.from_list(
        [(train[:3], [0, 0, 0])], num_units=1, duration=3e-3, dtype=torch.float64
    )
    expected, units = simulated(layer, early, 0)
    assert spikes.units[: len(units)].tolist() == units.tolist()
    np.testing.assert_allclose(
        spikes.times[: len(units)].detach(), expected, rtol=0, atol=1e-12
    )
    # The drive is periodic by then, and so are the spikes.
    late = torch.histc(spikes.times.detach(), 20, min=0.0795, max=0.0995)
    assert late.max() - late.min() <= 2 and late.min() > 100


def test_rasters_and_bad_options_are_refused_by_name():
    layer = layer_of(0)
    with pytest.raises(TypeError, match="from_dense"):
        layer(torch.zeros(10, 2, 8))
    with pytest.raises(ValueError, match="max_rate"):
        EventPropLIF(2, 2, solver="exact", max_rate=0)
    with pytest.raises(ValueError, match="solver"):
        EventPropLIF(2, 2, solver="analytic")
    with torch.no_grad():
        layer.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="weight holds 1 NaN"):
        layer(events_of(0))


def test_results_repeat_bitwise():
    layer = layer_of(0, size=40, dtype=torch.float32)
    events = events_of(0, samples=9).to(torch.float32)
    found = []
    for _ in range(3):
        layer.zero_grad()
        spikes = layer(events)
        (spikes.times**2).sum().backward()
        found.append((spikes.times.detach().clone(), layer.weight.grad.clone()))
    for times, grad in found[1:]:
        assert torch.equal(times, found[0][0]) and torch.equal(grad, found[0][1])


def test_pytorchs_tools_work():
    layer, events = layer_of(0, dtype=torch.float32), events_of(0, dtype=torch.float32)
    events.times.requires_grad_()

    def step(net):
        spikes = net(events)
        return (spikes.times**2).sum() + (spikes.counts() ** 2).sum()

    step(layer).backward()
    grad, at = layer.weight.grad.clone(), events.times.grad.clone()
    events.times.grad = None
    again = copy.deepcopy(layer)
    again.load_state_dict(layer.state_dict())
    again.zero_grad()
    torch.compile(step)(again).backward()
    torch.testing.assert_close(again.weight.grad, grad)
    torch.testing.assert_close(events.times.grad, at)
    assert "exact" in repr(layer)
