"""Slips that implementations of event-based gradients are known for, one claim each."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.compiled_kernels import lend_kernels
from support.grid_cases import (
    raster_of,
    reference_gradients,
    reference_runs,
    solve,
    stacked,
)
from support.grid_runs import lif_layer
from torch import nn

import snn_eventprop
from snn_eventprop import EventPropLI, EventPropLIF, SpikeEvents, losses
from snn_eventprop.discretisation import exponential

DOUBLE = {"dtype": torch.float64}
TAU_MEM, TAU_SYN = 20e-3, 5e-3


def psp(gap):
    late = np.maximum(gap, 0)
    return TAU_SYN / (TAU_SYN - TAU_MEM) * (np.exp(-late / TAU_SYN) - np.exp(-late / TAU_MEM))


def one_crossing(weight, threshold=1.0):
    """First time at which weight * psp reaches the threshold, by bisection; and the peak."""
    peak = math.log(TAU_MEM / TAU_SYN) * TAU_MEM * TAU_SYN / (TAU_MEM - TAU_SYN)
    lower, upper = 0.0, peak
    assert weight * psp(peak) > threshold
    for _ in range(200):
        middle = (lower + upper) / 2
        if weight * psp(middle) < threshold:
            lower = middle
        else:
            upper = middle
    return upper


def network(hidden=8, **options):
    rng = np.random.default_rng(3)
    net = nn.Sequential(
        EventPropLIF(6, hidden, recurrent=True, **options, **DOUBLE),
        EventPropLI(hidden, 3, dt=options.get("dt", 1e-3), **DOUBLE),
    )
    with torch.no_grad():
        net[0].weight.copy_(torch.from_numpy(rng.normal(1.5, 1.0, (hidden, 6))))
        net[0].recurrent_weight.copy_(torch.from_numpy(rng.normal(0, 0.5, (hidden, hidden))))
        net[1].weight.copy_(torch.from_numpy(rng.normal(0, 1.0, (3, hidden))))
    return net


def batch(seed=0, samples=4, events=30, duration=0.08):
    rng = np.random.default_rng(seed)
    pairs = [(rng.uniform(0, duration, events), rng.integers(0, 6, events)) for _ in range(samples)]
    return SpikeEvents.from_list(pairs, num_units=6, duration=duration, dtype=torch.float64)


@pytest.mark.parametrize("form", ["events", "raster"])
def test_a_spike_in_the_last_step_does_not_block_the_backward_pass(form):
    """A neuron that the loss does not see fires in the last step: gradients are as without it."""

    def gradient(last):
        layer = EventPropLIF(2, 2, dt=1e-3, **DOUBLE)
        readout = EventPropLI(2, 1, dt=1e-3, **DOUBLE)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1e3]]))
            readout.weight.copy_(torch.tensor([[1.0, 0.0]]))
        x = SpikeEvents.from_list([([0.002, 0.01, 0.015, 0.0295], [0, 0, 0, last])],
                                  num_units=2, duration=0.03, dtype=torch.float64)  # fmt: skip
        x = x.to_dense(1e-3) if form == "raster" else x
        spikes = layer(x)
        fired = spikes.to_dense(1e-3) if form == "events" else spikes
        assert fired[:29, 0, 0].sum() > 0 and fired[29, 0, 1] == last
        readout(spikes).sum().backward()
        return layer.weight.grad[0, 0].item()

    # Unit 0's event in the last step, in place of unit 1's, is felt by neuron 0 in no spike.
    assert gradient(1) == pytest.approx(gradient(0), rel=1e-3)
    assert gradient(1) != 0


@pytest.mark.parametrize("recurrent", [False, True], ids=["feedforward", "recurrent"])
def test_spikes_beyond_any_first_buffer_are_neither_lost_nor_moved(recurrent):
    """Many more than 1,024 spikes of one sample, and of every sample after it."""
    rng = np.random.default_rng(0)
    steps, samples, size = 400, 3, 40
    s, c, m = exponential(torch.full((size,), TAU_MEM), torch.full((size,), TAU_SYN), 1e-3)
    layer = lif_layer(
        weight=rng.normal(1.5, 0.5, (5, size)), s=s.numpy(), c=c.numpy(), m=m.numpy(),
        threshold=np.ones(size), v_reset=np.zeros(size),
        recurrent=rng.normal(0, 0.1, (size, size)) if recurrent else None,
    )  # fmt: skip
    driven = (rng.random((steps, samples, 5)) < 0.5) * 1.0
    weight = torch.tensor(layer.weight, requires_grad=True)
    rows = torch.tensor(layer.recurrent, requires_grad=True) if recurrent else None
    spikes = solve(layer, driven, weight=weight, recurrent=rows)
    runs = reference_runs(layer, driven)
    fired = stacked(runs, "spikes")
    assert all(r.spikes.sum() > 4 * 1024 for r in runs)
    raster = raster_of(spikes, steps, size)
    np.testing.assert_array_equal(raster.detach(), fired)
    worth = rng.normal(size=fired.shape).cumsum(0)
    (raster * torch.from_numpy(worth)).sum().backward()
    padded = np.concatenate([worth, np.zeros((1, samples, size))])
    grads = reference_gradients(layer, runs, padded)
    pairs = [(weight.grad, sum(g.weight for g in grads))]
    if recurrent:
        pairs.append((rows.grad, sum(g.recurrent for g in grads)))
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10 * np.abs(theirs).max())


@pytest.mark.parametrize("threshold", [0.7, 1.0])
def test_slope_at_a_spike_is_that_at_the_threshold(threshold):
    """dt/dw = -psp / V' at the crossing, V' = (I - theta) / tau_m, in closed form.

    With I - V of before or after the reset in its place the result is off by a factor.
    """
    weight, dt = 9.0, 1e-6
    layer = EventPropLIF(1, 1, threshold=threshold, learn_threshold=True, dt=dt, grazing_guard=0,
                         **DOUBLE)  # fmt: skip
    layer.weight.data.fill_(weight)
    events = SpikeEvents.from_list([([0.001], [0])], num_units=1, duration=0.009,
                                   dtype=torch.float64)  # fmt: skip
    times = events.times.clone().requires_grad_()
    out = layer(SpikeEvents(times, events.units, events.offsets, 1, events.duration))
    out.times[0].backward()
    delay = one_crossing(weight, threshold)
    slope = (weight * math.exp(-delay / TAU_SYN) - threshold) / TAU_MEM
    assert out.times[0].item() == pytest.approx(0.001 + delay, abs=2 * dt)
    assert layer.weight.grad.item() == pytest.approx(-psp(delay) / slope, rel=1e-3)
    assert layer.threshold.grad.item() == pytest.approx(1 / slope, rel=1e-3)
    assert times.grad.item() == pytest.approx(1.0, rel=1e-3)  # the spike follows its input


def test_threshold_gradient_has_the_sign_of_finite_differences():
    """A higher threshold delays the first spike."""
    weight = 9.0
    h = 1e-6
    difference = (one_crossing(weight, 1 + h) - one_crossing(weight, 1 - h)) / (2 * h)
    layer = EventPropLIF(1, 1, learn_threshold=True, dt=1e-6, grazing_guard=0, **DOUBLE)
    layer.weight.data.fill_(weight)
    events = SpikeEvents.from_list([([0.0], [0])], num_units=1, duration=0.005,
                                   dtype=torch.float64)  # fmt: skip
    layer(events).times[0].backward()
    assert difference > 0
    assert layer.threshold.grad.item() == pytest.approx(difference, rel=1e-3)


def test_equal_time_constants_are_the_limit_of_nearly_equal_ones():
    found = []
    for tau_syn in (TAU_MEM * (1 - 1e-7), TAU_MEM, TAU_MEM * (1 + 1e-7)):
        net = network(tau_syn=tau_syn, learn_tau_mem=True, learn_tau_syn=True)
        loss = losses.SumExpLoss()(net(batch()), torch.tensor([0, 1, 2, 0]))
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in net.parameters())])
    for below, equal, above in zip(*found, strict=True):
        assert torch.isfinite(equal).all() and equal.abs().sum() > 0
        torch.testing.assert_close(equal, below, rtol=1e-3, atol=1e-8)
        torch.testing.assert_close(equal, (below + above) / 2, rtol=1e-6, atol=1e-12)


def test_losses_that_are_no_averages_carry_no_factor_of_the_duration():
    """Longer silence after the last spike leaves the maximum and the first spike as they are."""

    def gradients(duration, loss):
        net = network()
        x = batch(duration=0.08)
        x = SpikeEvents(x.times, x.units, x.offsets, x.num_units, duration)
        target = torch.tensor([0, 1, 2, 0])
        if isinstance(loss, losses.FirstSpikeLoss):
            net = network(hidden=3)
            net[0].weight.data.mul_(3)
            spikes = net[0](x)
            assert (spikes.counts() > 0).all()
            loss(spikes, target).backward()
        else:
            loss(net(x), target).backward()
        return [p.grad for p in net.parameters() if p.grad is not None]

    for loss in (losses.MaxLoss(), losses.FirstSpikeLoss(alpha=0.0)):
        for short, long in zip(gradients(0.25, loss), gradients(1.0, loss), strict=True):
            assert short.abs().sum() > 0
            torch.testing.assert_close(long, short, rtol=1e-9, atol=1e-12)


def test_averages_carry_the_duration_once():
    """The same events in twice the time: half the average, half the gradient of the average."""

    def gradient(duration):
        net = network()
        x = batch()
        x = SpikeEvents(x.times, x.units, x.offsets, x.num_units, duration)
        losses.SumLoss().logits(net(x)).sum().backward()
        return net[0].weight.grad

    torch.testing.assert_close(gradient(1.0) / 2, gradient(2.0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("diagonal", [True, False])
def test_the_recurrent_diagonal_is_stated_and_kept(diagonal):
    layer = EventPropLIF(1, 2, recurrent=True, recurrent_diagonal=diagonal, **DOUBLE)
    assert f"recurrent_diagonal={diagonal}" in repr(layer)
    with torch.no_grad():
        layer.weight.fill_(20.0)
        layer.recurrent_weight.copy_(torch.tensor([[-100.0, 0.0], [0.0, -100.0]]))
    events = SpikeEvents.from_list([([0.001], [0])], num_units=1, duration=0.05)
    # Inhibition of itself lets each neuron fire once.
    free = EventPropLIF(1, 2, **DOUBLE)
    free.weight.data.fill_(20.0)
    assert free(events).counts().min() > 1
    wanted = torch.ones(1, 2) if diagonal else free(events).counts()
    assert torch.equal(layer(events).counts().double(), wanted.double())
    assert "recurrent_diagonal" not in repr(EventPropLIF(1, 2))


@pytest.mark.parametrize("dt", [1e-5, 1e-6])
def test_time_constant_gradients_carry_dt_once(dt):
    """d t_spike / d tau in closed form, at two bin widths: no factor of dt is missing or double."""
    weight = 9.0
    layer = EventPropLIF(1, 1, learn_tau_mem=True, learn_tau_syn=True, dt=dt, grazing_guard=0,
                         **DOUBLE)  # fmt: skip
    layer.weight.data.fill_(weight)
    events = SpikeEvents.from_list([([0.0], [0])], num_units=1, duration=0.005,
                                   dtype=torch.float64)  # fmt: skip
    layer(events).times[0].backward()
    delay = one_crossing(weight)
    slope = (weight * math.exp(-delay / TAU_SYN) - 1) / TAU_MEM

    def response(tau_mem, tau_syn):
        ratio = tau_syn / (tau_syn - tau_mem)
        return weight * ratio * (math.exp(-delay / tau_syn) - math.exp(-delay / tau_mem))

    h = 1e-8
    by_mem = (response(TAU_MEM + h, TAU_SYN) - response(TAU_MEM - h, TAU_SYN)) / (2 * h)
    by_syn = (response(TAU_MEM, TAU_SYN + h) - response(TAU_MEM, TAU_SYN - h)) / (2 * h)
    assert layer.log_tau_mem.grad.item() / TAU_MEM == pytest.approx(-by_mem / slope, rel=5e3 * dt)
    assert layer.log_tau_syn.grad.item() / TAU_SYN == pytest.approx(-by_syn / slope, rel=5e3 * dt)


def test_gradients_are_of_this_trial_and_not_of_an_earlier_one():
    """Batches of other sizes and lengths before, between forward and backward, and within."""
    net = network(learn_tau_mem=True)
    target = torch.tensor([0, 1, 2, 0])
    loss = losses.SumExpLoss()

    def gradients(x, y, between=None):
        net.zero_grad()
        value = loss(net(x), y)
        if between is not None:
            net(between)
        value.backward()
        return [p.grad.clone() for p in net.parameters()]

    alone = gradients(batch(0), target)
    gradients(batch(1, samples=2, events=200, duration=1.3), target[:2])
    again = gradients(batch(0), target, between=batch(2, events=90, duration=0.2))
    assert all(torch.equal(a, b) for a, b in zip(alone, again, strict=True))
    # A batch is the mean of its samples, whatever stands before them.
    each = [gradients(batch(0)[b], target[b : b + 1]) for b in range(4)]
    for a, *parts in zip(alone, *each, strict=True):
        torch.testing.assert_close(a, sum(parts) / 4, rtol=1e-10, atol=1e-14)


def test_bins_are_not_skipped_where_the_map_may_swing_back():
    """Euler steps longer than a time constant flip the sign of V: inhibition can make a spike."""
    s, c, m = (torch.tensor([x], **DOUBLE) for x in (0.5, 0.5, -0.9))
    layer = lif_layer(
        weight=np.array([[-8.0]]), s=s.numpy(), c=c.numpy(), m=m.numpy(),
        threshold=np.ones(1), v_reset=np.zeros(1),
    )  # fmt: skip
    driven = np.zeros((60, 1, 1))
    driven[3] = 1
    (run,) = reference_runs(layer, driven)
    spikes = solve(layer, driven)
    assert run.spikes.sum() > 0
    assert spikes.bins.tolist() == np.flatnonzero(run.spikes).tolist()


@pytest.mark.slow
def test_kernels_cached_on_disk_follow_the_equations(tmp_path):
    """Numba alone would run a kernel compiled from older equations."""
    package = tmp_path / "snn_eventprop"
    shutil.copytree(
        Path(snn_eventprop.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    lend_kernels(tmp_path)
    code = (
        "import torch, snn_eventprop\n"
        "readout = snn_eventprop.EventPropLI(1, 1)\n"
        "torch.nn.init.ones_(readout.weight)\n"
        "events = snn_eventprop.SpikeEvents.from_list([([0.0], [0])], num_units=1, duration=1e-3)\n"
        "print(snn_eventprop.__file__, readout(events).item())"
    )

    def run():
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120,
            check=True,
        )  # fmt: skip
        where, value = done.stdout.split()
        assert Path(where).is_relative_to(tmp_path)
        return float(value)

    before = run()
    assert before > 0
    equations = package / "neurons" / "lif.py"
    source = equations.read_text()
    flow = "m * state[0] + c * current"
    assert source.count(flow) == 1
    equations.write_text(source.replace(flow, "m * state[0] + c * (current + current)"))
    assert run() == pytest.approx(2 * before)
