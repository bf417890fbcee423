"""What the grid kernels read and write, in named groups.

B samples, N inputs, H neurons, T bins, S state variables, K numbers kept of each spike. An array
of size 0 stands for one that is absent.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# Arrays of NumPy, or of a GPU.
Array = Any


class Events(NamedTuple):
    """Input events of a batch, sorted by bin within each sample."""

    bins: Array  # [S] int32
    units: Array  # [S] int64
    values: Array  # [S], or absent: all one
    offsets: Array  # [B + 1] int64


class Start(NamedTuple):
    """The state before the first bin."""

    state: Array  # [S, B, H], I already scaled by s
    spikes: Array  # [B, H] of the bin before the first, or absent
    slopes: Array  # [B, H] of those spikes, or absent


class Outputs(NamedTuple):
    """What a forward pass writes beside its spikes."""

    last: Array  # [S, B, H] state after the last bin, I before it is scaled by s
    trace: Array  # [T, B, H] V after the resets of each bin, or absent
    states: Array  # [B, segments, S, H] at the start of each segment, or absent


class Spikes(NamedTuple):
    """Spikes in order of sample, bin and unit; or peaks of V that stay below the threshold."""

    bins: Array  # [S2] int32
    units: Array  # [S2] int64
    kept: Array  # [K, S2], row 0 being slopes per bin, or of peaks V - threshold
    offsets: Array  # [B + 1]; in the forward pass, spikes per sample [B + 1]


class Upstream(NamedTuple):
    """Gradients that arrive from the loss."""

    changes: Array  # [S2] of moving each spike by one bin
    marks: Array  # [S2] straight-through, of each spike's existence; added to a
    last: Array  # [S, B, H]
    trace: Array  # [T, B, H] or absent
    peaks: Array  # [S3] of one spike at each peak


class Gradients(NamedTuple):
    """Gradients that leave a backward pass."""

    constants: Array  # [flow and spike constants, H], added to
    current: Array  # [T, B, H], of the input current, or absent
    values: Array  # [S] of one unit of each input event, or absent
    changes: Array  # [S] change of that from the event's bin to the next, or absent
    start: Array  # [S, B, H]
    spikes0: Array  # [B, H] or absent
