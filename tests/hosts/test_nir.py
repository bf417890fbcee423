"""NIR graphs of our own layers: there and back, and what cannot be a graph is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("nir")
pytest.importorskip("nirtorch")

import nir
from support.nir_neurons import per_neuron, rsynaptic

from snn_eventprop import EventPropLI, EventPropLIF, EventPropNeuron, SpikeEvents
from snn_eventprop.nir import from_nir, to_nir

SIZES = (6, 5, 4)


def raster(steps: int = 60, batch: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(steps, batch, SIZES[0], generator=generator) < 0.3).float()


@pytest.fixture
def norse():
    return pytest.importorskip("norse.torch")


def eventprop_net(recurrent: bool, solver: str = "grid", dtype=torch.float64):
    torch.manual_seed(3)
    tau_mem = torch.tensor([10e-3, 12e-3, 20e-3, 15e-3, 30e-3])
    options = {"dt": 2e-3, "dtype": dtype}
    hidden = EventPropLIF(
        6, 5, recurrent=recurrent, recurrent_diagonal=False, tau_mem=tau_mem, tau_syn=4e-3,
        solver=solver, **options,
    )  # fmt: skip
    hidden.reset_parameters(0.7, 0.3, recurrent_std=0.3)
    return torch.nn.Sequential(hidden, EventPropLI(5, 4, tau_mem=25e-3, **options))


@pytest.mark.parametrize("recurrent", [False, True], ids=["feedforward", "recurrent"])
def test_eventprop_networks_return_from_nir_with_their_spikes(recurrent, tmp_path):
    net, x = eventprop_net(recurrent), raster().double()
    graph = to_nir(net, x)
    kinds = [type(node).__name__ for node in graph.nodes.values()]
    assert kinds == [
        "Input", "Linear", "NIRGraph" if recurrent else "CubaLIF", "Linear", "CubaLI", "Output"
    ]  # fmt: skip
    node = graph.nodes["0.lif"].nodes["lif"] if recurrent else graph.nodes["0.lif"]
    np.testing.assert_allclose(node.tau_mem, net[0].tau_mem)
    np.testing.assert_allclose(node.tau_syn, 4e-3)
    np.testing.assert_array_equal(node.v_threshold, 1.0)

    nir.write(tmp_path / "net.nir", graph)
    again = from_nir(tmp_path / "net.nir", dtype=torch.float64)
    ours, theirs = again.state_dict(), net.state_dict()
    assert ours.keys() == theirs.keys()
    for name in theirs:
        wanted = theirs[name]
        if name.endswith("recurrent_weight"):
            wanted = wanted - torch.diag(wanted.diagonal())  # there is no diagonal
        torch.testing.assert_close(ours[name], wanted, rtol=1e-12, atol=0, msg=name)
    spikes = net[0](x)
    assert 20 < spikes.sum() < 0.8 * spikes.numel()
    assert torch.equal(again[0](x), spikes)
    torch.testing.assert_close(again(x), net(x))


def test_the_exact_solver_returns_as_such():
    net = eventprop_net(True, "exact")
    events = SpikeEvents.from_dense(raster().double(), dt=2e-3)
    again = from_nir(to_nir(net, events), dtype=torch.float64)
    assert again[0].solver == "exact"
    ours, theirs = again[0](events), net[0](events)
    assert len(theirs.units) > 20 and torch.equal(ours.units, theirs.units)
    torch.testing.assert_close(ours.times, theirs.times)


def test_the_loop_runs_by_the_definition_of_its_nodes():
    """A plain Euler integration of the graph's equations with a tiny step finds the same spikes."""
    dt, fine = 2e-3, 400
    net = eventprop_net(True, "exact")
    events = SpikeEvents.from_dense(raster(batch=1).double(), dt=dt)
    wanted = net[0](events)
    graph = to_nir(net, events)
    loop = graph.nodes["0.lif"].nodes
    lif, w_in, w_rec = loop["lif"], graph.nodes["0.weight"].weight, loop["w_rec"].weight
    h = dt / fine
    current, voltage, spikes = np.zeros(5), np.zeros(5), np.zeros(5)
    found = []
    dense = raster(batch=1)[:, 0].numpy()
    for k in range(len(dense) * fine):
        arriving = w_rec @ spikes + (w_in @ dense[k // fine] if k % fine == 0 else 0)
        # A spike is a pulse of height 1 and length dt: all of it at once here.
        current = current + lif.w_in * arriving * dt / lif.tau_syn
        voltage = voltage + h * (lif.v_leak - voltage + lif.r * current) / lif.tau_mem
        current = current - h * current / lif.tau_syn
        spikes = (voltage > lif.v_threshold).astype(float)
        voltage = np.where(spikes > 0, lif.v_reset, voltage)
        found += [(k * h, unit) for unit in np.flatnonzero(spikes)]
    assert len(found) == len(wanted.units) > 15
    for unit in range(5):
        times = [t for t, fired in found if fired == unit]
        expected = wanted.times[wanted.units == unit].detach()
        np.testing.assert_allclose(times, expected, atol=1e-4)


class Loop(torch.nn.Module):
    """A forward of its own, one step at a time, as tutorials write it."""

    def __init__(self, norse):
        super().__init__()
        self.fc = torch.nn.Linear(6, 5)
        self.lif = norse.LIFCell(per_neuron(norse)._replace(v_leak=torch.tensor(0.0)))

    def forward(self, x):
        state, out = None, []
        for step in x:
            spikes, state = self.lif(self.fc(step), state)
            out.append(spikes)
        return torch.stack(out)


def test_a_model_with_a_loop_over_time_exports(norse):
    import snn_eventprop.norse as skin

    torch.manual_seed(4)
    net, x = Loop(norse), raster()
    graph = skin.to_nir(net, x)
    assert list(graph.nodes) == ["input", "fc", "lif.lif", "output"]
    again = skin.from_nir(graph)
    assert torch.equal(again(x)[0], net(x))


def test_neurons_after_other_weights_and_biases():
    torch.manual_seed(5)
    net = torch.nn.Sequential(
        torch.nn.Linear(6, 5), EventPropNeuron(threshold=0.05), torch.nn.Linear(5, 4, bias=False)
    )
    x = raster()
    again = from_nir(to_nir(net, x))
    assert [type(layer) for layer in again] == [type(layer) for layer in net]
    assert net[:2](x).sum() > 20
    assert torch.equal(again[:2](x), net[:2](x))
    torch.testing.assert_close(again(x), net(x))


def test_gains_of_other_libraries_go_into_the_weights():
    """w_in and r scale what arrives: the same neuron with all of it in the weights."""
    net = eventprop_net(True)
    graph = to_nir(net, raster().double())
    node = graph.nodes["0.lif"].nodes["lif"]
    scaled = 3 * net[0].weight
    node.w_in, node.r = 2 * node.w_in, 1.5 * node.r
    again = from_nir(graph, dtype=torch.float64)
    torch.testing.assert_close(again[0].weight, scaled)


def test_snntorch_graphs_become_eventprop_layers():
    snntorch = pytest.importorskip("snntorch")
    from snntorch.export_nir import export_to_nir

    torch.manual_seed(6)
    net = torch.nn.Sequential(torch.nn.Linear(6, 5), rsynaptic(snntorch))
    graph = export_to_nir(net, torch.rand(6))
    weights, layer = from_nir(graph, dt=1e-4)
    # snnTorch writes Euler's time constants of steps of 0.1 ms, and adds currents without gain.
    torch.testing.assert_close(layer.tau_syn, torch.tensor(5e-4).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(layer.tau_mem, torch.tensor(1e-3).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(layer.weight, torch.eye(5))
    torch.testing.assert_close(weights.weight, 10 * net[0].weight, rtol=1e-5, atol=0)
    bias = 10 * (net[0].bias + net[1].recurrent.bias)
    torch.testing.assert_close(weights.bias, bias, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        layer.recurrent_weight, 10 * net[1].recurrent.weight, rtol=1e-5, atol=0
    )


def test_a_ring_ends_in_an_error():
    square = np.ones((2, 2))
    nodes = {name: nir.Linear(square) for name in "abc"}
    shape = {"input": nir.Input({"input": np.array([2])})}
    ends = {"output": nir.Output({"output": np.array([2])})}
    edges = [("input", "a"), ("a", "b"), ("b", "c"), ("c", "a")]
    with pytest.raises(ValueError, match="no row of layers"):
        from_nir(nir.NIRGraph({**shape, **nodes, **ends}, edges, type_check=False))


def test_what_has_no_node_is_named():
    x = raster()
    with pytest.raises(TypeError, match=r"1 is a Tanh, which has no node"):
        to_nir(torch.nn.Sequential(EventPropLIF(6, 5), torch.nn.Tanh()), x)

    class Doubled(torch.nn.Sequential):
        def forward(self, x):
            return self[1](2 * self[0](x))

    with pytest.raises(ValueError, match="operation between the layers"):
        to_nir(Doubled(EventPropLIF(6, 5), EventPropLI(5, 4)), x)
    graph = nir.NIRGraph.from_list(nir.LI(tau=np.ones(3), r=np.ones(3), v_leak=np.zeros(3)))
    with pytest.raises(TypeError, match="is a LI; Linear, Affine"):
        from_nir(graph)
    graph = to_nir(EventPropLIF(6, 5), x)
    graph.nodes["lif"].metadata.clear()
    with pytest.raises(ValueError, match=r"give dt \(s\)"):
        from_nir(graph)
    graph.nodes["lif"].v_reset = -graph.nodes["lif"].v_threshold
    with pytest.raises(ValueError, match="v_reset that is not its v_leak"):
        from_nir(graph, dt=1e-3)


def test_a_graph_that_branches_is_refused():
    graph = nir.NIRGraph(
        {
            "input": nir.Input({"input": np.array([2])}),
            "a": nir.Linear(np.ones((2, 2))),
            "b": nir.Linear(np.ones((2, 2))),
            "output": nir.Output({"output": np.array([2])}),
        },
        [("input", "a"), ("input", "b"), ("a", "output"), ("b", "output")],
    )
    with pytest.raises(ValueError, match="no row of layers"):
        from_nir(graph)


def test_a_missing_library_is_named(monkeypatch):
    import importlib

    import snn_eventprop.nir as ours

    monkeypatch.setattr("snn_eventprop._extras.installed", lambda name: False)
    with pytest.raises(ImportError, match=r"nir is not installed.*snn-eventprop\[nir\]"):
        importlib.reload(ours)
