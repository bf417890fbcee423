"""Layers of ``iaf_psc_exp_ps`` in NEST: ``python nest_script.py PROBLEM.json SPIKES.json``.

A process of its own, as NEST brings an OpenMP library that breaks ``torch.compile`` beside it.
"""

from __future__ import annotations

import json
import sys

import nest
import numpy as np


def simulate(times, units, weights, duration, step, tau_mem, tau_syn):
    """Spike times of each neuron, layer by layer. All in ms, as in NEST."""
    nest.verbosity = nest.VerbosityLevel.ERROR
    nest.ResetKernel()
    nest.set(tics_per_ms=1_000_000, resolution=step)
    # C_m = tau_m makes NEST's current the one of tau_m dV/dt = -V + I.
    constants = {
        "E_L": 0.0, "V_m": 0.0, "V_reset": 0.0, "V_th": 1.0, "t_ref": step,
        "C_m": tau_mem, "tau_m": tau_mem, "tau_syn_ex": tau_syn, "tau_syn_in": tau_syn,
    }  # fmt: skip
    delay = {"delay": step}
    sources = nest.Create("parrot_neuron_ps", len(weights[0][0]))
    for unit, source in enumerate(sources):
        own = times[units == unit]
        generator = nest.Create(
            "spike_generator", params={"precise_times": True, "spike_times": own}
        )
        nest.Connect(generator, source, syn_spec=delay)
    layers, recorders = [sources], []
    for matrix in map(np.array, weights):
        layer = nest.Create("iaf_psc_exp_ps", len(matrix), params=constants)
        recorder = nest.Create("spike_recorder")
        nest.Connect(layers[-1], layer, "all_to_all", {"weight": matrix, **delay})
        nest.Connect(layer, recorder)
        layers.append(layer)
        recorders.append(recorder)
    nest.Simulate(duration)
    found = []
    for depth, (recorder, layer) in enumerate(zip(recorders, layers[1:], strict=True)):
        at = recorder.events["times"] - (depth + 2) * step  # a delay for each connection on the way
        senders = recorder.events["senders"] - layer[0].global_id
        found.append([sorted(at[senders == neuron].tolist()) for neuron in range(len(layer))])
    return found


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        problem = json.load(file)
    steps = problem.pop("steps")
    problem["times"], problem["units"] = np.array(problem["times"]), np.array(problem["units"])
    with open(sys.argv[2], "w") as file:
        json.dump([simulate(**problem, step=step) for step in steps], file)
