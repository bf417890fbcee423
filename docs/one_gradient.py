"""One neuron, one gradient: the figure and the numbers of docs/one_gradient.md.

    python docs/one_gradient.py        writes docs/one_gradient.png and prints the numbers
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from pictures import style

from snn_eventprop import EventPropLIF, SpikeEvents
from snn_eventprop.neurons import lif as equations

TAU_MEM, TAU_SYN, THRESHOLD, DURATION = 20e-3, 5e-3, 1.0, 0.1  # s, s, -, s
TIMES = [0.010, 0.014, 0.022, 0.040, 0.045, 0.070]  # of input spikes, s
UNITS = [0, 1, 2, 1, 2, 0]
WEIGHTS = [5.0, 4.0, 6.0]
STEPS = [1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6]  # s


def neuron(solver: str = "exact", dt: float = 1e-3) -> EventPropLIF:
    layer = EventPropLIF(
        3, 1, tau_mem=TAU_MEM, tau_syn=TAU_SYN, threshold=THRESHOLD, solver=solver, dt=dt,
        grazing_guard=0.0, dtype=torch.float64,
    )  # fmt: skip
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([WEIGHTS]))
    return layer


def events() -> SpikeEvents:
    return SpikeEvents.from_list(
        [(TIMES, UNITS)], num_units=3, duration=DURATION, dtype=torch.float64
    )


def loss(layer: EventPropLIF) -> tuple[torch.Tensor, SpikeEvents]:
    """The sum of the neuron's spike times, in seconds."""
    spikes = layer(events())
    return spikes.times.sum(), spikes


def gradient(layer: EventPropLIF) -> torch.Tensor:
    loss(layer)[0].backward()
    assert layer.weight.grad is not None
    return layer.weight.grad[0]


@torch.no_grad()
def finite_differences(step: float = 1e-5) -> torch.Tensor:
    """Central differences of the loss, weight by weight."""
    layer, slopes = neuron(), []
    for n in range(3):
        values = []
        for sign in (1, -1):
            layer.weight[0, n] += sign * step
            values.append(loss(layer)[0])
            layer.weight[0, n] -= sign * step
        slopes.append((values[0] - values[1]) / (2 * step))
    return torch.stack(slopes)


def constants(gap: float) -> tuple[float, float, float]:
    """s, c and m of the flow over ``gap`` seconds."""
    psp = equations.psp_coefficient(gap, TAU_MEM, TAU_SYN)
    return math.exp(-gap / TAU_SYN), psp, math.exp(-gap / TAU_MEM)


def forward_traces(spikes: list[float]) -> np.ndarray:
    """Rows t, I, V, from event to event."""
    marks = sorted([(t, n) for t, n in zip(TIMES, UNITS, strict=True)] + [(t, -1) for t in spikes])
    now, current, voltage, rows = 0.0, 0.0, 0.0, []
    for at, unit in [*marks, (DURATION, None)]:
        for t in np.linspace(now, at, 60):
            after, (membrane,) = equations.flow(current, (voltage,), constants(t - now))
            rows.append((t, after, membrane))
        _, current, voltage = rows[-1]
        now = at
        if unit == -1:
            voltage = 0.0
        elif unit is not None:
            current += WEIGHTS[unit]
    return np.array(rows).T


def adjoint_traces(spikes: list[float], forward: np.ndarray) -> np.ndarray:
    """Rows t, b = dL/dI, a = dL/dV: from the end backwards, with a jump at every spike."""
    later, b, a, rows = DURATION, 0.0, 0.0, []
    for at in [*reversed(spikes), 0.0]:
        for t in np.linspace(later, at, 200):
            before, (membrane,) = equations.adjoint_flow(b, (a,), constants(later - t))
            rows.append((t, before, membrane))
        _, b, a = rows[-1]
        later = at
        if at > 0:
            current = forward[1][np.searchsorted(forward[0], at)]
            slope = equations.slope(current / TAU_MEM, THRESHOLD, 1 / TAU_MEM)
            # dL/dt of the spike: 1 from the loss, and what its reset adds.
            rate = 1.0 + equations.reset_rate(a, THRESHOLD, 0.0, 1 / TAU_MEM)
            a = equations.jump(a, slope, rate)
    return np.array(rows).T


def by_adjoint(adjoint: np.ndarray) -> list[float]:
    """The gradient read off the picture: b at the input spikes of each weight."""
    t, b = adjoint[0][::-1], adjoint[1][::-1]
    at_input = np.interp(TIMES, t, b)
    return [float(at_input[np.array(UNITS) == n].sum()) for n in range(3)]


def relative_errors(truth: torch.Tensor) -> list[float]:
    errors = [(gradient(neuron("grid", dt)) - truth).norm() / truth.norm() for dt in STEPS]
    return [float(e) for e in errors]


def draw(path: Path, spikes: list[float], forward, adjoint, numeric, errors, exact_error) -> None:
    figure = style.new_figure(8, 7.5)
    traces, lower = figure.subfigures(2, 1, height_ratios=[2.1, 1])
    top, middle = traces.subplots(2, 1, sharex=True)
    beside, bottom = lower.subplots(1, 2, width_ratios=[1, 1.6])
    _draw_traces(top, middle, spikes, forward, adjoint)
    _draw_gradients(beside, by_adjoint(adjoint), numeric)
    _draw_errors(bottom, errors, exact_error)
    style.save(figure, path)


def _draw_traces(top, middle, spikes: list[float], forward, adjoint) -> None:
    ms = 1e3
    at_input = np.array(TIMES) * ms
    top.plot(forward[0] * ms, forward[1], color=style.ORANGE, label="current I")
    top.plot(forward[0] * ms, forward[2], color=style.BLUE, label="membrane V", linewidth=1.8)
    style.threshold_line(top, THRESHOLD, "threshold")
    top.plot(at_input, np.full(len(TIMES), -0.5), "k|", ms=9, label="input spikes")
    for t, unit in zip(at_input, UNITS, strict=True):
        top.annotate(
            f"$w_{unit + 1}$", (t, -0.5), (3, 0), textcoords="offset points", va="center",
            fontsize=8,
        )  # fmt: skip
    top.set(ylabel="I, V (threshold = 1)", title="forward: inputs raise I, V follows and spikes")
    top.legend(loc="upper right")
    middle.plot(adjoint[0] * ms, adjoint[2] * ms, color=style.RED, label="a = dL/dV", linewidth=1.8)
    middle.plot(adjoint[0] * ms, adjoint[1] * ms, color=style.ORANGE, label="b = dL/dI")
    middle.axhline(0, color=style.GREY, linewidth=0.6)
    b = np.interp(TIMES, adjoint[0][::-1], adjoint[1][::-1])
    middle.plot(at_input, b * ms, "ko", ms=4, label="b at input spikes")
    middle.set(
        xlabel="time (ms)", ylabel="adjoint (ms)", xlim=(0, DURATION * ms),
        title="backward: what a little more V, or I, at that time would add to the loss",
    )  # fmt: skip
    middle.legend(loc="lower right")
    for axes in (top, middle):
        for t in spikes:
            axes.axvline(t * ms, color=style.LIGHT, linewidth=0.8, zorder=0)


def _draw_gradients(axes, ours: list[float], numeric) -> None:
    places = np.arange(len(ours))
    axes.bar(places - 0.18, np.array(ours) * 1e3, 0.34, color=style.BLUE, label="sum of the dots")
    values = [float(v) * 1e3 for v in numeric]
    axes.bar(places + 0.18, values, 0.34, color=style.LIGHT, label="finite differences")
    axes.set_xticks(places, [f"$w_{n + 1}$" for n in places])
    axes.set(ylabel="dL/dw (ms)", ylim=(-9.5, 0), title="the gradient, computed twice")
    axes.legend(loc="lower left")


def _draw_errors(axes, errors: list[float], exact_error: float) -> None:
    steps = np.array(STEPS) * 1e3
    axes.loglog(steps, errors, "o-", color=style.PURPLE, label='solver="grid"')
    axes.loglog(steps, steps * errors[-1] / steps[-1], ":", color=style.GREY, label="first order")
    axes.axhline(exact_error, color=style.GREEN, label='solver="exact" (no time step)')
    axes.set(
        xlabel="time step of the grid (ms)", ylabel="relative error",
        title="error of the gradient, against finite differences",
    )  # fmt: skip
    axes.legend(loc="center left", bbox_to_anchor=(0, 0.45))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).with_suffix(".png")
    parser.add_argument("--output", type=Path, default=default, help="figure to write")
    path = parser.parse_args(arguments).output

    layer = neuron()
    exact, numeric = gradient(layer), finite_differences()
    spikes = loss(layer)[1].times.tolist()
    forward = forward_traces(spikes)
    adjoint = adjoint_traces(spikes, forward)
    exact_error = float((exact - numeric).norm() / numeric.norm())
    errors = relative_errors(numeric)
    with style.style():
        draw(path, spikes, forward, adjoint, numeric, errors, exact_error)

    def show(name: str, values) -> None:
        print(f"{name:28}", "  ".join(f"{1e3 * float(v):10.6f}" for v in values))

    print("spike times (ms):", "  ".join(f"{1e3 * t:.6f}" for t in spikes))
    print("gradient of their sum with respect to the three weights (ms):")
    show("EventProp, exact solver", exact)
    show("finite differences", numeric)
    show("read off the adjoint trace", by_adjoint(adjoint))
    print(f"relative error of the exact solver: {exact_error:.1e}")
    for dt, error in zip(STEPS, errors, strict=True):
        print(f"relative error of the grid at {1e3 * dt:7.3f} ms: {error:.1e}")

    assert exact_error < 1e-7
    assert np.allclose(by_adjoint(adjoint), numeric, rtol=1e-3)
    assert errors[-1] < errors[0] / 100, "the error of the grid shrinks with its step"
    print(f"figure: {path}")


if __name__ == "__main__":
    main()
