"""Three classical neuron models under current pulses, for the pictures only.

Units are consistent: ms, mV, pA, pF, nS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import brentq


class Pulse(NamedTuple):
    """A constant current (pA) from ``start`` to ``stop`` (ms)."""

    start: float
    stop: float
    current: float


class Response(NamedTuple):
    """``times`` [S] (ms), ``voltage`` [S] (mV) and the times of ``spikes`` (ms)."""

    times: np.ndarray
    voltage: np.ndarray
    spikes: np.ndarray


class Neuron(Protocol):
    """A system of differential equations for a state whose first entry is the voltage."""

    peak: float  # mV; an upward crossing is a spike

    def rest(self) -> np.ndarray: ...

    def derivative(self, state: np.ndarray, current: float) -> list[float]: ...

    def after_spike(self, state: np.ndarray) -> np.ndarray | None:
        """The state after the reset, or None if the equations have spikes of their own."""
        ...


@dataclass(frozen=True)
class LeakyIntegrateAndFire:
    """C dV/dt = -g (V - E) + J; at the threshold V falls to ``reset``."""

    capacitance: float = 100.0  # pF
    conductance: float = 5.0  # nS, hence a membrane time constant of 20 ms
    leak: float = -65.0
    peak: float = -50.0
    reset: float = -65.0

    def rest(self) -> np.ndarray:
        return np.array([self.leak])

    def derivative(self, state, current):
        (v,) = state
        return [(current - self.conductance * (v - self.leak)) / self.capacitance]

    def after_spike(self, state):
        return np.array([self.reset])


@dataclass(frozen=True)
class Izhikevich:
    """C dV/dt = k (V - V_r)(V - V_t) - U + J,  dU/dt = a (b (V - V_r) - U); at the peak V falls to
    c and U rises by d. Constants: the regular-spiking cell of E. M. Izhikevich, Dynamical Systems
    in Neuroscience, MIT Press 2007, chapter 8."""

    capacitance: float = 100.0
    k: float = 0.7
    v_rest: float = -60.0
    v_threshold: float = -40.0
    a: float = 0.03
    b: float = -2.0
    c: float = -50.0
    d: float = 100.0
    peak: float = 35.0

    def rest(self) -> np.ndarray:
        return np.array([self.v_rest, 0.0])

    def derivative(self, state, current):
        v, u = state
        upstroke = self.k * (v - self.v_rest) * (v - self.v_threshold)
        return [(upstroke - u + current) / self.capacitance,
                self.a * (self.b * (v - self.v_rest) - u)]  # fmt: skip

    def after_spike(self, state):
        return np.array([self.c, state[1] + self.d])


@dataclass(frozen=True)
class HodgkinHuxley:
    """C dV/dt = -g_Na m^3 h (V - E_Na) - g_K n^4 (V - E_K) - g_L (V - E_L) + J, with gates x = m,
    h, n that follow dx/dt = alpha_x(V) (1 - x) - beta_x(V) x. Constants: A. L. Hodgkin and A. F.
    Huxley, J. Physiol. 117, 500 (1952), shifted to a rest at -65 mV, for a cell of 20 pF."""

    capacitance: float = 20.0  # pF: 2000 um^2 of membrane at 1 uF/cm^2
    sodium: float = 2400.0  # nS: 120 mS/cm^2
    potassium: float = 720.0  # 36 mS/cm^2
    leak: float = 6.0  # 0.3 mS/cm^2
    e_sodium: float = 50.0
    e_potassium: float = -77.0
    e_leak: float = -54.387
    peak: float = 0.0  # only counts spikes

    @staticmethod
    def rates(v: float) -> tuple[np.ndarray, np.ndarray]:
        """alpha and beta of m, h, n in 1/ms."""
        alpha = [_x_over_expm1(-(v + 40) / 10), 0.07 * np.exp(-(v + 65) / 20),
                 0.1 * _x_over_expm1(-(v + 55) / 10)]  # fmt: skip
        beta = [4 * np.exp(-(v + 65) / 18), 1 / (1 + np.exp(-(v + 35) / 10)),
                0.125 * np.exp(-(v + 65) / 80)]  # fmt: skip
        return np.array(alpha), np.array(beta)

    def ionic(self, v: float, m: float, h: float, n: float) -> float:
        """Current out of the cell through its channels, pA."""
        return (
            self.sodium * m**3 * h * (v - self.e_sodium)
            + self.potassium * n**4 * (v - self.e_potassium)
            + self.leak * (v - self.e_leak)
        )

    def rest(self) -> np.ndarray:
        def gates(v: float) -> np.ndarray:
            alpha, beta = self.rates(v)
            return alpha / (alpha + beta)

        v = brentq(lambda v: self.ionic(v, *gates(v)), -80.0, -55.0)
        return np.array([v, *gates(v)])

    def derivative(self, state, current):
        v, *gates = state
        alpha, beta = self.rates(v)
        change = alpha * (1 - np.array(gates)) - beta * gates
        return [(current - self.ionic(v, *gates)) / self.capacitance, *change]

    def after_spike(self, state):
        return None


def _x_over_expm1(x: float) -> float:
    return x / np.expm1(x) if abs(x) > 1e-7 else 1 - x / 2


def respond(
    neuron: Neuron, pulses: Sequence[Pulse], duration: float, step: float = 0.05
) -> Response:
    """Integrate from rest over ``duration`` ms, from one edge of a pulse or reset to the next."""

    def reaches_peak(t: float, state: np.ndarray) -> float:
        return state[0] - neuron.peak

    reaches_peak.direction = 1.0  # type: ignore[attr-defined]
    resets = neuron.after_spike(neuron.rest()) is not None
    reaches_peak.terminal = resets  # type: ignore[attr-defined]
    edges = sorted({0.0, duration, *(t for p in pulses for t in (p.start, p.stop))})
    state, pieces, spikes = neuron.rest(), [], []
    for begin, end in pairwise(edges):
        current = sum(p.current for p in pulses if p.start <= begin < p.stop)
        while begin < end:
            times = np.append(np.arange(begin, end, step), end)
            run = solve_ivp(
                _fixed(neuron.derivative, current), (begin, end), state, "LSODA", times,
                events=reaches_peak, rtol=1e-8, atol=1e-8, max_step=1.0,
            )  # fmt: skip
            pieces.append(np.stack([run.t, run.y[0]]))
            spikes.extend(run.t_events[0])
            if run.status == 1:  # stopped by a spike
                begin, state = run.t_events[0][0], run.y_events[0][0]
                pieces.append(np.array([[begin], [neuron.peak]]))
                state = neuron.after_spike(state)
            else:
                begin, state = end, run.y[:, -1]
    times, voltage = np.concatenate(pieces, axis=1)
    return Response(times, voltage, np.array(spikes))


def _fixed(derivative: Callable, current: float) -> Callable:
    return lambda t, state: derivative(state, current)
