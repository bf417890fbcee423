"""Subclasses of a host's neurons: those that leave the step alone are swapped, others are named."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch
from torch import nn

import snn_eventprop

snntorch = pytest.importorskip("snntorch")
norse = pytest.importorskip("norse.torch")

import snn_eventprop.norse as ep_norse  # noqa: E402
import snn_eventprop.snntorch as ep  # noqa: E402


class Named(snntorch.Leaky):
    """A constructor and a method of its own, as users write them."""

    def __init__(self, size: int):
        super().__init__(beta=torch.full((size,), 0.9), learn_threshold=True)
        self.label = f"{size} neurons"

    def half_life(self) -> float:
        return float(torch.log(torch.tensor(0.5)) / self.beta.log()[0])

    def extra_repr(self) -> str:
        return self.label


class Cell(norse.LIFCell):
    pass


class Own(snntorch.Leaky):
    def forward(self, input_, mem=None):
        return super().forward(2 * input_, mem)


class OtherState(snntorch.Synaptic):
    def _base_state_function(self, input_):
        syn, mem = super()._base_state_function(input_)
        return syn, mem + 0.1


class Assigned(snntorch.Leaky):
    def __init__(self):
        super().__init__(beta=0.9)
        self.state_function = self.leaky

    def leaky(self, input_):
        return 0.5 * self.mem + input_


class OtherReset(snntorch.Leaky):
    def mem_reset(self, mem):
        return 0 * mem


class OwnCell(norse.LIFCell):
    def __init__(self):
        super().__init__()
        self.activation = lambda x, state, p, dt: (x, state)


def loop(neuron, x, weight):
    state, spikes = None, []
    for current in x:
        out, state = neuron(current @ weight, state)
        spikes.append(out)
    return torch.stack(spikes)


@pytest.mark.parametrize(
    ("neuron", "plain"),
    [
        (lambda: Named(4), lambda: ep.Leaky(beta=torch.full((4,), 0.9), learn_threshold=True)),
        (Cell, ep_norse.LIFCell),
    ],
    ids=["snnTorch", "Norse"],
)
def test_a_subclass_that_leaves_the_step_alone_gets_the_gradient_of_our_neuron(neuron, plain):
    torch.manual_seed(0)
    theirs = neuron()
    ours = snn_eventprop.swap(nn.ModuleList([theirs]), verbose=False)[0]
    assert isinstance(ours, type(theirs)) and type(ours).__name__ == type(theirs).__name__
    weight = torch.rand(3, 4, requires_grad=True)
    x, mix = 2 * torch.rand(40, 2, 3), torch.randn(40, 2, 4)
    expected = loop(plain(), x, weight)
    found = loop(ours, x, weight)
    assert found.sum() > 20 and torch.equal(found, expected)
    assert torch.equal(found, loop(theirs, x, weight))
    gradients = [torch.autograd.grad((mix * out).sum(), weight)[0] for out in (found, expected)]
    assert torch.equal(*gradients) and gradients[0].abs().sum() > 0


def test_what_a_subclass_adds_stays_and_unswapping_gives_it_back():
    net = nn.Sequential(nn.Linear(3, 4), Named(4))
    swapped = snn_eventprop.swap(net, count_gradient=0.5, verbose=False)
    assert swapped[1].half_life() == net[1].half_life() > 6
    assert swapped[1].extra_repr() == "4 neurons, gradient=exact, count_gradient=0.5"
    assert list(swapped.state_dict()) == list(net.state_dict())
    for other in (copy.deepcopy(swapped), pickle.loads(pickle.dumps(swapped))):
        assert type(other[1]) is type(swapped[1]) and other[1].count_gradient == 0.5
        back = snn_eventprop.unswap(other)
        assert type(back[1]) is Named and back[1].label == "4 neurons"
        assert "count_gradient" not in vars(back[1])
    made = type(swapped[1])(5)
    assert made.label == "5 neurons" and made.grazing_guard == 0.05


def test_a_second_swap_and_a_subclass_of_ours_are_recognised(capsys):
    class Mine(ep.Leaky):
        pass

    net = snn_eventprop.swap(nn.ModuleList([Named(4), Mine(beta=0.9)]), verbose=False)
    snn_eventprop.swap(net, inplace=True, count_gradient=1.0)
    assert capsys.readouterr().out.count("options updated: count_gradient 0 -> 1") == 2
    assert [neuron.count_gradient for neuron in net] == [1.0, 1.0]
    assert type(snn_eventprop.unswap(net)[1]) is Mine


@pytest.mark.parametrize(
    ("neuron", "reason"),
    [
        (lambda: Own(beta=0.9), "Own overrides forward"),
        (lambda: OtherState(alpha=0.8, beta=0.9), "OtherState overrides _base_state_function"),
        (Assigned, "state_function is Assigned.leaky"),
        (lambda: OtherReset(beta=0.9), "OtherReset overrides mem_reset"),
        (OwnCell, "its activation is OwnCell.*lambda"),
    ],
    ids=["forward", "state", "assigned", "reset", "activation"],
)
def test_a_subclass_with_another_step_is_left_and_the_table_says_why(neuron, reason, capsys):
    module = neuron()
    swapped = snn_eventprop.swap(nn.ModuleList([module]))
    table = capsys.readouterr().out
    assert re.search(f"left: {reason}", table)
    assert type(swapped[0]) is type(module)


def test_a_method_put_on_one_object_is_seen(capsys):
    neuron = snntorch.Leaky(beta=0.9)
    neuron.forward = lambda input_, mem=None: (input_, mem)
    assert type(snn_eventprop.swap(nn.ModuleList([neuron]))[0]) is snntorch.Leaky
    assert "left: forward of this object is not that of its class" in capsys.readouterr().out


def test_a_fused_model_with_a_subclass_runs_and_pickles():
    net = snn_eventprop.swap(Looped(), fuse=True, verbose=False)
    stepped = snn_eventprop.swap(Looped(), verbose=False)
    stepped.load_state_dict(net.state_dict())
    x = 3 * torch.rand(20, 2, 3)
    assert torch.equal(net(x), stepped(x)) and net(x).sum() > 0
    assert "lif: 20 steps" in net.fusion
    again = pickle.loads(pickle.dumps(net))
    assert torch.equal(again(x), net(x)) and "lif: 20 steps" in again.fusion


class Looped(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.lif = nn.Linear(3, 4), Named(4)

    def forward(self, x):
        mem, spikes = self.lif.reset_mem(), []
        for current in x:
            spk, mem = self.lif(self.fc(current), mem)
            spikes.append(spk)
        return torch.stack(spikes)


LAPICQUE = {
    "beta": {"beta": 0.9},
    "R and C": {"R": 2.0, "C": 5.0, "time_step": 0.5},
    "beta and R": {"beta": 0.8, "R": torch.tensor(3.0)},
    "zero": {"beta": 0.9, "reset_mechanism": "zero"},
    "none": {"beta": 0.9, "reset_mechanism": "none"},
}


def lapicque(name):
    return snntorch.Lapicque(**LAPICQUE[name], threshold=0.3, learn_threshold=True)


@pytest.mark.parametrize("name", LAPICQUE)
def test_lapicque_keeps_its_spikes_and_has_the_gradient_of_leaky(name):
    """U <- (1 - dt/RC) U + X dt/C: a ``Leaky`` with that beta, of currents times dt/C."""
    torch.manual_seed(0)
    theirs = lapicque(name).double()
    ours = snn_eventprop.swap(nn.ModuleList([theirs]), verbose=False)[0]
    assert type(ours) is ep.Lapicque and list(ours.state_dict()) == list(theirs.state_dict())
    rate = float(theirs.time_step / (theirs.R * theirs.C))
    reset = LAPICQUE[name].get("reset_mechanism", "subtract")
    # Its reset to zero takes the input of the step with it, as that of Synaptic does.
    plain = (
        ep.Synaptic(alpha=0.0, beta=1 - rate, threshold=0.3, reset_mechanism=reset)
        if reset == "zero"
        else ep.Leaky(beta=1 - rate, threshold=0.3, reset_mechanism=reset)
    ).double()
    plain.beta = torch.tensor(1 - rate, dtype=torch.float64)
    weight = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    x, mix = 2 * torch.rand(40, 2, 3).double(), torch.randn(40, 2, 4).double()

    def run(neuron, gain):
        states, spikes = [None] * len(getattr(neuron, "_states", ("mem",))), []
        for current in x:
            out, *states = neuron(gain * current @ weight, *states)
            spikes.append(out)
        return torch.stack(spikes).double()

    found, expected = run(ours, 1.0), run(plain, float(rate * theirs.R))
    assert found.sum() > 20 and torch.equal(found, expected)
    assert torch.equal(found, run(theirs, 1.0))
    one, other = (torch.autograd.grad((mix * out).sum(), weight)[0] for out in (found, expected))
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
    ours.reset_mem()
    whole = ours.sequence(x @ weight)[0]
    assert torch.equal(whole, found)
    (third,) = torch.autograd.grad((mix * whole).sum(), weight)
    torch.testing.assert_close(third, one, rtol=1e-6, atol=1e-9)


def test_lapicque_with_a_learned_beta_is_left(capsys):
    module = snntorch.Lapicque(beta=0.9, learn_beta=True)
    assert type(snn_eventprop.swap(nn.ModuleList([module]))[0]) is snntorch.Lapicque
    assert "learn_beta=True" in capsys.readouterr().out
