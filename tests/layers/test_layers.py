"""The public layers against each other and against closed forms."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from support.layer_cases import DOUBLE, DT, assert_close, fill, gradients, raster_of, worth_like
from torch import nn

from snn_eventprop import EventPropLI, EventPropLIF, EventPropNeuron, SpikeEvents

# Events and rasters


@pytest.mark.parametrize("recurrent", [False, True], ids=["feedforward", "recurrent"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_events_and_rasters_are_two_forms_of_one_computation(layers, recurrent):
    sizes = [6, 5, 5, 5][: layers + 1]
    net = nn.Sequential(*[
        EventPropLIF(i, o, recurrent=recurrent, learn_tau_mem=True, learn_tau_syn=True,
                     learn_threshold=True, dt=DT, **DOUBLE)
        for i, o in itertools.pairwise(sizes)
    ], EventPropLI(5, 3, learn_tau_mem=True, dt=DT, **DOUBLE))  # fmt: skip
    fill(net)
    raster = raster_of()
    spikes = net[:-1](raster)
    events = net[:-1](SpikeEvents.from_dense(raster, DT))
    assert spikes.sum() > 20
    assert torch.equal(events.to_dense(DT), spikes)
    worth = worth_like(net(raster))
    from_raster = gradients(net, (net(raster) * worth).sum())
    from_events = gradients(net, (net(SpikeEvents.from_dense(raster, DT)) * worth).sum())
    assert len(from_raster) == layers * (5 if recurrent else 4) + 2
    for name, gradient in from_raster.items():
        assert gradient.abs().sum() > 0, name
        assert_close(from_events[name], gradient)


def test_gradient_of_an_input_time_is_the_change_of_its_worth_along_the_raster():
    layer = fill(EventPropLIF(6, 4, dt=DT, **DOUBLE))
    readout = fill(EventPropLI(4, 2, dt=DT, **DOUBLE))
    raster = raster_of(density=0.1).requires_grad_()
    trace = readout(layer(raster))
    worth = worth_like(trace)
    (trace * worth).sum().backward()
    events = SpikeEvents.from_dense(raster.detach(), DT)
    times = events.times.clone().requires_grad_()
    moved = SpikeEvents(times, events.units, events.offsets, 6, events.duration)
    (readout(layer(moved)) * worth).sum().backward()
    after = torch.cat([raster.grad[1:], torch.zeros_like(raster.grad[:1])])
    change = (after - raster.grad) / DT
    bins = (events.times / DT).round().long()
    assert_close(times.grad, change[bins, events.samples(), events.units])


def test_two_events_in_a_bin_act_as_one_of_twice_the_weight():
    layer = fill(EventPropLIF(2, 3, dt=DT, **DOUBLE), mean=6)
    twice = SpikeEvents.from_list([([0.003, 0.0034], [1, 1])], num_units=2, duration=0.05)
    graded = torch.zeros(50, 1, 2, **DOUBLE)
    graded[3, 0, 1] = 2
    assert torch.equal(layer(twice).to_dense(DT).double(), layer(graded))
    assert layer(graded).sum() > 0


# The neuron-only form


@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
def test_linear_then_neurons_is_the_fused_layer(learned):
    rng = np.random.default_rng(2)
    neurons = {
        "tau_mem": torch.from_numpy(rng.uniform(10e-3, 30e-3, 4)),
        "tau_syn": torch.from_numpy(rng.uniform(3e-3, 12e-3, 4)),
        "threshold": torch.from_numpy(rng.uniform(0.7, 1.3, 4)),
        "learn_tau_mem": learned, "learn_tau_syn": learned, "learn_threshold": learned,
        "dt": DT, **DOUBLE,
    }  # fmt: skip
    fused = fill(EventPropLIF(6, 4, **neurons))
    linear = nn.Linear(6, 4, bias=False, **DOUBLE)
    linear.weight.data.copy_(fused.weight)
    split = nn.Sequential(linear, EventPropNeuron(4, **neurons))
    readout = fill(EventPropLI(4, 2, dt=DT, **DOUBLE))
    found = []
    for net in (fused, split):
        raster = raster_of().requires_grad_()
        spikes = net(raster)
        trace = readout(spikes)
        loss = (trace * worth_like(trace)).sum() + (spikes * worth_like(spikes, 9)).sum()
        grads = gradients(net, loss)
        grads = {name.split(".")[-1]: g for name, g in grads.items()}
        found.append((spikes, {**grads, "input": raster.grad}))
    (ours, our_grads), (theirs, their_grads) = found
    assert torch.equal(ours, theirs) and ours.sum() > 20
    assert set(our_grads) == set(their_grads) and len(our_grads) == (5 if learned else 2)
    for name in our_grads:
        assert their_grads[name].abs().sum() > 0
        assert_close(our_grads[name], their_grads[name])


def test_convolution_then_neurons_is_the_fused_layer_of_its_matrix():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, padding=1, bias=False, **DOUBLE)
    nn.init.normal_(conv.weight, 0.6, 0.6)
    height, width, steps, batch = 4, 5, 40, 2
    neurons = EventPropNeuron(dt=DT, **DOUBLE)
    unit = torch.eye(2 * height * width, **DOUBLE).view(-1, 2, height, width)
    matrix = conv(unit).flatten(1).T.detach()  # [out, in]
    fused = EventPropLIF(*matrix.T.shape, dt=DT, **DOUBLE)
    fused.weight.data.copy_(matrix)
    raster = raster_of(steps, batch, 2 * height * width, 0.05).requires_grad_()
    images = raster.detach().clone().requires_grad_()
    image = conv(images.view(steps * batch, 2, height, width))
    spikes = neurons(image.view(steps, batch, 3, height, width))
    assert spikes.shape == (steps, batch, 3, height, width)
    fused_spikes = fused(raster)
    assert torch.equal(spikes.flatten(2), fused_spikes) and spikes.sum() > 50
    worth = worth_like(fused_spikes)
    (fused_spikes * worth).sum().backward()
    (spikes.flatten(2) * worth).sum().backward()
    assert_close(images.grad, raster.grad)
    # The convolution's gradient is the matrix's, summed over the entries that share a weight.
    shared = torch.autograd.grad(conv(unit).flatten(1).T, conv.weight, fused.weight.grad)[0]
    assert_close(conv.weight.grad, shared)


def test_pooling_and_normalisation_may_stand_between_layers():
    torch.manual_seed(0)
    net = nn.Sequential(
        EventPropLIF(6, 8, dt=DT), nn.AvgPool1d(2), nn.Linear(4, 4), nn.LayerNorm(4),
        EventPropNeuron(threshold=0.3, dt=DT), EventPropLI(4, 2, dt=DT),
    )  # fmt: skip
    nn.init.normal_(net[0].weight, 1.5, 1.0)
    out = net(raster_of(dtype=torch.float32))
    out.square().sum().backward()
    for name, p in net.named_parameters():
        assert torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 2, 2), (1, 1), (0,), (2, 0)])
def test_neurons_take_any_trailing_shape(shape):
    current = torch.full((20, 3, *shape), 0.3)
    spikes = EventPropNeuron()(current)
    assert spikes.shape == current.shape
    assert spikes.numel() == 0 or (spikes.sum(0) == spikes.sum(0).flatten()[0]).all()


# Parameters


@pytest.mark.parametrize("name", ["tau_mem", "tau_syn", "threshold"])
def test_gradient_of_a_shared_constant_is_the_sum_over_neurons(name):
    """One learnable number, shared, against one per neuron; and against fixed ones."""
    learn = {f"learn_{name}": True}
    current = raster_of(units=4, density=0.3) * 1.5
    shared, each = EventPropNeuron(dt=DT, **learn, **DOUBLE), EventPropNeuron(4, dt=DT, **learn,
                                                                              **DOUBLE)  # fmt: skip
    stored = name if name == "threshold" else f"log_{name}"
    assert getattr(shared, stored).shape == () and getattr(each, stored).shape == (4,)
    fixed = EventPropNeuron(dt=DT, **DOUBLE)
    assert not list(fixed.parameters())
    spikes = fixed(current)
    assert spikes.sum() > 20
    worth = worth_like(spikes)
    for layer in (shared, each):
        assert torch.equal(layer(current), spikes)
        (layer(current) * worth).sum().backward()
    gradient = getattr(each, stored).grad
    assert (gradient != 0).all()
    assert getattr(shared, stored).grad.item() == pytest.approx(gradient.sum().item(), rel=1e-10)


def test_per_neuron_constants_act_on_their_neuron():
    layer = EventPropLIF(
        1, 3, tau_mem=torch.tensor([5e-3, 20e-3, 50e-3]), tau_syn=torch.tensor([5e-3, 5e-3, 9e-3]),
        threshold=torch.tensor([1.0, 0.5, 2.0]), **DOUBLE,
    )  # fmt: skip
    layer.weight.data.fill_(6.0)
    raster = raster_of(units=1)
    spikes = layer(raster)
    for n in range(3):
        one = EventPropLIF(
            1, 1, tau_mem=layer.tau_mem[n], tau_syn=layer.tau_syn[n],
            threshold=layer.threshold[n], **DOUBLE,
        )  # fmt: skip
        one.weight.data.fill_(6.0)
        assert torch.equal(one(raster)[..., 0], spikes[..., n])
    assert len({tuple(s) for s in spikes.sum(0).T.tolist()}) == 3


@pytest.mark.parametrize("name", ["tau_mem", "tau_syn"])
def test_time_constants_can_be_assigned(name):
    layer = EventPropLIF(2, 3, learn_tau_mem=True, learn_tau_syn=True)
    parameter = getattr(layer, f"log_{name}")
    setattr(layer, name, 0.01)
    torch.testing.assert_close(getattr(layer, name), torch.full((3,), 0.01).double())
    setattr(layer, name, torch.tensor([0.01, 0.02, 0.03]))
    torch.testing.assert_close(getattr(layer, name), torch.tensor([0.01, 0.02, 0.03]).double())
    assert getattr(layer, f"log_{name}") is parameter and parameter.requires_grad
    with pytest.raises(ValueError, match=rf"{name} must be positive \(seconds\), got -1"):
        setattr(layer, name, -1)
    with pytest.raises(ValueError, match=rf"{name} must be a number or have shape \[3\].*\(2,\)"):
        setattr(layer, name, torch.ones(2))


def test_integers_are_legal_time_constants():
    layer = EventPropLIF(2, 2, tau_mem=1, tau_syn=2, threshold=3, dt=1)
    assert layer.tau_mem.item() == pytest.approx(1.0) and layer.threshold.dtype == torch.float32


@pytest.mark.parametrize("recurrent_diagonal", [True, False])
def test_recurrent_diagonal_is_there_or_not(recurrent_diagonal):
    layer = fill(EventPropLIF(
        6, 4, recurrent=True, recurrent_diagonal=recurrent_diagonal, **DOUBLE
    ))  # fmt: skip
    raster = raster_of(steps=100)
    spikes = layer(raster)
    (spikes * worth_like(spikes)).sum().backward()
    assert (layer.recurrent_weight.grad.diagonal() != 0).all() == recurrent_diagonal
    off = layer.recurrent_weight.grad - layer.recurrent_weight.grad.diagonal().diag()
    assert off.abs().sum() > 0
    without = copy.deepcopy(layer)
    without.recurrent_weight.data.fill_diagonal_(0.0)
    assert torch.equal(without(raster), spikes) != recurrent_diagonal


def test_weights_may_be_frozen_and_inputs_alone_learn():
    layer = fill(EventPropLIF(6, 4, recurrent=True, **DOUBLE))
    raster = raster_of().requires_grad_()
    (layer(raster) * worth_like(layer(raster))).sum().backward()
    wanted = raster.grad.clone()
    raster.grad = None
    layer.requires_grad_(False)
    (layer(raster) * worth_like(layer(raster))).sum().backward()
    assert torch.equal(raster.grad, wanted) and wanted.abs().sum() > 0
    assert layer.weight.grad is not None  # of the first pass, untouched
    events = SpikeEvents.from_dense(raster.detach(), DT)
    assert not layer(events).times.requires_grad


# Precision, strides, kinds of raster


def test_single_precision_agrees_with_double():
    torch.manual_seed(0)
    net = fill(nn.Sequential(EventPropLIF(6, 8, recurrent=True, learn_tau_mem=True),
                             EventPropLI(8, 3)), mean=0.9)  # fmt: skip
    raster = raster_of(density=0.1)
    double = copy.deepcopy(net).double()
    for layer in (net, double):
        layer(raster.to(layer[0].weight.dtype)).square().mean().backward()
    assert net(raster.float()).dtype == torch.float32
    assert double(raster).dtype == torch.float64
    assert torch.equal(net[0](raster.float()).double(), double[0](raster))
    for ours, theirs in zip(net.parameters(), double.parameters(), strict=True):
        assert ours.grad.dtype == torch.float32 and theirs.grad.dtype == torch.float64
        assert_close(ours.grad.double(), theirs.grad, 1e-4)


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64, torch.float16,
                                  torch.bfloat16, torch.float64])  # fmt: skip
def test_rasters_of_any_kind_give_the_same(kind):
    net = fill(nn.Sequential(EventPropLIF(6, 4), EventPropLI(4, 2)))
    raster = raster_of(dtype=torch.float32)
    assert torch.equal(net(raster.to(kind)), net(raster))
    neurons = EventPropNeuron(threshold=0.05)
    assert torch.equal(neurons(raster.to(kind)), neurons(raster))


def test_rasters_need_not_be_contiguous():
    net = fill(nn.Sequential(EventPropLIF(6, 4, **DOUBLE), nn.Linear(4, 4, bias=False, **DOUBLE),
                             EventPropNeuron(**DOUBLE)))  # fmt: skip
    raster = raster_of()
    plain = raster.clone().requires_grad_()
    strided = raster.permute(2, 0, 1).contiguous().requires_grad_()
    gapped = torch.zeros(50, 3, 12, **DOUBLE)
    gapped[..., ::2] = raster
    worth = worth_like(net(raster))
    (net(plain) * worth).sum().backward()
    (net(strided.permute(1, 2, 0)) * worth).sum().backward()
    assert torch.equal(strided.grad.permute(1, 2, 0), plain.grad)
    assert torch.equal(net(gapped[..., ::2]), net(raster))
    # A gradient that is expanded, so without strides of its own.
    net(plain).mean().backward()
    assert torch.isfinite(plain.grad).all()


def test_graded_input_scales_weights():
    layer = fill(EventPropLIF(6, 4, **DOUBLE))
    raster = raster_of() * 0.7
    scaled = copy.deepcopy(layer)
    scaled.weight.data.mul_(0.7)
    graded, plain = raster.clone().requires_grad_(), (raster / 0.7).round().requires_grad_()
    worth = worth_like(layer(graded))
    (layer(graded) * worth).sum().backward()
    (scaled(plain) * worth).sum().backward()
    assert torch.equal(layer(graded), scaled(plain))
    assert_close(graded.grad * 0.7, plain.grad)
    assert_close(layer.weight.grad, scaled.weight.grad * 0.7)


# Borders


@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_tiny_and_empty_batches_have_gradients(steps, batch):
    net = fill(nn.Sequential(EventPropLIF(6, 4, recurrent=True, learn_tau_mem=True),
                             nn.Linear(4, 4), EventPropNeuron(4, learn_tau_syn=True),
                             EventPropLI(4, 2)), mean=6)  # fmt: skip
    raster = torch.ones(steps, batch, 6, requires_grad=True)
    out = net(raster)
    assert out.shape == (steps, batch, 2)
    out.sum().backward()
    assert raster.grad.shape == raster.shape
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())
    if steps:
        events = SpikeEvents.from_dense(raster, DT)
        hidden = net[0](events)
        (net[3].integral(hidden).sum() + hidden.counts().sum() + hidden.times.sum()).backward()


def test_silence_has_zero_gradient():
    net = fill(nn.Sequential(EventPropLIF(6, 4, recurrent=True), EventPropLI(4, 2)))
    raster = torch.zeros(30, 2, 6, requires_grad=True)
    out = net(raster)
    assert out.abs().sum() == 0
    out.sum().backward()
    assert net[0].weight.grad.abs().sum() == 0 and net[1].weight.grad.abs().sum() == 0
    assert raster.grad.abs().sum() == 0  # of spikes that are not there, onto silent neurons


def test_a_spike_in_every_step():
    layer = EventPropLIF(1, 5, dt=DT, **DOUBLE)
    layer.weight.data.fill_(1e3)
    raster = torch.ones(40, 2, 1, requires_grad=True, **DOUBLE)
    spikes = layer(raster)
    assert spikes.sum() == spikes.numel()
    (spikes * worth_like(spikes)).sum().backward()
    assert torch.isfinite(layer.weight.grad).all() and torch.isfinite(raster.grad).all()
