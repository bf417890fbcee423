"""ann_snn.png: an artificial and a spiking neuron with the same inputs and weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pictures import style
from snn_eventprop import EventPropLI, EventPropLIF, SpikeEvents

VALUES = np.array([0.8, 0.4, 0.6])  # of the inputs
WEIGHTS = np.array([1.0, -0.7, 0.5])
RATE, GAIN, DURATION = 100.0, 3.5, 0.1  # spikes per s at value 1; of the weights; s
TAU_MEM, TAU_SYN = 20e-3, 5e-3  # s


def inputs() -> SpikeEvents:
    """Each value as evenly spaced spikes, ``RATE`` times the value in a second."""
    times, units = [], []
    for unit, value in enumerate(VALUES):
        gap = 1 / (RATE * value)
        # Different phases: simultaneous inputs would be one event.
        train = np.arange(gap * (0.3 + 0.2 * unit), DURATION, gap)
        times.extend(train)
        units.extend([unit] * train.size)
    order = np.argsort(times)
    return SpikeEvents.from_list(
        [(np.array(times)[order].tolist(), np.array(units)[order].tolist())],
        num_units=3, duration=DURATION, dtype=torch.float64,
    )  # fmt: skip


def spiking_neurons(first_weights: Sequence[float] = (WEIGHTS[0],)) -> EventPropLIF:
    """Neurons that differ only in their first weight."""
    neurons = EventPropLIF(
        3, len(first_weights), tau_mem=TAU_MEM, tau_syn=TAU_SYN, solver="exact",
        grazing_guard=0.0, dtype=torch.float64,
    )  # fmt: skip
    with torch.no_grad():
        neurons.weight.copy_(GAIN * torch.tensor([[w, *WEIGHTS[1:]] for w in first_weights]))
    return neurons


def membrane(neuron: EventPropLIF, times: np.ndarray) -> np.ndarray:
    """V at ``times`` [Q]: an integrator with the same inputs, minus the resets."""
    integrator = EventPropLI(3, 1, tau_mem=TAU_MEM, tau_syn=TAU_SYN, dtype=torch.float64)
    integrator.weight = neuron.weight
    with torch.no_grad():
        free = integrator.sample(inputs(), torch.from_numpy(times))[:, 0, 0].numpy()
        spikes = neuron(inputs()).times.numpy()
    since = times[:, None] - spikes
    return free - np.where(since > 0, np.exp(-np.maximum(since, 0) / TAU_MEM), 0).sum(axis=1)


def spike_times(first_weights: Sequence[float]) -> list[np.ndarray]:
    """For each first weight the times of the neuron's spikes, s."""
    with torch.no_grad():
        spikes = spiking_neurons(first_weights)(inputs())
    return [spikes.times[spikes.units == n].numpy() for n in range(len(first_weights))]


def slopes() -> tuple[np.ndarray, np.ndarray]:
    """The spike times, and the derivative of each with respect to the first weight, s."""
    neuron = spiking_neurons()
    spikes = neuron(inputs())
    gradients = [
        torch.autograd.grad(t, neuron.weight, retain_graph=True)[0][0, 0] for t in spikes.times
    ]
    return spikes.times.detach().numpy(), GAIN * np.array(gradients)


def picture() -> style.Picture:
    z = float(VALUES @ WEIGHTS)
    figure = style.new_figure(8, 6.2)
    panels = figure.subplots(3, 2, gridspec_kw={"height_ratios": [1, 1.5, 1.5]})
    (numbers, trains), (activation, trace), (output, moves) = panels
    colors = [style.BLUE, style.RED, style.GREEN]

    numbers.barh(range(3), VALUES, color=colors, height=0.5)
    numbers.set(xlim=(0, 1), xlabel="value $x_i$", title="artificial neuron: numbers in")
    events = inputs()
    for unit in range(3):
        mine = events.times[events.units == unit].numpy() * 1e3
        trains.vlines(mine, unit - 0.3, unit + 0.3, color=colors[unit], linewidth=1.6)
    trains.set(xlim=(0, DURATION * 1e3), title="spiking neuron: times in", xlabel="time (ms)")
    for axes in (numbers, trains):
        axes.set(ylim=(2.6, -0.6), yticks=range(3))
        axes.set_yticklabels([f"$w_{i + 1}$ = {w:g}".replace("-", "\N{MINUS SIGN}")
                              for i, w in enumerate(WEIGHTS)])  # fmt: skip

    grid = np.linspace(-1, 1.5, 101)
    activation.plot(grid, np.maximum(grid, 0), color=style.INK)
    activation.plot([z], [z], "o", color=style.PURPLE)
    activation.annotate(f"$y$ = {z:.2f}", (z, z), (8, -4), textcoords="offset points", va="top")
    activation.set(
        xlabel=r"weighted sum $z = \sum_i w_i x_i$", ylabel=r"output $y = \max(0, z)$",
        title="no memory: a sum, then a function of it", xlim=(-1, 1.5),
    )  # fmt: skip
    spikes, tangents = slopes()
    times = np.sort(np.concatenate([np.linspace(0, DURATION, 1001), spikes, spikes + 1e-9]))
    trace.plot(times * 1e3, membrane(spiking_neurons(), times), color=style.INK)
    style.threshold_line(trace, 1.0)
    trace.vlines(spikes * 1e3, 1.0, 1.6, color=style.PURPLE, linewidth=1.6)
    trace.text(1, 1.04, "threshold", fontsize=8, color=style.GREY)
    trace.set(
        xlim=(0, DURATION * 1e3), xlabel="time (ms)", ylabel="membrane V", ylim=(-0.1, 1.7),
        title="memory: V leaks, spikes, is reset",
    )  # fmt: skip

    around = np.linspace(0.7, 1.3, 601)
    rest = z - VALUES[0] * WEIGHTS[0]
    output.plot(around, np.maximum(0, rest + VALUES[0] * around), color=style.INK)
    output.plot([WEIGHTS[0]], [z], "o", color=style.PURPLE)
    output.set(
        xlabel="first weight $w_1$", ylabel="output $y$", xlim=around[[0, -1]],
        title=r"gradient: $\partial y / \partial w_1 = x_1$, if $z > 0$",
    )  # fmt: skip
    moved = spike_times(around)
    sizes = [t.size for t in moved]
    moves.plot(
        np.repeat(around, sizes), np.concatenate(moved) * 1e3, ".", color=style.INK, markersize=1.5
    )
    for number, (t, slope) in enumerate(zip(spikes, tangents, strict=True)):
        w = WEIGHTS[0] + np.array([-0.1, 0.1])
        label = "tangents by EventProp" if number == 0 else None
        moves.plot(w, (t + slope * (w - WEIGHTS[0])) * 1e3, color=style.PURPLE, label=label)
        moves.plot(WEIGHTS[:1], [t * 1e3], "o", color=style.PURPLE)
    moves.set(
        xlabel="first weight $w_1$", ylabel="spike times (ms)", xlim=around[[0, -1]],
        ylim=(0, DURATION * 1e3), title="gradient: how each spike moves in time",
    )  # fmt: skip
    moves.legend(loc="lower left")
    rows = [f"| {1e3 * t:.4f} | {1e3 * s:.4f} |" for t, s in zip(spikes, tangents, strict=True)]
    return style.Picture(figure, [f"| output of the artificial neuron | {z:.2f} |", *rows])
