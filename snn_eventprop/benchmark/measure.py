"""Methods side by side: one process each, told to take their steps in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from .cases import Case
from .peers import PEERS

Progress = Callable[[str], None]
_PACKAGE_ROOT = Path(__file__).parents[2]


@dataclass
class Row:
    """What was measured of one method on one case; ``skipped`` says why nothing was."""

    method: str
    case: Case
    skipped: str = ""
    remark: str = ""
    seconds: list[float] = field(default_factory=list)  # whole steps
    forward: list[float] = field(default_factory=list)  # their part until the loss, if known
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


class WorkerError(RuntimeError):
    """A worker could not do what it was asked for."""


class _Process:
    """The other end of ``worker.serve``."""

    def __init__(self, threads: int) -> None:
        environment = dict(os.environ)
        paths = [str(_PACKAGE_ROOT), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
            environment[name] = str(threads)
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env=environment,
        )  # fmt: skip

    def send(self, do: str, **arguments: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # receive says how it died

    def receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._death())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.send(do, **arguments)
        return self.receive()

    def _death(self) -> str:
        code = self._process.wait()
        if code == -9:
            return "killed, most likely for want of memory"
        self._errors.seek(0)
        lines = [line for line in self._errors.read().splitlines() if line.strip()]
        return f"its process ended with status {code}: {lines[-1] if lines else 'no message'}"

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()


def missing(methods: Sequence[str]) -> dict[str, str]:
    """Why methods cannot run, for those whose library is not installed."""
    return {
        method: f"not installed (pip install {PEERS[method].install})"
        for method in methods
        if not PEERS[method].installed()
    }


def measure(
    case: Case, methods: Sequence[str], repeats: int, threads: int, progress: Progress
) -> list[Row]:
    """One row per method. A method that fails is skipped, with the reason in its row.

    Each repeat takes one step of every method, in turn: whatever slows the machine for a while
    slows all of them.
    """
    rows = {method: Row(method, case) for method in methods}
    for method in methods:
        too_much = _elsewhere(case, method) or _too_much(case, method)
        if too_much:
            rows[method].skipped = too_much
    running: dict[str, _Process] = {}

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
                running[method] = _Process(threads)
        for method in list(running):
            progress(f"{case}: starting {PEERS[method].label}")
            ask(method, "start", method=method, threads=threads, device=case.device)
        for method in list(running):
            progress(f"{case}: warming up {PEERS[method].label}")
            built = ask(method, "build", case=asdict(case))
            for name, value in built.items():
                setattr(rows[method], name, value)
        for repeat in range(repeats):
            for method in list(running):
                progress(f"{case}: step {repeat + 1} of {repeats}, {PEERS[method].label}")
                step = ask(method, "step")
                if step:
                    rows[method].seconds.append(step["total"])
                    if step["forward"] is not None:
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


def _elsewhere(case: Case, method: str) -> str:
    """Says so where a method is not measured on the device of a case."""
    devices = PEERS[method].devices
    return "" if case.device in devices else f"is measured on {' and '.join(devices)} alone"


def _too_much(case: Case, method: str) -> str:
    """Says so where a case would not fit into memory, by a generous estimate."""
    if case.device != "cpu":
        return ""
    available = _available_memory()
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
