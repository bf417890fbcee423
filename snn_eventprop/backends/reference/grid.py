"""Grid solver, slowly and readably: float64, one sample, every bin and neuron visited in turn.

What every fast backend is tested against. It executes ``snn_eventprop.neurons.lif`` as they stand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...neurons import lif as equations


@dataclass
class GridLayer:
    """Numbers of one layer; N inputs, H neurons, float64 arrays."""

    weight: np.ndarray  # [N, H]
    s: np.ndarray  # [H]
    c: np.ndarray  # [H]
    m: np.ndarray  # [H]
    threshold: np.ndarray  # [H]
    v_reset: np.ndarray  # [H]
    recurrent: np.ndarray | None = None  # [H, H], [pre, post]
    reset: str = "subtract"  # none, subtract, zero, zero_all
    delayed: bool = False
    delay: np.ndarray | None = None  # [N, H] bins by which events arrive later
    recurrent_delay: np.ndarray | None = None  # [H, H], [pre, post], the same for spikes

    def bins_of_delays(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Delays of events and spikes as whole numbers, and the longest."""
        shapes = self.weight.shape, (len(self.s), len(self.s))
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
    entering: np.ndarray  # [T, H] V that enters the bin's flow
    tested: np.ndarray  # [T, H] V as compared with the threshold
    trace: np.ndarray  # [T, H] V after the reset (before it, where it is delayed)


@dataclass
class GridGradients:
    weight: np.ndarray
    recurrent: np.ndarray
    s: np.ndarray
    c: np.ndarray
    m: np.ndarray
    threshold: np.ndarray
    current: np.ndarray  # [T, H], with respect to the input current of each bin
    current0: np.ndarray  # [H]
    voltage0: np.ndarray  # [H]
    delay: np.ndarray  # [N, H], per bin
    recurrent_delay: np.ndarray  # [pre, post], per bin
    driven: np.ndarray  # [T, N], with respect to each bin's input
    guarded: int


def forward(layer: GridLayer, driven: np.ndarray, current0=None, voltage0=None) -> GridRun:
    """Run one sample; ``driven`` is [T, N]."""
    steps, size = len(driven), len(layer.s)
    run = GridRun(driven, *(np.zeros((steps, size)) for _ in range(5)))
    current = np.zeros(size) if current0 is None else current0.copy()
    voltage = np.zeros(size) if voltage0 is None else voltage0.copy()
    before = np.zeros(size)  # spikes of the previous bin
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
            if layer.delayed and before[n] and layer.reset == "zero":
                voltage[n] = layer.v_reset[n]
            run.current[k, n], run.entering[k, n] = current[n], voltage[n]
            current[n], voltage[n] = equations.flow(
                current[n], voltage[n], layer.s[n], layer.m[n], layer.c[n]
            )
            if layer.delayed and before[n] and layer.reset == "subtract":
                voltage[n] -= layer.threshold[n] - layer.v_reset[n]
            if layer.delayed and before[n] and layer.reset == "zero_all":
                voltage[n] = layer.v_reset[n]
            run.tested[k, n] = voltage[n]
            if voltage[n] > layer.threshold[n]:
                run.spikes[k, n] = 1.0
                if not layer.delayed and layer.reset == "subtract":
                    voltage[n] -= layer.threshold[n] - layer.v_reset[n]
                elif not layer.delayed and layer.reset != "none":
                    voltage[n] = layer.v_reset[n]
            run.trace[k, n] = voltage[n]
        before = run.spikes[k]
    return run


def backward(
    layer: GridLayer,
    run: GridRun,
    worth: np.ndarray,
    *,
    marks: np.ndarray | None = None,
    grad_trace: np.ndarray | None = None,
    floor: np.ndarray | None = None,
) -> GridGradients:
    """Adjoint pass of one sample.

    Args:
        worth: [T + 1, H], what the loss pays for a spike in each bin, and beyond the last one.
        marks: [H] straight-through worth of each spike's existence.
        grad_trace: [T, H] dL/dV of the recorded trace.
        floor: [H] the guard's smallest slope per bin.
    """
    steps, size = run.spikes.shape
    inputs = layer.weight.shape[0]
    grad_trace = np.zeros((steps, size)) if grad_trace is None else grad_trace
    floor = np.zeros(size) if floor is None else floor
    marks = np.zeros(size) if marks is None else marks
    recurrent = np.zeros((size, size)) if layer.recurrent is None else layer.recurrent
    drop = layer.threshold - layer.v_reset if layer.reset != "none" else np.zeros(size)
    delay, recurrent_delay, longest = layer.bins_of_delays()
    receivers = np.arange(size)
    # Bins beyond the end are worth nothing.
    beta, a, after = (np.zeros((steps + 2 + longest, size)) for _ in range(3))
    grads = GridGradients(
        weight=np.zeros((inputs, size)), recurrent=np.zeros((size, size)),
        s=np.zeros(size), c=np.zeros(size), m=np.zeros(size), threshold=np.zeros(size),
        current=np.zeros((steps, size)), current0=np.zeros(size), voltage0=np.zeros(size),
        delay=np.zeros((inputs, size)), recurrent_delay=np.zeros((size, size)),
        driven=np.zeros((steps, inputs)), guarded=0,
    )  # fmt: skip
    for k in reversed(range(steps)):
        for n in range(size):
            after[k, n] = layer.m[n] * a[k + 1, n] + grad_trace[k, n]
            a[k, n] = after[k, n]
            if run.spikes[k, n]:
                # What the spike is worth to each receiver, in the next bin less in this one.
                change = worth[k + 1, n] - worth[k, n]
                at = k + 1 + recurrent_delay[n]
                change_at_arrival = beta[at + 1, receivers] - beta[at, receivers]
                change += recurrent[n] @ change_at_arrival
                change -= drop[n] * (a[k + 1, n] - after[k, n])
                slope = equations.slope(
                    layer.c[n] * run.current[k, n], layer.threshold[n], 1 - layer.m[n]
                )
                slope = equations.crossing_slope(slope, run.tested[k, n], layer.threshold[n])
                steep, acted = equations.guard(slope, floor[n])
                grads.guarded += acted
                a[k, n] = equations.jump(after[k, n], steep, change)
                grads.threshold[n] -= a[k, n] - after[k, n]  # the crossing
                if layer.reset != "none":
                    felt = a[k + 1, n] if layer.delayed else after[k, n]
                    grads.threshold[n] -= felt  # the size of the reset
                a[k, n] += marks[n]
                grads.recurrent[n] += beta[at, receivers]
                grads.recurrent_delay[n] += recurrent[n] * change_at_arrival
            beta[k, n], grads.voltage0[n] = equations.adjoint_flow(
                beta[k + 1, n], a[k, n], layer.s[n], layer.m[n], layer.c[n]
            )
            grads.s[n] += beta[k + 1, n] * run.current[k, n]
            grads.c[n] += a[k, n] * run.current[k, n]
            grads.m[n] += a[k, n] * run.entering[k, n]
        for i in range(inputs):
            at = k + delay[i]
            arrived = beta[at, receivers]
            grads.driven[k, i] = layer.weight[i] @ arrived
            grads.weight[i] += run.driven[k, i] * arrived
            change_at_arrival = beta[at + 1, receivers] - arrived
            grads.delay[i] += run.driven[k, i] * layer.weight[i] * change_at_arrival
        grads.current[k] = beta[k]
    grads.current0 = beta[0].copy()
    return grads
