"""What a training step costs, fitted: ``python -m snn_eventprop.benchmark.cost_model``.

Processor seconds per sample of a layer of H neurons that reads S events and emits K spikes in T
bins are taken for a sum of terms (``TERMS``), the bytes of a batch for a sum of W, the bytes of
all weights, and of the S and K of all samples. Both are fitted by least squares of relative errors
to measured steps of ``python -m snn_eventprop.benchmark``'s network; a term that comes out
negative is left out. Layers add up: the spikes of one are the events of the next.

Processor time, of all threads together, since other programs prolong it less than the clock's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .cases import Case
from .epoch import SAMPLES
from .measure import Progress
from .peers import PEERS
from .process import WorkerProcess
from .report import columns, describe_machine, machine, number

SSC_SAMPLES = 75_466  # of its training file


@dataclass(frozen=True)
class Load:
    """What a layer has to do for one sample."""

    events: float  # S
    spikes: float  # K, of all neurons
    neurons: float  # H
    bins: float  # T; the exact solver has none
    recurrent: bool = True
    inputs: float = 700  # units that the events are on
    batch: int = 1  # samples that memory is shared by


Terms = dict[str, Callable[[Load], float]]
TERMS: Terms = {
    "S": lambda x: x.events,
    "S H": lambda x: x.events * x.neurons,
    "K": lambda x: x.spikes,
    "K H (recurrent)": lambda x: x.spikes * x.neurons * x.recurrent,
    "T": lambda x: x.bins,
    "T H": lambda x: x.bins * x.neurons,
}
BYTES: Terms = {
    "W": lambda x: 4 * x.neurons * (x.inputs + x.neurons * x.recurrent),
    "S": lambda x: x.batch * x.events,
    "K": lambda x: x.batch * x.spikes,
}


@dataclass
class Point:
    """One measured case: processor seconds per sample (least of the repeats), bytes in all."""

    case: Case
    load: Load
    seconds: float
    bytes: float


@dataclass
class Fit:
    """Coefficients, by term, and the relative error of each point."""

    coefficients: dict[str, float]
    residuals: list[float]

    def __call__(self, load: Load, terms: Terms) -> float:
        return sum(c * terms[name](load) for name, c in self.coefficients.items())


def cases(quick: bool = False) -> list[Case]:
    """Around SHD's shape, one quantity at a time and some together."""
    base = Case(steps=1000, hidden=256, batch=64)
    varied = [
        {}, {"hidden": 64}, {"hidden": 1024, "batch": 16}, {"events": 1000}, {"events": 24_000},
        {"spikes": 3.0}, {"spikes": 40.0}, {"steps": 100}, {"steps": 4000},
        {"hidden": 64, "steps": 4000, "events": 2000}, {"hidden": 1024, "steps": 100, "batch": 16},
        {"hidden": 512, "spikes": 30.0, "events": 2000}, {"hidden": 64, "spikes": 40.0},
    ]  # fmt: skip
    if quick:
        base, varied = replace(base, batch=8), varied[:8]
    return [replace(base, **change) for change in varied]  # type: ignore[arg-type]


def measure(
    method: str, chosen: Sequence[Case], repeats: int, threads: int, progress: Progress
) -> list[Point]:
    """A process for each case, so that none has memory left from another."""
    found = []
    for case in chosen:
        progress(f"{PEERS[method].label}: {case}, {case.events} events, {case.spikes} spikes")
        with WorkerProcess(threads, "cpu") as worker:
            worker.ask("start", method_name=method, threads=threads, device="cpu")
            built = worker.ask("build", case=asdict(case))
            seconds = min(worker.ask("turn")["processor"] for _ in range(repeats)) / case.batch
            peak = worker.ask("peak")["peak_mib"] * 2**20
            bins = 0 if method == "exact" else case.steps
            load = Load(
                case.events, built["spikes"] * case.hidden, case.hidden, bins, batch=case.batch
            )
            found.append(Point(case, load, seconds, peak))
    return found


def fit(points: Sequence[Point], values: Sequence[float], terms: Terms) -> Fit:
    """Least squares of relative errors, over the terms whose coefficients are positive."""
    target = np.asarray(values)
    names = [name for name in terms if any(terms[name](p.load) for p in points)]
    while True:
        rows = np.array([[terms[name](p.load) for name in names] for p in points])
        scaled = rows / target[:, None]
        size = np.abs(scaled).max(axis=0)
        solved, *_ = np.linalg.lstsq(scaled / size, np.ones(len(points)), rcond=None)
        solved = solved / size
        if len(names) == 1 or (solved > 0).all():
            break
        names.pop(int(np.argmin(solved * size)))
    residuals = (rows @ solved / target - 1).tolist()
    return Fit(dict(zip(names, solved.tolist(), strict=True)), residuals)


def _describe(method: str, points: Sequence[Point], time: Fit, memory: Fit) -> str:
    body = [
        (str(p.case), f"{p.case.events:,}", f"{p.load.spikes:,.0f}", number(1e3 * p.seconds),
         f"{error:+.0%}", number(p.bytes / 2**20), f"{memory_error:+.0%}")
        for p, error, memory_error in zip(points, time.residuals, memory.residuals, strict=True)
    ]  # fmt: skip
    header = ("case", "S", "K", "CPU ms/sample", "fit off by", "MiB", "fit off by")
    nanoseconds = ", ".join(f"{1e9 * c:.3g} {name}" for name, c in time.coefficients.items())
    size = ", ".join(f"{c:.3g} {name}" for name, c in memory.coefficients.items())
    off = [
        f"{float(np.sqrt(np.mean(np.square(found.residuals)))):.0%} (root mean square), "
        f"{max(map(abs, found.residuals)):.0%} at most"
        for found in (time, memory)
    ]
    return (
        f"{PEERS[method].label}\n{columns(header, body)}\n"
        f"ns per sample   = {nanoseconds}\n  off by {off[0]}\n"
        f"bytes per batch = {size}\n  off by {off[1]}"
    )


def extrapolate(method: str, time: Fit, memory: Fit) -> list[tuple[str, ...]]:
    """Outside of what was measured; each row says what it is of."""
    bins = 0 if method == "exact" else 1000
    million = 1_000_000
    spikes = 13 * 512
    wanted = {
        f"SHD, an epoch of {SAMPLES:,}, 256 recurrent, batch 32": (
            [Load(8000, 13 * 256, 256, bins, batch=32)], SAMPLES),
        f"SSC, an epoch of {SSC_SAMPLES:,}, 2 x 512 recurrent, batch 32": (
            [Load(8000, spikes, 512, bins, batch=32),
             Load(spikes, spikes, 512, bins, inputs=512, batch=32)], SSC_SAMPLES),
        "one sample, 10,000 recurrent": ([Load(8000, 13e4, 1e4, bins)], 1),
        "one sample, 1,000,000 feed-forward": (
            [Load(8000, 13 * million, million, bins, recurrent=False)], 1),
    }  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for name, (layers, samples) in wanted.items():
        seconds = sum(time(layer, TERMS) for layer in layers) * samples
        size = sum(memory(layer, BYTES) for layer in layers)
        rows.append((name, f"{number(seconds)} s", f"{number(size / 2**20)} MiB"))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, fit, print; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m snn_eventprop.benchmark.cost_model", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    solvers = ("grid", "exact")
    parser.add_argument("--methods", nargs="+", choices=solvers, default=solvers)
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument("--repeats", type=int, default=15, help="the least counts (default: 15)")
    parser.add_argument("--quick", action="store_true", help="fewer cases, few samples")
    parser.add_argument("--json", type=Path, metavar="FILE", help="points and coefficients")
    args = parser.parse_args(arguments)
    facts = machine([args.threads], "cpu")
    print(describe_machine(facts) + "\n", flush=True)
    found: dict[str, Any] = {"machine": facts}

    def progress(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    for method in args.methods:
        points = measure(method, cases(args.quick), args.repeats, args.threads, progress)
        time = fit(points, [p.seconds for p in points], TERMS)
        memory = fit(points, [p.bytes for p in points], BYTES)
        print(_describe(method, points, time, memory))
        header = ("extrapolated", "time", "memory of a batch")
        print(columns(header, extrapolate(method, time, memory)) + "\n", flush=True)
        found[method] = {
            "points": [asdict(p) for p in points], "time": asdict(time), "memory": asdict(memory)
        }  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
