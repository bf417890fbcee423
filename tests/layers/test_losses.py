"""Losses and the rate penalty against formulas written in NumPy, and what they say to bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from snn_eventprop import EventPropLI, EventPropLIF, SpikeEvents
from snn_eventprop.losses import (
    FirstSpikeLoss,
    LinearLoss,
    MaxLoss,
    SigmoidLoss,
    StepCrossEntropyLoss,
    SumExpLoss,
    SumLoss,
)
from snn_eventprop.regularizers import SpikeCountRegularizer

TRACE_LOSSES = [
    SumLoss(), SumExpLoss(), LinearLoss(), SigmoidLoss(), MaxLoss(), StepCrossEntropyLoss(),
    SumExpLoss(scale=7.0),
]  # fmt: skip


def smooth_trace(steps: int, duration: float = 0.8) -> torch.Tensor:
    """The same three membranes of two samples, [T, 2, 3], sampled at the end of each bin."""
    t = np.arange(1, steps + 1) / steps * duration
    rates = np.array([[5.0, 9.0, 2.0], [1.0, 4.0, 8.0]])
    gains = np.array([[3.0, -1.0, 2.0], [0.5, 2.5, -2.0]])
    trace = gains * np.sin(rates * t[:, None, None]) * np.exp(-t[:, None, None])
    return torch.from_numpy(trace)


def negative_log_softmax(logits: np.ndarray, label: int) -> float:
    return -math.log(math.exp(logits[label]) / sum(math.exp(x) for x in logits))


def independent(loss, trace: np.ndarray, labels) -> float:
    """The loss of a trace [T, B, O] from its formula, sample by sample and step by step."""
    steps, batch, _ = trace.shape
    weights = {
        SumLoss: lambda x: 1.0,
        SumExpLoss: lambda x: math.exp(-x),
        LinearLoss: lambda x: 1 - x,
        SigmoidLoss: lambda x: 1 / (1 + math.exp((x - 0.5) / 0.2)),
    }
    total = 0.0
    for b in range(batch):
        if isinstance(loss, MaxLoss):
            total += negative_log_softmax(trace[:, b].max(axis=0), labels[b])
        elif isinstance(loss, StepCrossEntropyLoss):
            each = [negative_log_softmax(trace[k, b], labels[b]) for k in range(steps)]
            total += sum(each) / steps
        else:
            weight = weights[type(loss)]
            mean = sum(weight((k + 1) / steps) * trace[k, b] for k in range(steps)) / steps
            total += negative_log_softmax(loss.scale * mean, labels[b])
    return total / batch


@pytest.mark.parametrize("loss", TRACE_LOSSES, ids=repr)
def test_value_is_the_formula(loss):
    trace = smooth_trace(40)
    value = loss(trace, torch.tensor([2, 0]))
    assert value.item() == pytest.approx(independent(loss, trace.numpy(), [2, 0]), rel=1e-12)


@pytest.mark.parametrize("loss", TRACE_LOSSES, ids=repr)
def test_gradient_is_that_of_finite_differences(loss):
    trace = smooth_trace(12).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, torch.tensor([1, 2])), trace)


@pytest.mark.parametrize("loss", TRACE_LOSSES, ids=repr)
def test_value_does_not_depend_on_dt_to_first_order(loss):
    """Halving dt halves the difference to the limit; the limit is not 0 or infinite."""
    target = torch.tensor([0, 1])
    coarse, middle, fine = (loss(smooth_trace(n), target).item() for n in (400, 800, 1600))
    limit = loss(smooth_trace(200_000), target).item()
    assert abs(coarse - limit) < 0.02 * limit
    for larger, smaller in ((coarse, middle), (middle, fine)):
        assert abs(smaller - limit) <= 0.6 * abs(larger - limit) + 1e-6


@pytest.mark.parametrize("loss", [SumLoss(), SumExpLoss(scale=2.0), LinearLoss()], ids=repr)
def test_closed_form_and_trace_agree_at_first_order(loss):
    torch.manual_seed(0)
    times = [([0.01, 0.03, 0.11], [0, 1, 1]), ([0.02, 0.15], [1, 0])]
    events = SpikeEvents.from_list(times, num_units=2, duration=0.2, dtype=torch.float64)
    errors = []
    for dt in (1e-3, 1e-4):
        readout = EventPropLI(2, 3, dt=dt, dtype=torch.float64)
        with torch.no_grad():
            readout.weight.copy_(torch.tensor([[3.0, -2.0], [1.0, 4.0], [-1.0, 2.0]]))
        closed = loss.scale * readout.integral(events, loss.weighting)
        errors.append((loss.logits(readout(events)) - closed).abs().max().item())
    assert errors[0] < 0.01 * closed.abs().max().item()
    assert errors[1] < 0.15 * errors[0]


@pytest.mark.parametrize("loss", TRACE_LOSSES, ids=repr)
def test_largest_logit_is_the_class_with_the_lowest_loss(loss):
    trace = smooth_trace(50)[:, :1]
    each = [loss(trace, torch.tensor([k])).item() for k in range(3)]
    assert loss.logits(trace).argmax().item() == int(np.argmin(each))


def first_spikes(times: torch.Tensor | None = None) -> SpikeEvents:
    """Three samples, three classes: two classes fire; one; none."""
    if times is None:
        times = torch.tensor([0.010, 0.020, 0.030, 0.015], dtype=torch.float64)
    return SpikeEvents(
        times, torch.tensor([2, 0, 2, 1]), torch.tensor([0, 3, 4, 4]), num_units=3, duration=0.1
    )


def test_first_spike_loss_is_the_formula_and_counts_silence_as_the_end():
    tau_0, tau_1, alpha = 0.02, 0.05, 0.1
    first = [[0.02, 0.1, 0.01], [0.1, 0.015, 0.1], [0.1, 0.1, 0.1]]
    labels = [0, 1, 2]
    expected = sum(
        negative_log_softmax([-t / tau_0 for t in row], label)
        + alpha * (math.exp(row[label] / tau_1) - 1)
        for row, label in zip(first, labels, strict=True)
    ) / 3
    loss = FirstSpikeLoss(tau_0, tau_1, alpha)(first_spikes(), torch.tensor(labels))
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_first_spike_gradient_reaches_first_spikes_only():
    times = first_spikes().times.requires_grad_()
    target = torch.tensor([0, 1, 2])
    loss = FirstSpikeLoss()
    assert torch.autograd.gradcheck(lambda t: loss(first_spikes(t), target), times)
    loss(first_spikes(times), target).backward()
    assert times.grad[1] > 0 and times.grad[0] < 0  # the label should come earlier
    assert times.grad[2] == 0  # a second spike of unit 2


def test_first_spike_loss_without_any_spike_is_finite():
    silent = SpikeEvents.from_list([([], [])] * 2, num_units=4, duration=0.1)
    assert math.isfinite(FirstSpikeLoss()(silent, torch.tensor([0, 3])).item())


@pytest.mark.parametrize("loss", [*TRACE_LOSSES, FirstSpikeLoss()], ids=repr)
@pytest.mark.parametrize(
    ("target", "words"),
    [
        (torch.tensor([0, 3, 1]), r"labels in 0\.\.2 .* got 3"),
        (torch.tensor([0, -1, 1]), r"labels in 0\.\.2 .* got -1"),
        (torch.tensor([0.0, 1.0, 1.0]), "integer class labels, got torch.float32"),
        (torch.tensor([0, 1]), r"shape \[B=3\].*got \(2,\)"),
        (torch.eye(3, dtype=torch.long), r"shape \[B=3\].*got \(3, 3\)"),
        ([0, 1, 2], "must be a tensor"),
    ],
    ids=["too large", "negative", "float", "too few", "one-hot", "list"],
)
def test_bad_targets_are_named(loss, target, words):
    readout = first_spikes() if loss.reads == "spikes" else torch.zeros(5, 3, 3)
    with pytest.raises(ValueError, match=words):
        loss(readout, target)


@pytest.mark.parametrize("loss", TRACE_LOSSES, ids=repr)
def test_bad_traces_are_named(loss):
    with pytest.raises(ValueError, match=r"\[T, B, O\].*got \(5, 3\)"):
        loss(torch.zeros(5, 3), torch.zeros(5, dtype=torch.long))
    with pytest.raises(ValueError, match="T and O at least 1"):
        loss(torch.zeros(0, 1, 3), torch.zeros(1, dtype=torch.long))
    with pytest.raises(TypeError, match=r"floating-point.*int64"):
        loss(torch.zeros(5, 1, 3, dtype=torch.long), torch.zeros(1, dtype=torch.long))


def test_first_spike_loss_wants_events():
    with pytest.raises(TypeError, match="reads SpikeEvents, got Tensor"):
        FirstSpikeLoss()(torch.zeros(5, 1, 3), torch.tensor([0]))


def test_labels_are_read_at_once():
    # Each number that is read by itself makes the host wait for a GPU.
    class NoSingleNumbers(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert func is not torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    with NoSingleNumbers():
        SumLoss()(smooth_trace(9), torch.tensor([2, 1]))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_any_integer_labels_will_do(dtype):
    trace, labels = smooth_trace(9), torch.tensor([2, 1])
    assert SumLoss()(trace, labels.to(dtype)) == SumLoss()(trace, labels)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SumLoss(scale=0.0),
        lambda: SigmoidLoss(width=-1.0),
        lambda: FirstSpikeLoss(tau_0=math.nan),
        lambda: FirstSpikeLoss(alpha=-1.0),
        lambda: SpikeCountRegularizer(target=0.0),
        lambda: SpikeCountRegularizer(strength=-1.0),
    ],
)
def test_bad_constants_are_named(make):
    with pytest.raises(ValueError, match="must be"):
        make()


def test_rate_penalty_is_the_formula():
    counts = torch.tensor([[0.0, 14.0, 30.0], [4.0, 14.0, 40.0]], dtype=torch.float64)
    expected = 0.5 * (((2 / 14) - 1) ** 2 + 0.0 + (35 / 14 - 1) ** 2) / 2 / 3
    penalty = SpikeCountRegularizer(target=14.0, strength=0.5)
    assert penalty(counts).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(penalty, counts.requires_grad_())


def test_rate_penalty_has_the_jump_of_the_paper():
    """dR/ds = tau_m k_reg (mean count - target) / B, the jump of dL/dV in their units."""
    batch, neurons, tau_ms, k_reg, target = 4, 5, 20.0, 4e-9, 14.0
    counts = torch.full((batch, neurons), 20.0, dtype=torch.float64, requires_grad=True)
    strength = k_reg * tau_ms * target**2 * neurons
    SpikeCountRegularizer(target, strength)(counts).backward()
    assert counts.grad[0, 0].item() == pytest.approx(tau_ms * k_reg * 6.0 / batch, rel=1e-12)


def test_rate_penalty_lowers_the_activity_of_a_layer():
    torch.manual_seed(1)
    layer = EventPropLIF(20, 10)
    rng = np.random.default_rng(0)
    samples = [(np.sort(rng.uniform(0, 0.2, 400)), rng.integers(0, 20, 400)) for _ in range(4)]
    events = SpikeEvents.from_list(samples, num_units=20, duration=0.2)
    with torch.no_grad():
        layer.weight.fill_(0.2)
    penalty = SpikeCountRegularizer(target=5.0, strength=1.0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=5e-3)
    start = layer(events).counts().mean().item()
    for _ in range(100):
        optimizer.zero_grad()
        counts = layer(events).counts()
        penalty(counts).backward()
        optimizer.step()
    assert start > 10
    assert abs(layer(events).counts().mean().item() - 5.0) < 2.0
