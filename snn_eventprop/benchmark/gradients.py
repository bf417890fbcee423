"""How far each method's gradient is from that of continuous time."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .cases import Case, Weights
from .measure import Progress
from .peers import PEERS, REFERENCE
from .process import WorkerError, WorkerProcess


@dataclass
class Distance:
    """Of one method on one case, by parameter (``Weights``' names)."""

    method: str
    case: Case
    skipped: str = ""
    spikes: float = 0.0  # per hidden neuron and sample
    relative_error: dict[str, float] = field(default_factory=dict)  # |g - g*| / |g*|
    cosine: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return PEERS[self.method].label

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def distances(
    cases: Sequence[Case], methods: Sequence[str], threads: int, device: str, progress: Progress
) -> list[Distance]:
    """Each method on each case, with the weights of the exact solver in float64.

    These are calibrated to ``case.spikes`` in continuous time, on the CPU; every method gets the
    same.
    """
    found = []
    references: dict[Case, tuple[float, dict[str, Tensor]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gradients.pt"

        def run(method: str, case: Case, gain: float | None, where: str) -> dict[str, Any]:
            with WorkerProcess(threads, where) as worker:
                worker.ask("start", method_name=method, threads=threads, device=where)
                built = worker.ask("build", case=asdict(case), gain=gain)
                return built | worker.ask("gradients", path=str(path))

        for case in cases:
            timeless = replace(case, steps=1000)
            if timeless not in references:
                progress(f"{case}: gradient in continuous time")
                gain = run(REFERENCE, timeless, None, "cpu")["gain"]
                references[timeless] = gain, torch.load(path)
            gain, exact = references[timeless]
            for method in methods:
                progress(f"{case}: gradient of {PEERS[method].label}")
                row = Distance(method, case)
                found.append(row)
                try:
                    answer = run(method, case, gain, device)
                except WorkerError as error:
                    row.skipped = str(error)
                    continue
                row.spikes = answer["spikes"]
                row.skipped = answer.get("differs", "")
                if not row.skipped:
                    _compare(row, torch.load(path), exact)
    return found


def _compare(row: Distance, ours: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    for name in Weights._fields:
        one, other = ours[name].flatten(), exact[name].flatten()
        row.relative_error[name] = float((one - other).norm() / other.norm())
        row.cosine[name] = float(torch.nn.functional.cosine_similarity(one, other, dim=0))
