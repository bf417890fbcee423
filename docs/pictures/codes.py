"""codes.png: the same sample as a rate code and as a time code."""

from __future__ import annotations

import numpy as np

from pictures import digits, style

BANDS, WINDOW, TOP_RATE = 35, 0.1, 200.0  # values in a sample; s; spikes per s of the value 1


def values(shown: digits.Sample) -> np.ndarray:
    """[BANDS] events in each band of 20 channels, as a share of the largest."""
    counts = np.bincount(shown.units * BANDS // digits.CHANNELS, minlength=BANDS)
    return counts / counts.max()


def rate_code(x: np.ndarray, seed: int = 0) -> digits.Sample:
    """Poisson spike trains of ``TOP_RATE`` x spikes per second."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(TOP_RATE * WINDOW * x)
    return digits.Sample(
        rng.uniform(0, WINDOW, counts.sum()), np.repeat(np.arange(x.size), counts)
    )


def read_rates(code: digits.Sample) -> np.ndarray:
    return np.bincount(code.units, minlength=BANDS) / (TOP_RATE * WINDOW)


def time_code(x: np.ndarray) -> digits.Sample:
    """One spike for each value, the earlier the larger: at ``WINDOW`` (1 - x); none for 0."""
    units = np.flatnonzero(x > 0)
    return digits.Sample(WINDOW * (1 - x[units]), units)


def read_times(code: digits.Sample) -> np.ndarray:
    x = np.zeros(BANDS)
    x[code.units] = 1 - code.times / WINDOW
    return x


def picture() -> style.Picture:
    shown = digits.sample(digits.LARGE)
    x = values(shown)
    rates, times = rate_code(x), time_code(x)
    figure = style.new_figure(9, 3.2)
    original, bars, left, right = figure.subplots(
        1, 4, sharey=True, gridspec_kw={"width_ratios": [1.2, 0.9, 1.4, 1.4]}
    )
    width = digits.CHANNELS // BANDS
    style.dots(original, shown.times, (shown.units + 0.5) / width - 0.5, 0.15, style.GREY)
    original.set(
        xlim=(0, 800), ylabel="band (20 channels each)", xlabel="time (ms)", title="the sample"
    )
    bars.barh(range(BANDS), x, height=0.8, color=style.GREEN)
    bars.set(xlim=(0, 1.02), xlabel="value $x$", title="one number per band")
    left.plot(rates.times * 1e3, rates.units, "|", color=style.BLUE, markersize=4.5)
    left.set(title=f"rate code: {rates.times.size} spikes")
    right.plot(times.times * 1e3, times.units, "|", color=style.RED, markersize=4.5)
    right.set(title=f"time code: {times.times.size} spikes")
    for axes in (left, right):
        axes.set(xlim=(-1, WINDOW * 1e3 + 1), xlabel="time (ms)")
    original.set_ylim(-0.7, BANDS - 0.3)
    return style.Picture(figure, [
        f"| rates | {rates.times.size} | {_error(read_rates(rates), x):.3f} |",
        f"| times | {times.times.size} | {_error(read_times(times), x):.3f} |",
    ])  # fmt: skip


def _error(read: np.ndarray, x: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean((read - x) ** 2)))
