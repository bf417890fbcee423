"""The surface of the package: documented, running as documented, and light to import."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import snn_eventprop
from snn_eventprop import diagnostics, losses, regularizers

_SKINS = ("snntorch", "norse", "benchmark", "nir")  # need the libraries they are for


def own_modules():
    for info in pkgutil.walk_packages(snn_eventprop.__path__, "snn_eventprop."):
        if info.name.split(".")[1] not in _SKINS:
            yield info.name


@pytest.mark.parametrize("name", ["snn_eventprop", *own_modules()])
def test_examples_in_docstrings_run(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_layers_and_losses_have_examples():
    for public in (
        snn_eventprop.SpikeEvents, snn_eventprop.EventPropLIF, snn_eventprop.EventPropLI,
        snn_eventprop.EventPropNeuron, losses.SumLoss, losses.FirstSpikeLoss,
        regularizers.SpikeCountRegularizer,
    ):  # fmt: skip
        assert ">>>" in public.__doc__, public


def public_objects():
    for name in snn_eventprop.__all__:
        yield name, getattr(snn_eventprop, name)
    for name in losses.__all__:
        yield f"losses.{name}", getattr(losses, name)
    yield "regularizers.SpikeCountRegularizer", regularizers.SpikeCountRegularizer
    yield "diagnostics.collect", diagnostics.collect
    yield "diagnostics.guarded_spikes", diagnostics.guarded_spikes


@pytest.mark.parametrize("name,thing", list(public_objects()), ids=lambda v: v if
                         isinstance(v, str) else "")  # fmt: skip
def test_every_public_name_is_documented(name, thing):
    assert thing.__doc__ and len(thing.__doc__.strip()) > 20, name
    if inspect.isclass(thing):
        for attribute, member in vars(thing).items():
            if attribute.startswith("_") or not inspect.isroutine(member):
                continue
            shown = inspect.getdoc(getattr(thing, attribute)) or ""
            # torch.nn.Module's forward and extra_repr speak for themselves.
            assert shown or attribute in ("forward", "extra_repr"), f"{name}.{attribute}"


def test_all_names_exist():
    for name in snn_eventprop.__all__:
        assert hasattr(snn_eventprop, name), name
    assert snn_eventprop.__version__


def test_import_needs_torch_numpy_and_numba_alone():
    """In a fresh process, so that what other tests import does not count."""
    code = (
        "import sys, torch, numpy, numba\n"
        "before = set(sys.modules)\n"  # numba itself reads scipy where there is one
        "import snn_eventprop, snn_eventprop.losses, snn_eventprop.regularizers\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    loaded = set(shown.stdout.split())
    assert "snn_eventprop" in loaded
    unwanted = {
        "lightning", "pytorch_lightning", "snntorch", "norse", "matplotlib", "tonic", "wandb",
        "h5py", "pandas", "torchvision", "lightning_modules", "scipy",
    }  # fmt: skip
    assert not loaded & unwanted
