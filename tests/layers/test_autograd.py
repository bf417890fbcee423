"""Layers in torch's autograd: what is kept, repeated and refused, and that results repeat."""

from __future__ import annotations

import copy

import pytest
import torch
from support.layer_cases import DOUBLE, DT, assert_close, fill, gradients, raster_of, worth_like
from torch import nn

from snn_eventprop import EventPropLI, EventPropLIF, EventPropNeuron, SpikeEvents


def test_no_grad_saves_nothing():
    layer = fill(EventPropLIF(6, 4, recurrent=True, learn_tau_mem=True))
    readout = EventPropLI(4, 2)
    raster = raster_of(dtype=torch.float32)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        with torch.no_grad():
            out = readout(layer(raster))
            events = layer(SpikeEvents.from_dense(raster, DT))
        assert not saved
        assert not out.requires_grad and not events.times.requires_grad
        readout(layer(raster))
        assert saved
    with torch.inference_mode():
        assert torch.equal(readout(layer(raster)), out)


@pytest.mark.parametrize("form", ["events", "raster", "neuron"])
def test_what_is_kept_grows_with_spikes_and_not_with_steps(form):
    """Bytes saved for the backward pass of the same input over ten times the steps."""
    layer = fill(EventPropLIF(6, 40, recurrent=True)) if form != "neuron" else EventPropNeuron()

    def kept(steps):
        raster = torch.zeros(steps, 2, 6 if form != "neuron" else 40)
        raster[:50] = raster_of(50, 2, raster.shape[2], dtype=torch.float32) * 2
        x = SpikeEvents.from_dense(raster.bool(), DT) if form == "events" else raster
        if form == "neuron":
            x = x.requires_grad_()
        sizes = {}

        def pack(tensor):
            sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = layer(x)
        fired = out.times.numel() if form == "events" else int(out.detach().sum())
        return sum(sizes.values()), fired

    (short, fired), (long, fired_too) = kept(100), kept(1000)
    assert fired == fired_too > 20
    assert long == short


def test_two_forwards_before_one_backward():
    net = fill(nn.Sequential(EventPropLIF(6, 4, recurrent=True, learn_tau_mem=True, **DOUBLE),
                             EventPropLI(4, 2, **DOUBLE)))  # fmt: skip
    one, other = raster_of(seed=0), raster_of(seed=1, steps=30)

    def loss(x):
        return net(x).square().sum()

    apart = gradients(net, loss(one))
    for name, gradient in gradients(net, loss(other)).items():
        apart[name] += gradient
    first, second = loss(one), loss(other)
    for name, gradient in gradients(net, first + second).items():
        assert_close(gradient, apart[name])


def test_a_layer_may_be_used_twice():
    shared = fill(EventPropLIF(5, 5, **DOUBLE), mean=2.0)
    twin = copy.deepcopy(shared)
    raster = raster_of(units=5)
    out = shared(shared(raster))
    (out * worth_like(out)).sum().backward()
    first = copy.deepcopy(twin)
    second = twin(first(raster))
    assert torch.equal(out, second) and out.sum() > 5
    (second * worth_like(second)).sum().backward()
    assert_close(shared.weight.grad, first.weight.grad + twin.weight.grad)


def test_backward_may_run_twice_and_says_so_if_not_asked_for():
    layer = fill(EventPropLIF(6, 4, recurrent=True, learn_tau_syn=True, **DOUBLE))
    loss = (layer(raster_of()) * worth_like(layer(raster_of()))).sum()
    loss.backward(retain_graph=True)
    once = {name: p.grad.clone() for name, p in layer.named_parameters()}
    loss.backward()
    for name, p in layer.named_parameters():
        assert torch.equal(p.grad, 2 * once[name])
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("form", ["events", "raster"])
def test_second_derivatives_are_refused_with_the_way_out(form):
    layer = fill(EventPropLIF(6, 4, **DOUBLE))
    x = raster_of()
    if form == "events":
        loss = layer(SpikeEvents.from_dense(x, DT)).times.square().sum()
    else:
        loss = layer(x).cumsum(0).square().sum()
    (gradient,) = torch.autograd.grad(loss, layer.weight, create_graph=True)
    with pytest.raises(RuntimeError, match=r"no second derivative.*create_graph"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_are_bitwise_repeatable(threads):
    kept = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        net = fill(nn.Sequential(EventPropLIF(30, 20, recurrent=True, learn_tau_mem=True),
                                 EventPropLI(20, 3)), mean=0.3, std=0.3)  # fmt: skip
        events = SpikeEvents.from_dense(raster_of(200, 9, 30), DT)
        runs = []
        for _ in range(3):
            out = net[0](events)
            loss = net[1](out).square().sum() + out.counts().square().sum()
            runs.append(gradients(net, loss))
        assert runs[0]["0.weight"].abs().sum() > 0
        for other in runs[1:]:
            assert all(torch.equal(other[name], g) for name, g in runs[0].items())
    finally:
        torch.set_num_threads(kept)
