"""How fast batches are loaded: ``python -m lightning_modules.data.benchmark``.

Each row loads random samples of the size of SHD's (700 channels, about 8,000 events in 1 s). It
prints samples per second, and samples per second of processor time, which other programs disturb
less.
"""

from __future__ import annotations

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=2000, help="size of the data set")
    parser.add_argument("--events", type=int, default=8000, help="mean events per sample")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2], metavar="N", help="threads of the loader"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="measured time per row")
    options = parser.parse_args()
    # Torch takes seconds to import: only now, with options that make sense.
    from lightning_modules.data.loading_speed import measure

    measure(**vars(options))


if __name__ == "__main__":
    main()
