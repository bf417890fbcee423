"""adjoint.png: membranes of hidden neurons of a trained network, and their adjoint."""

from __future__ import annotations

import numpy as np
import torch

from pictures import style
from pictures.trained import (
    Adjoint,
    Trained,
    adjoint_of,
    hidden_spikes,
    loss_of,
    membrane_of,
    spikes_of,
    with_probes,
    worth_of_current,
)

NEURONS = 3
SIZE = 0.25  # of the sample shown: a quarter of those that the network knows are smaller


def neurons_to_show(trained: Trained, fewest: int = 4, most: int = 9) -> list[int]:
    """Of the neurons with a moderate number of spikes, those whose input matters most."""
    spikes = hidden_spikes(trained)
    counts = torch.bincount(spikes.units, minlength=spikes.num_units).numpy()
    times = np.linspace(0, trained.events.duration, 50)
    worth = np.abs(worth_of_current(trained, times)).sum(axis=1)
    order = np.argsort(-np.where((counts >= fewest) & (counts <= most), worth, -1.0))
    return sorted(order[:NEURONS].tolist())


def check(trained: Trained, neuron: int, trace: Adjoint, step: float = 1e-5) -> float:
    """Largest difference of b from finite differences of the loss, relative to the largest b: the
    neuron's current raised and lowered by ``step`` at a few times."""
    last = trace.times[np.flatnonzero(trace.b)[-1]]
    chosen = np.linspace(0, last, 8)[1:-1]
    b = worth_of_current(trained, chosen)[neuron]
    numeric = []
    for t in chosen:
        values = []
        for sign in (1, -1):
            kick = torch.zeros(trained.hidden.out_features, 1, dtype=torch.float64)
            kick[neuron] = sign * step
            with torch.no_grad():
                layer, events = with_probes(trained, np.array([t]), kick)
                values.append(float(loss_of(trained, layer(events))))
        numeric.append((values[0] - values[1]) / (2 * step))
    return float(np.abs(b - numeric).max() / np.abs(trace.b).max())


def picture(trained: Trained) -> style.Picture:
    trained = trained.showing(SIZE)
    shown = neurons_to_show(trained)
    spikes = hidden_spikes(trained)
    traces = adjoint_of(trained, shown)
    figure = style.new_figure(8.5, 6.8)
    end = min(max(spikes_of(spikes, n)[-1] for n in shown) + 0.05, trained.events.duration)
    panels = figure.subplots(
        2 * NEURONS, 1, sharex=True, gridspec_kw={"height_ratios": [1.25, 1] * NEURONS}
    )
    facts = []
    for number, (neuron, trace) in enumerate(zip(shown, traces, strict=True)):
        above, below = panels[2 * number : 2 * number + 2]
        own = spikes_of(spikes, neuron)
        times = np.sort(np.concatenate([np.linspace(0, end, 1500), own, own + 1e-9]))
        above.plot(times * 1e3, membrane_of(trained, neuron, times), color=style.BLUE)
        style.threshold_line(above, 1.0)
        above.vlines(own * 1e3, 1.0, 1.5, color=style.BLUE)
        above.set(ylabel="membrane V", title=f"hidden neuron {neuron}")
        below.plot(trace.times * 1e3, 1e3 * trace.a, color=style.RED, label="a = dL/dV")
        below.plot(trace.times * 1e3, 1e3 * trace.b, color=style.ORANGE, label="b = dL/dI")
        below.axhline(0, color=style.GREY, linewidth=0.6)
        below.set(ylabel="adjoint\n(0.001 of loss)")
        for axes in (above, below):
            for at in own:
                axes.axvline(at * 1e3, color=style.LIGHT, linewidth=0.7, zorder=0)
        facts.append(
            f"neuron {neuron}: {own.size} spikes, b against finite differences "
            f"{check(trained, neuron, trace):.1e}"
        )
    panels[1].legend(loc="lower right", bbox_to_anchor=(1, 0.95), ncols=2, borderaxespad=0)
    panels[-1].set(xlabel="time (ms)", xlim=(0, end * 1e3))
    figure.align_ylabels()
    return style.Picture(figure, facts)
