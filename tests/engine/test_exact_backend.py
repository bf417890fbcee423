"""The fast CPU kernels of the continuous-time solver against the readable float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.exact_cases import (
    leaves,
    make_events,
    make_layer,
    reference_gradients,
    reference_runs,
    run,
)
from support.pairwise import pairwise

from snn_eventprop.backends.cpu import exact_launch
from snn_eventprop.backends.cpu.coefficients import coefficients
from snn_eventprop.neurons import lif as equations


@pairwise(
    taus=["each", "shared", "equal", "reversed"],
    recurrent={"recurrent": True, "feedforward": False},
    floor={"unguarded": 0.0, "guarded": 60.0},
)
def test_spikes_and_gradients_equal_the_reference(recurrent, taus, floor):
    strength = 0.2 if taus == "reversed" else 1.0
    layer = make_layer(0, recurrent=recurrent, taus=taus, strength=strength)
    times, units, rng = make_events(0)
    p = leaves(layer, shared=taus == "shared")
    floors = np.full(6, floor)
    packed, spikes = run(layer, p, times, units, floors)
    runs = reference_runs(layer, times, units)
    assert spikes.offsets.diff().tolist() == [len(r.spike_times) for r in runs]
    assert min(spikes.offsets.diff()) > 20
    assert spikes.units.tolist() == [n for r in runs for n in r.spike_units]
    expected_times = np.concatenate([r.spike_times for r in runs])
    np.testing.assert_allclose(spikes.times.detach(), expected_times, rtol=0, atol=1e-13)

    worth = rng.normal(0, 1, spikes.times.numel())
    marks = rng.normal(0, 1, spikes.times.numel())
    (spikes.times @ torch.tensor(worth) + spikes.marks @ torch.tensor(marks)).backward()
    expected = reference_gradients(layer, runs, spikes, worth, marks, floors)
    assert floor == 0 or sum(g.guarded for g in expected) > 0
    for name, leaf in p.items():
        if leaf is None:
            continue
        total = sum(getattr(g, name) for g in expected)
        if leaf.numel() == 1:
            total = total.sum(keepdims=True)
        np.testing.assert_allclose(leaf.grad, total, rtol=1e-9, atol=1e-10 * abs(total).max())
    total = np.concatenate([g.times for g in expected])
    np.testing.assert_allclose(packed.grad, total, rtol=1e-9, atol=1e-10 * abs(total).max())


def test_states_are_replayed_over_many_segments():
    layer = make_layer(3, strength=0.5)
    times, units, rng = make_events(3, events=900)
    p = leaves(layer)
    _, spikes = run(layer, p, times, units, np.zeros(6))
    worth = rng.normal(0, 1, spikes.times.numel())
    (spikes.times @ torch.tensor(worth)).backward()
    expected = reference_gradients(layer, reference_runs(layer, times, units), spikes, worth)
    for name in ("tau_mem", "tau_syn"):
        total = sum(getattr(g, name) for g in expected)
        np.testing.assert_allclose(p[name].grad, total, rtol=1e-8, atol=1e-9 * abs(total).max())


def test_each_sample_keeps_its_states_where_one_before_took_the_room(monkeypatch):
    # All samples in one range, as some of a large batch are; at first it has room for two states.
    monkeypatch.setattr(exact_launch, "over_samples", lambda run, work, **_: [run(0, len(work))])
    layer = make_layer(0, size=1, inputs=1, recurrent=False, strength=70.0)
    times, units, rng = make_events(0, events=10, inputs=1)
    p = leaves(layer)
    _, spikes = run(layer, p, times, units, np.zeros(1))
    assert 256 < spikes.offsets[1] < 500
    worth = rng.normal(0, 1, spikes.times.numel())
    (spikes.times @ torch.tensor(worth)).backward()
    expected = reference_gradients(layer, reference_runs(layer, times, units), spikes, worth)
    for name in ("tau_mem", "tau_syn"):
        total = sum(getattr(g, name) for g in expected)
        np.testing.assert_allclose(p[name].grad, total, rtol=1e-8)


@pytest.mark.parametrize("taus", ["each", "shared"])
def test_float32_gradients_are_those_of_float64(taus):
    layer = make_layer(1, taus=taus)
    times, units, _ = make_events(1)
    times = [t.astype(np.float32).astype(np.float64) for t in times]
    grads = {}
    for dtype in (torch.float32, torch.float64):
        p = leaves(layer, dtype, shared=taus == "shared")
        _, spikes = run(layer, p, times, units, np.zeros(6))
        worth = np.sin(np.arange(spikes.times.numel()))
        (spikes.times @ torch.tensor(worth, dtype=dtype)).backward()
        grads[dtype] = {k: v.grad.double() for k, v in p.items()}, spikes
    assert torch.equal(grads[torch.float32][1].units, grads[torch.float64][1].units)
    apart = grads[torch.float32][1].times.double() - grads[torch.float64][1].times
    assert apart.abs().max() < 1e-7
    for name, exact in grads[torch.float64][0].items():
        single = grads[torch.float32][0][name]
        assert (single - exact).norm() < 1e-3 * exact.norm(), name


@pytest.mark.parametrize("gap", [0.0, 1e-9, 1e-5, 1.1e-3, 0.04, 1.0])
@pytest.mark.parametrize("tau_mem, tau_syn", [(20e-3, 5e-3), (5e-3, 5e-3), (4e-3, 4.00001e-3)])
def test_coefficients_of_a_gap_are_the_equations(gap, tau_mem, tau_syn):
    e_syn, e_mem, psp = coefficients(gap, 1 / tau_mem, 1 / tau_syn)
    assert e_syn == pytest.approx(np.exp(-gap / tau_syn), rel=1e-12, abs=1e-30)
    assert e_mem == pytest.approx(np.exp(-gap / tau_mem), rel=1e-12, abs=1e-30)
    expected = equations.psp_coefficient(gap, tau_mem, tau_syn)
    assert psp == pytest.approx(expected, rel=1e-12, abs=1e-30)


@pytest.mark.parametrize("gap", [1e-6, 1e-4, 3e-3, 0.04])
@pytest.mark.parametrize("tau_mem, tau_syn", [(20e-3, 5e-3), (5e-3, 5e-3), (4e-3, 4.1e-3)])
def test_derivatives_of_the_psp_are_those_of_its_difference_quotient(gap, tau_mem, tau_syn):
    e_syn, e_mem = np.exp(-gap / tau_syn), np.exp(-gap / tau_mem)
    found = equations.psp_derivatives(gap, e_syn, e_mem, tau_mem, tau_syn)
    psp, h = equations.psp_coefficient, 1e-7
    by_mem = (psp(gap, tau_mem + h, tau_syn) - psp(gap, tau_mem - h, tau_syn)) / (2 * h)
    by_syn = (psp(gap, tau_mem, tau_syn + h) - psp(gap, tau_mem, tau_syn - h)) / (2 * h)
    scale = abs(by_mem) + abs(by_syn)
    assert found == pytest.approx((by_mem, by_syn), rel=1e-6, abs=1e-6 * scale)


@pytest.mark.parametrize("tau_syn", [2e-3, 10e-3, 10e-3 * (1 + 1e-9), 30e-3])
def test_the_membrane_has_its_peak_at_the_peak_time(tau_syn):
    tau_mem, current, voltage = 10e-3, 2.0, 0.3
    peak = equations.peak_time(current, voltage, tau_mem, tau_syn)
    psp = equations.psp_coefficient(peak, tau_mem, tau_syn)
    i, (v,) = equations.flow(
        current, (voltage,), (np.exp(-peak / tau_syn), psp, np.exp(-peak / tau_mem))
    )
    assert i == pytest.approx(v, rel=1e-9)
