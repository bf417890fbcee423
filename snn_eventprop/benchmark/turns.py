"""Steps of several networks in turn, in one process.

Figures are medians of processor time, summed over threads, which other work on the machine
lengthens less than it does the time on the clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from time import process_time

from .cases import Case, draw_events, draw_targets
from .peers.base import Network


def in_turns(networks: Mapping[str, Network], case: Case, repeats: int) -> dict[str, float]:
    """Processor time of a training step in ms per sample, by name."""
    events, target = draw_events(case), draw_targets(case)
    encoded = {name: network.encode(events) for name, network in networks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for repeat in range(repeats + 1):
        for name, network in networks.items():
            start = process_time()
            network.step(encoded[name], target)
            if repeat:  # the first one warms up
                seconds[name].append(process_time() - start)
    return {name: 1e3 * median(found) / case.batch for name, found in seconds.items()}
