"""Layers as modules: copies, checkpoints, and the diagnostics of what ran."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from support.layer_cases import DOUBLE, fill, gradients, raster_of
from torch import nn

from snn_eventprop import EventPropLI, EventPropLIF, EventPropNeuron, SpikeEvents, diagnostics


def some_net():
    return fill(nn.Sequential(
        EventPropLIF(6, 4, recurrent=True, learn_tau_mem=True, learn_threshold=True,
                     tau_syn=torch.tensor([4e-3, 5e-3, 6e-3, 7e-3])),
        nn.Linear(4, 4), EventPropNeuron(), EventPropLI(4, 2, learn_tau_syn=True),
    ))  # fmt: skip


def saved_whole(net):
    stream = io.BytesIO()
    torch.save(net, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, saved_whole,
                                    lambda net: pickle.loads(pickle.dumps(net))],
                         ids=["deepcopy", "torch.save", "pickle"])  # fmt: skip
def test_copies_made_after_a_step_act_alike(copied):
    net = some_net()
    raster = raster_of(dtype=torch.float32)
    net(raster).square().sum().backward()
    other = copied(net)
    assert torch.equal(other(raster), net(raster))
    ours = gradients(net, net(raster).square().sum())
    theirs = gradients(other, other(raster).square().sum())
    assert all(torch.equal(theirs[name], g) for name, g in ours.items())


def test_state_dict_carries_everything_and_nothing_else():
    net, other = some_net(), some_net()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.1)
    net[0].log_tau_syn.mul_(1.01)
    raster = raster_of(dtype=torch.float32)
    net(raster)
    state = net.state_dict()
    assert sorted(k for k in state if k.startswith("0.")) == [
        "0.log_tau_mem", "0.log_tau_syn", "0.recurrent_weight", "0.threshold", "0.weight",
    ]  # fmt: skip
    other.load_state_dict(state, strict=True)
    assert torch.equal(other(raster), net(raster))


def test_checkpoint_of_another_architecture_is_refused_by_name():
    state = some_net()[0].state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        EventPropLIF(5, 4, recurrent=True, learn_tau_mem=True).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*recurrent_weight"):
        EventPropLIF(6, 4, learn_tau_mem=True, learn_threshold=True,
                     tau_syn=torch.ones(4)).load_state_dict(state)  # fmt: skip


def test_diagnostics_keep_no_graph_and_no_input_alive():
    layer = fill(EventPropLIF(6, 4))
    raster = raster_of(dtype=torch.float32).requires_grad_()
    out = layer(raster)
    assert not layer._record.units.requires_grad
    node = weakref.ref(out.grad_fn)
    del out
    gc.collect()
    assert node() is None


def test_diagnostics_tell_what_happened():
    net = some_net()
    assert diagnostics.collect(net) == {}
    raster = raster_of(dtype=torch.float32)
    net(raster).square().sum().backward()
    found = diagnostics.collect(net)
    assert set(found) == {"0", "2"}
    spikes = net[0](raster)
    counts = spikes.sum((0, 1))
    assert torch.equal(found["0"].counts.float(), counts)
    assert found["0"].spikes_per_neuron == pytest.approx(counts.mean().item() / 3)
    assert found["0"].silent_share == (counts == 0).float().mean().item()
    assert found["0"].largest_jump > 0 and found["0"].guarded >= 0


def test_diagnostics_of_a_new_layer_are_not_those_of_a_dead_one():
    dead = fill(EventPropLIF(6, 4))
    dead(raster_of(dtype=torch.float32)).square().sum().backward()
    assert diagnostics.collect(nn.Sequential(dead))["0"].largest_jump > 0.0
    del dead
    layer = fill(EventPropLIF(6, 4))  # often at the address that has become free
    layer(raster_of(dtype=torch.float32))
    assert diagnostics.collect(nn.Sequential(layer))["0"].largest_jump == 0.0


def test_guard_is_counted_and_can_be_switched_off():
    # Weights that take V just over the threshold: the spike grazes it.
    jumps = []
    for guard in (0.0, 0.5):
        layer = EventPropLIF(1, 1, grazing_guard=guard, dt=1e-4, **DOUBLE)
        peak = EventPropLI(1, 1, dt=1e-4, **DOUBLE)
        peak.weight.data.fill_(1.0)
        events = SpikeEvents.from_list([([0.001], [0])], num_units=1, duration=0.05,
                                       dtype=torch.float64)  # fmt: skip
        layer.weight.data.fill_(1.00001 / peak(events).max().item())
        out = layer(events)
        assert out.times.numel() == 1
        out.times.sum().backward()
        record = diagnostics.collect(nn.Sequential(layer))["0"]
        assert record.guarded == (guard > 0)
        jumps.append(record.largest_jump)
    assert jumps[0] > 5 * jumps[1] > 0
