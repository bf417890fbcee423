"""Weights as CPU kernels read them, one row per sender, and gradients in the memory of weights.

Layers hold one row per receiver, and give operators the transpose of that, a view. No more than
one copy is made each way, by all threads.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from . import transpose as cpu_turn
from .compile import PAD
from .lanes import NARROW
from .memory import Workspace
from .threads import over_samples

_LEAST = 2**18  # numbers to transpose that are worth waking another thread


def _turned(matrix: Tensor) -> bool:
    """Whether it is the transpose of a contiguous one, and no such itself."""
    return not matrix.is_contiguous() and matrix.t().is_contiguous()


def _turn(sources: Sequence[np.ndarray], out: np.ndarray, columns: int) -> None:
    """The sum of ``sources``, transposed, of which the first ``columns`` become rows of ``out``."""

    def run(lo: int, hi: int) -> None:
        for number, source in enumerate(sources):
            cpu_turn.turn_rows(lo * NARROW, min(hi * NARROW, columns), source, out, number > 0)

    work = np.full(-(-columns // NARROW), NARROW * len(sources[0]))
    over_samples(run, work, per_thread=4, least=_LEAST)


def read_rows(matrix: Tensor, work: Workspace, pad: int = PAD) -> np.ndarray:
    """``matrix`` ``[R, C]`` as rows of C or more numbers, contiguous."""
    matrix = matrix.detach()
    if not _turned(matrix):
        return matrix.contiguous().numpy()
    by_column = matrix.t().numpy()
    rows, columns = matrix.shape
    out = work.array(rows, columns + pad, by_column.dtype, zeros=False)
    _turn([by_column], out, rows)
    return out


def sum_rows(parts: Sequence[np.ndarray], like: Tensor) -> Tensor:
    """The sum of arrays of such rows, as a tensor of the shape and the memory of ``like``."""
    out = torch.empty_like(like)
    columns = like.shape[1]
    if _turned(like):
        _turn(parts, out.t().numpy(), columns)
    else:
        given = [part[:, :columns] for part in parts]
        np.copyto(out.numpy(), functools.reduce(np.add, given))
    return out


def in_memory_of(like: Tensor, grad: Tensor) -> Tensor:
    """``grad``, laid out in memory as ``like``."""
    if grad.stride() == like.stride():
        return grad
    return torch.empty_like(like).copy_(grad)
