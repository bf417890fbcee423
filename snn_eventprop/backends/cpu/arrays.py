"""Populations and memory for work of the grid kernels on the CPU.

B samples, H neurons, S state variables, P constants.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Neurons(NamedTuple):
    """A population: its constants, and its rules."""

    constants: np.ndarray  # [P + 1, H], the last row being ones
    blocks: tuple  # the same, each a vector [H], or a number that all neurons share
    powers: np.ndarray  # [32, flow constants, H]: of 2^j bins
    gain: np.ndarray  # [H] bound on the response; infinite: bins must not be skipped
    floor: np.ndarray  # [H] smallest slope per bin in the jump
    width: np.ndarray  # [H] of the threshold noise of the hybrid gradient, or absent
    reset: int  # code of the neuron's ``RESETS``


class ForwardWork(NamedTuple):
    """Memory of one thread for the forward pass."""

    state: np.ndarray  # [S, H]
    inflow: np.ndarray  # [H]
    marks: np.ndarray  # bits, one for each neuron
    senders: np.ndarray  # units that spiked in the bin before
    fired: np.ndarray  # and in this one
    peaks: Any  # ``PeakWork``


class PeakWork(NamedTuple):
    """Memory of one thread that finds peaks of the membrane; of size 0 where none are wanted."""

    rise: np.ndarray  # [H] of V - threshold in the flow of the bin before; of spikes -1
    entering: np.ndarray  # [S - 1, H] state after the bin before
    marks: np.ndarray  # bits, one for each neuron
    found: np.ndarray  # units that have a peak


class BackwardWork(NamedTuple):
    """Memory of one thread for the backward pass."""

    adjoint: np.ndarray  # [3, S - 1, H]: row k % 3 is the adjoint of bin k
    beta: np.ndarray  # [bins of a segment and of what follows, H + PAD]: dL/dI of its bins
    received: np.ndarray  # [H] of spikes, from their receivers
    currents: np.ndarray  # [bins of a segment, H] I of each bin, for the replay
    entering: np.ndarray  # [bins of a segment, S - 1, H] state that enters the flow of each bin
    replay: Any  # ``ForwardWork``
