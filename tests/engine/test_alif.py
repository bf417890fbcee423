"""Adaptive LIF neurons: the compiled kernels against the float64 reference, and gradients against
finite differences of a continuous-time simulation that knows neither grid nor adjoint."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from support.alif_cases import assert_equal_to_reference

from snn_eventprop import EventPropALIF, EventPropLIF, SpikeEvents


@pytest.mark.parametrize(
    "reset,recurrent,delays,size,steps",
    [
        ("subtract", True, 0, 4, 60),
        ("zero", False, 0, 37, 60),
        ("none", True, 0, 5, 60),
        ("subtract", True, 9, 5, 60),
        ("zero", True, 0, 70, 40),
        ("subtract", False, 0, 3, 1200),
    ],
)
def test_kernels_equal_the_reference(reset, recurrent, delays, size, steps):
    assert_equal_to_reference(reset, recurrent, delays, size, steps)


class Continuous:
    """Adaptive LIF neurons from event to event; crossings by bracketing and Brent's method."""

    def __init__(self, weight, recurrent, tau_mem, tau_syn, tau_a, threshold, beta):
        self.weight, self.recurrent = weight, recurrent
        self.tau_mem, self.tau_syn, self.tau_a = tau_mem, tau_syn, tau_a
        self.threshold, self.beta = threshold, beta

    def state(self, state, n, gap):
        i, v, a = (x[n] for x in state)
        e_mem, e_syn = np.exp(-gap / self.tau_mem[n]), np.exp(-gap / self.tau_syn[n])
        psp = self.tau_syn[n] / (self.tau_syn[n] - self.tau_mem[n]) * (e_syn - e_mem)
        return i * e_syn, v * e_mem + psp * i, a * np.exp(-gap / self.tau_a[n])

    def over(self, state, n, gap):
        _, v, a = self.state(state, n, gap)
        return v - self.threshold[n] - self.beta[n] * a

    def crossing(self, state, n, gap):
        grid = np.linspace(0, gap, 40)
        values = [self.over(state, n, t) for t in grid]
        for k, (one, other) in enumerate(itertools.pairwise(values)):
            if one < 0 <= other:
                return brentq(
                    lambda t: self.over(state, n, t), grid[k], grid[k + 1], xtol=1e-15, rtol=1e-14
                )
        return np.inf

    def run(self, events, duration):
        size = len(self.weight)
        state, now, spikes, waiting = np.zeros((3, size)), 0.0, [], list(events)
        while True:
            until = waiting[0][0] if waiting else duration
            times = [self.crossing(state, n, until - now) for n in range(size)]
            gap = min(*times, until - now)
            for n in range(size):
                state[:, n] = self.state(state, n, gap)
            now += gap
            if min(times) < np.inf:
                n = int(np.argmin(times))
                spikes.append((now, n))
                state[1, n] = 0.0
                state[2, n] += 1.0
                state[0] += self.recurrent[:, n]
            elif waiting:
                state[0] += self.weight[:, waiting.pop(0)[1]]
            else:
                return spikes


NAMES = ("weight", "recurrent", "tau_mem", "tau_syn", "tau_a", "threshold", "beta")
DURATION, INPUTS, SIZE = 0.06, 4, 3


def loss_of(times, units):
    return sum(np.cos(2.0 * n + 1) * t / DURATION + np.sin(n) * (t / DURATION) ** 2
               for t, n in zip(times, units, strict=True))  # fmt: skip


def problem(seed):
    """A network whose spike count survives a change of its threshold by 3 %, and its gradients."""
    for attempt in range(200):
        rng = np.random.default_rng([seed, attempt])
        values = {
            "weight": rng.normal(3.0, 1.5, (SIZE, INPUTS)),
            "recurrent": rng.normal(0, 0.5, (SIZE, SIZE)),
            "tau_mem": rng.uniform(10e-3, 25e-3, SIZE), "tau_syn": rng.uniform(3e-3, 8e-3, SIZE),
            "tau_a": rng.uniform(30e-3, 90e-3, SIZE), "threshold": rng.uniform(0.8, 1.2, SIZE),
            "beta": rng.uniform(0.2, 0.8, SIZE),
        }  # fmt: skip
        times = np.sort(rng.uniform(0, 0.7 * DURATION, 14))
        events = list(zip(times, rng.integers(0, INPUTS, 14).tolist(), strict=True))

        def orders(factor, values=values, events=events):
            changed = {**values, "threshold": values["threshold"] * factor}
            return [n for _, n in Continuous(**changed).run(events, DURATION)]

        if orders(0.97) == orders(1.0) == orders(1.03) and len(orders(1.0)) >= 8:
            return values, events
    raise AssertionError("no robust network found")


def differences(values, events):
    """Central finite differences of the loss with respect to every entry."""

    def loss(changed):
        spikes = Continuous(**changed).run(events, DURATION)
        return loss_of([t for t, _ in spikes], [n for _, n in spikes])

    found = {}
    for name, array in values.items():
        found[name] = np.zeros_like(array)
        for at in np.ndindex(array.shape):
            step = 1e-6 * max(abs(array[at]), 1e-3)
            sides = []
            for sign in (1, -1):
                moved = array.copy()
                moved[at] += sign * step
                sides.append(loss({**values, name: moved}))
            found[name][at] = (sides[0] - sides[1]) / (2 * step)
    return found


def grid_gradients(values, events, dt):
    layer = EventPropALIF(
        INPUTS, SIZE, recurrent=True, dt=dt, grazing_guard=0.0, dtype=torch.float64,
        **{name: torch.tensor(values[name]) for name in NAMES[2:]},
        **{f"learn_{name}": True for name in NAMES[2:]},
    )  # fmt: skip
    layer.weight.data = torch.tensor(values["weight"])
    layer.recurrent_weight.data = torch.tensor(values["recurrent"])
    given = SpikeEvents.from_list(
        [([t for t, _ in events], [n for _, n in events])], num_units=INPUTS, duration=DURATION,
        dtype=torch.float64,
    )  # fmt: skip
    out = layer(given)
    at = out.times / DURATION
    units = out.units.double()
    (torch.cos(2 * units + 1) * at + torch.sin(units) * at**2).sum().backward()
    found = {"weight": layer.weight.grad, "recurrent": layer.recurrent_weight.grad}
    for name in NAMES[2:]:
        if name.startswith("tau"):  # kept as logarithms
            found[name] = getattr(layer, f"log_{name}").grad / torch.tensor(values[name])
        else:
            found[name] = getattr(layer, name).grad
    return {name: grad.numpy() for name, grad in found.items()}, out.times.numel()


@pytest.mark.parametrize("seed", [0, 1])
def test_every_gradient_converges_at_first_order_to_finite_differences(seed):
    values, events = problem(seed)
    expected = differences(values, events)
    count = len(Continuous(**values).run(events, DURATION))
    errors = {name: [] for name in NAMES}
    for dt in (1e-4, 1e-5, 1e-6):
        found, spikes = grid_gradients(values, events, dt)
        assert spikes == count
        for name in NAMES:
            error = np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max()
            errors[name].append(error)
    for name, (coarse, _, fine) in errors.items():
        assert fine < 2e-3, (name, errors[name])
        assert fine < 0.1 * coarse, (name, errors[name])  # 0.01 at first order, less noise


def test_without_adaptation_it_is_a_lif_neuron():
    torch.manual_seed(0)
    lif = EventPropLIF(6, 5, recurrent=True, learn_threshold=True, dtype=torch.float64)
    adaptive = EventPropALIF(
        6, 5, recurrent=True, beta=0.0, learn_threshold=True, dtype=torch.float64
    )
    lif.reset_parameters(3.0, 1.0)
    adaptive.load_state_dict(lif.state_dict(), strict=False)
    raster, out = (torch.rand(200, 3, 6) < 0.05).double(), []
    for layer in (lif, adaptive):
        spikes = layer(raster)
        weights = torch.linspace(-1, 1, spikes.numel(), dtype=torch.float64).view_as(spikes)
        (spikes * weights).sum().backward()
        out.append(spikes.detach())
    assert torch.equal(*out) and out[0].sum() > 20
    for name, parameter in lif.named_parameters():
        torch.testing.assert_close(
            adaptive.get_parameter(name).grad, parameter.grad, rtol=1e-9, atol=1e-9
        )


def test_constants_are_checked_by_name():
    with pytest.raises(ValueError, match="tau_a must be positive"):
        EventPropALIF(2, 3, tau_a=-1.0)
    with pytest.raises(ValueError, match="beta must be finite"):
        EventPropALIF(2, 3, beta=float("nan"))
    with pytest.raises(ValueError, match=r"beta must be a number or have shape \[3\]"):
        EventPropALIF(2, 3, beta=torch.ones(2))
