"""Continuous-time solver, slowly and readably: float64, one sample, every neuron in turn.

What every fast backend is tested against. It runs the functions of ``snn_eventprop.neurons.lif``
as they are, and finds crossings by bisection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ...neurons import lif


@dataclass
class ExactLayer:
    """Numbers of one layer; N inputs, H neurons, float64 arrays."""

    weight: np.ndarray  # [N, H]
    tau_mem: np.ndarray  # [H] s
    tau_syn: np.ndarray  # [H] s
    threshold: np.ndarray  # [H]
    v_reset: np.ndarray  # [H]
    recurrent: np.ndarray | None = None  # [H, H], [pre, post]


@dataclass
class Gap:
    """A stretch without events, and the event that ends it."""

    length: float  # s
    current: np.ndarray  # [H] I at its start
    voltage: np.ndarray  # [H] V at its start
    spike: int | None = None  # the neuron that spikes at its end, or
    event: int | None = None  # the input event that arrives there
    slope: float = math.nan  # V' of the spike, 1/s


@dataclass
class ExactRun:
    times: np.ndarray  # [S] of the input
    units: np.ndarray
    gaps: list[Gap] = field(default_factory=list)
    spike_times: list[float] = field(default_factory=list)
    spike_units: list[int] = field(default_factory=list)


@dataclass
class ExactGradients:
    weight: np.ndarray
    recurrent: np.ndarray
    tau_mem: np.ndarray
    tau_syn: np.ndarray
    threshold: np.ndarray
    times: np.ndarray
    guarded: int


def _coefficients(gap: float, tau_mem: float, tau_syn: float) -> tuple[float, float, float]:
    psp = lif.psp_coefficient(gap, tau_mem, tau_syn)
    return math.exp(-gap / tau_syn), math.exp(-gap / tau_mem), psp


def _flow(
    current: float, voltage: float, e_syn: float, e_mem: float, psp: float
) -> tuple[float, float]:
    current, (voltage,) = lif.flow(current, (voltage,), (e_syn, psp, e_mem))
    return current, voltage


def _crossing(layer: ExactLayer, n: int, current: float, voltage: float, gap: float) -> float:
    """Seconds until neuron n crosses its threshold, if within ``gap``; else infinity."""
    tau_mem, tau_syn, theta = layer.tau_mem[n], layer.tau_syn[n], layer.threshold[n]

    def state(t: float) -> tuple[float, float]:
        return _flow(current, voltage, *_coefficients(t, tau_mem, tau_syn))

    if current <= voltage:
        return math.inf
    last_current, last_voltage = state(gap)
    rises = last_current > last_voltage
    upper = gap if rises else lif.peak_time(current, voltage, tau_mem, tau_syn)
    lower = 0.0
    if state(upper)[1] < theta:
        return math.inf
    while lower < (middle := (lower + upper) / 2) < upper:
        if state(middle)[1] < theta:
            lower = middle
        else:
            upper = middle
    return upper


def forward(layer: ExactLayer, times: np.ndarray, units: np.ndarray, duration: float) -> ExactRun:
    """Run one sample, from event to event."""
    size = len(layer.threshold)
    run = ExactRun(times, units)
    current, voltage = np.zeros(size), np.zeros(size)
    now, event = 0.0, 0
    while True:
        until = times[event] if event < len(times) else duration
        crossings = [_crossing(layer, n, current[n], voltage[n], until - now) for n in range(size)]
        spikes = min(crossings) <= until - now
        gap = Gap(min(crossings) if spikes else until - now, current.copy(), voltage.copy())
        for n in range(size):
            current[n], voltage[n] = _flow(
                current[n], voltage[n],
                *_coefficients(gap.length, layer.tau_mem[n], layer.tau_syn[n]),
            )  # fmt: skip
        if spikes:
            n = int(np.argmin(crossings))
            gap.spike = n
            gap.slope = lif.spike_slope(current[n], layer.threshold[n], 1 / layer.tau_mem[n])
            now += gap.length
            run.spike_times.append(now)
            run.spike_units.append(n)
            voltage[n] = layer.v_reset[n]
            if layer.recurrent is not None:
                current += layer.recurrent[n]
        elif event < len(times):
            gap.event = event
            now = until
            current += layer.weight[units[event]]
            event += 1
        else:
            return run
        run.gaps.append(gap)


def backward(
    layer: ExactLayer,
    run: ExactRun,
    grad_times: np.ndarray,
    *,
    marks: np.ndarray | None = None,
    floor: np.ndarray | None = None,
) -> ExactGradients:
    """Adjoint pass of one sample.

    Args:
        grad_times: [S2] dL/dt of each spike.
        marks: [S2] straight-through value of each spike's existence.
        floor: [H] the guard's smallest slope, 1/s.
    """
    inputs, size = layer.weight.shape
    marks = np.zeros(len(grad_times)) if marks is None else marks
    floor = np.zeros(size) if floor is None else floor
    grads = ExactGradients(
        np.zeros((inputs, size)), np.zeros((size, size)), np.zeros(size), np.zeros(size),
        np.zeros(size), np.zeros(len(run.times)), 0,
    )  # fmt: skip
    a, b = np.zeros(size), np.zeros(size)
    spike = len(run.spike_times)

    def receiver_rates() -> np.ndarray:
        return np.array([
            lif.sensitivity_rate(a[m], b[m], layer.tau_mem[m], layer.tau_syn[m])
            for m in range(size)
        ])  # fmt: skip

    for gap in reversed(run.gaps):
        if gap.event is not None:
            unit = run.units[gap.event]
            grads.weight[unit] += b
            grads.times[gap.event] = layer.weight[unit] @ receiver_rates()
        else:
            spike -= 1
            n = run.spike_units[spike]
            change = grad_times[spike]
            if layer.recurrent is not None:
                grads.recurrent[n] += b
                change += layer.recurrent[n] @ receiver_rates()
            a[n], of_threshold, acted, _ = lif.time_jump(
                a[n], change, gap.slope, floor[n], layer.threshold[n], layer.v_reset[n],
                1 / layer.tau_mem[n],
            )  # fmt: skip
            grads.guarded += acted
            grads.threshold[n] += of_threshold
            a[n] += marks[spike]
        for n in range(size):
            tau_mem, tau_syn = layer.tau_mem[n], layer.tau_syn[n]
            e_syn, e_mem, psp = _coefficients(gap.length, tau_mem, tau_syn)
            of_mem, of_syn = lif.time_constant_gradients(
                b[n], a[n], gap.current[n], gap.voltage[n], gap.length, e_syn, e_mem, tau_mem,
                tau_syn,
            )  # fmt: skip
            grads.tau_mem[n] += of_mem
            grads.tau_syn[n] += of_syn
            b[n], (a[n],) = lif.adjoint_flow(b[n], (a[n],), (e_syn, psp, e_mem))
    return grads
