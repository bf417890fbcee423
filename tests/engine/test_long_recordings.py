"""A recording of a million events and 100,000 steps trains within little memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("resource")  # where a process's peak memory can be asked for

# In a process of its own: the peak of this one was reached by other tests. The first step, on a
# short recording, compiles.
_TRAIN = """
import sys
import torch
from snn_eventprop import EventPropLI, EventPropLIF, SpikeEvents
from snn_eventprop.benchmark.memory import Memory
from snn_eventprop.losses import SumExpLoss

torch.manual_seed(0)
torch.set_num_threads(1)
hidden = EventPropLIF(700, 64, recurrent=True, solver=sys.argv[1], learn_tau_mem=True)
# At higher rates the adjoint of the grid grows from spike to spike, over 100 s beyond float32.
hidden.reset_parameters(mean=0.02, std=0.02, recurrent_std=0.002)
readout = EventPropLI(64, 20)
loss = SumExpLoss()
optimizer = torch.optim.Adam([*hidden.parameters(), *readout.parameters()])

def train(events, seconds):
    times = torch.rand(events).sort().values * seconds
    x = SpikeEvents(times, torch.randint(700, (events,)), torch.tensor([0, events]), 700, seconds)
    out = hidden(x)
    optimizer.zero_grad()
    loss.from_logits(readout.integral(out, "exponential"), torch.tensor([3])).backward()
    optimizer.step()
    return out.times.numel()

train(1000, 0.1)
memory = Memory()
spikes = train(1_000_000, 100.0)
grads = [p.grad for p in hidden.parameters()]
assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in grads)
print(spikes, memory.peak())
"""


@pytest.mark.parametrize("solver", ["grid", "exact"])
def test_memory_of_a_million_events_in_100_000_steps(solver):
    done = subprocess.run(
        [sys.executable, "-c", _TRAIN, solver], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    spikes, growth = map(float, done.stdout.split())
    assert spikes > 10_000
    # The raster alone would hold 267 MiB, and back-propagation through time 24 MiB for each state
    # variable; the events alone take 11 MiB.
    assert growth < 60, f"{growth:.0f} MiB"
