"""How the pictures look: one palette for colour-blind readers, one file format."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's colours.
BLUE, RED, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, GREY, LIGHT, INK = "#56B4E9", "#CC79A7", "#7F7F7F", "#C4C4C4", "#222222"

_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


class Picture(NamedTuple):
    """A figure, and its numbers as the page prints them."""

    figure: Figure
    facts: list[str]


def style():
    """A context with the style of the pictures."""
    return rc_context(_STYLE)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def threshold_line(axes: Axes, value: float, label: str | None = None) -> None:
    """A dotted line at the threshold."""
    axes.axhline(value, color=GREY, linestyle=":", linewidth=1, label=label)


def dots(axes: Axes, times, units, size: float = 0.5, color: str = INK) -> None:
    """Events of a raster: times in seconds, drawn in ms."""
    axes.scatter(times * 1e3, units, s=size, color=color, linewidths=0)


def save(figure: Figure, path: Path, dpi: int = 120, colours: int = 128) -> None:
    """Write a PNG with a palette. It is a third of the size of one in full colour."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    image = Image.open(buffer).convert("RGB")
    image.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
