"""digits.png: spoken digits of the embedded set as spikes of a model cochlea."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lightning_modules.data.embedded import load_twin
from pictures import style

CHANNELS, DURATION = 700, 1.0  # s
LARGE, SMALL = "seven", ["one", "three", "nine", "eins", "drei", "neun"]
SPEAKER = 2


class Sample(NamedTuple):
    """Events of one spoken digit: ``times`` [S] in s, ``units`` [S]."""

    times: np.ndarray
    units: np.ndarray


def sample(name: str, speaker: int = SPEAKER, number: int = 0) -> Sample:
    """One sample of the embedded training file: ``number`` counts within class and speaker."""
    packed = load_twin("train")
    label = packed.class_names.index(name)
    index = np.flatnonzero((packed.labels == label) & (packed.speakers == speaker))[number]
    part = slice(packed.offsets[index], packed.offsets[index + 1])
    return Sample(packed.times[part], packed.units[part].astype(int))


def picture() -> style.Picture:
    figure = style.new_figure(9, 4.2)
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.25])
    large = sample(LARGE)
    _with_sums(left, large)
    panels = right.subplots(2, 3, sharex=True, sharey=True)
    facts = [_fact(LARGE, large)]
    for axes, name in zip(panels.flat, SMALL, strict=True):
        shown = sample(name)
        style.dots(axes, shown.times, shown.units, 0.25)
        axes.set(title=f"'{name}'", xlim=(0, 600), ylim=(0, CHANNELS), xticks=[0, 200, 400, 600])
        facts.append(_fact(name, shown))
    for axes in panels[-1]:
        axes.set_xlabel("time (ms)")
    for axes in panels[:, 0]:
        axes.set_ylabel("channel")
    return style.Picture(figure, facts)


def _with_sums(figure, shown: Sample) -> None:
    """A raster, with the rate over time above it and the events of each channel beside it."""
    (above, corner), (raster, beside) = figure.subplots(
        2, 2, sharex="col", sharey="row",
        gridspec_kw={"width_ratios": [4, 1], "height_ratios": [1, 4]},
    )  # fmt: skip
    corner.axis("off")
    style.dots(raster, shown.times, shown.units, 0.4)
    raster.set(xlim=(0, 800), ylim=(0, CHANNELS), xlabel="time (ms)", ylabel="channel")
    bins = np.arange(0, 801, 5)
    counts, _ = np.histogram(shown.times * 1e3, bins)
    above.stairs(counts / 5, bins, fill=True, color=style.BLUE)
    above.set(ylabel="events\nper ms", title=f"'{LARGE}', {shown.times.size:,} events")
    bands = np.arange(0, CHANNELS + 1, 10)
    counts, _ = np.histogram(shown.units, bands)
    beside.stairs(counts / 10, bands, fill=True, color=style.RED, orientation="horizontal")
    beside.set(xlabel="events per\nchannel")


def _fact(name: str, shown: Sample) -> str:
    return f"| {name} | {shown.times.size:,} | {1e3 * shown.times.max():.0f} ms |"
