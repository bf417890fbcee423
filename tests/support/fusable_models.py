"""Models with loops over time, as the hosts' tutorials write them, to be fused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import snn_eventprop

snntorch = pytest.importorskip("snntorch")
norse = pytest.importorskip("norse.torch")

from snntorch import utils  # noqa: E402

STEPS, BATCH, INPUTS, HIDDEN, OUTPUTS = 25, 3, 40, 8, 4


class Dense(nn.Module):
    """Two layers with explicit states, as snnTorch's tutorials write them."""

    def __init__(self, neuron, names):
        super().__init__()
        self.names = names
        self.fc1, self.lif1 = nn.Linear(INPUTS, HIDDEN), neuron(HIDDEN)
        self.fc2, self.lif2 = nn.Linear(HIDDEN, OUTPUTS), neuron(OUTPUTS)

    def call(self, layer, current, states):
        spk, *after = layer(current, *states)
        return spk, [spk, *after] if "spk" in self.names else after

    def forward(self, x):
        self.lif1.reset_mem(), self.lif2.reset_mem()
        first, second = [], []
        spikes, membranes = [], []
        for step in range(x.size(0)):
            spk, first = self.call(self.lif1, self.fc1(x[step]), first)
            spk, second = self.call(self.lif2, self.fc2(spk), second)
            spikes.append(spk)
            membranes.append(second[-1])
        return torch.stack(spikes, dim=0), torch.stack(membranes, dim=0)


class KeepsState(nn.Module):
    """``init_hidden``, one image for all steps, convolutions, pooling, eval-mode dropout."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3), snntorch.Leaky(beta=0.9, init_hidden=True, threshold=0.3),
            nn.MaxPool2d(2), nn.Conv2d(4, 6, 2), nn.BatchNorm2d(6), nn.Dropout(0.3),
            snntorch.Leaky(beta=0.8, init_hidden=True, threshold=0.3, reset_mechanism="zero"),
            nn.Flatten(), nn.Linear(24, OUTPUTS),
            snntorch.Synaptic(alpha=0.7, beta=0.8, init_hidden=True, output=True),
        )  # fmt: skip

    def forward(self, image):
        utils.reset(self.net)
        spikes, membranes = [], []
        for _ in range(STEPS):
            spk, _, mem = self.net(image)
            spikes.append(spk)
            membranes.append(mem)
        return torch.stack(spikes), torch.stack(membranes)


class Cells(nn.Module):
    """Norse's cells in a loop, with a leaky integrator at the end and all its voltages."""

    def __init__(self):
        super().__init__()
        p = norse.LIFParameters(v_th=torch.tensor(0.3))
        self.lif1 = norse.LIFRecurrentCell(INPUTS, HIDDEN, p)
        self.fc, self.lif2 = nn.Linear(HIDDEN, HIDDEN), norse.LIFCell(p)
        self.out = norse.LILinearCell(HIDDEN, OUTPUTS)

    def forward(self, x):
        s1 = s2 = so = None
        spikes, voltages = [], []
        for current in x:
            z, s1 = self.lif1(current, s1)
            z, s2 = self.lif2(4 * self.fc(z), s2)
            v, so = self.out(z, so)
            spikes.append(z)
            voltages.append(v)
        return torch.stack(spikes), torch.stack(voltages)


class Layers(nn.Module):
    """Norse's modules that take sequences themselves."""

    def __init__(self):
        super().__init__()
        p = norse.LIFParameters(v_th=torch.tensor(0.3))
        self.net = norse.SequentialState(
            nn.Linear(INPUTS, HIDDEN), norse.LIF(p), norse.LIFRecurrent(HIDDEN, HIDDEN, p),
            nn.Linear(HIDDEN, OUTPUTS), norse.LI(),
        )  # fmt: skip

    def forward(self, x):
        out, state = self.net(6 * x if x.dtype == torch.float64 else x)
        return out, state[-1].v


def _snn(name, **options):
    arguments = {"beta": 0.9, "threshold": 0.5, **options}
    if "Synaptic" in name:
        arguments["alpha"] = 0.7
    names = (*(("spk",) if name[0] == "R" else ()), "mem")

    def neuron(size):
        more = {"linear_features": size} if name[0] == "R" else {}
        return getattr(snntorch, name)(**arguments, **more)

    return lambda: Dense(neuron, names)


MODELS = {
    "Leaky": _snn("Leaky", learn_beta=True, learn_threshold=True),
    "RLeaky": _snn("RLeaky", reset_mechanism="zero"),
    "Synaptic": _snn("Synaptic", learn_alpha=True),
    "RSynaptic": _snn("RSynaptic", learn_beta=True),
    "zero": _snn("Leaky", reset_mechanism="zero", reset_delay=False),
    "no_reset": _snn("Leaky", reset_mechanism="none"),
    "immediate": _snn("Synaptic", reset_delay=False),
    "convolutional": KeepsState,
    "norse_cells": Cells,
    "norse_layers": Layers,
}  # fmt: skip


def input_of(name, seed=0, batch=BATCH, steps=STEPS):
    generator = torch.Generator().manual_seed(seed)
    if name == "convolutional":
        return torch.rand(batch, 1, 8, 8, generator=generator) * 2
    return (torch.rand(steps, batch, INPUTS, generator=generator) < 0.05).float()


def model_of(name):
    torch.manual_seed(1)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(2).add_(0.1)
    return model.eval()


def results_of(model, x):
    """Results and gradients of a loss on them."""
    x = x.clone().requires_grad_()
    results = model(x)
    generator = torch.Generator().manual_seed(5)
    loss = sum((out * torch.randn(out.shape, generator=generator)).sum() for out in results)
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, [x, *parameters], allow_unused=True)
    return results, gradients


def states_of(model):
    return [
        getattr(module, name).detach()
        for module in model.modules() for name in ("spk", "syn", "mem") if hasattr(module, name)
    ]  # fmt: skip


def assert_same(found, expected, *, gradients=2e-4):
    for one, other in zip(found[0], expected[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert torch.equal(found[0][0] > 0.999, expected[0][0] > 0.999)
    for one, other in zip(found[1], expected[1], strict=True):
        assert (one is None) == (other is None)
        if other is not None:
            assert (one - other).norm() <= gradients * other.norm()


def stepped_and_fused(model, **options):
    return (
        snn_eventprop.swap(model, verbose=False, **options),
        snn_eventprop.swap(model, fuse=True, verbose=False, **options),
    )


def steps_one_by_one(monkeypatch, cls):
    """A list that receives each step that a neuron of ``cls`` takes outside the engine."""
    taken, advance = [], cls._advance
    monkeypatch.setattr(
        cls, "_advance", lambda self, *given: taken.append(self) or advance(self, *given)
    )
    return taken
