"""Train the same network by several methods: ``python -m lightning_modules.compare``.

Every method starts from the same weights and sees the same batches. Each run is a separate process
with its own folder under --output. Complete runs are not repeated, and an interrupted one is
resumed. After each run the folder holds report.html, compare.csv and the figures. Training seconds
include loading, validation and checkpoints, but neither compilation nor the comparison of
gradients. Peak memory includes that comparison.

A method is a name, with a bin width after an @ where it differs from the configured one:
grid, exact (EventProp); snntorch, norse (surrogate gradients); eprop, eprop-random; paralif.
Options that are not listed here go to lightning_modules.fit:

    python -m lightning_modules.compare --methods grid grid@5ms snntorch@5ms \\
        --trainer.max_epochs 60 --data.root data/de
"""

from __future__ import annotations

import argparse
import io
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import NamedTuple

from lightning_modules.methods import METHODS
from lightning_modules.options.early_checks import check

_PROGRAM = "python -m lightning_modules.compare"
_SOLVERS = ("grid", "exact")
_NAMES = (*_SOLVERS, *METHODS[1:])


class Entry(NamedTuple):
    """One method of the comparison, and the options with which fit uses it."""

    name: str
    label: str
    options: list[str]


def entry(text: str) -> Entry:
    """The method that ``text`` names: NAME or NAME@DT, DT in s or, with the suffix ms, in ms."""
    name, _, width = text.partition("@")
    if name not in _NAMES:
        raise argparse.ArgumentTypeError(
            f"no method {name!r}; there are {', '.join(_NAMES)}, each with a bin width after an @ "
            "if need be (grid@5ms)"
        )
    method = "eventprop" if name in _SOLVERS else name
    options = ["--model.method", method]
    options += ["--model.network.solver", name if name in _SOLVERS else "grid"]
    label = f"EventProp, {name}" if name in _SOLVERS else name
    if width:
        try:
            dt = float(width[:-2]) / 1e3 if width.endswith("ms") else float(width)
        except ValueError:
            dt = -1.0
        if not dt > 0:
            raise argparse.ArgumentTypeError(
                f"{text}: the bin width after @ must be a positive number of seconds (5e-3) or "
                "milliseconds (5ms)"
            )
        options += ["--model.network.dt", repr(dt)]
        label += f", {dt * 1e3:g} ms"
    return Entry(text, label, options)


def arguments(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--methods", type=entry, nargs="+", metavar="METHOD",
        default=[entry(name) for name in ("grid", "exact", "snntorch", "norse")],
        help="which ones (default: grid exact snntorch norse)",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="runs of each (default: 0 1 2)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/compare"), metavar="FOLDER",
        help="where runs and report go (default: runs/compare)",
    )  # fmt: skip
    parser.add_argument(
        "--similarity", type=int, default=1, metavar="EPOCHS",
        help="epochs between two comparisons of the gradient with the exact one, which does not "
        "exist for networks with delays; 0: none (default: 1)",
    )  # fmt: skip
    return parser.parse_known_args(args)


def _has_delays(options: list[str]) -> bool:
    """Whether these options of fit make a network with delays; False if fit refuses them."""
    from lightning_modules.run.cli import FitCLI
    from lightning_modules.run.loggers import with_folders
    from lightning_modules.run.quiet import quiet

    class Parsed(FitCLI):
        """Reads the options as fit does, and makes nothing."""

        def instantiate_classes(self) -> None:
            pass

    quiet()
    try:
        with redirect_stderr(io.StringIO()):
            config = Parsed(with_folders(options)).config
    except SystemExit:
        return False
    return config.model.network.max_delay is not None


def main(args: list[str] | None = None) -> Path:
    """Run what is missing, write the report, and return its path."""
    chosen, options = arguments(sys.argv[1:] if args is None else args)
    check(options, usage=f"{_PROGRAM} [options] [options of fit]")
    # Torch and Lightning take seconds to import: only now, with options that make sense.
    from rich.console import Console

    from lightning_modules.run.summary import console
    from lightning_modules.studies import run_queue
    from lightning_modules.studies.comparison_report import MEASURED, write_report
    from lightning_modules.studies.finished_runs import Run

    if chosen.similarity and _has_delays(options):
        print("the exact solver has no delays: gradients are not compared with the exact one")
    elif chosen.similarity:
        options += [
            "--trainer.callbacks+=lightning_modules.studies.similarity.GradientSimilarity",
            f"--trainer.callbacks.every={chosen.similarity}",
        ]
    plan = [(method, seed) for seed in chosen.seeds for method in chosen.methods]
    jobs = [
        run_queue.Job(
            f"{method.name}, seed {seed}", chosen.output / method.name / str(seed),
            [*options, *method.options, "--seed_everything", str(seed)],
        )
        for method, seed in plan
    ]
    runs: list[Run] = []
    report = chosen.output / "report.html"
    for (method, seed), (job, results) in zip(plan, run_queue.finished(jobs), strict=True):
        runs.append(Run(method.label, seed, job.folder, results))
        write_report(runs, chosen.output, options)
    wide = console if console.is_terminal else Console(width=120)
    wide.print(write_report(runs, chosen.output, options))
    wide.print(MEASURED, style="dim")
    print(f"report: {report}")
    return report


if __name__ == "__main__":
    main()
