"""Leave-one-speaker-out: ``python -m lightning_modules.crossval``.

For every seed, the network is trained once for each speaker of the training file, with that speaker
held out for validation. The runs choose the number of epochs: the first at which the validation
accuracy, averaged over the held-out speakers, is highest. The network is then trained on all
speakers for that many epochs and tested once. The learning rate keeps the schedule of the full
length, but --model.halve_on_plateau then follows the training accuracy, as there is no validation.
The test file takes no part in any choice, and seeds share nothing.

Every run is a separate process with its own folder under --output. If it is killed, the same
command keeps complete runs and resumes the one that was under way. At the end the folder holds
crossval.json, crossval.md and crossval.png.

Options that are not listed here go to lightning_modules.fit:

    python -m lightning_modules.crossval --seeds 0 1 2 --config shd/headline

Data with their own validation file (SSC) do not need this: fit selects on that file, and
fit --seeds 0 1 2 repeats it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lightning_modules.data.data_files import DataFileError
from lightning_modules.options.early_checks import check

_PROGRAM = "python -m lightning_modules.crossval"


def arguments(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM, description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0],
        help="independent repetitions of the whole protocol (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, default=Path("runs/crossval"), metavar="FOLDER",
        help="where runs and summary go (default: runs/crossval)",
    )  # fmt: skip
    return parser.parse_known_args(args)


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Run what is missing, write the summary, and return what ``crossval.json`` holds."""
    chosen, options = arguments(sys.argv[1:] if args is None else args)
    check(options, usage=f"{_PROGRAM} [options] [options of fit]")
    # Torch and Lightning take seconds to import: only now, with options that make sense.
    from lightning_modules.studies.cross_validation import cross_validate

    try:
        return cross_validate(chosen.seeds, chosen.output, options)
    except (DataFileError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
