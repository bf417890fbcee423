"""Ask W&B's ``sweeps`` package, without a server, what to try next and what to stop.

Run by ``lightning_modules.sweep`` as a script in an environment of its own, as the package wants an
older NumPy. Reads one JSON object per line, ``{"ask", "config", "runs"}``, and answers each with
one line: to "check" a list of violations of W&B's schema, to "next" the parameters of a run (null:
all are done), to "stop" the numbers of the runs to end early.
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import numpy as np
import sweeps


def answer(ask: str, config: dict[str, Any], runs: list[dict[str, Any]]) -> Any:
    if ask == "check":
        return sweeps.schema_violations_from_proposed_config(config)
    # A sweep that is gone on with draws what it would have drawn.
    random.seed(len(runs))
    np.random.seed(len(runs))  # noqa: NPY002
    known = [sweeps.SweepRun(**run) for run in runs]
    if ask == "stop":
        return [int(run.name) for run in sweeps.stop_runs(config, known)]
    found = sweeps.next_run(config, known)
    return None if found is None else {k: v["value"] for k, v in found.config.items()}


for line in sys.stdin:
    print(json.dumps(answer(**json.loads(line)), default=lambda value: value.item()), flush=True)
