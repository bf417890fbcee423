"""A script that asks W&B's ``sweeps`` package, without a server, what to try next and what to stop.

It runs in a separate environment, since the package needs an older NumPy. It reads one JSON object
per line, ``{"ask", "config", "runs"}``, and answers with one line: for "check" a list of violations
of W&B's schema, for "next" the parameters of a run (null: all are done), for "stop" the numbers of
the runs to end early.
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
    # A resumed sweep draws what it would have drawn.
    random.seed(len(runs))
    np.random.seed(len(runs))  # noqa: NPY002
    known = [sweeps.SweepRun(**run) for run in runs]
    if ask == "stop":
        return [int(run.name) for run in sweeps.stop_runs(config, known)]
    found = sweeps.next_run(config, known)
    return None if found is None else {k: v["value"] for k, v in found.config.items()}


for line in sys.stdin:
    print(json.dumps(answer(**json.loads(line)), default=lambda value: value.item()), flush=True)
