"""What delays cost: steps with and without them, in turn, in one process.

``python -m snn_eventprop.benchmark.delays`` prints medians of processor time, summed over threads,
which other work on the machine lengthens less than it does the time on the clock.
"""

from __future__ import annotations

import argparse
from statistics import median
from time import process_time

from .cases import Case, draw_events, draw_targets
from .peers.base import TorchNetwork
from .peers.ours import Grid, GridDelays
from .worker import calibrate


def measure(case: Case, repeats: int) -> dict[str, float]:
    """Processor time of a training step in ms per sample, by method."""
    events, target = draw_events(case), draw_targets(case)
    networks: dict[str, TorchNetwork] = {"without": Grid(case), "with": GridDelays(case)}
    for network in networks.values():
        calibrate(network, network.encode(events[: min(case.batch, 8)]), case.spikes)
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for repeat in range(repeats + 1):
        for name, network in networks.items():
            start = process_time()
            network.step(network.encode(events), target)
            if repeat:  # the first one warms up
                seconds[name].append(process_time() - start)
    return {name: 1e3 * median(found) / case.batch for name, found in seconds.items()}


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
