"""Networks that leave as NIR or state dicts come back as a host's modules, are swapped, and train.

The reference is continuous time (``support.host_problem``): no grid, no adjoint.
"""

from __future__ import annotations

import math

import pytest
import torch
from support.host_problem import DURATION, SIZES, TAU_MEM, TAU_SYN, problem, relative_error
from torch import nn

import snn_eventprop
from snn_eventprop import EventPropLI, EventPropLIF

norse = pytest.importorskip("norse.torch")
pytest.importorskip("nir")

import snn_eventprop.norse as ep_norse  # noqa: E402
from snn_eventprop.nir import to_nir  # noqa: E402


class Boxes(nn.Module):
    """A spiking layer as ``docs/export.md`` writes it for Norse, with its cells as modules."""

    def __init__(self, weight, recurrent, dt, reset):
        super().__init__()
        self.weight, self.recurrent = weight, recurrent
        # Euler's factors are those of exact steps.
        s, m = math.exp(-dt / TAU_SYN), math.exp(-dt / TAU_MEM)
        self.gain = dt / TAU_MEM / ((1 - m) * (1 - s))
        value = lambda x: torch.tensor(x, dtype=torch.float64)  # noqa: E731
        self.synapse = norse.LIBoxCell(norse.LIBoxParameters(value((1 - s) / dt)), dt=dt)
        self.v_th = nn.Parameter(value(1.0))
        self.neuron = norse.LIFBoxCell(
            norse.LIFBoxParameters(
                value((1 - m) / dt), v_leak=value(0.0), v_th=self.v_th, v_reset=value(0.0),
                reset_method=reset,
            ),
            dt=dt,
        )  # fmt: skip

    def forward(self, x):
        zeros = torch.zeros(x.shape[1], len(self.weight), dtype=x.dtype)
        syn, mem = norse.LIBoxState(zeros), norse.LIFBoxFeedForwardState(zeros)
        spk, spikes, membranes = zeros, [], []
        for current in x @ (self.gain * self.weight).T:
            if self.recurrent is not None:
                current = current + spk @ (self.gain * self.recurrent).T
            current, syn = self.synapse(current, syn)
            spk, mem = self.neuron(current, mem)
            spikes.append(spk)
            membranes.append(mem.v)
        return torch.stack(spikes), torch.stack(membranes)


def gradients(task, dt, reset, fuse=False):
    weights = [nn.Parameter(torch.tensor(array)) for array in task.arrays]
    back = weights[2:] or [None, None]
    layers = [Boxes(weights[k], back[k], dt, reset) for k in range(len(SIZES))]
    x, membranes = task.raster(dt), []
    for layer in layers:
        exact = snn_eventprop.swap(layer, inplace=True, grazing_guard=0.0, fuse=fuse, verbose=False)
        assert type(exact.neuron) is ep_norse.LIFBoxCell
        assert type(exact.synapse) is norse.LIBoxCell
        x, voltage = exact(x)
        membranes.append(voltage)
    task.grid_loss(x, membranes, dt).backward()
    return [weight.grad for weight in weights], sum(layer.v_th.grad for layer in layers)


@pytest.mark.parametrize("reset", [norse.reset_subtract, norse.reset_value], ids=["sub", "value"])
@pytest.mark.parametrize("recurrent", [False, True], ids=["feedforward", "recurrent"])
@pytest.mark.parametrize("loss", ["spikes", "membrane"])
@pytest.mark.slow
def test_box_cells_converge_first_order_to_the_continuous_gradient(recurrent, loss, reset):
    task = problem(recurrent, loss)
    coarse, coarse_threshold = gradients(task, 1e-4, reset)
    fine, fine_threshold = gradients(task, 1e-5, reset)
    for before, after, truth in zip(coarse, fine, task.exact_gradients, strict=False):
        assert relative_error(after, truth) < 0.4 * relative_error(before, truth)
        assert relative_error(after, truth) < 0.12
    truth = task.exact_gradients[-1][0]
    assert abs(fine_threshold.item() - truth) < 0.4 * abs(coarse_threshold.item() - truth)


@pytest.mark.parametrize("reset", [norse.reset_subtract, norse.reset_value], ids=["sub", "value"])
def test_box_cells_run_as_sequences_with_the_gradient_of_steps(reset):
    task = problem(False, "spikes")
    stepped, fused = (gradients(task, 2e-4, reset, fuse) for fuse in (False, True))
    for one, other in zip(stepped[0], fused[0], strict=True):
        assert one.abs().sum() > 0
        torch.testing.assert_close(other, one, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(fused[1], stepped[1], rtol=1e-8, atol=1e-10)
    layer = Boxes(nn.Parameter(torch.tensor(task.arrays[0])), None, 2e-4, reset)
    layer = snn_eventprop.swap(layer, fuse=True, verbose=False)
    spikes, _ = layer(task.raster(2e-4))
    assert spikes.sum() > 5
    spikes.sum().backward()
    with torch.no_grad():
        layer(task.raster(2e-4))
    assert f"neuron: {round(DURATION / 2e-4)} steps" in layer.fusion


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"v_leak": torch.tensor(0.1)}, "reset_subtract with v_leak other than 0"),
        ({"v_leak": nn.Parameter(torch.tensor(0.0))}, "learned v_reset or v_leak"),
    ],
    ids=["leak", "learned"],
)
def test_what_the_engine_cannot_reset_steps_and_says_so(options, why, capsys):
    p = norse.LIFBoxParameters(reset_method=norse.reset_subtract, **options)
    snn_eventprop.swap(nn.ModuleList([norse.LIFBoxCell(p)]), fuse=True)
    assert f"steps one by one: {why}" in capsys.readouterr().out


def test_a_box_cell_with_another_reset_is_left(capsys):
    p = norse.LIFBoxParameters(reset_method=lambda z, v, reset, th: v)
    assert type(snn_eventprop.swap(nn.ModuleList([norse.LIFBoxCell(p)]))[0]) is norse.LIFBoxCell
    assert "neither reset_value nor reset_subtract" in capsys.readouterr().out


@pytest.mark.slow
def test_a_network_that_leaves_as_nir_comes_back_through_norse_and_trains():
    torch.manual_seed(0)
    ours = nn.Sequential(EventPropLIF(6, 8, tau_mem=10e-3), EventPropLI(8, 3))
    ours[0].reset_parameters(0.9, 0.4)
    x = (torch.rand(50, 12, 6) < 0.2).float()
    label = torch.arange(12) % 3
    x[:, :, :3] *= 0.2 + 1.6 * nn.functional.one_hot(label, 3)
    net = snn_eventprop.swap(norse.from_nir(to_nir(ours, x)), verbose=False)
    kinds = [type(module) for module in net.modules()]
    assert kinds.count(ep_norse.LIFBoxCell) == 1 and kinds.count(norse.LIBoxCell) >= 1

    def membranes():
        state, out = None, []
        for step in x:
            v, state = net(step, state)
            out.append(v)
        return torch.stack(out)

    first = next(p for p in net.parameters() if p.shape == (8, 6))
    before = first.detach().clone()
    optimiser, losses = torch.optim.Adam(net.parameters(), 0.02), []
    for _ in range(40):
        loss = nn.functional.cross_entropy(20 * membranes().mean(0), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert first.grad.abs().sum() > 0 and not torch.equal(first, before)
    assert losses[-1] < 0.7 * losses[0]
    # And back: what was trained leaves as NIR once more, by Norse's own converter.
    graph = norse.to_nir(snn_eventprop.unswap(net), x[0])
    assert any(type(node).__name__ == "LIF" for node in graph.nodes.values())
