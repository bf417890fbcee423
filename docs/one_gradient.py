"""One neuron, one gradient: the figure and the numbers of docs/one_gradient.md.

    python docs/one_gradient.py        writes docs/one_gradient.png and prints the numbers
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib
import numpy as np
import torch

from snn_eventprop import EventPropLIF, SpikeEvents, equations

matplotlib.use("Agg")
import matplotlib.pyplot as plt

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


def coefficients(gap: float) -> tuple[float, float, float]:
    psp = equations.psp_coefficient(gap, TAU_MEM, TAU_SYN)
    return math.exp(-gap / TAU_SYN), math.exp(-gap / TAU_MEM), psp


def forward_traces(spikes: list[float]) -> np.ndarray:
    """Rows t, I, V: the neuron flows from event to event."""
    marks = sorted([(t, n) for t, n in zip(TIMES, UNITS, strict=True)] + [(t, -1) for t in spikes])
    now, current, voltage, rows = 0.0, 0.0, 0.0, []
    for at, unit in [*marks, (DURATION, None)]:
        for t in np.linspace(now, at, 60):
            rows.append((t, *equations.flow(current, voltage, *coefficients(t - now))))
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
            rows.append((t, *equations.adjoint_flow(b, a, *coefficients(later - t))))
        _, b, a = rows[-1]
        later = at
        if at > 0:
            current = forward[1][np.searchsorted(forward[0], at)]
            slope = equations.slope(current / TAU_MEM, THRESHOLD, 1 / TAU_MEM)
            # The loss gains 1 s for each second that the spike moves; so does the reset.
            change = 1.0 + equations.reset_worth_rate(a, THRESHOLD, 0.0, 1 / TAU_MEM)
            a = equations.jump(a, slope, change)
    return np.array(rows).T


def by_adjoint(adjoint: np.ndarray) -> list[float]:
    """The gradient read off the picture: b at the input spikes of each weight."""
    t, b = adjoint[0][::-1], adjoint[1][::-1]
    at_input = np.interp(TIMES, t, b)
    return [float(at_input[np.array(UNITS) == n].sum()) for n in range(3)]


def relative_errors(truth: torch.Tensor) -> list[float]:
    errors = [(gradient(neuron("grid", dt)) - truth).norm() / truth.norm() for dt in STEPS]
    return [float(e) for e in errors]


def draw(path: Path, spikes: list[float], forward, adjoint, errors, exact_error: float) -> None:
    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(7, 8), height_ratios=[3, 2, 2])
    ms = 1e3
    top.plot(forward[0] * ms, forward[1], color="tab:orange", label="current I", lw=1)
    top.plot(forward[0] * ms, forward[2], color="tab:blue", label="membrane V")
    top.axhline(THRESHOLD, color="gray", ls=":", lw=1, label="threshold")
    for at in spikes:
        top.axvline(at * ms, color="tab:blue", lw=0.6, ls="--")
    top.plot(np.array(TIMES) * ms, np.full(len(TIMES), -0.4), "k|", ms=9, label="input spikes")
    top.set(ylabel="I, V (threshold = 1)", title="Forwards: inputs raise I, V follows and spikes")
    top.legend(loc="upper right", fontsize=8)
    middle.plot(adjoint[0] * ms, adjoint[2] * ms, color="tab:blue", label="a = dL/dV")
    middle.plot(adjoint[0] * ms, adjoint[1] * ms, color="tab:orange", label="b = dL/dI", lw=1)
    for at in spikes:
        middle.axvline(at * ms, color="tab:blue", lw=0.6, ls="--")
    at_input = np.interp(TIMES, adjoint[0][::-1], adjoint[1][::-1])
    middle.plot(np.array(TIMES) * ms, at_input * ms, "ko", ms=4, label="b at input spikes")
    middle.set(
        xlabel="time (ms)", ylabel="worth (ms of loss)",
        title="Backwards: what a bit more V, or I, at that time would do to the loss",
    )  # fmt: skip
    middle.legend(loc="lower right", fontsize=8)
    middle.sharex(top)
    bottom.loglog(np.array(STEPS) * ms, errors, "o-", label='solver="grid"')
    bottom.axhline(exact_error, color="tab:green", label='solver="exact", without a time step')
    bottom.set(
        xlabel="time step of the grid (ms)", ylabel="relative error",
        title="Error of the gradient, against finite differences",
    )  # fmt: skip
    bottom.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


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
    draw(path, spikes, forward, adjoint, errors, exact_error)

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
    assert errors[-1] < errors[0] / 100, "the error of the grid falls with its step"
    print(f"figure: {path}")


if __name__ == "__main__":
    main()
