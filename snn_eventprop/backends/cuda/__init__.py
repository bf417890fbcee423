"""numba-cuda kernels for NVIDIA GPUs.

Kernels are imported when an operator first runs on a GPU, as numba-cuda is an optional extra.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from ...ops import exact as exact_ops
from ...ops import grid as grid_ops


def _imported_when_called(module: str, name: str) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        return getattr(import_module(f"{__name__}.{module}"), name)(*arguments)

    return run


# Implementations by the names of the operators.
KERNELS = {
    name: _imported_when_called(module, name)
    for module, names in {
        "grid_launch": ("grid_forward", "grid_backward"),
        "delayed": ("delayed_adjoint",),
        "exact_launch": ("exact_forward", "exact_backward"),
    }.items()
    for name in names
}

grid_ops.grid_forward.register_kernel("cuda")(KERNELS["grid_forward"])
grid_ops.grid_backward.register_kernel("cuda")(KERNELS["grid_backward"])
grid_ops.delayed_adjoint.register_kernel("cuda")(KERNELS["delayed_adjoint"])
exact_ops.exact_forward.register_kernel("cuda")(KERNELS["exact_forward"])
exact_ops.exact_backward.register_kernel("cuda")(KERNELS["exact_backward"])
