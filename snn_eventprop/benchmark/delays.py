"""What delays cost: steps with and without them, in turn, in one process.

``python -m snn_eventprop.benchmark.delays`` prints medians of processor time, summed over threads,
which other work on the machine lengthens less than it does the time on the clock.
"""

from __future__ import annotations

import argparse

from .cases import Case, draw_events
from .peers.base import TorchNetwork
from .peers.ours import Grid, GridDelays
from .turns import in_turns
from .worker import calibrate


def measure(case: Case, repeats: int) -> dict[str, float]:
    """Processor time of a training step in ms per sample, by method."""
    few = draw_events(case)[: min(case.batch, 8)]
    networks: dict[str, TorchNetwork] = {"without": Grid(case), "with": GridDelays(case)}
    for network in networks.values():
        calibrate(network, network.encode(few), case.spikes)
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
