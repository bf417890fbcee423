"""Train the reference network: ``python -m lightning_modules.fit [options]``.

Without options it trains on the embedded spoken digits, as ``configs/default.yaml`` says.
Everything the run makes lies in one folder, ``runs/0001`` and so on: checkpoints, ``config.yaml``,
``metrics.csv``, ``results.json`` and figures.
"""

from __future__ import annotations

import sys

from lightning_modules.data.data_files import DataFileError
from lightning_modules.options.early_checks import check
from lightning_modules.run.atomic_files import WriteError
from lightning_modules.run.folder import resumed


def main(args: list[str] | None = None) -> dict[str, float]:
    """Train, test and print the summary; the numbers in it are returned."""
    stated = sys.argv[1:] if args is None else args
    check(stated, description=__doc__)
    try:
        arguments = resumed(stated)
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    # Torch and Lightning take seconds to import: only now, with options that make sense.
    from lightning_modules.run.checkpoints import CheckpointError
    from lightning_modules.run.cli import FitCLI
    from lightning_modules.run.loggers import with_folders
    from lightning_modules.run.quiet import quiet
    from lightning_modules.run.training import train
    from lightning_modules.studies import seed_repeats

    quiet()
    arguments = with_folders(arguments)
    try:
        if chosen := seed_repeats.chosen(arguments):
            return seed_repeats.train(*chosen)
        return train(FitCLI(arguments))
    except WriteError as error:
        sys.exit(f"error: {error} (--ckpt_path last resumes a run)")
    except (CheckpointError, DataFileError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
