"""Populations, spikes and memory for work of the grid kernels on the GPU.

B samples, H neurons, S state variables, P constants, K numbers kept of each spike.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# An array of a GPU.
Array = Any


class Population(NamedTuple):
    """Constants and rules of the neurons."""

    constants: Array  # [P + 1, H], the last row being ones
    gain: Array  # [H] bound on the response; infinite: bins must not be skipped
    floor: Array  # [H] smallest slope per bin in the jump
    reset: int  # code of the neuron's ``RESETS``


class SpikesBySample(NamedTuple):
    """Spikes of each sample in order of bin and unit, as far as there is room."""

    bins: Array  # [B, room] int32
    units: Array  # [B, room] int32
    kept: Array  # [B, K, room]
    counts: Array  # [B] int64: how many there are


class Rows(NamedTuple):
    """Vectors that a block of the backward pass works in, of max(H, blockDim) numbers or H."""

    adjoint: Array  # [S - 1, ...] of bin k + 1, then of bin k
    beta: Array  # of bin k + 1, then of bin k
    later: Array  # beta of the bin after that
    received: Array  # by each spike from its receivers
    x: Array  # a vector that is multiplied with rows of weights
    scratch: Array


# Rows of numbers that a block of the backward pass works in, beside the adjoint.
BACKWARD_ROWS = len(Rows._fields) - 1


class Sums(NamedTuple):
    """Numbers over all samples, added to by the backward passes of both solvers."""

    guarded: Array  # [1] guarded slopes
    largest: Array  # [1] the largest absolute jump


class Order(NamedTuple):
    """How blocks and threads of the backward pass share its work."""

    ordered: bool  # each block adds to its own part of the gradients; else all add atomically
    lanes: int  # threads that share one row of weights where its product with a vector is wanted
    shared: bool  # whether x and scratch fit into shared memory
    everyone: Array  # [H] 0, 1, ..., for recurrent layers with spikes before the first bin
