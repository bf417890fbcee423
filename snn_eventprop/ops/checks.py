"""What is checked before kernels run."""

from __future__ import annotations

import torch
from torch import Tensor

from .._extras import installed, require
from ..synapses.delayed import LONGEST

DIVERGED = "lower the learning rate or clip gradients"
BAD_DATA = "look at the data, or at the layers before this one"


def check_finite(mend: str, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        # One NaN or infinity makes the sum NaN or infinite.
        if tensor is not None and tensor.numel() and not torch.isfinite(tensor.sum()):
            finite = torch.isfinite(tensor)
            if not bool(finite.all()):
                raise ValueError(
                    f"{name} holds {int((~finite).sum())} NaN or infinite values of "
                    f"{finite.numel()}; {mend}"
                )


def check_delays(name: str, shortest: float, longest: float) -> None:
    """Raise ValueError unless delays are bins that can be counted."""
    if not 0 <= shortest <= longest <= LONGEST:
        raise ValueError(f"{name} must be 0 to {LONGEST} bins, got {shortest:g} to {longest:g}")


def has_backend(device: torch.device) -> bool:
    """Whether the operators run on tensors of this device."""
    return device.type == "cpu" or (device.type == "cuda" and installed("numba_cuda"))


def transformed() -> bool:
    """Whether a transform of ``torch.func`` runs: it has no rules for torch.library's operators."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def check_backend(parameter: Tensor) -> None:
    """Raise unless a backend can run layers with such parameters.

    Raises:
        ImportError: the layer is on a GPU, for which an extra is not installed.
        NotImplementedError: a device without a backend.
        TypeError: parameters that are neither float32 nor float64.
    """
    kind = parameter.device.type
    if kind == "cuda" and not torch.compiler.is_compiling():
        require("numba_cuda", extra="cuda")
    elif kind not in ("cpu", "cuda"):
        raise NotImplementedError(
            f"the layer is on {parameter.device}, but only CPU and CUDA backends exist; move the "
            "model and its input with .to('cpu') or .to('cuda')"
        )
    if parameter.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"the layer's parameters are {parameter.dtype}, but spike times need float32 or "
            "float64; call layer.float() (autocast leaves it in float32)"
        )
