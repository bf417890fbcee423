"""W&B's ``sweeps`` package, which decides what to try next, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def proposer() -> Iterator[Any]:
    """A function ``ask(what, config, runs)`` that W&B's package answers, in a process of its own.

    Raises:
        SystemExit: there is no uv, or the package cannot be installed.
    """
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        sys.exit("error: W&B's sweeps package runs in an environment that uv makes: pip install uv")
    command = [uv, "run", "--quiet", "--isolated", "--no-project", "--python", sys.executable]
    command += ["--with", "sweeps", "python", "-W", "ignore"]
    command += [str(Path(__file__).with_name("sweep_proposals.py"))]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,  # Ctrl-C is for the runs
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None

    def ask(what: str, config: Mapping[str, Any], runs: Sequence[Mapping[str, Any]] = ()) -> Any:
        assert process.stdin is not None and process.stdout is not None
        question = json.dumps({"ask": what, "config": config, "runs": list(runs)})
        try:
            print(question, file=process.stdin, flush=True)
        except BrokenPipeError:
            pass
        said = process.stdout.readline()
        if not said:
            sys.exit(
                "error: W&B's sweeps package ended (see above); to install it the first time, uv "
                "needs a network"
            )
        return json.loads(said)

    try:
        yield ask
    finally:
        process.stdin.close()
        process.wait()
