"""What delays cost: steps with and without them, in turn, in one process.

``python -m snn_eventprop.benchmark.delays`` prints medians of processor time, summed over threads,
which other work on the machine lengthens less than it does the time on the clock.
"""

from __future__ import annotations

import argparse

from .calibration import calibrate
from .cases import Case
from .peers.base import TorchNetwork
from .peers.ours import Grid, GridDelays
from .turns import in_turns


def measure(case: Case, repeats: int) -> dict[str, float]:
    """Processor time of a training step in ms per sample, by method."""
    networks: dict[str, TorchNetwork] = {"without": Grid(case), "with": GridDelays(case)}
    for network in networks.values():
        calibrate(network, case)
    return in_turns(networks, case, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64, help="samples (default: 64)")
    parser.add_argument("--repeats", type=int, default=9, help="measured steps (default: 9)")
    args = parser.parse_args()
    case = Case(batch=args.batch)
    found = measure(case, args.repeats)
    print(f"{case}, {GridDelays.remark}; processor time of a training step, ms per sample:")
    print(
        f"without {found['without']:.2f}, with {found['with']:.2f}, "
        f"ratio {found['with'] / found['without']:.2f}"
    )


if __name__ == "__main__":
    main()
