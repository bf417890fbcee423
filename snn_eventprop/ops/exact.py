"""The continuous-time solver as PyTorch operators: registration, shapes for tracing, autograd.

``exact_lif`` is the one entry. Spikes leave it as two differentiable vectors over the spikes,

    times   seconds; their gradient is dL/dt of each spike
    marks   ones; their gradient is the straight-through worth of each spike's existence
"""

import itertools
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor

from ..backends.cpu import exact as cpu_exact
from ..backends.cpu.memory import Workspace
from ..backends.cpu.threads import over_samples, share_cores
from ..backends.cpu.weights import read_rows, sum_rows
from . import _jumps as _report
from ._operator import no_second_derivative, operator, or_zeros
from .grid import DIVERGED, check_backend, check_finite


class ExactSpikes(NamedTuple):
    """What ``exact_lif`` returns. S2 is the number of spikes of the batch."""

    times: Tensor  # [S2] s, differentiable
    marks: Tensor  # [S2] ones, differentiable
    units: Tensor  # [S2] int64
    offsets: Tensor  # [B + 1] int64


def _numpy(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def rates(tau: Tensor) -> Tensor:
    return 1 / tau.detach().double()


def _offsets(counts: np.ndarray) -> Tensor:
    return torch.from_numpy(np.concatenate((np.zeros(1, np.int64), np.cumsum(counts))))


def rows(recurrent: Optional[Tensor], like: Tensor) -> Tensor:
    """Recurrent weights, or the one row of zeros that kernels take for none."""
    return like.new_zeros(1, like.shape[1]) if recurrent is None else recurrent


def _weights(weight: Tensor, recurrent: Optional[Tensor], work: Workspace) -> list[np.ndarray]:
    return [read_rows(given, work, pad=0) for given in (weight, rows(recurrent, weight))]


def runaway(name: str, sample: int, limit: int, seconds: float) -> RuntimeError:
    """The error for a sample that spikes without end."""
    return RuntimeError(
        f"{name}: runaway excitation: sample {sample} reached {limit} spikes "
        f"at t = {seconds:.6g} s; make (recurrent) weights smaller, lower the learning "
        "rate or clip gradients, or raise max_rate if such rates are wanted"
    )


def of_tau(grad: Tensor, tau: Tensor) -> Tensor:
    """The gradient of time constants from that of every neuron's own, [H]."""
    return grad if tau.numel() > 1 or grad.numel() == 1 else grad.sum().reshape(tau.shape)


@operator("snn_eventprop::exact_forward", device_types="cpu")
def _forward(
    times: Tensor,
    units: Tensor,
    offsets: Tensor,
    weight: Tensor,
    recurrent: Optional[Tensor],
    tau_mem: Tensor,
    tau_syn: Tensor,
    threshold: Tensor,
    v_reset: Tensor,
    floor: Tensor,
    duration: float,
    limit: int,
    keep: bool,
    name: str,
    tag: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    check_finite(DIVERGED, weight=weight, recurrent_weight=recurrent)
    dtype, size = weight.dtype, weight.shape[1]
    work = Workspace()
    arguments = (
        *_numpy(times, units, offsets), duration, *_weights(weight, recurrent, work),
        *_numpy(rates(tau_mem), rates(tau_syn), threshold, v_reset), limit, keep,
    )  # fmt: skip
    share_cores()
    parts = over_samples(
        lambda lo, hi: cpu_exact.forward(lo, hi, *arguments),
        offsets.diff().numpy() + 1,
        per_thread=4,
    )
    work.give_back()
    for *_, (sample, seconds) in parts:
        if sample >= 0:
            raise runaway(name, int(sample), limit, seconds)
    if parts:
        pieces = zip(*(part[:-1] for part in parts), strict=True)
        joined = [torch.from_numpy(np.concatenate(piece)) for piece in pieces]
    else:
        joined = [
            torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.int64),
            torch.empty(0, dtype=dtype), torch.empty(0, dtype=torch.int32),
            torch.empty(0, dtype=torch.int64), torch.empty(0, 2, size, dtype=dtype),
            torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64),
        ]  # fmt: skip
    at, out_units, slopes, out_before, counts, states, places, state_counts = joined
    out = at.to(dtype, copy=True)
    return (
        out, torch.ones_like(out), out_units, _offsets(counts.numpy()), at, slopes, out_before,
        states, places, _offsets(state_counts.numpy()),
    )  # fmt: skip


@_forward.register_fake
def _(
    times, units, offsets, weight, recurrent, tau_mem, tau_syn, threshold, v_reset, floor,
    duration, limit, keep, name, tag,
):  # fmt: skip
    context = torch.library.get_ctx()
    spikes, states = context.new_dynamic_size(), context.new_dynamic_size()
    new, size = weight.new_empty, weight.shape[1]
    return (
        new(spikes), new(spikes), new(spikes, dtype=torch.int64),
        new(offsets.shape[0], dtype=torch.int64), new(spikes, dtype=torch.float64), new(spikes),
        new(spikes, dtype=torch.int32), new((states, 2, size)), new(states, dtype=torch.int64),
        new(offsets.shape[0], dtype=torch.int64),
    )  # fmt: skip


@operator("snn_eventprop::exact_backward", device_types="cpu")
def _backward(
    times: Tensor,
    units: Tensor,
    offsets: Tensor,
    weight: Tensor,
    recurrent: Optional[Tensor],
    tau_mem: Tensor,
    tau_syn: Tensor,
    threshold: Tensor,
    v_reset: Tensor,
    floor: Tensor,
    out_units: Tensor,
    out_offsets: Tensor,
    out_times: Tensor,
    slopes: Tensor,
    out_before: Tensor,
    states: Tensor,
    places: Tensor,
    state_offsets: Tensor,
    grad_out: Tensor,
    grad_marks: Tensor,
    keep: bool,
    want_times: bool,
    tag: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dtype, size = weight.dtype, weight.shape[1]
    kind = grad_out.to(dtype).numpy().dtype
    grad_times = weight.new_zeros(times.shape if want_times else (0,))
    work = Workspace()
    arguments = (
        *_numpy(times, units, offsets), *_weights(weight, recurrent, work),
        *_numpy(
            rates(tau_mem), rates(tau_syn), threshold, v_reset, floor, out_times, out_units, slopes,
            out_before, out_offsets, states, places, state_offsets, grad_out.to(dtype),
            grad_marks.to(dtype),
        ),
    )  # fmt: skip
    recurrent = rows(recurrent, weight)

    def run(lo: int, hi: int):
        by_rows = [
            work.array(len(given), size, kind, zeros=True) for given in (weight, recurrent)
        ]
        of_threshold = np.zeros(size, kind)
        of_constants = np.zeros((2, size if keep else 0))
        into = (*by_rows, of_threshold, *of_constants, grad_times.numpy())
        return by_rows, of_threshold, of_constants, *cpu_exact.backward(lo, hi, *arguments, *into)

    events = offsets.diff().numpy() + out_offsets.diff().numpy()
    by_rows, of_threshold, of_constants, guarded, largest = zip(
        *(over_samples(run, events) or [run(0, 0)]), strict=True
    )
    _report.record_jumps(tag, sum(guarded), float(max(largest)))
    grad_weight, grad_recurrent = (
        sum_rows(parts, given)
        for parts, given in zip(zip(*by_rows, strict=True), (weight, recurrent), strict=True)
    )
    work.give_back()
    grad_mem, grad_syn = torch.from_numpy(np.sum(of_constants, axis=0))
    if keep:
        grad_mem, grad_syn = of_tau(grad_mem, tau_mem), of_tau(grad_syn, tau_syn)
    return (
        grad_weight, grad_recurrent, torch.from_numpy(np.sum(of_threshold, axis=0)),
        grad_mem.clone(), grad_syn.clone(), grad_times,
    )  # fmt: skip


@_backward.register_fake
def _(
    times, units, offsets, weight, recurrent, tau_mem, tau_syn, threshold, v_reset, floor,
    out_units, out_offsets, out_times, slopes, out_before, states, places, state_offsets,
    grad_out, grad_marks, keep, want_times, tag,
):  # fmt: skip
    new = weight.new_empty

    def constant(tau):
        return tau.new_empty(tau.shape if keep else (0,), dtype=torch.float64)

    return (
        torch.empty_like(weight),
        new((1, weight.shape[1])) if recurrent is None else torch.empty_like(recurrent),
        new(weight.shape[1]), constant(tau_mem), constant(tau_syn),
        new(times.shape if want_times else (0,)),
    )  # fmt: skip


_backward.register_autograd(no_second_derivative)

_ARGUMENTS = (
    "times units offsets weight recurrent tau_mem tau_syn threshold v_reset floor "
    "duration limit keep name tag"
).split()


def _setup_context(ctx, inputs, output) -> None:
    ctx.mark_non_differentiable(*output[2:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:10], *output[2:])
    ctx.keep, ctx.tag = inputs[12], inputs[14]


def _autograd_backward(ctx, grad_times, grad_marks, *_):
    needs = dict(zip(_ARGUMENTS, ctx.needs_input_grad, strict=True))
    slopes = ctx.saved_tensors[13]
    grads = (or_zeros(grad, slopes, slopes.shape) for grad in (grad_times, grad_marks))
    found = dict(zip(
        ("weight", "recurrent", "threshold", "tau_mem", "tau_syn", "times"),
        _backward(
            *ctx.saved_tensors, *grads, ctx.keep, needs["times"], ctx.tag
        ),
        strict=True,
    ))  # fmt: skip
    return tuple(found[name] if needs[name] else None for name in _ARGUMENTS)


_forward.register_autograd(_autograd_backward, setup_context=_setup_context)


def exact_lif(
    times: Tensor,
    units: Tensor,
    offsets: Tensor,
    duration: float,
    weight: Tensor,
    tau_mem: Tensor,
    tau_syn: Tensor,
    threshold: Tensor,
    v_reset: Tensor,
    floor: Tensor,
    *,
    recurrent: Optional[Tensor] = None,
    limit: int,
    name: str = "EventPropLIF",
    tag: int = 0,
) -> ExactSpikes:
    """Run a layer of LIF neurons in continuous time over ``duration`` seconds.

    Args:
        times, units, offsets: input events, as in ``SpikeEvents``; they reach neurons through
            ``weight``.
        weight: [N, H], one row per input (the transpose of ``nn.Linear``'s).
        tau_mem, tau_syn: seconds, [H], or both [1] where all neurons share them; float64.
        threshold, v_reset: [H].
        floor: [H] smallest slope of V used in the jump, 1/s (the grazing guard); 0: off.
        recurrent: [H, H], one row per presynaptic neuron.
        limit: spikes of one sample at which to give up.
        name: what errors call the layer.
        tag: key under which diagnostics of the backward pass are kept.

    Raises:
        RuntimeError: a sample spikes more than ``limit`` times.
    """
    check_backend(weight)
    keep = torch.is_grad_enabled() and (tau_mem.requires_grad or tau_syn.requires_grad)
    out = _forward(
        times, units, offsets, weight, recurrent, tau_mem, tau_syn, threshold, v_reset, floor,
        duration, limit, keep, name, tag,
    )  # fmt: skip
    return ExactSpikes(*itertools.islice(out, 4))
