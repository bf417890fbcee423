"""Search for good options on this machine alone: ``python -m lightning_modules.sweep NAME``.

NAME is a shipped sweep (grid, random, bayes) or a YAML file in the format of W&B's sweeps. W&B's
own ``sweeps`` package decides what to try next and what to stop early. It needs no account and runs
in a separate environment, which uv makes once. Every run is the command that an agent of W&B would
run, in its own folder under --output. Started again, the same command keeps complete runs and
resumes. At the end the folder holds sweep.csv.

Options that are not listed here go to lightning_modules.fit:

    python -m lightning_modules.sweep bayes --count 20 --trainer.max_epochs 50 --data.root data/de

For many machines: docs/sweeps.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.options.config_files import SWEEPS, config_folder
from lightning_modules.options.early_checks import check
from lightning_modules.options.suggestions import meant

_PROGRAM = "python -m lightning_modules.sweep"


def arguments(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM, description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("name", metavar="NAME", type=sweep_file, help="shipped sweep, or a file")
    parser.add_argument(
        "--count", type=int, default=20, help="runs in all; a grid may end before (default: 20)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="where runs go (default: runs/sweep_NAME)"
    )
    parser.add_argument(
        "-c", "--config", action="append", default=[],
        help="as for fit; what the sweep tries overrides it",
    )
    parser.add_argument(
        "--path", action="store_true", help="print the path of the file, for `wandb sweep`, and end"
    )
    return parser.parse_known_args(args)


def sweep_file(name: str) -> Path:
    """The YAML file of a sweep: a path, or the name of a shipped one."""
    shipped = config_folder() / SWEEPS
    for path in (Path(name), shipped / f"{Path(name).name.removesuffix('.yaml')}.yaml"):
        if path.is_file():
            return path
    names = sorted(path.stem for path in shipped.glob("*.yaml"))
    raise argparse.ArgumentTypeError(
        f"no file {name!r} and no shipped sweep; there are {', '.join(names)}; {meant(name, names)}"
        .rstrip("; ")
    )


def main(args: list[str] | None = None) -> Any:
    """Run what is missing, write the summary, and return the best trial."""
    chosen, options = arguments(sys.argv[1:] if args is None else args)
    if chosen.path:
        print(chosen.name)
        return None
    configs = [word for name in chosen.config for word in ("--config", name)]
    check([*configs, *options], usage=f"{_PROGRAM} NAME [options] [options of fit]")
    # W&B and torch take seconds to import: only now, with options that make sense.
    from lightning_modules.studies.sweep_agent import with_configs
    from lightning_modules.studies.sweep_trials import summarise, trials

    config = with_configs(yaml.safe_load(chosen.name.read_text(encoding="utf-8")), chosen.config)
    output = chosen.output or Path("runs") / f"sweep_{chosen.name.stem}"
    return summarise(trials(config, chosen.count, output, options), config, output)


if __name__ == "__main__":
    main()
