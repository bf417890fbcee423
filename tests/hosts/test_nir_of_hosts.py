"""NIR graphs by the hosts' converters, with our neurons in place of theirs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("nir")
pytest.importorskip("nirtorch")

import nir
from support.nir_neurons import leaky, per_neuron, rleaky, rleaky_one_to_one, rsynaptic, synaptic
from support.pairwise import pairwise

SIZES = (6, 5, 4)


def raster(steps: int = 60, batch: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(steps, batch, SIZES[0], generator=generator) < 0.3).float()


def assert_equal_graphs(ours, theirs):
    assert list(ours.nodes) == list(theirs.nodes)
    assert set(ours.edges) == set(theirs.edges)
    for name, node in theirs.nodes.items():
        assert type(ours.nodes[name]) is type(node)
        for field, value in vars(node).items():
            if isinstance(value, (np.ndarray, torch.Tensor)):
                np.testing.assert_array_equal(getattr(ours.nodes[name], field), value)


# snnTorch's converters


@pytest.mark.parametrize("neuron", [leaky, synaptic, rleaky, rleaky_one_to_one, rsynaptic])
def test_snntorch_exports_and_imports_our_neurons_like_its_own(neuron):
    snntorch = pytest.importorskip("snntorch")
    from snntorch.export_nir import export_to_nir
    from snntorch.import_nir import import_from_nir

    import snn_eventprop.snntorch as skin

    def net(snn):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(6, 5), neuron(snn), torch.nn.Linear(5, 4))

    sample = torch.rand(6)
    ours, theirs = (export_to_nir(net(snn), sample) for snn in (skin, snntorch))
    assert_equal_graphs(ours, theirs)

    def run(graph):
        state, outputs, imported = None, [], import_from_nir(graph)
        for x in 3 * raster()[:20]:
            out, state = imported(x, state)
            outputs.append(out)
        return torch.stack(outputs)

    torch.testing.assert_close(run(ours), run(theirs), rtol=0, atol=0)


@pytest.mark.parametrize("neuron", [leaky, synaptic])
def test_snntorch_reimports_our_neurons_with_their_spikes(neuron):
    """With the one reset that its importer builds; ``swap`` makes ours of what it returns.

    Recurrent ones it imports wrongly, its own too: the input enters by the recurrent weights.
    """
    pytest.importorskip("snntorch")
    from snntorch.export_nir import export_to_nir
    from snntorch.import_nir import import_from_nir

    import snn_eventprop.snntorch as skin
    from snn_eventprop import swap

    torch.manual_seed(0)
    ours = neuron(skin, reset_mechanism="zero", reset_delay=False)
    net = torch.nn.Sequential(torch.nn.Linear(6, 5), ours)
    graph = export_to_nir(net, torch.rand(6))
    ours.reset_mem()
    imported = swap(import_from_nir(graph), inplace=True, verbose=False)
    assert any(type(module) in (skin.Leaky, skin.Synaptic) for module in imported.modules())
    weights = [p for p in imported.parameters() if p.shape == (5, 6)]
    torch.testing.assert_close(weights[0], net[0].weight, rtol=0, atol=0)
    state, found = None, []
    for x in 4 * raster():
        out, state = imported(x, state)
        found.append(out)
    expected = torch.stack([net(x) for x in 4 * raster()])
    assert expected.sum() > 50
    assert torch.equal(torch.stack(found), expected)


# Norse's converters


@pytest.fixture
def norse():
    return pytest.importorskip("norse.torch")


def test_norse_exports_and_imports_our_cells_like_its_own(norse):
    import snn_eventprop.norse as skin

    def net(library):
        torch.manual_seed(0)
        cell = library.LIFCell(per_neuron(norse))
        return norse.SequentialState(torch.nn.Linear(6, 5), cell, torch.nn.Linear(5, 4))

    sample = torch.rand(1, 6)
    ours, theirs = (norse.to_nir(net(library), sample) for library in (skin, norse))
    assert_equal_graphs(ours, theirs)
    assert not [name for name, node in ours.nodes.items() if node is None]
    x = raster()[0]
    torch.testing.assert_close(norse.from_nir(ours)(x)[0], norse.from_nir(theirs)(x)[0])


@pairwise(
    library=["skin", "host"],
    recurrent={"feedforward": False, "recurrent": True},
    heterogeneous={"shared": False, "per-neuron": True},
)
def test_norse_networks_return_from_nir_with_their_spikes(
    norse, library, recurrent, heterogeneous, tmp_path
):
    import snn_eventprop.norse as skin

    torch.manual_seed(1)
    source = skin if library == "skin" else norse
    p = norse.LIFParameters(v_th=torch.tensor(0.2), tau_mem_inv=torch.tensor(80.0))
    if heterogeneous:
        p = per_neuron(norse)._replace(v_leak=torch.tensor(0.0))
    hidden = (
        [source.LIFRecurrent(6, 5, p, autapses=True, dt=2e-3)]
        if recurrent
        else [torch.nn.Linear(6, 5), source.LIF(p, dt=2e-3)]
    )
    net = norse.SequentialState(*hidden, torch.nn.Linear(5, 4), norse.LI(dt=2e-3))
    x = raster()
    graph = skin.to_nir(net, x)
    kinds = [type(node).__name__ for node in graph.nodes.values()]
    neuron = "NIRGraph" if recurrent else "CubaLIF"
    weights = "Linear" if recurrent else "Affine"
    assert kinds == ["Input", weights, neuron, "Affine", "CubaLI", "Output"]

    nir.write(tmp_path / "net.nir", graph)
    again = skin.from_nir(tmp_path / "net.nir")
    for (name, ours), theirs in zip(again.named_parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=name)
    first = int(not recurrent)
    for field in ("tau_syn_inv", "tau_mem_inv", "v_th", "v_leak", "v_reset"):
        ours, theirs = (getattr(whole[first].p, field) for whole in (again, net))
        torch.testing.assert_close(ours.expand(5), theirs.expand(5), rtol=1e-6, atol=0)
    spikes, found = (
        norse.SequentialState(*list(whole)[: first + 1])(x)[0] for whole in (net, again)
    )
    assert 20 < spikes.sum() < 0.8 * spikes.numel()
    assert torch.equal(found, spikes)
    torch.testing.assert_close(again(x)[0], net(x)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("recurrent", [False, True], ids=["feedforward", "recurrent"])
def test_norses_own_import_reads_what_we_export(norse, recurrent):
    """One step at a time, by Norse's code alone: the same spikes."""
    import snn_eventprop.norse as skin

    torch.manual_seed(2)
    p = per_neuron(norse)._replace(v_leak=torch.tensor(0.0))
    layers = (
        [skin.LIFRecurrent(6, 5, p, autapses=True)]
        if recurrent
        else [torch.nn.Linear(6, 5), skin.LIF(p)]
    )
    net, x = norse.SequentialState(*layers), raster()
    imported = norse.from_nir(skin.to_nir(net, x))
    state, spikes = None, []
    for step in x:
        out, state = imported(step, state)
        spikes.append(out)
    assert torch.stack(spikes).sum() > 20
    assert torch.equal(torch.stack(spikes), net(x)[0])
