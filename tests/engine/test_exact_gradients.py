"""``solver="exact"``: gradients of the continuous system, to rounding."""

from __future__ import annotations

import copy
import functools
import itertools

import numpy as np
import pytest
import torch
from support.exact_layers import DURATION, events_of, layer_of
from torch import nn

from snn_eventprop import EventPropLI, EventPropLIF, SpikeEvents, diagnostics, losses


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


QUICK = ("sum", "max", "first-spike")  # an average, a moment, and spike times alone


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in LOSSES]
)
def test_gradients_are_exact(name):
    check_gradients(name, hidden=20, seeds=2)


@pytest.mark.slow
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
