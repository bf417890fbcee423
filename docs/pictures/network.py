"""raster.png: one spoken digit in a trained network."""

from __future__ import annotations

import numpy as np
import torch

from pictures import style
from pictures.trained import Trained, hidden_spikes


def picture(trained: Trained) -> style.Picture:
    trained = trained.showing(1.0)
    events, spikes = trained.events, hidden_spikes(trained)
    end = 1e3 * min(trained.events.duration, float(events.times.max()) + 0.05)
    name = trained.class_names[trained.label]
    times = torch.linspace(0, end * 1e-3, 800, dtype=torch.float64)
    with torch.no_grad():
        membranes = trained.readout.sample(spikes, times)[:, 0].numpy()
        scores = trained.readout.integral(spikes, trained.loss.weighting)[0].numpy()
    figure = style.new_figure(8, 6)
    cochlea, layer, output = figure.subplots(
        3, 1, sharex=True, gridspec_kw={"height_ratios": [1.2, 1.2, 1]}
    )
    style.dots(cochlea, events.times.numpy(), events.units.numpy(), 0.8)
    cochlea.set(
        ylabel="channel", ylim=(0, events.num_units),
        title=f"input: '{name}' as {events.times.numel():,} spikes of a model cochlea",
    )  # fmt: skip
    style.dots(layer, spikes.times.numpy(), _rank(spikes)[spikes.units.numpy()], 3, style.BLUE)
    layer.set(
        ylabel="neuron,\nby first spike", ylim=(-1, spikes.num_units),
        title=f"hidden layer: {spikes.times.numel():,} spikes of {spikes.num_units} neurons",
    )  # fmt: skip
    rivals = np.delete(np.arange(scores.size), trained.label)
    rival = int(rivals[scores[rivals].argmax()])
    at = times.numpy() * 1e3
    for k in rivals:
        output.plot(at, membranes[:, k], color=style.LIGHT, linewidth=0.7)
    for k, color in ((rival, style.ORANGE), (trained.label, style.RED)):
        output.plot(at, membranes[:, k], color=color, label=f"'{trained.class_names[k]}'")
    output.legend(loc="upper right")
    output.set(
        ylabel="membrane V", xlabel="time (ms)", xlim=(0, end),
        title=f"readout: a membrane for each of {scores.size} classes; the largest average wins",
    )  # fmt: skip
    return style.Picture(figure, [
        f"{events.times.numel()} input spikes, {spikes.times.numel()} hidden spikes, "
        f"true class {name}, strongest {trained.class_names[int(scores.argmax())]}"
    ])  # fmt: skip


def _rank(spikes) -> np.ndarray:
    """[N] the rank of each neuron by its first spike; silent ones last."""
    first = np.full(spikes.num_units, np.inf)
    np.minimum.at(first, spikes.units.numpy(), spikes.times.numpy())
    rank = np.empty(first.size, int)
    rank[np.argsort(first, kind="stable")] = np.arange(first.size)
    return rank
