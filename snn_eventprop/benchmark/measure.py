"""Methods side by side: one process each, told to take steps in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch

from .cases import Case
from .peers import PEERS
from .process import WorkerError, WorkerProcess

Progress = Callable[[str], None]


@dataclass
class Row:
    """What was measured of one method on one case; ``skipped`` says why nothing was."""

    method: str
    case: Case
    threads: int
    device: str
    skipped: str = ""
    remark: str = ""
    seconds: list[float] = field(default_factory=list)  # whole steps
    forward: list[float] = field(default_factory=list)  # their part until the loss
    peak_mib: float = 0.0
    input_mib: float = 0.0
    peak_includes_warm_up: bool = False
    spikes: float = 0.0  # per hidden neuron and sample
    gain: float = 1.0

    @property
    def label(self) -> str:
        return PEERS[self.method].label

    @property
    def ms_per_sample(self) -> float:
        """Median."""
        return 1e3 * median(self.seconds) / self.case.batch

    def as_json(self) -> dict[str, Any]:
        result = asdict(self)
        if not self.skipped:
            result["ms_per_sample"] = self.ms_per_sample
        return result


def missing(methods: Sequence[str]) -> dict[str, str]:
    """Why methods cannot run, for those whose library is not installed."""
    return {
        method: f"not installed (pip install {PEERS[method].install})"
        for method in methods
        if not PEERS[method].installed()
    }


def measure(
    case: Case, methods: Sequence[str], repeats: int, threads: int, device: str,
    progress: Progress,
) -> list[Row]:  # fmt: skip
    """One row per method. A method that fails is skipped, with the reason in its row.

    In each repeat every method takes its turn, of half a second or one step: whatever slows the
    machine for a while slows all of them.
    """
    rows = {method: Row(method, case, threads, device) for method in methods}
    for method in methods:
        rows[method].skipped = _too_much(case, method, device)
    running: dict[str, WorkerProcess] = {}

    def ask(whom: str, do: str, /, **arguments: Any) -> dict[str, Any]:
        try:
            return running[whom].ask(do, **arguments)
        except WorkerError as error:
            rows[whom].skipped = str(error)
            running.pop(whom).close()
            return {}

    try:
        for method in methods:
            if not rows[method].skipped:
                running[method] = WorkerProcess(threads, device)
        for method in list(running):
            progress(f"{case}: starting {PEERS[method].label}")
            ask(method, "start", method_name=method, threads=threads, device=device)
        for method in list(running):
            progress(f"{case}: warming up {PEERS[method].label}")
            built = ask(method, "build", case=asdict(case))
            for name, value in built.items():
                setattr(rows[method], name, value)
        for repeat in range(repeats):
            for method in list(running):
                progress(f"{case}: turn {repeat + 1} of {repeats}, {PEERS[method].label}")
                step = ask(method, "turn")
                if step:
                    rows[method].seconds.append(step["total"])
                    rows[method].forward.append(step["forward"])
        for method in list(running):
            peak = ask(method, "peak")
            if peak:
                rows[method].peak_mib = peak["peak_mib"]
                rows[method].peak_includes_warm_up = peak["includes_warm_up"]
    finally:
        for process in running.values():
            process.close()
    return list(rows.values())


def _too_much(case: Case, method: str, device: str) -> str:
    """Says so where a case would not fit into memory, by a generous estimate."""
    available = torch.cuda.mem_get_info()[0] if device == "cuda" else _available_memory()
    events = 60 * case.batch * (case.events + case.hidden * case.spikes)
    raster = 4 * case.batch * case.steps * (2 * case.inputs + 16 * case.hidden)
    needed = events + raster * PEERS[method].dense
    if available is None or needed < 0.8 * available:
        return ""
    gib = 2**30
    return f"needs about {needed / gib:.0f} GiB, of which {available / gib:.0f} GiB are free"


def _available_memory() -> int | None:
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
