"""Grid solver, slowly and readably: float64, one sample, every bin and neuron visited in turn.

What every fast backend is tested against. It runs the functions of a neuron's module as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

from ...neurons import lif


@dataclass
class GridLayer:
    """Numbers of one layer; N inputs, H neurons, float64 arrays."""

    weight: np.ndarray  # [N, H]
    constants: dict[str, np.ndarray]  # [H] each, by the names in the neuron's module
    recurrent: np.ndarray | None = None  # [H, H], [pre, post]
    reset: str = "subtract"  # one of the neuron's ``RESETS``
    width: np.ndarray | None = None  # [H] of the threshold noise of the hybrid gradient
    delay: np.ndarray | None = None  # [N, H] bins by which events arrive later
    recurrent_delay: np.ndarray | None = None  # [H, H], [pre, post], the same for spikes
    neuron: ModuleType = field(default=lif)

    @property
    def size(self) -> int:
        return self.weight.shape[1]

    @property
    def rule(self) -> int:
        return self.neuron.RESETS[self.reset]

    def constants_of(self, n: int) -> tuple[float, ...]:
        """Constants of neuron n as its module's functions take them."""
        kind = self.neuron
        names = (*kind.FLOW_CONSTANTS, *kind.SPIKE_CONSTANTS, *kind.FIXED_CONSTANTS)
        return (*(self.constants[name][n] for name in names), 1.0)

    def bins_of_delays(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Delays of events and spikes as whole numbers, and the longest."""
        shapes = self.weight.shape, (self.size, self.size)
        given, recurrent = (
            np.zeros(shape, int) if delay is None else np.rint(delay).astype(int)
            for delay, shape in zip((self.delay, self.recurrent_delay), shapes, strict=True)
        )
        return given, recurrent, int(max(given.max(), recurrent.max()))


@dataclass
class GridRun:
    """Everything the forward pass of one sample went through."""

    driven: np.ndarray  # [T, N] input of each bin
    spikes: np.ndarray  # [T, H]
    current: np.ndarray  # [T, H] I after the input of the bin
    entering: np.ndarray  # [T, S - 1, H] state that enters the bin's flow
    kept: np.ndarray  # [T, K, H] what is kept of each spike
    peaks: np.ndarray  # [T, H] whether V peaks there, below the threshold by less than ``width``
    of_peaks: np.ndarray  # [T, K, H] what is kept of each peak
    trace: np.ndarray  # [T, H] V after the reset (before it, where it acts later)


@dataclass
class GridGradients:
    weight: np.ndarray
    recurrent: np.ndarray
    constants: dict[str, np.ndarray]  # [H] each, those of the flow and of spikes
    current: np.ndarray  # [T, H], with respect to the input current of each bin
    start: np.ndarray  # [S, H]
    delay: np.ndarray  # [N, H], per bin
    recurrent_delay: np.ndarray  # [pre, post], per bin
    driven: np.ndarray  # [T, N], with respect to each bin's input
    guarded: int


def forward(layer: GridLayer, driven: np.ndarray, start: np.ndarray | None = None) -> GridRun:
    """Run one sample; ``driven`` is [T, N], ``start`` [S, H]."""
    kind, rule = layer.neuron, layer.rule
    steps, size, variables = len(driven), layer.size, len(kind.STATE)
    run = GridRun(
        driven, np.zeros((steps, size)), np.zeros((steps, size)),
        np.zeros((steps, variables - 1, size)), np.zeros((steps, len(kind.KEPT), size)),
        np.zeros((steps, size)), np.zeros((steps, len(kind.KEPT), size)), np.zeros((steps, size)),
    )  # fmt: skip
    first = np.zeros((variables, size)) if start is None else start
    current, state = first[0].copy(), first[1:].copy()
    before = np.zeros(size)  # spikes of the previous bin
    rose = np.zeros(size, bool)  # V - threshold, in the flow of the previous bin
    width = np.zeros(size) if layer.width is None else layer.width

    def distance(n: int, state: tuple[float, ...]) -> float:
        value, limit = kind.tested(state, layer.constants_of(n))
        return value - limit

    def peak(k: int, n: int, state: tuple[float, ...]) -> None:
        if rose[n] and -width[n] < distance(n, state) <= 0:
            run.peaks[k, n] = 1.0
            run.of_peaks[k, :, n] = kind.kept_of_peak(state, layer.constants_of(n))

    delay, recurrent_delay, longest = layer.bins_of_delays()
    arriving = np.zeros((steps + longest + 1, size))
    receivers = np.arange(size)
    for k in range(steps):
        for i in np.flatnonzero(driven[k]):
            arriving[k + delay[i], receivers] += driven[k, i] * layer.weight[i]
        if layer.recurrent is not None:
            for sender in np.flatnonzero(before):
                arriving[k + recurrent_delay[sender], receivers] += layer.recurrent[sender]
        current = current + arriving[k]
        for n in range(size):
            constants, now = layer.constants_of(n), tuple(state[:, n])
            if before[n]:
                now = kind.reset_before_flow(now, constants, rule)
            run.current[k, n], run.entering[k, :, n] = current[n], now
            entering = now
            current[n], now = kind.flow(current[n], now, constants)
            rise = distance(n, now) - distance(n, entering)
            if rise < 0:
                peak(k - 1, n, entering)
            rose[n] = rise > 0
            if before[n]:
                now = kind.reset_after_flow(now, constants, rule)
            value, limit = kind.tested(now, constants)
            if value > limit:
                run.spikes[k, n] = 1.0
                run.kept[k, :, n] = kind.kept_of_spike(run.current[k, n], now, constants)
                now = kind.reset_at_spike(now, constants, rule)
                rose[n] = False
            state[:, n] = now
            if k == steps - 1:
                peak(k, n, now)
            run.trace[k, n] = now[0]
        before = run.spikes[k]
    return run


def backward(
    layer: GridLayer,
    run: GridRun,
    value: np.ndarray,
    *,
    marks: np.ndarray | None = None,
    grad_trace: np.ndarray | None = None,
    floor: np.ndarray | None = None,
) -> GridGradients:
    """Adjoint pass of one sample.

    Args:
        value: [T + 1, H], dL/d(spike) in each bin, and beyond the last one.
        marks: [H] straight-through value of each spike's existence.
        grad_trace: [T, H] dL/dV of the recorded trace.
        floor: [H] the guard's smallest slope per bin.
    """
    kind, rule = layer.neuron, layer.rule
    (steps, size), variables = run.spikes.shape, len(kind.STATE)
    inputs = layer.weight.shape[0]
    grad_trace = np.zeros((steps, size)) if grad_trace is None else grad_trace
    floor = np.zeros(size) if floor is None else floor
    marks = np.zeros(size) if marks is None else marks
    width = np.zeros(size) if layer.width is None else layer.width
    recurrent = np.zeros((size, size)) if layer.recurrent is None else layer.recurrent
    delay, recurrent_delay, longest = layer.bins_of_delays()
    receivers = np.arange(size)
    # Bins beyond the end have no adjoint.
    beta = np.zeros((steps + 2 + longest, size))
    adjoint = np.zeros((steps + 1, variables - 1, size))
    learned = (*kind.FLOW_CONSTANTS, *kind.SPIKE_CONSTANTS)
    grads = GridGradients(
        weight=np.zeros((inputs, size)), recurrent=np.zeros((size, size)),
        constants={name: np.zeros(size) for name in learned},
        current=np.zeros((steps, size)), start=np.zeros((variables, size)),
        delay=np.zeros((inputs, size)), recurrent_delay=np.zeros((size, size)),
        driven=np.zeros((steps, inputs)), guarded=0,
    )  # fmt: skip

    def add(names: tuple[str, ...], n: int, values: tuple[float, ...]) -> None:
        for name, amount in zip(names, values, strict=True):
            grads.constants[name][n] += amount

    for k in reversed(range(steps)):
        for n in range(size):
            constants, following = layer.constants_of(n), tuple(adjoint[k + 1, :, n])
            _, after = kind.adjoint_flow(0.0, following, constants)
            after = (after[0] + grad_trace[k, n], *after[1:])
            if run.spikes[k, n]:
                at = k + 1 + recurrent_delay[n]
                change_at_arrival = beta[at + 1, receivers] - beta[at, receivers]
                # Moving the spike to the next bin, as the loss and its receivers feel it.
                change = value[k + 1, n] - value[k, n] + recurrent[n] @ change_at_arrival
                after, of_constants, acted, _ = kind.grid_jump(
                    after, following, change, tuple(run.kept[k, :, n]), floor[n], constants, rule
                )
                grads.guarded += acted
                add(kind.SPIKE_CONSTANTS, n, of_constants)
                after = (after[0] + marks[n], *after[1:])
                grads.recurrent[n] += beta[at, receivers]
                grads.recurrent_delay[n] += recurrent[n] * change_at_arrival
            if run.peaks[k, n]:
                at = k + 1 + recurrent_delay[n]
                after, of_constants = kind.grid_peak(
                    after, following, value[k, n] + recurrent[n] @ beta[at, receivers],
                    tuple(run.of_peaks[k, :, n]), width[n], constants, rule,
                )
                add(kind.SPIKE_CONSTANTS, n, of_constants)
            adjoint[k, :, n] = after
            beta[k, n], entering = kind.adjoint_flow(beta[k + 1, n], after, constants)
            grads.start[1:, n] = entering
            add(kind.FLOW_CONSTANTS, n, kind.flow_gradients(
                beta[k + 1, n], after, run.current[k, n], tuple(run.entering[k, :, n])
            ))  # fmt: skip
        for i in range(inputs):
            at = k + delay[i]
            arrived = beta[at, receivers]
            grads.driven[k, i] = layer.weight[i] @ arrived
            grads.weight[i] += run.driven[k, i] * arrived
            change_at_arrival = beta[at + 1, receivers] - arrived
            grads.delay[i] += run.driven[k, i] * layer.weight[i] * change_at_arrival
        grads.current[k] = beta[k]
    grads.start[0] = beta[0]
    return grads
