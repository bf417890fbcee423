"""The continuous-time solver as PyTorch operators: schema, shapes for tracing, autograd.

``exact_lif`` is the one entry. Spikes leave it as two differentiable vectors over the spikes,

    times   seconds; their gradient is dL/dt of each spike
    marks   ones; their gradient is the straight-through value of each spike's existence

Operators take lists of tensors for what belongs together, as those of ``ops.grid`` do.
"""

from collections.abc import Sequence
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from ._operator import no_second_derivative, operator, or_zeros
from .checks import check_backend
from .packing import absent, present


class ExactEvents(NamedTuple):
    """Input events of a batch, as in ``SpikeEvents``."""

    times: Tensor  # [S] s, ascending within each sample
    units: Tensor  # [S]
    offsets: Tensor  # [B + 1]


class ExactPopulation(NamedTuple):
    """Neurons of a layer."""

    tau_mem: Tensor  # [H] s, or [1] where all neurons share them; float64
    tau_syn: Tensor  # of the same shape
    threshold: Tensor  # [H]
    v_reset: Tensor  # [H]
    floor: Tensor  # [H] smallest slope used in the jump, 1/s (grazing guard); 0 switches it off


class ExactSpikes(NamedTuple):
    """What ``exact_lif`` returns. S2 is the number of spikes of the batch."""

    times: Tensor  # [S2] s, differentiable
    marks: Tensor  # [S2] ones, differentiable
    units: Tensor  # [S2] int64
    offsets: Tensor  # [B + 1] int64


def rates(tau: Tensor) -> Tensor:
    return (1 / tau.detach().double()).contiguous()


def recurrent_rows(recurrent: Tensor, like: Tensor) -> Tensor:
    """Recurrent weights, or the one row of zeros that kernels take for none."""
    return recurrent if present(recurrent) else like.new_zeros(1, like.shape[1])


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


@operator("snn_eventprop::exact_forward")
def exact_forward(
    events: Sequence[Tensor],
    weights: Sequence[Tensor],
    population: Sequence[Tensor],
    probe: Tensor,
    duration: float,
    limit: int,
    keep: bool,
    name: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Fields of ``ExactSpikes``; times in float64, slopes and preceding input events of spikes;
    and states for the replay, how many events precede each, and where each sample's begin.

    Args:
        events, population: fields of ``ExactEvents``, of ``ExactPopulation``.
        weights: [N, H], and recurrent [pre, post] or absent.
        probe: [2]; its gradient is the number of guarded slopes and the largest jump.
        limit: spikes of one sample at which to give up.   keep: states are wanted.
    """
    raise NotImplementedError


@exact_forward.register_fake
def _(events, weights, population, probe, duration, limit, keep, name):
    context = torch.library.get_ctx()
    spikes, states = context.new_dynamic_size(), context.new_dynamic_size()
    new, size, ends = weights[0].new_empty, weights[0].shape[1], events[2].shape[0]
    return (
        new(spikes), new(spikes), new(spikes, dtype=torch.int64), new(ends, dtype=torch.int64),
        new(spikes, dtype=torch.float64), new(spikes), new(spikes, dtype=torch.int32),
        new((states, 2, size)), new(states, dtype=torch.int64), new(ends, dtype=torch.int64),
    )  # fmt: skip


@operator("snn_eventprop::exact_backward")
def exact_backward(
    events: Sequence[Tensor],
    weights: Sequence[Tensor],
    population: Sequence[Tensor],
    spikes: Sequence[Tensor],
    states: Sequence[Tensor],
    upstream: Sequence[Tensor],
    keep: bool,
    want_times: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of both weights, of threshold, tau_mem and tau_syn, of event times; and the
    probe's.

    Args:
        spikes: units, offsets, float64 times, slopes, preceding input events.
        states: the last three results of ``exact_forward``.
        upstream: gradients of times and marks.
    """
    raise NotImplementedError


@exact_backward.register_fake
def _(events, weights, population, spikes, states, upstream, keep, want_times):
    weight, recurrent = weights
    new = weight.new_empty

    def constant(tau):
        return tau.new_empty(tau.shape if keep else (0,), dtype=torch.float64)

    return (
        torch.empty_like(weight),
        torch.empty_like(recurrent) if present(recurrent) else new((1, weight.shape[1])),
        new(weight.shape[1]), constant(population[0]), constant(population[1]),
        new(events[0].shape if want_times else (0,)), new((2,), dtype=torch.float64),
    )  # fmt: skip


exact_backward.register_autograd(no_second_derivative)


def _setup_context(ctx, inputs, output) -> None:
    events, weights, population, _, _, _, ctx.keep, _ = inputs
    ctx.mark_non_differentiable(*output[2:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*events, *weights, *population, *output[2:])


def _autograd_backward(ctx, grad_times, grad_marks, *_):
    saved = ctx.saved_tensors
    events, weights, population = saved[:3], saved[3:5], saved[5:10]
    spikes, states = saved[10:15], saved[15:18]
    want_events, want_weights, want_population, want_probe, *_ = ctx.needs_input_grad
    slopes = spikes[3]
    upstream = [or_zeros(grad, slopes, slopes.shape) for grad in (grad_times, grad_marks)]
    grad_weight, grad_recurrent, *of_constants, grad_events, jumps = exact_backward(
        list(events), list(weights), list(population), list(spikes), list(states), upstream,
        ctx.keep, want_events[0],
    )  # fmt: skip
    threshold, tau_mem, tau_syn = of_constants
    by_constant = (tau_mem, tau_syn, threshold, None, None)
    return (
        [grad_events if want_events[0] else None, None, None],
        [
            grad_weight if want_weights[0] else None, grad_recurrent if want_weights[1] else None,
        ],
        [grad if want else None for grad, want in zip(by_constant, want_population, strict=True)],
        jumps.to(slopes.dtype) if want_probe else None,
        None, None, None, None,
    )  # fmt: skip


exact_forward.register_autograd(_autograd_backward, setup_context=_setup_context)


def exact_lif(
    events: ExactEvents,
    duration: float,
    weight: Tensor,
    population: ExactPopulation,
    *,
    recurrent: Optional[Tensor] = None,
    limit: int,
    name: str = "EventPropLIF",
    probe: Optional[Tensor] = None,
) -> ExactSpikes:
    """Run a layer of LIF neurons in continuous time over ``duration`` seconds.

    Args:
        events: input events; they reach neurons through ``weight``.
        weight: [N, H], one row per input (the transpose of ``nn.Linear``'s).
        recurrent: [H, H], one row per presynaptic neuron.
        limit: spikes of one sample at which to give up.
        name: what errors call the layer.
        probe: [2], as in ``ops.grid.grid_lif``.

    Raises:
        RuntimeError: a sample spikes more than ``limit`` times.
    """
    check_backend(weight)
    given = (events.times, weight, recurrent, *population[:3])
    differentiable = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in given
    )
    keep = differentiable and (
        population.tau_mem.requires_grad or population.tau_syn.requires_grad
    )
    nothing = absent(weight)
    times, marks, units, offsets, *_ = exact_forward(
        list(events), [weight, nothing if recurrent is None else recurrent], list(population),
        probe if probe is not None and differentiable else nothing, duration, limit, keep, name,
    )  # fmt: skip
    return ExactSpikes(times, marks, units, offsets)
