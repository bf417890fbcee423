"""The exact solver on the CPU: its operators' kernels, over threads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...ops import exact as op
from ...ops.checks import DIVERGED, check_finite
from .. import exact_arrays as arrays
from . import exact as kernels
from .memory import Workspace
from .threads import over_samples, share_cores
from .weights import read_rows, sum_rows


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _offsets(counts: np.ndarray) -> Tensor:
    return torch.from_numpy(np.concatenate((np.zeros(1, np.int64), np.cumsum(counts))))


def _population(population: Sequence[Tensor]) -> kernels.Neurons:
    tau_mem, tau_syn, *others = population
    return kernels.population(*_arrays(op.rates(tau_mem), op.rates(tau_syn), *others))


@op.exact_forward.register_kernel("cpu")
def forward(
    events: Sequence[Tensor],
    weights: Sequence[Tensor],
    population: Sequence[Tensor],
    probe: Tensor,
    duration: float,
    limit: int,
    keep: bool,
    name: str,
) -> tuple[Tensor, ...]:
    weight, recurrent = weights
    check_finite(DIVERGED, weight=weight, recurrent_weight=recurrent)
    dtype, size = weight.dtype, weight.shape[1]
    work = Workspace()
    rows = (weight, op.recurrent_rows(recurrent, weight))
    arguments = (
        arrays.Events(*_arrays(*events)), duration,
        arrays.Rows(*(read_rows(given, work, pad=0) for given in rows)),
        _population(population), limit, keep,
    )  # fmt: skip
    share_cores()
    parts = over_samples(
        lambda lo, hi: kernels.forward(lo, hi, *arguments),
        events[2].diff().numpy() + 1,
        per_thread=4,
    )
    work.give_back()
    for *_, (sample, seconds) in parts:
        if sample >= 0:
            raise op.runaway(name, int(sample), limit, seconds)
    if parts:
        pieces = zip(*(part[:-1] for part in parts), strict=True)
        joined = [torch.from_numpy(np.concatenate(piece)) for piece in pieces]
    else:
        kinds = (
            torch.float64, torch.int64, dtype, torch.int32, torch.int64, dtype, torch.int64,
            torch.int64,
        )  # fmt: skip
        joined = [torch.empty(0, dtype=kind) for kind in kinds]
        joined[5] = joined[5].new_empty(0, 2, size)
    at, out_units, slopes, before, counts, states, places, state_counts = joined
    out = at.to(dtype, copy=True)
    return (
        out, torch.ones_like(out), out_units, _offsets(counts.numpy()), at, slopes, before,
        states, places, _offsets(state_counts.numpy()),
    )  # fmt: skip


@op.exact_backward.register_kernel("cpu")
def backward(
    events: Sequence[Tensor],
    weights: Sequence[Tensor],
    population: Sequence[Tensor],
    spikes: Sequence[Tensor],
    states: Sequence[Tensor],
    upstream: Sequence[Tensor],
    keep: bool,
    want_times: bool,
) -> tuple[Tensor, ...]:
    weight, recurrent = weights
    size = weight.shape[1]
    grad_times = weight.new_zeros(events[0].shape if want_times else (0,))
    work = Workspace()
    rows = (weight, op.recurrent_rows(recurrent, weight))
    out_units, out_offsets, out_times, slopes, before = spikes
    arguments = (
        arrays.Events(*_arrays(*events)),
        arrays.Rows(*(read_rows(given, work, pad=0) for given in rows)),
        _population(population),
        arrays.Spikes(*_arrays(out_times, out_units, slopes, before, out_offsets)),
        arrays.States(*_arrays(*states)),
        arrays.Upstream(*_arrays(*(grad.to(weight.dtype) for grad in upstream))),
    )
    kind = arguments[1].input.dtype

    def run(lo: int, hi: int):
        by_rows = arrays.Rows(
            *(work.array(len(given), size, kind, zeros=True) for given in rows)
        )
        of_threshold = np.zeros(size, kind)
        of_taus = np.zeros((2, size if keep else 0))
        into = arrays.Gradients._make((of_threshold, *of_taus, grad_times.numpy()))
        guarded, largest = kernels.backward(lo, hi, *arguments, by_rows, into)
        return by_rows, of_threshold, of_taus, guarded, largest

    counted = events[2].diff().numpy() + out_offsets.diff().numpy()
    by_rows, of_threshold, of_taus, guarded, largest = zip(
        *(over_samples(run, counted) or [run(0, 0)]), strict=True
    )
    grad_weight, grad_recurrent = (
        sum_rows(parts, given)
        for parts, given in zip(zip(*by_rows, strict=True), rows, strict=True)
    )
    work.give_back()
    grad_taus = list(torch.from_numpy(np.sum(of_taus, axis=0)))
    if keep:
        grad_taus = [
            op.of_tau(grad, tau) for grad, tau in zip(grad_taus, population[:2], strict=True)
        ]
    return (
        grad_weight, grad_recurrent, torch.from_numpy(np.sum(of_threshold, axis=0)),
        *(grad.clone() for grad in grad_taus), grad_times,
        torch.tensor([sum(guarded), max(largest)], dtype=torch.float64),
    )  # fmt: skip
