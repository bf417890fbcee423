"""One epoch of spoken digits: seconds, and how far they are from what memory allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import torch

from .cases import Case, draw_events
from .measure import Progress
from .peers import OURS, PEERS
from .process import WorkerError, WorkerProcess

SAMPLES = 8156  # of SHD's training file


@dataclass
class Epoch:
    """Of one method. ``whole`` is ``steps`` and encoding, transfer and Adam; seconds."""

    method: str
    case: Case
    samples: int
    skipped: str = ""
    steps: float = 0.0
    whole: float = 0.0
    peak_mib: float = 0.0
    spikes: float = 0.0

    @property
    def label(self) -> str:
        return PEERS[self.method].label

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Floor:
    """What an epoch of events has to move and add, whichever way it is done."""

    rows: float  # weight rows read, or read and written back
    gigabytes: float
    gigaflop: float
    gigabytes_per_s: float  # that torch's embedding_bag, which does nothing else, reads
    seconds: float


def epochs(
    case: Case, methods: Sequence[str], samples: int, threads: int, device: str,
    progress: Progress,
) -> list[Epoch]:  # fmt: skip
    """One row per method, one after the other."""
    found = []
    for method in methods:
        progress(f"{case}: an epoch of {samples} samples, {PEERS[method].label}")
        row = Epoch(method, case, samples)
        found.append(row)
        try:
            with WorkerProcess(threads, device) as worker:
                worker.ask("start", method_name=method, threads=threads, device=device)
                row.spikes = worker.ask("build", case=asdict(case))["spikes"]
                answer = worker.ask("epoch", samples=samples)
                row.steps, row.whole = answer["steps"], answer["whole"]
                row.peak_mib = worker.ask("peak")["peak_mib"]
        except WorkerError as error:
            row.skipped = str(error)
    return found


def floor(case: Case, samples: int, spikes: float, threads: int, device: str) -> Floor:
    """The least that event-driven passes do: each event adds a row of H weights to the currents,
    and adds a row of sensitivities to the row of its gradient, which is read and written; each
    spike does both in the recurrent matrix, and sums a row against the sensitivities for its own
    time. Weights are float32.
    """
    events, fired = case.events * samples, spikes * case.hidden * samples
    rows = 3 * events + 4 * fired
    row_bytes = 4 * case.hidden
    bandwidth = _row_bandwidth(case, threads, device)
    flop = case.hidden * (2 * events + 4 * fired)
    return Floor(
        rows, rows * row_bytes / 1e9, flop / 1e9, bandwidth / 1e9, rows * row_bytes / bandwidth
    )


def _row_bandwidth(case: Case, threads: int, device: str) -> float:
    """Bytes of weight rows that torch sums up per second, for the same events."""
    kept = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        events = draw_events(case).to(device)
        weight = torch.randn(case.inputs, case.hidden, device=device)
        best = float("inf")
        for _ in range(6):
            _wait(device)
            start = perf_counter()
            torch.nn.functional.embedding_bag(
                events.units, weight, events.offsets[:-1], mode="sum"
            )
            _wait(device)
            best = min(best, perf_counter() - start)
    finally:
        torch.set_num_threads(kept)
    return events.units.numel() * 4 * case.hidden / best


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def share(row: Epoch, least: Floor) -> float:
    """Of the floor in the seconds of the steps; only for event-driven methods."""
    return least.seconds / row.steps if row.method in OURS and row.steps else float("nan")
