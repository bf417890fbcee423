"""The hybrid gradient of the grid solver: exact times of spikes, and peaks that nearly spike."""

from __future__ import annotations

import mean_gradients
import numpy as np
import pytest
import torch
from support.alif_cases import assert_equal_to_reference
from support.grid_runs import lif_layer

from snn_eventprop import EventPropALIF, EventPropLI, EventPropLIF, EventPropNeuron, SpikeEvents
from snn_eventprop.backends.reference import grid as reference
from snn_eventprop.diagnostics import collect
from snn_eventprop.ops import grid as op

STEPS, BATCH, INPUTS, SIZE, DT = 60, 3, 9, 70, 1e-3


def constants(generator, size=SIZE):
    s = torch.full((size,), 0.8, dtype=torch.float64)
    m = 0.93 + 0.02 * torch.rand(size, generator=generator, dtype=torch.float64)
    threshold = 0.8 + 0.4 * torch.rand(size, generator=generator, dtype=torch.float64)
    return torch.stack([s, 0.2 + 0 * m, m, threshold, torch.zeros_like(m)])


@pytest.mark.parametrize("delays", [False, True], ids=["dense", "delayed"])
@pytest.mark.parametrize(
    "reset", ["none", "subtract", "zero", "later_subtract", "later_zero", "later_zero_all"]
)
def test_kernels_equal_the_reference(reset, delays):
    generator = torch.Generator().manual_seed(4)
    rows = constants(generator).requires_grad_()
    raster = (torch.rand(STEPS, BATCH, INPUTS, generator=generator) < 0.08).double()
    weight = (0.15 + 0.5 * torch.randn(INPUTS, SIZE, generator=generator)).double()
    recurrent = (0.03 * torch.randn(SIZE, SIZE, generator=generator)).double()
    weight.requires_grad_(), recurrent.requires_grad_()
    width = torch.full((SIZE,), 0.7, dtype=torch.float64)
    bins = {}
    if delays:
        bins = {
            "input": torch.randint(0, 5, (INPUTS, SIZE), generator=generator).double(),
            "recurrent": torch.randint(0, 4, (SIZE, SIZE), generator=generator).double(),
        }
    floor = torch.full((SIZE,), 0.002, dtype=torch.float64)
    spikes = op.grid_lif(
        op.dense_events(raster, torch.float64), STEPS, weight,
        op.Population("lif", rows, floor, reset, width), recurrent=recurrent,
        delays=op.Delays(**bins),
    )  # fmt: skip
    value = torch.randn(STEPS, BATCH, SIZE, generator=generator).double()
    (op.to_raster(spikes, STEPS, SIZE, hold=True) * value).sum().backward()
    assert spikes.peak_bins.numel() > 100 and spikes.bins.numel() > 100

    later = reset.startswith("later_")
    layer = lif_layer(
        weight.detach().numpy(), *rows.detach().numpy(), reset=reset.removeprefix("later_"),
        delayed=later, recurrent=recurrent.detach().numpy(), width=width.numpy(),
        delay=bins["input"].numpy() if delays else None,
        recurrent_delay=bins["recurrent"].numpy() if delays else None,
    )  # fmt: skip
    total = 0
    for b in range(BATCH):
        run = reference.forward(layer, raster[:, b].numpy())
        held = np.concatenate([value[:, b].numpy(), value[-1:, b].numpy()])
        total = total + np.array([run.peaks.sum(), run.spikes.sum()])
        grads = reference.backward(layer, run, held, floor=floor.numpy())
        if b == 0:
            sums = [grads.weight, grads.recurrent, np.stack(list(grads.constants.values()))]
        else:
            parts = (grads.weight, grads.recurrent, np.stack(list(grads.constants.values())))
            sums = [a + b for a, b in zip(sums, parts, strict=True)]
    assert total.tolist() == [spikes.peak_bins.numel(), spikes.bins.numel()]
    for ours, theirs in zip(
        (weight.grad, recurrent.grad, rows.grad[:4]), sums, strict=True
    ):
        torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("reset", ["none", "subtract", "zero"])
def test_adaptive_neurons_equal_the_reference(reset):
    assert_equal_to_reference(reset, recurrent=True, delays=0, size=20, steps=60, width=1.5)


def layers(**options):
    torch.manual_seed(1)
    first = EventPropLIF(INPUTS, 20, recurrent=True, dtype=torch.float64, **options)
    second = EventPropALIF(20, 15, dtype=torch.float64, **options)
    readout = EventPropLI(15, 3, dtype=torch.float64)
    with torch.no_grad():
        second.weight.mul_(0.3)
    return torch.nn.ModuleList([first, second, readout])


def inputs(quiet=30):
    generator = torch.Generator().manual_seed(2)
    raster = (torch.rand(100, 4, INPUTS, generator=generator) < 0.03).double()
    raster[-quiet:] = 0
    return raster


def gradients(net, loss):
    net.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in net.parameters()]


def test_without_noise_it_is_the_exact_gradient_bit_for_bit():
    raster, found = inputs(), []
    for options in ({}, {"gradient": "hybrid", "threshold_noise": 0.0}, {"gradient": "hybrid"}):
        net = layers(**options)
        out = net[2](net[1](net[0](raster)))
        found.append((out.detach(), gradients(net, out.square().sum())))
    (out, exact), (_, without), (same, hybrid) = found
    assert torch.equal(out, same)  # the forward pass is the same with noise
    assert all(torch.equal(a, b) for a, b in zip(exact, without, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(exact[:2], hybrid[:2], strict=True))


def test_peaks_out_of_reach_leave_the_exact_gradient():
    """The kernels that look for peaks compute the rest as those that do not."""
    raster = inputs()
    exact, hybrid = layers(), layers(gradient="hybrid", threshold_noise=1e-12)
    found = [gradients(net, net[2](net[1](net[0](raster))).square().sum())
             for net in (exact, hybrid)]  # fmt: skip
    assert collect(hybrid)["0"].peaks_per_neuron == 0
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_events_and_rasters_have_the_same_gradient():
    raster = inputs()
    net = layers(gradient="hybrid")
    of_raster = gradients(net, net[2](net[1](net[0](raster))).square().sum())
    peaks = collect(net)["1"].peaks_per_neuron
    events = SpikeEvents.from_dense(raster, 1e-3)
    of_events = gradients(net, net[2](net[1](net[0](events))).square().sum())
    assert peaks > 0.5 and collect(net)["1"].peaks_per_neuron == peaks
    for a, b in zip(of_raster, of_events, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("per_neuron", [False, True], ids=["shared", "per-neuron"])
def test_closed_forms_give_peaks_their_gradient(per_neuron):
    """The integral is the mean of samples, which is that of the trace but for the grid."""
    events = SpikeEvents.from_dense(inputs(), 1e-3)
    net = layers(gradient="hybrid")
    if per_neuron:
        net[2] = EventPropLI(15, 3, tau_mem=torch.full((3,), 20e-3), dtype=torch.float64)
    times = torch.linspace(0, events.duration, 2001, dtype=torch.float64)
    middle = (times[1:] + times[:-1]) / 2
    hidden = net[1](net[0](events))
    of_integral = gradients(net, net[2].integral(hidden).square().sum())
    hidden = net[1](net[0](events))
    of_samples = gradients(net, net[2].sample(hidden, middle).mean(0).square().sum())
    for a, b in zip(of_integral, of_samples, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


def test_a_part_of_a_batch_keeps_its_peaks():
    net = layers(gradient="hybrid")
    hidden = net[0](SpikeEvents.from_dense(inputs(), 1e-3))
    whole = net[2].weight.new_zeros(20).index_add(0, hidden.peaks.units, hidden.peaks.values + 1)
    parts = [hidden[[3, 0]], hidden[1:3]]
    counted = sum(
        whole.new_zeros(20).index_add(0, part.peaks.units, part.peaks.values + 1)
        for part in parts
    )
    assert torch.equal(whole, counted) and whole.sum() > 0
    joined = SpikeEvents.cat(parts)
    assert joined.peaks.offsets.tolist()[-1] == hidden.peaks.offsets.tolist()[-1]
    assert torch.equal(joined[0].peaks.bins, hidden[3].peaks.bins)


def test_one_peak_has_the_gradient_of_the_expected_loss():
    """One pulse, neurons that stay below the threshold, a loss on the bin of a spike.

    The expected loss is known without the engine: a spike in the bin of the peak, with the
    probability that the noise exceeds its distance from the threshold.
    """
    steps, size, width, dt = 60, 12, 1.0, 1e-3
    weight = torch.linspace(0.5, 5.5, size, dtype=torch.float64)
    value = torch.randn(steps, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def expected(weights):
        total, s, m = np.zeros(size), np.exp(-dt / 5e-3), np.exp(-dt / 20e-3)
        for n, w in enumerate(weights):
            i, v, trace = 0.0, 0.0, []
            for k in range(steps):
                i += w * (k == 3)
                v = m * v + 5 / (5 - 20) * (s - m) * i
                i *= s
                trace.append(v)
            assert 0 < max(trace) < 1
            total[n] = max(0.0, 1 - (1 - max(trace)) / width) ** 2 * value[int(np.argmax(trace))]
        return total

    neurons = EventPropNeuron(gradient="hybrid", threshold_noise=width, dtype=torch.float64)
    drive = torch.zeros(steps, 1, size, dtype=torch.float64)
    drive[3] = weight
    drive.requires_grad_()
    (neurons(drive)[:, 0] * value[:, None]).sum().backward()
    h = 1e-6
    difference = (expected(weight.numpy() + h) - expected(weight.numpy() - h)) / (2 * h)
    assert np.abs(difference).min() > 1e-4
    np.testing.assert_allclose(drive.grad[3, 0].numpy(), difference, rtol=1e-6)


@pytest.mark.parametrize(
    ("scale", "rate"), [(0.15, 0.006), (0.4, 0.05), (1.0, 0.17), (3.0, 0.47)]
)
@pytest.mark.parametrize("loss", ["spike count", "spikes weighted by cos(100 t)"])
def test_the_mean_gradient_is_that_of_the_mean_loss(loss, scale, rate):
    """Over an ensemble spikes appear and vanish one by one, and leave by the end of the window.

    Both losses jump then. The exact gradient of a count is zero, and that of the weighted spikes
    is off by a third or more.
    """
    current, weighting = mean_gradients.drives(scale, DT), mean_gradients.weightings(DT)[loss]
    hybrid, found = mean_gradients.mean_gradient(
        current, weighting, DT, gradient="hybrid", threshold_noise=0.1
    )
    exact, _ = mean_gradients.mean_gradient(current, weighting, DT)
    difference = mean_gradients.difference(current, weighting, DT)
    assert abs(found - rate) < 0.1 * rate
    assert abs(hybrid - difference) < 0.1 * abs(difference)
    assert abs(exact - difference) > 0.3 * abs(difference)


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match=r"gradient must be one of .*'surogate'"):
        EventPropLIF(2, 3, gradient="surogate")
    with pytest.raises(ValueError, match=r'gradient=.hybrid. needs solver="grid"'):
        EventPropLIF(2, 3, gradient="hybrid", solver="exact")
    with pytest.raises(ValueError, match="threshold_noise"):
        EventPropNeuron(gradient="hybrid", threshold_noise=-1.0)
