"""A host is a folder: what the guide lists is all that it takes, and nothing else names it."""

from __future__ import annotations

import ast
import re
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

import snn_eventprop
from snn_eventprop.hosts import registry

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "snn_eventprop"

HOST = """
from snn_eventprop.hosts.registry import Host

HOST = Host(
    title="Toy", library="toysnn", package="toy_ours", neurons=("Cell",), integrators=("Leak",),
    is_neuron=lambda module: type(module).__name__ == "Other", advice="Cell has one",
    losses="toysnn",
)
"""


def of_module(name, **members):
    module = types.ModuleType(name)
    vars(module).update(members)
    return module


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """A host library, our neurons for it, and the folder that describes it."""
    snntorch = pytest.importorskip("snntorch")
    from snn_eventprop.hosts.snntorch.steps import SnnTorchNeuron

    class Cell(snntorch.Leaky):
        pass

    class Leak(nn.Identity):
        pass

    class Other(nn.Identity):
        pass

    class Ours(SnnTorchNeuron, Cell):
        def forward(self, input_, mem=None):
            return self._call(input_, mem=mem)

    library = of_module("toysnn", Cell=Cell, Leak=Leak, Other=Other)
    library.__spec__ = types.SimpleNamespace(name="toysnn")
    monkeypatch.setitem(sys.modules, "toysnn", library)
    monkeypatch.setitem(sys.modules, "toy_ours", of_module("toy_ours", Cell=Ours))
    losses = of_module("toy_ours.functional", sum_exp_loss=lambda *given: None)
    monkeypatch.setitem(sys.modules, "toy_ours.functional", losses)
    (tmp_path / "toyhost").mkdir()
    (tmp_path / "toyhost/__init__.py").write_text(HOST)
    folders = [*sys.modules["snn_eventprop.hosts"].__path__, str(tmp_path)]
    monkeypatch.setattr(sys.modules["snn_eventprop.hosts"], "__path__", folders)
    yield library
    sys.modules.pop("snn_eventprop.hosts.toyhost", None)


def test_a_folder_is_all_that_swap_and_register_need(toy, capsys):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), toy.Cell(beta=0.9, init_hidden=True), toy.Leak())
    swapped = snn_eventprop.swap(nn.Sequential(*model, toy.Other()))
    table = capsys.readouterr().out
    assert "swapped for toy_ours.Ours" in table
    assert "gradient is exact as it is" in table and "neuron; Cell has one" in table
    x = 3 * torch.rand(5, 2, 3)
    out = torch.stack([swapped(step) for step in x])
    assert out.sum() > 0 and torch.equal(out, torch.stack([model(step) for step in x]))
    assert type(snn_eventprop.unswap(swapped)[1]) is toy.Cell
    snn_eventprop.register()
    assert toy.EventPropLIF is snn_eventprop.EventPropLIF
    assert toy.sum_exp_loss is sys.modules["toy_ours.functional"].sum_exp_loss


def test_a_model_without_neurons_names_the_hosts(toy, capsys):
    snn_eventprop.swap(nn.Linear(2, 2))
    assert capsys.readouterr().out.strip() == "no neurons of Norse or Toy or snnTorch found"


def test_a_host_that_is_not_imported_is_not_imported_by_swap(toy, monkeypatch):
    monkeypatch.delitem(sys.modules, "toysnn")
    assert "Toy" not in [host.title for host in registry.loaded_hosts()]
    assert "Toy" in [host.title for host in registry.hosts()]
    snn_eventprop.swap(nn.Linear(2, 2), verbose=False)
    assert "toysnn" not in sys.modules


def test_register_without_any_host_names_them(monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="Norse or snnTorch"):
        snn_eventprop.register()


FILES = sorted(
    path for folder in ("hosts", "nir") for path in (PACKAGE / folder).rglob("*.py")
    if not {"norse", "snntorch"} & set(path.relative_to(PACKAGE).parts)
)  # fmt: skip


def named_in(file: Path) -> list[str]:
    """Imports and strings, except docstrings, of a file that name a host."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    documents = {
        id(node.body[0].value)
        for node in nodes
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body and isinstance(node.body[0], ast.Expr)
    }  # fmt: skip
    texts = [
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        and id(node) not in documents
    ]  # fmt: skip
    texts += [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    texts += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    return [text for text in texts if re.search("snntorch|norse", text, re.I)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_shared_module_names_a_host(file):
    assert not named_in(file)


def test_the_guide_lists_the_files_that_a_host_has():
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## Adding a host")[1]
    rows = re.findall(r"^\| `(snn_eventprop/\S+)` \|", section.split("\n## ")[0], re.M)
    for name in ("snntorch", "norse"):
        missing = [row for row in rows if not (ROOT / row.replace("NAME", name)).exists()]
        assert not missing
        homes = {PACKAGE / "hosts" / name, PACKAGE / name}
        listed = {ROOT / row.replace("NAME", name) for row in rows}
        assert all(any(home in file.parents for home in homes) for file in listed)
