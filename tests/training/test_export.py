"""``lightning_modules.export``: trained networks spike the same in networks of the hosts alone."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from support.pairwise import pairwise
from support.tiny_run import TINY

pytest.importorskip("lightning")
pytest.importorskip("tonic")
pytest.importorskip("nir")
pytest.importorskip("snntorch")
pytest.importorskip("norse")

import nir

from lightning_modules import fit
from lightning_modules.data.loader import BatchKey
from lightning_modules.export import export
from lightning_modules.methods.eventprop import EventPropNetwork
from lightning_modules.model.host_weights import for_norse, for_snntorch
from lightning_modules.model.network import NetworkOptions
from lightning_modules.run import checkpoints
from lightning_modules.run.cli import FitCLI
from lightning_modules.training.classifier import SpikingClassifier
from snn_eventprop import SpikeEvents
from snn_eventprop.losses import FirstSpikeLoss, SumExpLoss
from snn_eventprop.nir import from_nir

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
SNNTORCH, NORSE, NIR = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)


@pytest.fixture(scope="module")
def run(runs, tmp_path_factory):
    folder = runs("--test", "false").copy(tmp_path_factory.mktemp("export") / "run")
    export(str(folder / "checkpoints/last.ckpt"))
    return folder


@pytest.fixture(scope="module")
def spoken(run):
    """Events of twelve samples, and the trained network in float64."""
    cli = FitCLI([*TINY, "--run_dir", str(run / "other")])
    dataset = cli.datamodule.train_dataloader().dataset
    events = dataset[BatchKey(0, 0, np.arange(12))].events
    model = SpikingClassifier.load_from_checkpoint(run / "checkpoints/last.ckpt")
    return events.to(torch.float64), model.network.double()


@pytest.fixture(scope="module")
def stock(run):
    """The page's code, run beside the files as it stands: the names of each library's networks."""
    blocks = {"snntorch": [SNNTORCH], "norse": [SNNTORCH, NORSE, NIR]}
    found: dict[str, dict] = {"snntorch": {}, "norse": {}}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run / "export")
        for library, codes in blocks.items():
            for code in codes:
                exec(compile(code, "export.md", "exec"), found[library])
    return found


def rasters(net, x):
    """Spikes of each hidden layer, and what the readout gives."""
    found = []
    for layer in net.hidden:
        x = layer(x)
        found.append(x)
    return found, net.readout(x)


def assert_equal_networks(theirs, ours, events):
    dt = ours.readout.dt
    observed = ours.observe(events)
    spikes, out = rasters(theirs, events.to_dense(dt))
    for found, expected in zip(spikes, observed.hidden, strict=True):
        assert len(expected.units) > 50
        assert torch.equal(found, expected.to_dense(dt))
    expected = observed.trace if observed.output is None else observed.output.to_dense(dt)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("library", ["snntorch", "norse"])
def test_files_load_into_stock_networks_with_the_same_spikes(library, run, spoken, stock):
    events, network = spoken
    theirs = stock[library]["Net"](700, [16], 20).double()
    state = torch.load(run / "export" / f"{library}.pt", weights_only=True)
    theirs.load_state_dict(state, strict=True)
    for module in theirs.modules():
        assert not type(module).__module__.startswith(("snn_eventprop", "lightning_modules"))
    with torch.no_grad():
        assert_equal_networks(theirs, network, events)


@pytest.mark.parametrize("library", ["snntorch", "norse"])
def test_in_float32_spikes_differ_nowhere_away_from_the_threshold(library, run, spoken, stock):
    events, network = spoken
    theirs = stock[library]["Net"](700, [16], 20)
    theirs.load_state_dict(torch.load(run / "export" / f"{library}.pt"))
    assert theirs.hidden[0].fc.weight.dtype == torch.float32
    with torch.no_grad():
        (found,), _ = rasters(theirs, events.to_dense(network.readout.dt).float())
    (expected,) = network.observe(events).hidden
    expected = expected.to_dense(network.readout.dt)
    # Until the first spike that differs in a sample, all membranes are those of float64.
    wrong = (found != expected).flatten(2).any(2).int()
    first = torch.where(wrong.any(0), wrong.argmax(0), len(wrong))
    membranes = potentials(network.hidden[0], events.to_dense(network.readout.dt), expected)
    for sample, step in enumerate(first.tolist()):
        if step < len(wrong):
            off = found[step, sample] != expected[step, sample]
            distance = (membranes[step, sample][off] - network.hidden[0].threshold).abs()
            assert distance.max() < 1e-4
    assert (first == len(wrong)).double().mean() > 0.5  # and mostly there is none


def potentials(layer, x, spikes):
    """V as compared with the threshold, from the definition of the grid's step."""
    decay = [torch.exp(-layer.dt / tau) for tau in (layer.tau_syn, layer.tau_mem)]
    rate = 1 / layer.tau_mem - 1 / layer.tau_syn
    gain = (decay[0] - decay[1]) / (layer.tau_mem * rate)
    current = voltage = last = torch.zeros_like(spikes[0])
    tested = []
    for inputs, fired in zip(x, spikes, strict=True):
        current = current + inputs @ layer.weight.T + last @ layer.recurrent_weight.T
        voltage = decay[1] * voltage + gain * current
        tested.append(voltage)
        voltage = voltage - layer.threshold * fired
        current, last = decay[0] * current, fired
    return torch.stack(tested).detach()


CASES = {
    "feedforward": {"recurrent": False},
    "no diagonal": {"recurrent_diagonal": False},
    "two layers": {"hidden": [12, 9], "hidden_mean": 1.5, "hidden_std": 0.5},
    "per neuron": {"heterogeneous": True, "learn_threshold": True, "learn_tau_mem": True},
    "2 ms": {"dt": 2e-3},
    "equal time constants": {"tau_mem": 7e-3, "tau_syn": 7e-3},
    "beyond two thresholds": {"input_mean": 30.0, "input_std": 20.0, "recurrent_std": 2.0},
}


@pairwise(case=list(CASES), library=["snntorch", "norse"], reads=["trace", "spikes"])
def test_all_kinds_of_networks_export(library, case, reads, stock):
    torch.manual_seed(0)
    options = {"hidden": [12], "input_mean": 1.0, "input_std": 0.5, "recurrent_std": 0.3}
    options |= {"readout_mean": 1.0, "readout_std": 0.5, **CASES[case]}
    loss = SumExpLoss() if reads == "trace" else FirstSpikeLoss()
    ours = EventPropNetwork(10, 4, NetworkOptions(**options), loss).double()
    raster = (torch.rand(150, 3, 10) < 0.03).double()
    events = SpikeEvents.from_dense(raster, dt=options.get("dt", 1e-3))
    names = stock[library]
    recurrent = options.get("recurrent", True)
    theirs = names["Net"](10, options["hidden"], 4, recurrent)
    if reads == "spikes":
        theirs.readout = names["Hidden"](options["hidden"][-1], 4, recurrent=False)
    theirs.double()
    write = for_snntorch if library == "snntorch" else for_norse
    theirs.load_state_dict(write([*ours.hidden, ours.readout]), strict=True)
    if library == "snntorch" and reads == "trace":
        assert (theirs.readout.lif.threshold == 1).all()
    with torch.no_grad():
        assert_equal_networks(theirs, ours, events)


def test_continuous_time_is_exported_on_its_bins(stock):
    torch.manual_seed(1)
    sizes = {"hidden": [12], "input_mean": 1.0, "input_std": 0.5, "recurrent_std": 0.3}
    exact, grid = (
        EventPropNetwork(10, 4, NetworkOptions(**sizes, solver=solver), SumExpLoss()).double()
        for solver in ("exact", "grid")
    )
    grid.load_state_dict(exact.state_dict())
    theirs = stock["norse"]["Net"](10, [12], 4).double()
    theirs.load_state_dict(for_norse([*exact.hidden, exact.readout]))
    events = SpikeEvents.from_dense((torch.rand(150, 3, 10) < 0.03).double(), dt=1e-3)
    with torch.no_grad():
        assert_equal_networks(theirs, grid, events)


def test_the_nir_file_holds_the_trained_network(run, spoken):
    events, network = spoken
    graph = nir.read(run / "export" / "network.nir")
    assert [type(node).__name__ for node in graph.nodes.values()].count("NIRGraph") == 1
    again = from_nir(graph, dtype=torch.float64)
    assert torch.equal(again[0](events).units, network.hidden[0](events).units)
    torch.testing.assert_close(again(events), network.observe(events).trace)


def test_the_output_folder_and_missing_checkpoints(run, tmp_path):
    checkpoint = str(run / "checkpoints/last.ckpt")
    folder = export(checkpoint, str(tmp_path / "new/here"))
    assert {p.name for p in folder.iterdir()} == {"snntorch.pt", "norse.pt", "network.nir"}
    with pytest.raises(SystemExit, match="no checkpoint"):
        export(str(tmp_path / "none.ckpt"))
    (tmp_path / "text.ckpt").write_text("no weights")
    with pytest.raises(SystemExit, match=r"error: .*text\.ckpt is not a checkpoint of fit"):
        export(str(tmp_path / "text.ckpt"))
    with pytest.raises(SystemExit, match=r"error: cannot write .*text\.ckpt"):
        export(checkpoint, str(tmp_path / "text.ckpt"))


def test_methods_with_other_neurons_are_refused(tmp_path):
    run = tmp_path / "run"
    options = ["--model.method", "paralif", "--trainer.max_epochs", "1", "--test", "false"]
    fit.main([*TINY, "--run_dir", str(run), *options])
    with pytest.raises(SystemExit, match="method paralif"):
        export(str(run / "checkpoints/last.ckpt"))
    assert not (run / "export").exists()


def test_parameters_without_a_place_are_refused(monkeypatch, run, tmp_path):
    """Such as a layer of a later version may have."""
    load = checkpoints.load_trained

    def with_more(path):
        model, data = load(path)
        model.network.hidden[0].register_buffer("delays", torch.zeros(3))
        return model, data

    monkeypatch.setattr(checkpoints, "load_trained", with_more)
    with pytest.raises(SystemExit, match="has delays, for which there is no node"):
        export(str(run / "checkpoints/last.ckpt"), str(tmp_path / "out"))
