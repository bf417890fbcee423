"""Figures as matplotlib objects; nothing here opens a window or writes a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from snn_eventprop import SpikeEvents


def learning_curves(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Loss and accuracy over epochs, training and validation.

    Args:
        rows: metrics of each epoch by name, as in ``metrics.csv``.
    """
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for stage, label in (("train", "training"), ("val", "validation")):
            name = f"{stage}/{quantity}"
            points = [(row["epoch"] + 1, row[name]) for row in rows if name in row]
            if points:
                marker = "." if len(points) < 9 else None
                axes.plot(*zip(*points, strict=True), label=label, marker=marker)
        axes.set(xlabel="epoch", ylabel=quantity)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def raster(layers: Sequence[SpikeEvents], title: str) -> Figure:
    """Spikes of the first sample, one panel per layer, beginning with the input.

    Args:
        layers: spikes of the input and of each layer; the first sample of each is drawn.
        title: heading.
    """
    figure = Figure(figsize=(8, 1 + 2.4 * len(layers)), layout="constrained")
    panels = figure.subplots(len(layers), 1, sharex=True, squeeze=False)[:, 0]
    for number, (axes, layer) in enumerate(zip(panels, layers, strict=True)):
        sample = layer[0]
        dots = 2 if sample.times.numel() < 5000 else 0.6
        axes.scatter(
            sample.times.detach().cpu() * 1e3, sample.units.cpu(), s=dots, c="k", linewidths=0
        )
        axes.set(
            xlim=(0, sample.duration * 1e3), ylim=(-1, sample.num_units),
            ylabel="channel" if number == 0 and len(layers) > 1 else f"neuron, layer {number}",
        )  # fmt: skip
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_title(title)
    panels[-1].set_xlabel("time (ms)")
    return figure


def readout(trace: Tensor, dt: float, names: Sequence[str], label: int) -> Figure:
    """Readout membranes of one sample, the true class in front.

    Args:
        trace: [T, O].
        dt: s per step.
        names: name of each class.
        label: true class.
    """
    values = trace.detach().numpy()
    time = (np.arange(len(values)) + 1) * dt * 1e3
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    others = values.mean(axis=0)
    others[label] = -np.inf
    rival = int(others.argmax())
    for k in range(values.shape[1]):
        if k not in (label, rival):
            axes.plot(time, values[:, k], color="0.8", linewidth=0.8)
    axes.plot(time, values[:, rival], color="tab:orange", label=f"{names[rival]} (strongest other)")
    axes.plot(time, values[:, label], color="tab:blue", label=f"{names[label]} (true class)")
    axes.set(xlabel="time (ms)", ylabel="readout membrane V", xlim=(0, time[-1]))
    axes.legend()
    return figure


def confusion(counts: Tensor, names: Sequence[str]) -> Figure:
    """Confusion matrix, rows normalised.

    Args:
        counts: [O, O], rows are true classes.
        names: name of each class.
    """
    share = counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    size = 2 + 0.32 * len(names)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share.numpy(), vmin=0, vmax=1, cmap="Blues")
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=90)
    axes.set_yticks(ticks, names)
    axes.set(xlabel="predicted", ylabel="true")
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    return figure
