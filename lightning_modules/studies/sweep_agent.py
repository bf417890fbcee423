"""The commands that an agent of W&B would run for a sweep, and their environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wandb.sdk.launch.sweeps import utils as agent

PARAMETERS = "parameters.yaml"
_SWEEP_ID = "local"


def with_configs(config: Mapping[str, Any], files: Sequence[str]) -> dict[str, Any]:
    """The sweep with configurations in its command ahead of what it tries, as in docs/sweeps.md."""
    command = agent.create_sweep_command(list(config.get("command") or []))
    place = command.index("${args}") if "${args}" in command else len(command)
    command[place:place] = [word for file in files for word in ("--config", file)]
    return {**config, "command": command}


def agent_command(config: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[str]:
    """The command line that ``wandb agent`` makes of a sweep's ``command`` and parameters."""
    values = agent.create_sweep_command_args(
        {"args": {name: {"value": value} for name, value in parameters.items()}}
    )
    values |= {"interpreter": ["python"], "program": [config["program"]]}
    values["env"] = ["/usr/bin/env"] if os.name == "posix" else []
    command: list[str] = []
    for word in map(str, agent.create_sweep_command(list(config.get("command") or []))):
        macro = word[2:-1] if word.startswith("${") and word.endswith("}") else None
        command += [word] if macro is None else values.get(macro, [])
    return command


def environment(folder: Path) -> dict[str, str]:
    """The variables that an agent sets for a run, without W&B's server."""
    mode = "offline" if os.environ.get("WANDB_MODE") == "offline" else "disabled"
    return {
        "WANDB_SWEEP_ID": _SWEEP_ID, "WANDB_RUN_ID": f"{_SWEEP_ID}-{folder.name}",
        "WANDB_SWEEP_PARAM_PATH": str(folder / PARAMETERS), "WANDB_MODE": mode,
        # So that "python" in the command is the interpreter that runs this.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }  # fmt: skip
