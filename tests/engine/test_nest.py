"""``solver="exact"`` against NEST's ``iaf_psc_exp_ps``, a simulator of precise spike times.

NEST computes in ms, wants a refractory period of at least one of its steps ``h``, and delays of at
least ``h`` between layers, which are subtracted here. The first spike of a neuron that reads the
input has no refractory period before it. All others are late by about h for each spike before, and
2 t(h) - t(2h) is the time without, but for events that fall into a refractory period.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from snn_eventprop import EventPropLIF, SpikeEvents

if importlib.util.find_spec("nest") is None:
    pytest.skip("needs nest-simulator", allow_module_level=True)

STEP = 5e-7
INPUTS, FIRST, SECOND, DURATION = 10, 8, 6, 60e-3


def problem(seed, tau_syn):
    """Input times and units, and weights that bring the same charge whatever tau_syn."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(1e-3, 50e-3, 100))
    return (
        times, rng.integers(0, INPUTS, 100),
        rng.normal(1.2e-3, 2e-3, (FIRST, INPUTS)) / tau_syn,
        rng.normal(4e-3, 3e-3, (SECOND, FIRST)) / tau_syn,
    )  # fmt: skip


def by_neuron(times, units, size):
    return [np.sort(times[units == neuron]) for neuron in range(size)]


def in_nest(folder, seed, steps, tau_mem, tau_syn):
    """For each step, the spike times (s) of each neuron, layer by layer."""
    times, units, *weights = problem(seed, tau_syn)
    (folder / "problem.json").write_text(json.dumps({
        "times": (times * 1e3).tolist(), "units": units.tolist(),
        "weights": [matrix.tolist() for matrix in weights], "duration": DURATION * 1e3,
        "steps": [step * 1e3 for step in steps],
        "tau_mem": tau_mem * 1e3, "tau_syn": tau_syn * 1e3,
    }))  # fmt: skip
    script = Path(__file__).parents[1] / "support" / "nest_script.py"
    done = subprocess.run(
        [sys.executable, script, "problem.json", "spikes.json"],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    runs = json.loads((folder / "spikes.json").read_text())
    return [[[np.array(spikes) * 1e-3 for spikes in layer] for layer in run] for run in runs]


def in_layers(seed, tau_mem, tau_syn):
    times, units, *weights = problem(seed, tau_syn)
    events = SpikeEvents.from_list(
        [(times, units)], num_units=INPUTS, duration=DURATION, dtype=torch.float64
    )
    found = []
    for matrix in weights:
        layer = EventPropLIF(
            *matrix.shape[::-1], tau_mem=tau_mem, tau_syn=tau_syn, solver="exact",
            dtype=torch.float64,
        )  # fmt: skip
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(matrix))
        events = layer(events)
        found.append(by_neuron(events.times.detach().numpy(), events.units.numpy(), len(matrix)))
    return found


@pytest.mark.parametrize(("tau_mem", "tau_syn"), [(20e-3, 5e-3), (5e-3, 20e-3), (10e-3, 10e-3)])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_spike_times_are_those_of_nest(tmp_path, seed, tau_mem, tau_syn):
    ours = in_layers(seed, tau_mem, tau_syn)
    runs = in_nest(tmp_path, seed, (STEP, 2 * STEP), tau_mem, tau_syn)
    assert all(sum(map(len, layer)) >= 10 for layer in ours)
    for layer, neurons in enumerate(ours):
        for neuron, spikes in enumerate(neurons):
            once, twice = (run[layer][neuron] for run in runs)
            # Before the end, as a spike that is late may come after it.
            fewest = min(len(once), len(twice))
            assert len(spikes[spikes < DURATION - 1e-3]) <= fewest <= len(spikes)
            np.testing.assert_allclose(
                2 * once[:fewest] - twice[:fewest], spikes[:fewest], rtol=0, atol=STEP
            )
            if layer == 0:
                np.testing.assert_allclose(once[:1], spikes[:1], rtol=0, atol=1e-12)
