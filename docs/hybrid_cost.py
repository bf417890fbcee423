"""What the hybrid gradient costs in a step of training: the table of docs/gradients.md.

    python docs/hybrid_cost.py        half a minute after compilation; one thread
"""

from __future__ import annotations

import statistics
import time

import torch

from snn_eventprop import EventPropLI, EventPropLIF, SpikeEvents
from snn_eventprop.diagnostics import collect

STEPS, BATCH, INPUTS, SIZE, CLASSES, EVENTS = 1000, 64, 700, 256, 20, 8000
REPEATS = 7


def network(mean: float, **options) -> torch.nn.Sequential:
    torch.manual_seed(1)
    hidden = EventPropLIF(INPUTS, SIZE, recurrent=True, **options)
    hidden.reset_parameters(mean, 0.05)
    return torch.nn.Sequential(hidden, EventPropLI(SIZE, CLASSES))


def step(net: torch.nn.Sequential, events: SpikeEvents, target: torch.Tensor) -> float:
    """Processor time of a forward and a backward pass, in s."""
    start = time.process_time()
    average = net[1].integral(net[0](events), "exponential")
    torch.nn.functional.cross_entropy(60 * average, target).backward()
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    share = EVENTS / (INPUTS * STEPS)
    raster = (torch.rand(STEPS, BATCH, INPUTS, generator=generator) < share).float()
    events = SpikeEvents.from_dense(raster, 1e-3)
    target = torch.randint(0, CLASSES, (BATCH,), generator=generator)
    print("| spikes per neuron | peaks per neuron | exact, ms | hybrid, ms | ratio |")
    print("| --- | --- | --- | --- | --- |")
    for mean in (0.02, 0.025, 0.03):
        nets = [network(mean), network(mean, gradient="hybrid")]
        times = [[step(net, events, target) for net in nets] for _ in range(REPEATS + 1)][1:]
        exact, hybrid = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
        found = collect(nets[1])["0"]
        print(
            f"| {found.spikes_per_neuron:.1f} | {found.peaks_per_neuron:.1f} | {exact:.0f} | "
            f"{hybrid:.0f} | {hybrid / exact:.2f} |"
        )


if __name__ == "__main__":
    main()
