"""The grid solver as PyTorch operators: schema, shapes for tracing, autograd.

``grid_lif`` is the one entry. Spikes leave it as two differentiable vectors over the spikes,

    stamps  bin index of each spike; its gradient is the change of the spike's value per bin, S' dt
    marks   ones; their gradient is the straight-through value of each spike's existence

from which layers build event times (``stamps * dt``) or rasters (``to_raster``).

Operators take lists of tensors for what belongs together. In these, a tensor of one dimension and
no entries (``absent``) stands for one that is not there.

Over 400 lines: one operator's schema, shapes and autograd name the same tensors in one order.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from ..neurons import neuron as neuron_module
from ._operator import no_second_derivative, operator, or_zeros
from .checks import (
    BAD_DATA,
    DIVERGED,
    check_backend,
    check_delays,
    check_finite,
    has_backend,
    transformed,
)
from .packing import absent, present
from .rasters import raster_events, raster_of, raster_of_peaks, raster_worth_change

__all__ = [
    "BAD_DATA",
    "DIVERGED",
    "Delays",
    "Drive",
    "Events",
    "GridSpikes",
    "Population",
    "State",
    "check_backend",
    "check_delays",
    "check_finite",
    "dense_events",
    "grid_lif",
    "has_backend",
    "no_events",
    "present",
    "raster_of",
    "raster_of_peaks",
    "raster_worth_change",
    "to_raster",
    "transformed",
]

# Bins between two stored states, from which the backward pass replays the forward one. A GPU keeps
# the replayed bins of all samples at once.
SEGMENT = {"cpu": 512, "cuda": 128}


class Events(NamedTuple):
    """Input events of a batch on the grid (``values`` empty: all one)."""

    bins: Tensor  # [S] int32, ascending within each sample
    units: Tensor  # [S] int64
    values: Tensor  # [S] or [0]
    offsets: Tensor  # [B + 1] int64


class Drive(NamedTuple):
    """Input whose gradient is wanted, and input that is no events."""

    raster: Optional[Tensor] = None  # [T, B, N], the dense form of the events
    event_stamps: Optional[Tensor] = None  # [S] bin indices of the events
    input_current: Optional[Tensor] = None  # [T, B, H], added to I in each bin


class Delays(NamedTuple):
    """Bins by which spikes arrive later, rounded to whole ones; differentiable."""

    input: Optional[Tensor] = None  # [N, H]
    recurrent: Optional[Tensor] = None  # [H, H], [pre, post]


class Population(NamedTuple):
    """Neurons of a layer. P constants, as the neuron's module lists them."""

    neuron: str  # name of a module of ``snn_eventprop.neurons``
    constants: Tensor  # [P, H]
    floor: Tensor  # [H] smallest slope per bin used in the jump (grazing guard); 0 switches it off
    reset: str = "subtract"  # one of the neuron's ``RESETS``
    width: Optional[Tensor] = None  # [H] of the threshold noise of the hybrid gradient


class State(NamedTuple):
    """Where a sequence begins."""

    state: Optional[Tensor] = None  # [S, B, H] of the neuron's ``STATE``, I already scaled by s
    spikes: Optional[Tensor] = None  # [B, H] of the bin before the first
    slopes: Optional[Tensor] = None  # [B, H] of those spikes


class Peaks(NamedTuple):
    """Peaks of V that nearly spike."""

    values: Tensor  # [S3] zeros, differentiable: what a spike there would add to the loss
    bins: Tensor  # [S3] int32
    units: Tensor  # [S3] int64
    offsets: Tensor  # [B + 1] int64


class GridSpikes(NamedTuple):
    """What ``grid_lif`` returns.

    S2 is the number of spikes of the batch, S3 that of peaks of V that nearly spike: those below
    the threshold by less than the width of its noise. Without a noise there are none.
    """

    stamps: Tensor  # [S2] float bin index, differentiable
    marks: Tensor  # [S2] ones, differentiable
    bins: Tensor  # [S2] int32
    units: Tensor  # [S2] int64
    kept: Tensor  # [K, S2] what the neuron keeps of each spike
    offsets: Tensor  # [B + 1] int64
    last: Tensor  # [S, B, H] state after the last bin, I before it is scaled by s
    trace: Tensor  # [T, B, H] V of every bin, or empty
    states: Tensor  # for the backward pass
    peak_values: Tensor  # as in ``Peaks``
    peak_bins: Tensor
    peak_units: Tensor
    peak_kept: Tensor  # [K, S3]
    peak_offsets: Tensor

    @property
    def peaks(self) -> Optional[Peaks]:
        """Peaks that nearly spike; None for a layer without threshold noise."""
        if not present(self.peak_offsets):
            return None
        return Peaks(self.peak_values, self.peak_bins, self.peak_units, self.peak_offsets)

    @property
    def slopes(self) -> Tensor:
        """[S2] V' dt at each spike."""
        return self.kept[0]

    @property
    def last_current(self) -> Tensor:
        """[B, H] I of the last bin, before it is scaled by s."""
        return self.last[0]

    @property
    def last_voltage(self) -> Tensor:
        """[B, H] V after the last bin."""
        return self.last[1]


def no_peaks(kind: ModuleType, like: Tensor) -> tuple[Tensor, ...]:
    """Fields of ``GridSpikes`` from ``peak_values`` on, of a layer without threshold noise."""
    integers = torch.empty(0, dtype=torch.int64, device=like.device)
    return (
        like.new_empty(0), integers.int(), integers, like.new_empty((len(kind.KEPT), 0)),
        integers.clone(),
    )  # fmt: skip


def delays_given(synapses: Sequence[Tensor]) -> bool:
    return present(synapses[2]) or present(synapses[3])


@operator("snn_eventprop::grid_forward")
def grid_forward(
    events: Sequence[Tensor],
    drive: Sequence[Tensor],
    synapses: Sequence[Tensor],
    constants: Tensor,
    floor: Tensor,
    width: Tensor,
    start: Sequence[Tensor],
    probe: Tensor,
    neuron: str,
    steps: int,
    reset: int,
    record: bool,
    keep_states: bool,
) -> tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
    Tensor, Tensor,
]:
    """Fields of ``GridSpikes``.

    Args:
        events: fields of ``Events``.   drive: of ``Drive``.
        synapses: weight [N, H], recurrent [pre, post], and the fields of ``Delays``.
        constants, floor, width: of ``Population``.   start: fields of ``State``.
        probe: [2]; its gradient is the number of guarded slopes and the largest jump.
        reset: code of the neuron's rule.
        record: return the trace.   keep_states: for gradients of flow constants.
    """
    raise NotImplementedError


@grid_forward.register_fake
def _(
    events, drive, synapses, constants, floor, width, start, probe, neuron, steps, reset, record,
    keep_states,
):  # fmt: skip
    batch, size = events[3].shape[0] - 1, constants.shape[1]
    spikes = torch.library.get_ctx().new_dynamic_size()
    new, kind = constants.new_empty, neuron_module(neuron)
    variables = len(kind.STATE)
    segments = -(-steps // SEGMENT.get(constants.device.type, SEGMENT["cpu"]))
    return (
        new(spikes), new(spikes), new(spikes, dtype=torch.int32), new(spikes, dtype=torch.int64),
        new((len(kind.KEPT), spikes)), new(batch + 1, dtype=torch.int64),
        new((variables, batch, size)),
        new((steps, batch, size) if record else (0, 0, 0)),
        new((batch, segments, variables, size) if keep_states else (0, 0, 0, 0)),
        *(_fake_peaks(kind, constants, batch) if present(width) else no_peaks(kind, constants)),
    )  # fmt: skip


def _fake_peaks(kind: ModuleType, like: Tensor, batch: int) -> tuple[Tensor, ...]:
    peaks = torch.library.get_ctx().new_dynamic_size()
    new = like.new_empty
    return (
        new(peaks), new(peaks, dtype=torch.int32), new(peaks, dtype=torch.int64),
        new((len(kind.KEPT), peaks)), new(batch + 1, dtype=torch.int64),
    )  # fmt: skip


@operator("snn_eventprop::grid_backward")
def grid_backward(
    events: Sequence[Tensor],
    input_current: Tensor,
    synapses: Sequence[Tensor],
    constants: Tensor,
    floor: Tensor,
    width: Tensor,
    start: Sequence[Tensor],
    spikes: Sequence[Tensor],
    states: Tensor,
    peaks: Sequence[Tensor],
    upstream: Sequence[Tensor],
    neuron: str,
    steps: int,
    reset: int,
    want: Sequence[bool],
) -> tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor
]:
    """Gradients of the four synapses; of flow and spike constants; of the input current [T, B, H];
    of one unit of each input event, [S], and the change of that to the next bin; of the start
    [S, B, H]; of spikes before the first bin [B, H]; and the probe's.

    Args:
        start: spikes and slopes of ``State``.   spikes, peaks: bins, units, kept, offsets.
        upstream: gradients of stamps, marks, last state, of the trace or absent, of peak values.
        want: whether gradients of weights, event values, stamps, input current are wanted.
    """
    raise NotImplementedError


@grid_backward.register_fake
def _(
    events, input_current, synapses, constants, floor, width, start, spikes, states, peaks,
    upstream, neuron, steps, reset, want,
):  # fmt: skip
    weight, recurrent, delay, recurrent_delay = synapses
    want_weight, want_values, want_changes, want_current = want
    batch, size, count = events[3].shape[0] - 1, constants.shape[1], events[0].shape[0]
    new, kind = constants.new_empty, neuron_module(neuron)

    def like(tensor: Tensor, wanted: bool) -> Tensor:
        return torch.empty_like(tensor) if wanted else new((0, 0))

    return (
        like(weight, want_weight),
        like(recurrent, present(recurrent)),
        like(weight, present(delay)),
        like(recurrent, present(recurrent) and present(recurrent_delay)),
        new((len(kind.FLOW_CONSTANTS) + len(kind.SPIKE_CONSTANTS), size)),
        new((steps, batch, size) if want_current else (0, 0, 0)),
        new((count,) if want_values else (0,)),
        new((count,) if want_changes else (0,)),
        new((len(kind.STATE), batch, size)),
        new((batch, size) if present(start[0]) else (0, 0)),
        new((2,), dtype=torch.float64),
    )


grid_backward.register_autograd(no_second_derivative)


@operator("snn_eventprop::delayed_adjoint")
def delayed_adjoint(grad_current: Tensor, weight: Tensor, delay: Tensor) -> Tensor:
    """The gradient of a raster behind delays, ``[T, B, N]``: sum over j of
    weight[i, j] grad_current[k + delay[i, j], :, j]; without delays ``grad_current @ weight.T``."""
    raise NotImplementedError


@delayed_adjoint.register_fake
def _(grad_current, weight, delay):
    steps, batch, _ = grad_current.shape
    return grad_current.new_empty((steps, batch, weight.shape[0]))


class _Saved(NamedTuple):
    """Tensors of the forward pass that the backward pass reads, in the order they are saved in."""

    bins: Tensor
    units: Tensor
    values: Tensor
    offsets: Tensor
    input_current: Tensor
    weight: Tensor
    recurrent: Tensor
    delay: Tensor
    recurrent_delay: Tensor
    constants: Tensor
    floor: Tensor
    width: Tensor
    spikes0: Tensor
    slopes0: Tensor
    out_bins: Tensor
    out_units: Tensor
    kept: Tensor
    out_offsets: Tensor
    states: Tensor
    peak_bins: Tensor
    peak_units: Tensor
    peak_kept: Tensor
    peak_offsets: Tensor


def _setup_context(ctx, inputs, output) -> None:
    (
        events, drive, synapses, constants, floor, width, start, _, ctx.neuron, ctx.steps,
        ctx.reset, ctx.record, keep_states,
    ) = inputs  # fmt: skip
    _, _, *of_spikes, _, _, states, _, peak_bins, peak_units, peak_kept, peak_offsets = output
    of_peaks = (peak_bins, peak_units, peak_kept, peak_offsets)
    ctx.mark_non_differentiable(*of_spikes, states, *of_peaks)
    ctx.set_materialize_grads(False)  # zeros for ten outputs, of which most losses read one
    current = drive[2] if keep_states else absent(constants)  # for the replay alone
    ctx.save_for_backward(*_Saved._make((
        *events, current, *synapses, constants, floor, width, *start[1:], *of_spikes, states,
        *of_peaks,
    )))  # fmt: skip


def _autograd_backward(
    ctx, grad_stamps, grad_marks, _bins, _units, _kept, _offsets, grad_last, grad_trace, _states,
    grad_peaks, *_of_peaks,
):
    saved = _Saved(*ctx.saved_tensors)
    _, want_drive, want_synapses, want_constants, _, _, want_start, want_probe, *_ = (
        ctx.needs_input_grad
    )
    want_raster, want_stamps, want_current = want_drive
    kind = neuron_module(ctx.neuron)
    constants, spikes = saved.constants, saved.kept[0]
    last = (len(kind.STATE), saved.offsets.shape[0] - 1, constants.shape[1])
    upstream = [
        or_zeros(grad_stamps, spikes, spikes.shape), or_zeros(grad_marks, spikes, spikes.shape),
        or_zeros(grad_last, constants, last),
        grad_trace if ctx.record and grad_trace is not None else absent(constants),
        or_zeros(grad_peaks, spikes, saved.peak_bins.shape),
    ]  # fmt: skip
    want_values = ctx.needs_input_grad[0][2]
    (
        grad_weight, grad_recurrent, grad_delay, grad_recurrent_delay, grad_constants,
        grad_current, grad_values, grad_changes, grad_start, grad_spikes0, jumps,
    ) = grid_backward(
        list(saved[:4]), saved.input_current, list(saved[5:9]), constants, saved.floor,
        saved.width, [saved.spikes0, saved.slopes0],
        [saved.out_bins, saved.out_units, saved.kept, saved.out_offsets], saved.states,
        [saved.peak_bins, saved.peak_units, saved.peak_kept, saved.peak_offsets], upstream,
        ctx.neuron, ctx.steps, ctx.reset,
        [want_synapses[0], want_values, want_stamps, want_current or want_raster],
    )  # fmt: skip
    of_raster = None
    if want_raster and not present(saved.delay):
        of_raster = grad_current @ saved.weight.T
    elif want_raster:
        of_raster = delayed_adjoint(grad_current, saved.weight, saved.delay)
    if want_stamps and saved.values.numel():
        grad_changes = grad_changes * saved.values
    if want_constants:
        fixed = len(kind.FIXED_CONSTANTS)
        grad_constants = torch.nn.functional.pad(grad_constants, (0, 0, 0, fixed))
    by_synapse = (grad_weight, grad_recurrent, grad_delay, grad_recurrent_delay)
    return (
        [None, None, grad_values if want_values else None, None],
        [of_raster, grad_changes if want_stamps else None, grad_current if want_current else None],
        [grad if wanted else None for grad, wanted in zip(by_synapse, want_synapses, strict=True)],
        grad_constants if want_constants else None,
        None, None,
        [
            grad_start if want_start[0] else None, grad_spikes0 if want_start[1] else None, None,
        ],
        jumps.to(constants.dtype) if want_probe else None,
        None, None, None, None, None,
    )  # fmt: skip


grid_forward.register_autograd(_autograd_backward, setup_context=_setup_context)


def to_raster(spikes: GridSpikes, steps: int, size: int, *, hold: bool) -> Tensor:
    """Spikes as a raster ``[T, B, H]`` of zeros and ones.

    Backwards, the gradient G of the raster is the value of a spike in each bin; moving a spike
    by one bin changes the loss by G[k + 1] - G[k]. Beyond the last bin G is 0, or with ``hold``
    its last value, so that a spike in the last bin does not feel the end of the recording.
    """
    raster = raster_of(
        spikes.stamps, spikes.bins, spikes.units, spikes.offsets, steps, size, hold
    )
    if spikes.peaks is None:
        return raster
    return raster + raster_of_peaks(*spikes.peaks, steps, size)


def dense_events(raster: Tensor, dtype: torch.dtype) -> Events:
    """The nonzero entries of a raster ``[T, B, N]``."""
    return Events(*raster_events(raster.detach().to(dtype)))


def no_events(batch: int, like: Tensor) -> Events:
    """A batch without input events, for layers driven by currents alone."""
    bins = torch.empty(0, dtype=torch.int32, device=like.device)
    offsets = torch.zeros(batch + 1, dtype=torch.int64, device=like.device)
    return Events(bins, bins.long(), like.new_empty(0), offsets)


def grid_lif(
    events: Events,
    steps: int,
    weight: Tensor,
    population: Population,
    *,
    recurrent: Optional[Tensor] = None,
    drive: Drive = Drive(),  # noqa: B008
    delays: Delays = Delays(),  # noqa: B008
    start: State = State(),  # noqa: B008
    record: bool = False,
    probe: Optional[Tensor] = None,
) -> GridSpikes:
    """Run a layer of spiking neurons (or integrators: threshold inf) over ``steps`` bins.

    Args:
        events: input events; they reach neurons through ``weight``.
        weight: [N, H], one row per input (the transpose of ``nn.Linear``'s).
        recurrent: [H, H], one row per presynaptic neuron.
        record: return the membrane trace.
        probe: [2], a leaf that requires grad. Its gradient tells of the backward pass: the number
            of slopes that the guard raised, and the largest absolute jump of dL/dV.
    """
    check_backend(population.constants)
    if start.spikes is not None and (delays.input is not None or delays.recurrent is not None):
        raise ValueError(
            "spikes before the first bin are known of one bin alone, but with delays earlier ones "
            "arrive as well; give the whole recording at once"
        )
    constants = population.constants
    kind, nothing = neuron_module(population.neuron), absent(constants)

    def all_of(*tensors: Optional[Tensor]) -> list[Tensor]:
        return [nothing if tensor is None else tensor for tensor in tensors]

    given = (*events, *drive, weight, recurrent, *delays, constants, *start)
    differentiable = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in given
    )
    spikes = grid_forward(
        list(events), all_of(*drive), all_of(weight, recurrent, *delays), constants,
        population.floor, nothing if population.width is None else population.width,
        all_of(*start),
        probe if probe is not None and differentiable else nothing,
        population.neuron, steps, kind.RESETS[population.reset], record,
        constants.requires_grad and torch.is_grad_enabled(),
    )  # fmt: skip
    return GridSpikes(*spikes)
