"""Write a trained network for snnTorch, for Norse, and as NIR.

snntorch.pt and norse.pt are state dicts for networks of the two libraries' own modules, which
docs/export.md shows. These networks spike as the trained network does. network.nir describes the
network by its equations, for every library that reads NIR.

Networks trained with methods norse and paralif cannot be exported: their neurons reset differently.
For a network trained in continuous time (solver exact), the .pt files hold the network on bins of
its dt, as solver grid runs it. No file holds what is done to the data (such as
--data.delay_copies), or how the loss turns the readout into class scores.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lightning_modules.options.parsers import command
from lightning_modules.run.atomic_files import WriteError, whole_file
from lightning_modules.run.folder import find_checkpoint

# Methods whose neurons take the steps of the grid solver, with its reset.
_EXPORTED = ("eventprop", "snntorch", "eprop", "eprop-random")


def export(ckpt_path: str = "best", output: str | None = None) -> Path:
    """Write ``snntorch.pt``, ``norse.pt`` and ``network.nir``; see above for what they hold.

    Args:
        ckpt_path: a checkpoint file, or "best" or "last" of the latest run under runs/.
        output: folder for the files; default: export/ in the run's folder.
    """
    try:
        checkpoint = find_checkpoint(ckpt_path)
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    # Torch and Lightning take seconds to import: only now, with a file that is there.
    import nir
    import torch

    from lightning_modules.model.host_weights import for_norse, for_snntorch
    from lightning_modules.run.checkpoints import CheckpointError, load_trained
    from lightning_modules.run.quiet import quiet
    from snn_eventprop import SpikeEvents
    from snn_eventprop.nir import to_nir

    quiet()
    try:
        model, _ = load_trained(checkpoint)
    except (CheckpointError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    method = model.hparams["method"]
    if method not in _EXPORTED:
        sys.exit(
            f"error: networks of method {method} cannot be exported, only those of "
            f"{', '.join(_EXPORTED)}"
        )
    network = model.network
    layers = [*network.hidden, network.readout]
    try:
        # A sample without events shows which layer feeds which.
        silence = SpikeEvents.from_list(
            [([], [])], num_units=layers[0].in_features, duration=1e-2
        )
        graph = to_nir(torch.nn.Sequential(*layers), silence)
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


if __name__ == "__main__":
    command(export, as_positional=False, description=__doc__)
