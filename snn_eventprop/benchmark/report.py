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

from .cases import Case, Sweep, Weights
from .epoch import Epoch, Floor, share
from .gradients import Distance
from .measure import Row
from .peers import BASELINE, OURS, PEERS
from .startup import Startup

LEGEND = """\
One training step: forward, sum-exp loss, backward; ms per sample, median and range over repeats.
In each repeat the methods take turns of half a second, or one step.
Peak memory: {memory}, input included{warm_up}.
Time and memory ratios: snnTorch over the row. Spikes: per hidden neuron and sample, after each
method's input weights were scaled to {spikes:g}. Input: {events} events per sample over {inputs} \
channels in {duration:g} s."""


def machine(threads: Sequence[int], device: str) -> dict[str, Any]:
    """What the figures were taken on."""
    versions = {}
    names = ("torch", "numba", "numpy", *(peer.install for peer in PEERS.values()))
    for name in dict.fromkeys(names):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cpu_count": os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "threads": list(threads),
        "system": platform.system(),
        "python": platform.python_version(),
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
    device = "" if facts["device"] == "cpu" else f"{facts['device']}; "
    threads = " and ".join(map(str, facts["threads"]))
    load = facts["load_average"]
    busy = "" if load is None else f", {load:.1f} processes were running before"
    return (
        f"{device}{facts['processor']}, {threads} of {facts['cpu_count']} processors{busy}, "
        f"{facts['system']}, Python {facts['python']}\n{versions}"
    )


def legend(rows: Sequence[Row], case: Case) -> str:
    warm_up = any(row.peak_includes_warm_up for row in rows if not row.skipped)
    on_device = any(row.device == "cuda" for row in rows)
    return LEGEND.format(
        memory="growth of what was allocated on the device" if on_device else
        "growth of each method's own process over\nwhat it held before input and network were made",
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
        backward = median(t - f for t, f in zip(row.seconds, row.forward, strict=True))
        body.append((
            row.label,
            number(row.ms_per_sample),
            f"{number(min(row.seconds) * scale)}-{number(max(row.seconds) * scale)}",
            number(median(row.forward) * scale),
            number(backward * scale),
            _ratio(baseline.ms_per_sample, row.ms_per_sample) if baseline else "-",
            number(row.peak_mib),
            number(row.input_mib),
            _ratio(baseline.peak_mib, row.peak_mib) if baseline else "-",
            number(row.spikes),
        ))  # fmt: skip
    title = f"{rows[0].case}, {_workers(rows[0])}" if rows else ""
    parts = [title, columns(CASE_HEADER, body)]
    parts += [f"{row.label}: {row.remark}" for row in done if row.remark]
    parts += [f"{row.label}: skipped, {row.skipped}" for row in rows if row.skipped]
    parts += verdict(rows)
    return "\n".join(parts)


def _workers(row: Row) -> str:
    if row.device == "cuda":
        return "on the GPU"
    return f"{row.threads} thread{'s' * (row.threads > 1)}"


def thread_table(rows: Sequence[Row]) -> str:
    """Each method's time by the number of threads, for one case."""
    done = [row for row in rows if not row.skipped]
    fewest = min(row.threads for row in done)
    first = {row.method: row.ms_per_sample for row in done if row.threads == fewest}
    body = [
        (row.label, str(row.threads), number(row.ms_per_sample),
         _ratio(first[row.method], row.ms_per_sample))
        for row in sorted(done, key=lambda row: (list(PEERS).index(row.method), row.threads))
        if row.method in first
    ]  # fmt: skip
    header = ("method", "threads", "ms/sample", f"over {fewest} thread{'s' * (fewest > 1)}")
    return f"Threads ({rows[0].case})\n" + columns(header, body)


def gradient_table(rows: Sequence[Distance]) -> str:
    """Relative error and cosine against continuous time, by parameter."""
    names = Weights._fields
    header = ("method", "dt, ms", "spikes", *(f"{n} error" for n in names),
              *(f"{n} cosine" for n in names))  # fmt: skip
    body = [
        (row.label, f"{1e3 * row.case.dt:g}", number(row.spikes),
         *(number(row.relative_error[n]) for n in names),
         *(f"{row.cosine[n]:.3f}" for n in names))
        for row in rows if not row.skipped
    ]  # fmt: skip
    left_out = [
        f"{row.label}, dt {1e3 * row.case.dt:g} ms: not compared, {row.skipped}"
        for row in rows if row.skipped
    ]  # fmt: skip
    case = rows[0].case
    title = (
        f"Gradients against the exact solver in float64, same weights and grazing guard "
        f"(H={case.hidden}, B={case.batch}): |g - g*| / |g*| and cosine"
    )
    return "\n".join([title, columns(header, body), *left_out])


def epoch_table(rows: Sequence[Epoch], floors: dict[str, Floor]) -> str:
    """Seconds of an epoch, and the share of the floor."""
    case = rows[0].case
    body = [
        (row.label, number(row.steps), number(row.whole), f"{row.samples / row.whole:,.0f}",
         number(row.peak_mib),
         f"{share(row, floors[row.method]):.0%}" if row.method in floors else "-")
        for row in rows if not row.skipped
    ]  # fmt: skip
    header = ("method", "steps, s", "whole, s", "samples/s", "peak MiB", "of floor")
    lines = [
        f"One epoch: {rows[0].samples:,} samples of {case.events:,} events, {case}, with Adam;\n"
        "whole = steps, and encoding, transfer and the update of the weights",
        columns(header, body),
    ]
    for method, least in floors.items():
        lines.append(
            f"{PEERS[method].label}, floor: {least.rows / 1e6:,.0f} million weight rows, "
            f"{least.gigabytes:,.0f} GB and {least.gigaflop:,.0f} GFLOP; at the "
            f"{least.gigabytes_per_s:,.0f} GB/s at which torch's embedding_bag sums such rows, "
            f"{number(least.seconds)} s"
        )
    lines += [f"{row.label}: skipped, {row.skipped}" for row in rows if row.skipped]
    return "\n".join(lines)


def startup_table(rows: Sequence[Startup]) -> str:
    """Import and first step."""
    header = ("seconds", "kernels", "import torch", "import ours", "first step", "its CPU time")
    body = [
        (PEERS[row.method].label, "cached" if row.cached else "compiled", number(row.torch),
         number(row.package), number(row.first), number(row.cpu))
        for row in rows
    ]  # fmt: skip
    return "First use in a new process\n" + columns(header, body)


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
    path: Path,
    shapes: Sequence[Sequence[Row]],
    swept: Sequence[tuple[Sweep, Sequence[Row]]],
    distances: Sequence[Distance],
) -> None:
    """Time (top) and memory (bottom): bars for shapes, lines for sweeps. With gradients a last
    column: their relative error and cosine."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    count = bool(shapes) + len(swept) + bool(distances)
    drawing, axes = pyplot.subplots(
        2, count, figsize=(3.6 * count + 1.2, 6), squeeze=False, layout="constrained"
    )
    methods = [m for m in PEERS if any(r.method == m for rows in shapes for r in rows)]
    methods += [
        m for m in PEERS
        if m not in methods and any(r.method == m for _, rows in swept for r in rows)
    ]  # fmt: skip
    methods += [
        m for m in PEERS if m not in methods and any(row.method == m for row in distances)
    ]
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
            labels = [f"{rows[0].case}, {_workers(rows[0])}".replace(", ", "\n") for rows in shapes]
            axis.set_xticks([s + 0.4 - width / 2 for s in range(len(shapes))], labels)
            axis.set(yscale="log", ylabel=name, title="shapes")
        for axis, (sweep, rows) in zip(panels, swept, strict=False):
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
    if distances:
        _gradient_panels(axes[0][-1], axes[1][-1], methods, colour, distances)
    handles = [pyplot.Line2D([], [], color=colour[m], lw=4, label=PEERS[m].label) for m in methods]
    drawing.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False)
    drawing.savefig(path, dpi=150)
    pyplot.close(drawing)


def _gradient_panels(
    top: Any, bottom: Any, methods: Sequence[str], colour: dict[str, str],
    distances: Sequence[Distance],
) -> None:  # fmt: skip
    """Of the input weights, against dt."""
    for method in methods:
        rows = [row for row in distances if row.method == method and not row.skipped]
        if rows:
            dt = [1e3 * row.case.dt for row in rows]
            top.plot(dt, [row.relative_error["input"] for row in rows], "o-", color=colour[method])
            bottom.plot(dt, [row.cosine["input"] for row in rows], "o-", color=colour[method])
    top.set(xscale="log", yscale="log", xlabel="dt, ms", ylabel="relative error")
    top.set_title("gradient of the input weights\nagainst continuous time", fontsize=9)
    bottom.set(xscale="log", xlabel="dt, ms", ylabel="cosine")
