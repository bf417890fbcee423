"""augment/*.png: one spoken digit before and after each augmentation of lightning_modules."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from lightning_modules.data.augment import (
    Augmentation,
    Blend,
    ChannelJitter,
    ChannelShift,
    DelayLine,
    EventDropout,
    TimeJitter,
    TimeShift,
    TimeStretch,
)
from lightning_modules.data.embedded import load_twin
from lightning_modules.data.spike_arrays import SamplePool, SpikeArrays
from pictures import style

DIGIT, SPEAKERS, CHANNELS, DURATION = "three", (2, 7), 700, 1.0
WHOLE = ((0, 600), (0, 700))  # ms, channels
ONSET = ((100, 300), (0, 700))
DETAIL = ((200, 260), (540, 640))


class Case(NamedTuple):
    """An augmentation at the strength of the page, a seed with a visible effect, and the part of
    the sample to draw."""

    augmentation: Augmentation
    seed: int = 0
    view: tuple[tuple[int, int], tuple[int, int]] = WHOLE


CASES = {
    "channel_shift": Case(ChannelShift(40), seed=7),
    "time_stretch": Case(TimeStretch(0.1), seed=3),
    "time_shift": Case(TimeShift(0.02), seed=4, view=ONSET),
    "event_dropout": Case(EventDropout(0.1), view=DETAIL),
    "time_jitter": Case(TimeJitter(1e-3), view=DETAIL),
    "channel_jitter": Case(ChannelJitter(5.0), view=DETAIL),
}


def batch() -> SpikeArrays:
    """Two samples of one class, by two speakers. The pool holds only these two."""
    packed = load_twin("train")
    label = packed.class_names.index(DIGIT)
    indices = np.array([
        np.flatnonzero((packed.labels == label) & (packed.speakers == s))[0] for s in SPEAKERS
    ])  # fmt: skip
    return packed.gather(indices, CHANNELS, DURATION, SamplePool(packed, indices))


def sample(events: SpikeArrays, number: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Times (s) and units of one sample of a batch."""
    part = slice(events.offsets[number], events.offsets[number + 1])
    return events.times[part], events.units[part]


def augmented(case: Case) -> SpikeArrays:
    return case.augmentation(batch(), np.random.default_rng(case.seed))


def picture(name: str) -> style.Picture:
    case = CASES[name]
    before, after = sample(batch()), sample(augmented(case))
    figure = style.new_figure(7.5, 2.7)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    size = {WHOLE: 0.3, ONSET: 0.8, DETAIL: 5}[case.view]
    _draw(left, before, "before", size, style.INK)
    _draw(right, before, "", size, style.LIGHT)
    _draw(right, after, f"after {case.augmentation}", size, style.BLUE)
    if name == "event_dropout":
        left.set_title("before; in red: dropped events")
        _draw(left, _lost(before, after), None, size, style.RED)
    times, channels = case.view
    left.set(xlim=times, ylim=channels, ylabel="channel")
    fact = f"{name}: {before[0].size:,} events before, {after[0].size:,} after"
    return style.Picture(figure, [fact])


def blend() -> style.Picture:
    after = Blend(1.0)(batch(), np.random.default_rng(0))
    figure = style.new_figure(8.5, 2.7)
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    one, other, mixed = sample(batch()), sample(batch(), 1), sample(after)
    _draw(panels[0], one, f"before: '{DIGIT}', speaker {SPEAKERS[0]}", 0.3, style.INK)
    _draw(panels[1], other, f"its partner: speaker {SPEAKERS[1]}", 0.3, style.INK)
    _draw(panels[2], mixed, "after Blend", 0.3, style.BLUE)
    panels[0].set(xlim=WHOLE[0], ylim=WHOLE[1], ylabel="channel")
    for axes, shown in zip(panels, (one, other, mixed), strict=True):
        axes.plot(1e3 * shown[0].mean(), shown[1].mean(), "+", color=style.RED, ms=12, mew=2)
    return style.Picture(
        figure, [f"blend: {one[0].size:,} and {other[0].size:,} events, {mixed[0].size:,} after"]
    )


def delay_line() -> style.Picture:
    line = DelayLine(10, 0.03)
    after = line(batch())
    figure = style.new_figure(7.5, 3.6)
    left, right = figure.subplots(1, 2, sharex=True)
    _draw(left, sample(batch()), "before", 0.3, style.INK)
    times, units = sample(after)
    for copy in range(line.copies + 1):
        mine = units // CHANNELS == copy
        color = style.INK if copy == 0 else (style.BLUE, style.SKY)[copy % 2]
        _draw(right, (times[mine], units[mine]), None, 0.15, color)
    right.set(title=f"after DelayLine({line.copies}, {line.delay})", ylabel="unit")
    right.set_ylim(0, after.num_units)
    right.set_yticks([CHANNELS * n for n in range(0, line.copies + 2)])
    left.set(xlim=(0, 900), ylim=(0, CHANNELS), ylabel="channel")
    before = sample(batch())[0].size
    return style.Picture(figure, [
        f"delay_line: {before:,} events on {CHANNELS} units before, {times.size:,} on "
        f"{after.num_units:,} after"
    ])  # fmt: skip


def _draw(axes: Axes, shown, title: str | None, size: float, color: str) -> None:
    style.dots(axes, *shown, size, color)
    axes.set_xlabel("time (ms)")
    if title:
        axes.set_title(title)


def _lost(before, after) -> tuple[np.ndarray, np.ndarray]:
    """Events of ``before`` that ``after`` lacks."""
    kept = set(zip(*map(np.ndarray.tolist, after), strict=True))
    lost = [e for e in zip(*map(np.ndarray.tolist, before), strict=True) if e not in kept]
    times, units = np.array(lost).reshape(-1, 2).T
    return times, units


PICTURES = {
    **{f"augment/{name}": lambda name=name: picture(name) for name in CASES},
    "augment/blend": blend,
    "augment/delay_line": delay_line,
}
