"""Delayed synapses on the grid: the fast kernels against the readable float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.grid_cases import (
    assert_delays_equal_to_reference,
    leaf,
    make_case,
    solve,
    with_delays,
)
from support.grid_runs import coefficients_of
from support.pairwise import pairwise

RESETS = {
    "subtract-immediate": ("subtract", False), "zero-immediate": ("zero", False),
    "none-immediate": ("none", False), "subtract-delayed": ("subtract", True),
}  # fmt: skip


@pairwise(
    reset=RESETS,
    kind=["exponential", "equal_taus", "synaptic"],
    recurrent={"feedforward": False, "recurrent": True},
)
def test_delays_equal_reference(kind, recurrent, reset):
    mechanism, delayed = reset
    case = make_case(kind=kind, recurrent=recurrent, reset=mechanism, delayed=delayed)
    assert assert_delays_equal_to_reference(*with_delays(case, 12)) > 10


@pytest.mark.parametrize("longest", [0, 3, 150], ids="{} bins".format)
@pytest.mark.parametrize("replay", [False, True], ids=["skipping", "replayed"])
def test_delays_equal_reference_over_several_segments(longest, replay):
    case = make_case(steps=2500, density=0.01, batch=2, strength=1.5)
    assert (
        assert_delays_equal_to_reference(
            *with_delays(case, longest), trace=replay, coefficients=replay, events=replay
        )
        > 50
    )


def test_delays_longer_than_a_segment_equal_reference():
    case = make_case(steps=2500, density=0.05, batch=1, size=3, inputs=3, strength=4.0)
    assert assert_delays_equal_to_reference(*with_delays(case, 1500)) > 50


@pytest.mark.parametrize("recurrent", [False, True], ids=["feedforward", "recurrent"])
def test_delayed_bins_without_arrivals_may_be_skipped(recurrent):
    case = make_case(steps=3100, density=0.0006, batch=3, recurrent=recurrent, strength=9.0)
    spikes = assert_delays_equal_to_reference(
        *with_delays(case, 9), trace=False, coefficients=False, events=False
    )
    assert spikes > 10


@pytest.mark.parametrize("which", ["delay", "recurrent_delay"])
def test_one_kind_of_delay_leaves_the_other_at_zero(which):
    layer, driven, _ = with_delays(make_case(), 8)
    zero = {"delay": "recurrent_delay", "recurrent_delay": "delay"}[which]
    setattr(layer, zero, np.zeros_like(getattr(layer, zero)))
    gradients = []
    for absent in (False, True):
        given = {name: leaf(getattr(layer, name)) for name in ("delay", "recurrent_delay")}
        if absent:
            given.pop(zero)
        out = solve(layer, driven, recurrent=torch.tensor(layer.recurrent), **given)
        (out.stamps**2).sum().backward()
        gradients.append(given[which].grad)
    assert gradients[0].abs().sum() > 0
    assert torch.equal(*gradients)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    steps=st.integers(1, 40),
    batch=st.integers(1, 3),
    inputs=st.integers(1, 6),
    size=st.integers(1, 70),
    density=st.sampled_from([0.0, 0.05, 0.5, 2.0]),
    recurrent=st.booleans(),
    longest=st.sampled_from([0, 1, 7, 60]),
    recurrent_longest=st.sampled_from([0, 1, 60]),
    quick=st.booleans(),
)
def test_delays_equal_reference_for_any_shape(
    seed, steps, batch, inputs, size, density, recurrent, longest, recurrent_longest, quick
):
    case = make_case(seed, steps, batch, inputs, size, density=density, recurrent=recurrent)
    assert_delays_equal_to_reference(
        *with_delays(case, longest, recurrent_longest),
        trace=not quick, coefficients=not quick, events=not quick,
    )  # fmt: skip


def test_shifting_a_delay_by_a_bin_changes_a_linear_loss_by_its_gradient():
    # Below the threshold the grid is linear: a delay's gradient per bin, which looks one bin
    # ahead, is then no approximation but the whole change.
    layer, driven, rng = with_delays(make_case(strength=0.2, density=0.3), 20)
    layer.delay = np.rint(layer.delay)
    worth = torch.tensor(rng.normal(0, 1, (*driven.shape[:2], layer.size)))
    coefficients = torch.tensor(coefficients_of(layer))
    coefficients[3] *= 100

    def loss(delay):
        out = solve(layer, driven, coefficients=coefficients, record=True, delay=delay)
        assert out.stamps.numel() == 0
        return (out.trace * worth).sum()

    delay = leaf(layer.delay)
    start = loss(delay)
    start.backward()
    for i, j in np.ndindex(*delay.shape):
        shifted = delay.detach().clone()
        shifted[i, j] += 1
        change = loss(shifted) - start.detach()
        torch.testing.assert_close(delay.grad[i, j], change, rtol=1e-9, atol=1e-9)


def test_gradients_of_delays_are_bitwise_repeatable():
    def gradient():
        layer, driven, _ = with_delays(make_case(3, 200, 9, 30, 50, strength=0.3), 30)
        delay = leaf(layer.delay)
        out = solve(layer, driven, recurrent=torch.tensor(layer.recurrent), delay=delay)
        (out.stamps**2).sum().backward()
        return delay.grad

    first = gradient()
    assert first.abs().sum() > 0
    assert all(torch.equal(first, gradient()) for _ in range(3))


def test_an_empty_batch_has_gradients_of_zero():
    layer, driven, _ = with_delays(make_case(batch=0), 5)
    delay, recurrent_delay = leaf(layer.delay), leaf(layer.recurrent_delay)
    out = solve(
        layer, driven, delay=delay, recurrent=torch.tensor(layer.recurrent),
        recurrent_delay=recurrent_delay,
    )  # fmt: skip
    (out.last_voltage.sum() + out.stamps.sum()).backward()
    assert not delay.grad.any() and not recurrent_delay.grad.any()
