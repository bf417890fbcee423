"""Write a trained network for snnTorch, for Norse, and as NIR.

snntorch.pt and norse.pt are state dicts of networks made of the two libraries' own parts alone,
which docs/export.md shows; these spike as the trained network does. network.nir describes the
network by its equations, for every library that reads NIR.

What cannot be exported: methods norse and paralif, whose neurons reset otherwise. Of a network
trained in continuous time (solver exact) the .pt files hold the network on bins of its dt, as
solver grid runs it. Not in any file: what is done to the data (--data.delay_copies among it), and
how the loss makes class scores of the readout.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nir
import torch

from lightning_modules.fit import quiet
from lightning_modules.model.network import ReferenceNetwork
from lightning_modules.model.stock_weights import for_norse, for_snntorch
from lightning_modules.run import option_errors as messages
from lightning_modules.run.atomic_files import WriteError, whole_file
from lightning_modules.run.checkpoints import CheckpointError, load_trained
from lightning_modules.run.folder import find_checkpoint
from snn_eventprop import SpikeEvents
from snn_eventprop.nir import to_nir

# Methods whose neurons take the steps of the grid solver, with its reset.
_EXPORTED = ("eventprop", "snntorch", "eprop", "eprop-random")


def export(ckpt_path: str = "best", output: str | None = None) -> Path:
    """Write ``snntorch.pt``, ``norse.pt`` and ``network.nir``; what they hold is told above.

    Args:
        ckpt_path: a checkpoint file, or "best" or "last" of the latest run under runs/.
        output: folder for the files; default: export/ in the run's folder.
    """
    quiet()
    try:
        checkpoint = find_checkpoint(ckpt_path)
        model, _ = load_trained(checkpoint)
    except (CheckpointError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    method = model.hparams["method"]
    if method not in _EXPORTED:
        sys.exit(
            f"error: neurons of method {method} are not those of the files, which hold networks of "
            f"{', '.join(_EXPORTED)}"
        )
    network: ReferenceNetwork = model.network
    layers = [*network.hidden, network.readout]
    try:
        graph = to_nir(torch.nn.Sequential(*layers), _silence(layers[0].in_features))
    except TypeError as error:  # a layer with parameters that the files have no place for
        sys.exit(f"error: {error}")
    folder = Path(output) if output else checkpoint.parent.parent / "export"
    states = {"snntorch.pt": for_snntorch(layers), "norse.pt": for_norse(layers)}
    try:
        for name, state in states.items():
            with whole_file(folder / name) as partial:
                torch.save(state, partial)
        with whole_file(folder / "network.nir") as partial:
            nir.write(partial, graph)
    except WriteError as error:
        sys.exit(f"error: {error}")
    print(f"snntorch.pt, norse.pt and network.nir: {folder}")
    return folder


def _silence(num_units: int) -> SpikeEvents:
    """A sample without events, to see which layer feeds which."""
    return SpikeEvents.from_list([([], [])], num_units=num_units, duration=1e-2)


if __name__ == "__main__":
    messages.command(export, as_positional=False, description=__doc__)
