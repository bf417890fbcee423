"""Continuous-time LIF layers from event to event, in extended precision: the tests' own simulator.

Shares nothing with the engine: the membrane is written as two exponentials, crossings are
bracketed (the peak of the membrane by bisecting its derivative) and bisected to the last bit.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_REAL = np.longdouble
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)


@dataclass
class Layer:
    """One layer of H neurons with N inputs; vectors may be given as numbers."""

    weight: np.ndarray  # [H, N]
    tau_mem: np.ndarray  # [H] s
    tau_syn: np.ndarray  # [H] s
    threshold: np.ndarray  # [H]
    recurrent: np.ndarray | None = None  # [H, H], [post, pre]
    v_reset: np.ndarray | float = 0.0  # [H]
    refractory: float = 0.0  # s, during which V is held at v_reset
    delay: np.ndarray | None = None  # [H, N] s by which input spikes arrive later
    recurrent_delay: np.ndarray | None = None  # [H, H], [post, pre], the same for own spikes

    def vectors(self) -> list[np.ndarray]:
        size = len(self.weight)
        values = (self.tau_mem, self.tau_syn, self.threshold, self.v_reset)
        return [np.broadcast_to(np.asarray(v, _REAL), size) for v in values]


def psp(gap, tau_mem, tau_syn):
    """Membrane after ``gap`` s, by one unit of current; zero for negative gaps."""
    gap, tau_mem, tau_syn = (np.asarray(x, _REAL) for x in (gap, tau_mem, tau_syn))
    late = np.maximum(gap, 0)
    difference = tau_syn - tau_mem
    near = np.abs(difference) < 1e-9 * tau_mem
    apart = (
        tau_syn
        / np.where(near, 1, difference)
        * (np.exp(-late / tau_syn) - np.exp(-late / tau_mem))
    )
    # Second order in the difference of the rates: off by less than 1e-18.
    x = late * difference / (tau_mem * tau_syn)
    together = late / tau_mem * np.exp(-late / tau_mem) * (1 + x / 2 + x * x / 6)
    return np.where(near, together, apart)


def _bisect(lower, upper, is_past):
    """Smallest argument in (lower, upper] at which the monotone ``is_past`` holds."""
    for _ in range(80):
        middle = (lower + upper) / 2
        if middle in (lower, upper):
            break
        if is_past(middle):
            upper = middle
        else:
            lower = middle
    return upper


def _first_crossing(current, voltage, gap, tau_mem, tau_syn, threshold):
    """Time from now at which V reaches the threshold from below, within ``gap``; None if never."""

    def state(d):
        at = voltage * np.exp(-d / tau_mem) + current * psp(d, tau_mem, tau_syn)
        return current * np.exp(-d / tau_syn), at

    def falls(d):
        i, v = state(d)
        return i < v

    if falls(_REAL(0)) or current <= 0:
        return None
    peak = _bisect(_REAL(0), gap, falls) if falls(gap) else gap
    if state(peak)[1] < threshold:
        return None
    return _bisect(_REAL(0), peak, lambda d: state(d)[1] >= threshold)


class _Arrivals:
    """What is on its way to neurons: weights that add to I at times to come."""

    def __init__(self, size: int):
        self.size = size
        self.waiting: list = []
        self.sent = 0

    def send(self, time, weights, delay) -> None:
        """Weights [H], all of them now or each after its own delay."""
        if delay is None:
            shares = [(time, weights)]
        else:
            shares = [(time + d, w * (np.arange(self.size) == j))
                      for j, (d, w) in enumerate(zip(delay, weights, strict=True))]  # fmt: skip
        for at, what in shares:
            heapq.heappush(self.waiting, (at, self.sent, what))
            self.sent += 1

    def next_time(self):
        return self.waiting[0][0] if self.waiting else np.inf

    def until(self, now):
        """Sum of what has arrived."""
        total = np.zeros(self.size, _REAL)
        while self.waiting and self.waiting[0][0] <= now:
            total += heapq.heappop(self.waiting)[2]
        return total


def simulate_layer(layer: Layer, times, units, duration: float):
    """Spikes (times, units) of one layer, for input spikes sorted by time."""
    tau_mem, tau_syn, threshold, v_reset = layer.vectors()
    weight = np.asarray(layer.weight, _REAL)
    recurrent = None if layer.recurrent is None else np.asarray(layer.recurrent, _REAL)
    times = np.asarray(times, _REAL)
    size = len(weight)
    current, voltage = np.zeros(size, _REAL), np.zeros(size, _REAL)
    held_until = np.full(size, -1, _REAL)
    refractory = _REAL(layer.refractory)
    now = _REAL(0)
    arrivals = _Arrivals(size)
    delay, recurrent_delay = (
        None if d is None else np.asarray(d, _REAL) for d in (layer.delay, layer.recurrent_delay)
    )
    for time, unit in zip(times, units, strict=True):
        arrivals.send(time, weight[:, unit], None if delay is None else delay[:, unit])
    out_times, out_units = [], []
    while True:
        current = current + arrivals.until(now)
        until = min(arrivals.next_time(), _REAL(duration))
        released = held_until[held_until > now]
        if len(released):
            until = min(until, released.min())
        gap = until - now
        free = held_until <= now
        able = free & (current > threshold)  # V rises where I > V only, and I decays
        first = None
        for n in np.flatnonzero(able):
            d = _first_crossing(current[n], voltage[n], gap, tau_mem[n], tau_syn[n], threshold[n])
            if d is not None and (first is None or d < first[0]):
                first = (d, n)
        step = gap if first is None else first[0]
        flowed = voltage * np.exp(-step / tau_mem) + current * psp(step, tau_mem, tau_syn)
        voltage = np.where(free, flowed, v_reset)
        current = current * np.exp(-step / tau_syn)
        now = until if first is None else now + step
        if first is not None:
            n = first[1]
            out_times.append(now)
            out_units.append(n)
            voltage[n] = v_reset[n]
            held_until[n] = now + refractory
            if recurrent is not None:
                lag = None if recurrent_delay is None else recurrent_delay[:, n]
                arrivals.send(now, recurrent[:, n], lag)
        elif now >= duration:
            return np.array(out_times, np.float64), np.array(out_units, np.int64)


def simulate(layers: list[Layer], times, units, duration: float):
    """[(times, units)] of every layer; each layer feeds the next."""
    spikes = []
    for layer in layers:
        times, units = simulate_layer(layer, times, units, duration)
        spikes.append((times, units))
    return spikes


def membrane(at, weight, tau_mem, tau_syn, times, units):
    """V [len(at), O] of leaky integrators at the times ``at`` s; weight [O, N]."""
    weight = np.asarray(weight, _REAL)
    size = len(weight)
    tau_mem, tau_syn = (np.broadcast_to(np.asarray(t, _REAL), size) for t in (tau_mem, tau_syn))
    total = np.zeros((len(at), size), _REAL)
    for t, n in zip(times, units, strict=True):
        total += weight[:, n] * psp(np.asarray(at)[:, None] - t, tau_mem, tau_syn)
    return total


def integral(
    weight, tau_mem, tau_syn, times, units, duration: float, weighting: Callable | None = None
):
    """(1/T) integral_0^T w(t) V(t) dt of leaky integrators, [O], by quadrature between events."""
    cuts = np.unique(np.concatenate(([0.0], np.asarray(times, float), [duration])))
    longest = min(np.min(tau_mem), np.min(tau_syn))
    pieces = [
        np.linspace(lo, hi, int(np.ceil((hi - lo) / longest)) + 1)[:-1]
        for lo, hi in itertools.pairwise(cuts)
    ]
    edges = np.append(np.concatenate(pieces), duration)
    half = np.diff(edges) / 2
    at = ((edges[:-1] + half)[:, None] + half[:, None] * _NODES).ravel()
    share = (half[:, None] * _WEIGHTS).ravel() / duration
    if weighting is not None:
        share = share * weighting(at)
    return (share @ membrane(at, weight, tau_mem, tau_syn, times, units)).astype(np.float64)


def central_differences(value: Callable[[], tuple[float, object]], array: np.ndarray, step: float):
    """d value / d array; ``value`` returns (number, spike order), and the order must hold."""
    _, order = value()
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        up, order_up = value()
        array[index] = kept - step
        down, order_down = value()
        array[index] = kept
        assert order_up == order_down == order
        gradient[index] = (up - down) / (2 * step)
    return gradient
