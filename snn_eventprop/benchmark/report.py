"""Tables in plain text, JSON and figures of what was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from .cases import Case, Sweep
from .measure import Row
from .peers import BASELINE, OURS, PEERS

LEGEND = """\
One training step: forward, sum-exp loss, backward; ms per sample, median and range over repeats
whose steps alternate between methods. Peak memory: growth of each method's own process over what
it held before input and network were made, input included{warm_up}.
Time and memory ratios: snnTorch over the row. Spikes: per hidden neuron and sample, after each
method's input weights were scaled to {spikes:g}. Input: {events} events per sample over {inputs} \
channels in {duration:g} s."""


def machine(threads: int) -> dict[str, Any]:
    """What the figures were taken on."""
    versions = {}
    for name in ("torch", "numba", "numpy", *(peer.install for peer in PEERS.values())):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
        "threads": threads,
        "system": platform.system(),
        "python": platform.python_version(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe_machine(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    gpu = f"{facts['gpu']}, " if facts["gpu"] else ""
    return (
        f"{gpu}{facts['processor']}, {facts['threads']} of {facts['cpu_count']} processors, "
        f"{facts['system']}, Python {facts['python']}\n{versions}"
    )


def legend(rows: Sequence[Row], case: Case) -> str:
    warm_up = any(row.peak_includes_warm_up for row in rows if not row.skipped)
    return LEGEND.format(
        warm_up=" and warm-up too" if warm_up else ", warm-up not",
        spikes=case.spikes, events=case.events, inputs=case.inputs, duration=case.duration,
    )  # fmt: skip


def columns(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Aligned text: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (header, *body)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        aligned = [f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in others)]
        return "  ".join(aligned).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, body)])


def number(value: float) -> str:
    """Three digits, without exponents."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _ratio(top: float, bottom: float) -> str:
    return f"{number(top / bottom)}x" if bottom > 0 else "-"


CASE_HEADER = (
    "method", "ms/sample", "min-max", "forward", "backward", "time ratio", "peak MiB",
    "of it input", "memory ratio", "spikes",
)  # fmt: skip


def case_table(rows: Sequence[Row]) -> str:
    """All methods on one case, then what was skipped, and where a peer wins."""
    done = [row for row in rows if not row.skipped]
    baseline = next((row for row in done if row.method == BASELINE), None)
    body = []
    for row in done:
        scale = 1e3 / row.case.batch
        forward = median(row.forward) * scale if row.forward else None
        backward = (
            median(t - f for t, f in zip(row.seconds, row.forward, strict=True)) * scale
            if row.forward
            else None
        )
        body.append((
            row.label,
            number(row.ms_per_sample),
            f"{number(min(row.seconds) * scale)}-{number(max(row.seconds) * scale)}",
            "-" if forward is None else number(forward),
            "-" if backward is None else number(backward),
            _ratio(baseline.ms_per_sample, row.ms_per_sample) if baseline else "-",
            number(row.peak_mib),
            number(row.input_mib),
            _ratio(baseline.peak_mib, row.peak_mib) if baseline else "-",
            number(row.spikes),
        ))  # fmt: skip
    title = str(rows[0].case) if rows else ""
    parts = [title, columns(CASE_HEADER, body)]
    parts += [f"{row.label}: {row.remark}" for row in done if row.remark]
    parts += [f"{row.label}: skipped, {row.skipped}" for row in rows if row.skipped]
    parts += verdict(rows)
    return "\n".join(parts)


def verdict(rows: Sequence[Row]) -> list[str]:
    """A line for each figure in which a peer beats a method of ours."""
    done = [row for row in rows if not row.skipped]
    ours = [row for row in done if row.method in OURS]
    peers = [row for row in done if row.method not in OURS]
    lines = []
    for peer in peers:
        for own in ours:
            if peer.ms_per_sample < own.ms_per_sample:
                factor = _ratio(own.ms_per_sample, peer.ms_per_sample)
                lines.append(f"{peer.label} wins: {factor} faster than {own.label}")
            if peer.peak_mib < own.peak_mib:
                factor = _ratio(own.peak_mib, peer.peak_mib)
                lines.append(f"{peer.label} wins: {factor} less memory than {own.label}")
    if ours and peers and not lines:
        lines.append("No peer is faster or takes less memory than a method of ours here.")
    return lines


SWEEP_HEADER = (
    "method", "ms/sample", "vs first", "ns/event", "peak MiB", "MiB/sample", "spikes"
)  # fmt: skip


def sweep_table(sweep: Sweep, rows: Sequence[Row]) -> str:
    """How one method's cost grows, method after method.

    ``ns/event`` divides the time by input events and spikes together.
    """
    body: list[tuple[str, ...]] = []
    firsts: dict[str, float] = {}
    for method in dict.fromkeys(row.method for row in rows):
        for row in (r for r in rows if r.method == method and not r.skipped):
            firsts.setdefault(method, row.ms_per_sample)
            count = row.case.events + row.spikes * row.case.hidden
            body.append((
                row.label,
                f"{getattr(row.case, sweep.varied):,g}",
                number(row.ms_per_sample),
                _ratio(row.ms_per_sample, firsts[method]),
                number(1e6 * row.ms_per_sample / count),
                number(row.peak_mib),
                number(row.peak_mib / row.case.batch),
                number(row.spikes),
            ))  # fmt: skip
    case = sweep.cases[0]
    fixed = {"T": "steps", "H": "hidden", "B": "batch", "events": "events"}
    rest = ", ".join(
        f"{short}={getattr(case, name)}"
        for short, name in fixed.items()
        if all(getattr(other, name) == getattr(case, name) for other in sweep.cases)
    )
    header = (SWEEP_HEADER[0], sweep.varied, *SWEEP_HEADER[1:])
    skipped = [
        f"{row.label}, {sweep.varied} {getattr(row.case, sweep.varied):,g}: skipped, {row.skipped}"
        for row in rows
        if row.skipped
    ]
    return "\n".join([f"{sweep.title} ({rest})", columns(header, body), *skipped])


def figure(
    path: Path, shapes: Sequence[Sequence[Row]], swept: Sequence[tuple[Sweep, Sequence[Row]]]
) -> None:
    """Time (top) and memory (bottom): bars for shapes, lines for sweeps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    count = bool(shapes) + len(swept)
    drawing, axes = pyplot.subplots(
        2, count, figsize=(3.6 * count + 1.2, 6), squeeze=False, layout="constrained"
    )
    methods = [m for m in PEERS if any(r.method == m for rows in shapes for r in rows)]
    methods += [
        m for m in PEERS
        if m not in methods and any(r.method == m for _, rows in swept for r in rows)
    ]  # fmt: skip
    colour = {m: f"C{i}" for i, m in enumerate(PEERS)}
    figures = {
        "ms per sample": lambda row: row.ms_per_sample,
        "peak memory growth, MiB": lambda row: row.peak_mib,
    }
    for axis_row, (name, value) in zip(axes, figures.items(), strict=True):
        panels = iter(axis_row)
        if shapes:
            axis, width = next(panels), 0.8 / max(len(methods), 1)
            for i, method in enumerate(methods):
                bars = [
                    (s + i * width, value(row))
                    for s, rows in enumerate(shapes)
                    for row in rows
                    if row.method == method and not row.skipped
                ]
                if bars:
                    axis.bar(*zip(*bars, strict=True), width, color=colour[method])
            labels = [str(rows[0].case).replace(", ", "\n") for rows in shapes]
            axis.set_xticks([s + 0.4 - width / 2 for s in range(len(shapes))], labels)
            axis.set(yscale="log", ylabel=name, title="shapes")
        for axis, (sweep, rows) in zip(panels, swept, strict=True):
            for method in methods:
                points = [
                    (getattr(row.case, sweep.varied), value(row))
                    for row in rows
                    if row.method == method and not row.skipped
                ]
                if points:
                    axis.plot(*zip(*points, strict=True), "o-", color=colour[method])
            axis.set(xscale="log", yscale="log", xlabel=sweep.varied, ylabel=name)
            axis.set_title(sweep.title, fontsize=9)
    handles = [pyplot.Line2D([], [], color=colour[m], lw=4, label=PEERS[m].label) for m in methods]
    drawing.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False)
    drawing.savefig(path, dpi=150)
    pyplot.close(drawing)
