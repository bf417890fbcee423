"""Swapping a host model's neurons and back, and what the host's tools do with the result."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn

import snn_eventprop

snntorch = pytest.importorskip("snntorch")
norse = pytest.importorskip("norse.torch")

from snntorch import utils  # noqa: E402

import snn_eventprop.norse as ep_norse  # noqa: E402
import snn_eventprop.snntorch as ep  # noqa: E402


class Nested(nn.Module):
    """A custom forward over time, with neurons deep inside."""

    def __init__(self):
        super().__init__()
        self.front = nn.Sequential(nn.Linear(6, 5), snntorch.Leaky(beta=0.9, init_hidden=True))
        self.block = nn.ModuleDict({"lif": snntorch.RSynaptic(0.8, 0.9, linear_features=5)})

    def forward(self, x):
        utils.reset(self.front)
        self.block["lif"].reset_mem()
        states, spikes = (), []
        for current in x:
            out, *states = self.block["lif"](self.front(current), *states)
            states = (out, *states)
            spikes.append(out)
        return torch.stack(spikes)


def test_swapped_model_keeps_outputs_parameters_and_state_dict():
    torch.manual_seed(0)
    model = Nested().eval().requires_grad_(False)
    x = torch.rand(10, 3, 6) * 3
    swapped = snn_eventprop.swap(model, verbose=False)
    assert type(swapped.front[1]) is ep.Leaky and type(swapped.block["lif"]) is ep.RSynaptic
    assert type(model.front[1]) is snntorch.Leaky
    assert list(swapped.state_dict()) == list(model.state_dict())
    swapped.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(swapped(x), model(x)) and swapped(x).sum() > 0
    assert not swapped.training and not any(p.requires_grad for p in swapped.parameters())
    back = snn_eventprop.unswap(swapped)
    assert type(back.front[1]) is snntorch.Leaky
    assert torch.equal(back(x), model(x))
    assert set(dict(back.named_buffers())) == set(dict(model.named_buffers()))


def test_swapping_in_place_shares_parameters_hooks_and_references():
    model = Nested()
    parameters = {id(p) for p in model.parameters()}
    neuron, calls = model.front[1], []
    neuron.register_forward_hook(lambda *_: calls.append(1))
    assert snn_eventprop.swap(model, inplace=True, verbose=False) is model
    assert model.front[1] is neuron and type(neuron) is ep.Leaky
    assert {id(p) for p in model.parameters()} == parameters
    model(torch.rand(4, 2, 6)).sum().backward()
    assert len(calls) == 4


def test_a_model_with_a_live_graph_is_copied():
    model = Nested()
    loss = model(torch.rand(4, 2, 6)).sum()
    snn_eventprop.swap(model, verbose=False)(torch.rand(4, 2, 6))
    loss.backward()


def test_the_table_names_what_was_swapped_left_and_why(capsys):
    class Custom(snntorch.Leaky):
        def forward(self, input_, mem=None):
            return super().forward(input_, mem)

    with pytest.warns(UserWarning):
        inhibited = snntorch.Leaky(beta=0.9, inhibition=True)
    model = nn.ModuleList(
        [
            snntorch.Leaky(beta=0.9), inhibited, Custom(beta=0.9), snntorch.Alpha(0.9, 0.8),
            norse.LIF(), norse.LI(), norse.LSNN(), nn.Linear(2, 2),
            snntorch.LeakyParallel(2, 2), norse.LIFCorrelation(2, 2),
        ]
    )  # fmt: skip
    swapped = snn_eventprop.swap(model)
    table = capsys.readouterr().out.splitlines()
    outcomes = {line.split()[0]: line for line in table}
    assert "swapped" in outcomes["0"] and "swapped" in outcomes["4"]
    for name, reason in [
        ("1", "inhibition"), ("2", "Custom overrides forward"), ("3", "no exact gradient"),
        ("5", "exact as it is"), ("6", "no exact gradient"), ("8", "no exact gradient"),
        ("9", "no exact gradient"),
    ]:  # fmt: skip
        assert "left" in outcomes[name] and reason in outcomes[name]
    assert "7" not in outcomes
    assert [type(m) for m in swapped][1:4] == [type(m) for m in model][1:4]
    snn_eventprop.swap(swapped)
    assert "exact gradients already" in capsys.readouterr().out
    snn_eventprop.swap(nn.Linear(2, 2))
    assert "no neurons" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["count_gradient", "grazing_guard"])
@pytest.mark.parametrize("value", [-1, float("inf"), float("nan"), "much", [1.0]])
def test_a_bad_option_is_named_and_changes_nothing(name, value):
    model = Nested()
    error = ValueError if isinstance(value, (int, float)) else TypeError
    with pytest.raises(error, match=f"{name} must be .* got .*: 0"):
        snn_eventprop.swap(model, inplace=True, **{name: value})
    assert type(model.front[1]) is snntorch.Leaky
    with pytest.raises(error, match=name):
        ep.Leaky(beta=0.9, **{name: value})


def test_a_second_swap_updates_the_options_that_it_is_given(capsys):
    model = snn_eventprop.swap(Nested(), count_gradient=0.5, verbose=False)
    snn_eventprop.swap(model, inplace=True, grazing_guard=0.1)
    assert "grazing_guard 0.05 -> 0.1" in capsys.readouterr().out
    again = snn_eventprop.swap(model, count_gradient=1.0)
    assert capsys.readouterr().out.count("options updated: count_gradient 0.5 -> 1") == 2
    for net, share in ((model, 0.5), (again, 1.0)):
        neuron = net.block["lif"]
        assert (neuron.count_gradient, neuron.grazing_guard) == (share, 0.1)
        assert f"count_gradient={share:g}" in repr(net)


def test_swap_of_something_else_raises():
    with pytest.raises(TypeError, match="model"):
        snn_eventprop.swap([1, 2])


def test_register_is_idempotent_and_shadows_nothing(monkeypatch):
    snn_eventprop.register()
    snn_eventprop.register()
    assert snntorch.EventPropLIF is norse.EventPropLIF is snn_eventprop.EventPropLIF
    mem = torch.randn(7, 3, 10)
    target = torch.tensor([1, 2, 3])
    loss = snntorch.functional.sum_exp_loss()
    torch.testing.assert_close(loss(mem, target), norse.sum_exp_loss(mem, target))
    assert loss.__name__ == "sum_exp_loss"
    grouped = snntorch.functional.sum_exp_loss(population_code=True, num_classes=5)
    torch.testing.assert_close(
        grouped(mem, target), loss(mem.unflatten(-1, (5, 2)).mean(-1), target)
    )
    monkeypatch.setattr(snntorch, "EventPropLIF", object())
    with pytest.raises(RuntimeError, match=r"snntorch\.EventPropLIF exists already"):
        snn_eventprop.register()


def _sequential():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 5),
        ep.Leaky(beta=0.9, init_hidden=True),
        nn.Linear(5, 3),
        ep.Synaptic(alpha=0.8, beta=0.9, init_hidden=True, output=True),
    )


def test_host_resets_reach_our_neurons_and_their_copies():
    for net in (_sequential(), copy.deepcopy(_sequential())):
        net(torch.rand(2, 6) * 5)[0].sum().backward()
        assert net[1].mem.any()
        utils.reset(net)
        assert not net[1].mem.any() and not net[3].mem.any() and not net[1].mem.requires_grad
    net(torch.rand(2, 6))
    snntorch.Leaky.detach_hidden()
    assert not net[1].mem.requires_grad


def test_copies_and_swapped_models_are_freed():
    model, known = _sequential(), snntorch.SpikingNeuron.instances
    made = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        snn_eventprop.swap(Nested(), verbose=False),
        snn_eventprop.swap(model, verbose=False),
    ]
    made[0](torch.rand(2, 6))
    neurons = [
        weakref.ref(module)
        for net in made for module in net.modules() if isinstance(module, snntorch.SpikingNeuron)
    ]  # fmt: skip
    assert len(neurons) == 8
    utils.reset(made[0])
    del made
    gc.collect()
    assert not any(neuron() for neuron in neurons)
    before = len(known)
    copies = [copy.deepcopy(model) for _ in range(5)]
    utils.reset(copies[0])
    assert len(known) <= before + 10  # places of those that are gone are taken


def test_backprop_helpers_of_the_host_train_our_neurons():
    import snntorch.functional as sf

    with pytest.warns(DeprecationWarning):
        from snntorch import backprop
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 5),
        ep.Leaky(beta=0.9, init_hidden=True),
        nn.Linear(5, 3),
        ep.Leaky(beta=0.9, init_hidden=True, output=True),
    )
    before = net[0].weight.detach().clone()
    data = [(torch.rand(4, 6) * 4, torch.tensor([0, 1, 2, 0]))]
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    loss = sf.ce_max_membrane_loss()
    backprop.TBPTT(net, data, optimiser, loss, num_steps=8, time_var=False, K=4)
    assert torch.isfinite(net[0].weight).all() and not torch.equal(net[0].weight, before)


def test_nir_export_knows_our_neurons():
    export = pytest.importorskip("snntorch.export_nir")
    net = nn.Sequential(
        nn.Linear(6, 5),
        ep.Leaky(beta=torch.full((5,), 0.9), threshold=torch.ones(5), init_hidden=True),
    )
    graph = export.export_to_nir(net, torch.rand(6), ignore_dims=[])
    assert any(type(node).__name__ == "LIF" for node in graph.nodes.values())


def test_the_core_imports_no_host_and_a_missing_one_is_named():
    check = (
        "import sys, snn_eventprop\n"
        "assert not {'snntorch', 'norse'} & set(sys.modules)\n"
        "import importlib.util as u\n"
        "found = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'snntorch' else found(name, *a)\n"
        "import snn_eventprop._extras as e\n"
        "e.find_spec = u.find_spec\n"
        "try:\n    import snn_eventprop.snntorch\n"
        "except ImportError as error:\n    assert 'snn-eventprop[snntorch]' in str(error)\n"
        "else:\n    raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


def test_norse_neurons_swap_with_their_parameters():
    torch.manual_seed(0)
    model = norse.SequentialState(norse.LIFRecurrent(4, 5), nn.Linear(5, 3), norse.LIF())
    swapped = snn_eventprop.swap(model, verbose=False)
    assert type(swapped[0]) is ep_norse.LIFRecurrent and type(swapped[2]) is ep_norse.LIF
    x = (torch.rand(30, 2, 4) < 0.5).float()
    torch.testing.assert_close(swapped(x)[0], model(x)[0])
    assert type(snn_eventprop.unswap(swapped)[0]) is norse.LIFRecurrent


class _Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.lif = nn.Linear(6, 5), snntorch.Leaky(beta=0.9)

    def forward(self, x):
        mem, spikes = self.lif.init_leaky(), []
        for current in x:
            spk, mem = self.lif(self.fc(current), mem)
            spikes.append(spk)
        return torch.stack(spikes)


def test_diagnostics_know_swapped_neurons_that_ran_a_sequence_at_once():
    torch.manual_seed(0)
    x = torch.rand(20, 3, 6) * 4
    fused = snn_eventprop.swap(_Loop(), fuse=True, grazing_guard=0.5, verbose=False)
    sequences = snn_eventprop.swap(
        norse.SequentialState(nn.Linear(6, 5), norse.LIF()), verbose=False
    )
    sequences[0].weight.data.mul_(20)
    for net, name in ((fused, "lif"), (sequences, "1")):
        assert snn_eventprop.diagnostics.collect(net) == {}
        spikes = net(x)
        spikes = spikes if torch.is_tensor(spikes) else spikes[0]
        spikes.cumsum(0).sum().backward()
        found = snn_eventprop.diagnostics.collect(net)
        assert list(found) == [name]
        assert torch.equal(found[name].counts, spikes.sum((0, 1)).long())
        assert found[name].counts.sum() > 0 and found[name].largest_jump > 0
    stepped = snn_eventprop.unswap(fused)
    assert snn_eventprop.diagnostics.collect(stepped) == {}
    stepped = snn_eventprop.swap(stepped, verbose=False)
    stepped(x)
    assert snn_eventprop.diagnostics.collect(stepped) == {}
    stepped.lif.sequence(torch.rand(4, 2, 5))
    assert list(snn_eventprop.diagnostics.collect(stepped)) == ["lif"]
    stepped(x)
    assert snn_eventprop.diagnostics.collect(stepped) == {}
