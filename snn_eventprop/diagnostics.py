"""What a network's spiking layers did in their last forward and backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ._warnings import warn


class LayerRecord(NamedTuple):
    """Spikes of a layer's last forward pass, kept until the next one."""

    units: Tensor  # [S]
    offsets: Tensor  # [B + 1]
    size: int
    probe: Tensor | None = None  # of ``new_probe``
    peaks: Tensor | None = None  # [S3] of the hybrid gradient

    def counts(self) -> Tensor:
        """Spikes of each neuron, summed over the batch, ``[size]``."""
        return torch.bincount(self.units, minlength=self.size)


def new_probe(like: Tensor) -> Tensor | None:
    """A leaf of two numbers whose gradient says what the backward pass met.

    The gradient is the number of slopes that the grazing guard raised, and the largest absolute
    jump of dL/dV. So diagnostics travel as every gradient does. None in code that torch compiles,
    where no leaf can be made.
    """
    if torch.compiler.is_compiling():
        return None
    return torch.zeros(2, dtype=like.dtype, device=like.device, requires_grad=True)


def keep_record(module: Any, record: LayerRecord) -> None:
    """Let ``collect`` find what the layer's forward pass did, and say if it never spikes."""
    if not torch.compiler.is_exporting():
        module._record = record
    if not torch.compiler.is_compiling():
        _watch(module, record)


# Forward passes in training without one spike of the layer, after which it says so.
SILENT_PASSES = 10


def _watch(module: Any, record: LayerRecord) -> None:
    """Warn, once for each layer, that it has not spiked in ``SILENT_PASSES`` training passes."""
    samples = record.offsets.numel() - 1
    if not (module.training and torch.is_grad_enabled() and samples):
        return
    # A plain attribute: neither a parameter nor part of the state_dict. None: it need not be
    # counted any more, as the layer has spiked, or has said that it does not.
    passes = module.__dict__.get("_silent_passes", 0)
    if passes is None:
        return
    module._silent_passes = None if record.units.numel() else passes + 1
    if module._silent_passes == SILENT_PASSES:
        module._silent_passes = None
        name, kind = module.__dict__.get("_name_in_model"), type(module).__name__
        who = f"{name} ({kind} of {record.size} neurons)" if name else f"a layer, {module}"
        warn(
            f"{who} has not spiked once up to training step {SILENT_PASSES}, and silent neurons "
            "have no gradient that would wake them. Raise its input weights "
            "(layer.reset_parameters(mean=...)), lower its threshold, or look at its input: are "
            "there events, and are times and time constants in seconds?"
        )


def name_layers(model: nn.Module) -> None:
    """Let layers of ``model`` call themselves by their names in it, where they warn."""
    for name, module in model.named_modules():
        if name and hasattr(module, "_record"):
            module.__dict__["_name_in_model"] = name


def _jumps(record: LayerRecord) -> Tensor:
    """Number of guarded slopes and largest jump of the record's backward pass; zeros before it."""
    if record.probe is None or record.probe.grad is None:
        return torch.zeros(2)
    return record.probe.grad


class LayerDiagnostics(NamedTuple):
    """One spiking layer after a step."""

    spikes_per_neuron: float  # mean over neurons and samples of the last batch
    silent_share: float  # share of neurons without a spike in the last batch
    guarded: int  # spikes whose slope the grazing guard raised in the last backward pass
    largest_jump: float  # largest |jump| of dL/dV in the last backward pass
    counts: Tensor  # [N] spikes of each neuron, summed over the batch
    peaks_per_neuron: float  # peaks that nearly spike, of the hybrid gradient, like spikes


def _recorded(model: nn.Module) -> Iterator[tuple[str, LayerRecord]]:
    """Layers, by name, that have kept a record of their last forward pass."""
    for name, module in model.named_modules():
        record = getattr(module, "_record", None)
        if isinstance(record, LayerRecord):
            yield name, record


def collect(model: nn.Module) -> dict[str, LayerDiagnostics]:
    """Diagnostics of the EventProp layers of ``model`` whose last forward pass ran on the engine.

    These are ``EventPropLIF`` and ``EventPropNeuron`` always; neurons of the skins where they ran a
    whole sequence at once (snnTorch's in ``sequence`` or ``multi_step``, Norse's ``LIF`` and
    ``LIFRecurrent``, both under ``swap(..., fuse=True)``), but not where they ran step by step or
    without a reset. By module name; of a neuron that ran several sequences, the last one.

    The guard and the jumps are those of a ``backward()`` that reaches leaves;
    ``torch.autograd.grad`` and compiled code leave them at 0.

    Reading them costs one pass over the spikes of the last batch; nothing is computed until then.
    """
    found = {}
    for name, record in _recorded(model):
        counts = record.counts()
        batch = max(record.offsets.numel() - 1, 1)
        guarded, largest = _jumps(record).tolist()
        found[name] = LayerDiagnostics(
            spikes_per_neuron=counts.sum().item() / (batch * max(record.size, 1)),
            silent_share=(counts == 0).double().mean().item() if record.size else 0.0,
            guarded=int(guarded),
            largest_jump=largest,
            counts=counts,
            peaks_per_neuron=(
                0.0 if record.peaks is None
                else record.peaks.numel() / (batch * max(record.size, 1))
            ),
        )
    return found


def guarded_spikes(model: nn.Module) -> int | Tensor:
    """``guarded`` of all layers that ``collect`` finds, summed; of a GPU a tensor ``[1]``.

    Nothing is read from the GPU, so that a training loop may sum these over its steps.
    """
    return sum(
        _jumps(record)[:1] if record.units.device.type != "cpu" else int(_jumps(record)[0])
        for _, record in _recorded(model)
    )
