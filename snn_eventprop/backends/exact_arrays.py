"""What the kernels of the exact solver read and write, in named groups.

B samples, N inputs, H neurons. An array of size 0 stands for one that is absent.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# Arrays of NumPy, or of a GPU.
Array = Any


class Events(NamedTuple):
    """Input events of a batch."""

    times: Array  # [S] s, ascending within each sample
    units: Array  # [S]
    offsets: Array  # [B + 1]


class Rows(NamedTuple):
    """Weights, or their gradients."""

    input: Array  # [N, H]
    recurrent: Array  # [H, H], [pre, post]; one row of zeros where there is none


class Spikes(NamedTuple):
    """Spikes in order of sample and time."""

    times: Array  # [S2] float64, s
    units: Array  # [S2]
    slopes: Array  # [S2], 1/s
    before: Array  # [S2] input events of the sample before each
    offsets: Array  # [B + 1]; in the forward pass, spikes of each sample


class States(NamedTuple):
    """(I, V) every ``SEGMENT`` events."""

    states: Array  # [K, 2, H]
    places: Array  # [K] events of either kind before each
    offsets: Array  # [B + 1]; in the forward pass, states of each sample


class Upstream(NamedTuple):
    """Gradients that arrive from the loss."""

    times: Array  # [S2] dL/dt of each spike
    marks: Array  # [S2] straight-through, of each spike's existence


class Gradients(NamedTuple):
    """Gradients that leave, beside those of weights; all but the last are added to."""

    threshold: Array  # [H]
    tau_mem: Array  # [H] float64, or absent
    tau_syn: Array
    times: Array  # [S] dL/dt of each input event, or absent
