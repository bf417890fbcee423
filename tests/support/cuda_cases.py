"""Random problems with every option of the solvers, run on a device of choice.

What the CUDA backend is compared on with the CPU's, in the simulator and on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from snn_eventprop import discretisation
from snn_eventprop.ops import grid as op
from support.exact_runs import run_exact
from support.grid_runs import run_lif

RESETS = [
    ("subtract", False), ("zero", False), ("none", False),
    ("subtract", True), ("zero", True), ("zero_all", True),
]  # fmt: skip


@dataclass
class GridCase:
    seed: int = 0
    steps: int = 12
    batch: int = 2
    inputs: int = 3
    size: int = 5
    density: float = 0.3
    strength: float = 3.0
    recurrent: bool = True
    reset: tuple[str, bool] = ("subtract", False)
    weighted: bool = False  # input events have values, which want gradients
    timed: bool = False  # input events have times that want gradients
    dense: bool = False  # input currents, which want gradients
    record: bool = False
    learned: bool = False  # coefficients want gradients
    before: str = ""  # spikes before the first bin: "spikes", "slopes" (with their slopes)
    delays: float = 0.0  # the longest, in bins; they want gradients
    floor: float = 0.05
    threshold: float = 1.0  # factor, for telling how close the spikes are to the threshold

    def run(self, device: str, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
        """Spikes, states and gradients, on the CPU in float64."""
        rng = np.random.default_rng(self.seed)

        def put(array, wanted=False):
            return torch.tensor(array, dtype=dtype, device=device, requires_grad=wanted)

        size, batch, steps = self.size, self.batch, self.steps
        tau_mem = torch.tensor(rng.uniform(5e-3, 30e-3, size))
        tau_syn = torch.tensor(rng.uniform(2e-3, 10e-3, size))
        s, c, m = discretisation.exponential(tau_mem, tau_syn, 1e-3)
        theta = rng.uniform(0.6, 1.2, size)
        reset, delayed = self.reset
        zero_reset = rng.uniform(-0.3, 0.3, size) * (reset != "subtract")
        driven = rng.poisson(self.density, (steps, batch, self.inputs))
        events = op.dense_events(torch.tensor(driven).double(), dtype)
        drive = rng.normal(0, 0.5, (steps, batch, size) if self.dense else 0)
        wanted = {
            "weight": put(
                rng.normal(self.strength / 2, self.strength, (self.inputs, size)), True
            ),
            "recurrent": put(
                rng.normal(0, self.strength / 2 * min((5 / size) ** 0.5, 1), (size, size)), True
            ),
            "coefficients": put(
                np.stack([s, c, m, theta * self.threshold]), self.learned
            ),
            "current0": put(rng.normal(0, 1, (batch, size)), True),
            "voltage0": put(rng.normal(0, 0.3, (batch, size)), True),
            "input_current": put(drive, True),
            "values": put(rng.uniform(0.5, 1.5, events.bins.numel()), True),
            "event_stamps": put(events.bins.numpy(), True),
        }
        if self.delays:
            wanted["delay"] = put(rng.uniform(0, self.delays, (self.inputs, size)), True)
            wanted["recurrent_delay"] = put(rng.uniform(0, self.delays, (size, size)), True)
        spikes0 = put(rng.random((batch, size)) < 0.4)
        slopes0 = put(rng.uniform(0.05, 0.4, (batch, size)))
        options = {
            "recurrent": wanted["recurrent"] if self.recurrent else None,
            "input_current": wanted["input_current"] if self.dense else None,
            "event_stamps": wanted["event_stamps"] if self.timed else None,
            "spikes0": spikes0 if self.before else None,
            "slopes0": slopes0 if self.before == "slopes" else None,
            "delay": wanted.get("delay"),
            "recurrent_delay": wanted.get("recurrent_delay") if self.recurrent else None,
        }
        if self.before:
            wanted["spikes0"] = spikes0.requires_grad_()
        events = op.Events(
            events.bins.to(device), events.units.to(device),
            wanted["values"] if self.weighted else events.values[:0].to(device, dtype),
            events.offsets.to(device),
        )  # fmt: skip
        floor = put(np.full(size, self.floor))
        spikes = run_lif(
            events, steps, wanted["weight"], wanted["coefficients"], put(zero_reset), floor,
            current0=wanted["current0"], voltage0=wanted["voltage0"], reset=reset,
            delayed=delayed, record=self.record, **options,
        )  # fmt: skip
        found = {
            "stamps": spikes.stamps, "bins": spikes.bins, "units": spikes.units,
            "slopes": spikes.slopes, "offsets": spikes.offsets, "trace": spikes.trace,
            "last_current": spikes.last_current, "last_voltage": spikes.last_voltage,
        }  # fmt: skip
        worth = [rng.normal(0, 1, n) for n in (spikes.stamps.numel(), spikes.marks.numel())]
        loss = spikes.stamps @ put(worth[0]) + spikes.marks @ put(worth[1])
        loss = loss + (spikes.last_current * put(rng.normal(0, 1, (batch, size)))).sum()
        loss = loss + (spikes.last_voltage * put(rng.normal(0, 1, (batch, size)))).sum()
        if self.record:
            loss = loss + (spikes.trace * put(rng.normal(0, 1, (steps, batch, size)))).sum()
        loss.backward()
        found |= {f"grad of {k}": v.grad for k, v in wanted.items() if v.grad is not None}
        return {k: v.detach().cpu().double() for k, v in found.items()}


@dataclass
class ExactCase:
    seed: int = 0
    batch: int = 2
    inputs: int = 3
    size: int = 5
    events: int = 12  # of each sample
    duration: float = 0.06
    strength: float = 1.2
    recurrent: bool = True
    taus: str = "each"  # "each", "shared", "equal"
    timed: bool = False  # input times want gradients
    learned: bool = False  # time constants want gradients
    together: int = 0  # neurons that share all but what is recurrent; input events share times
    floor: float = 0.0
    limit: int = 100_000
    threshold: float = 1.0

    def run(self, device: str, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
        """Spikes and gradients, on the CPU in float64."""
        rng = np.random.default_rng(self.seed)

        def put(array, wanted=False, dtype=dtype):
            return torch.tensor(array, dtype=dtype, device=device, requires_grad=wanted)

        size = self.size
        tau_mem, tau_syn = rng.uniform(5e-3, 30e-3, size), rng.uniform(2e-3, 10e-3, size)
        if self.taus == "shared":
            tau_mem, tau_syn = np.array([20e-3]), np.array([5e-3])
        elif self.taus == "equal":
            tau_syn = tau_mem.copy()
        times = np.sort(rng.uniform(0, self.duration, (self.batch, self.events)))
        weight = rng.normal(0.8 * self.strength, self.strength, (self.inputs, size))
        if self.together:
            times = np.repeat(times[:, ::3], 3, axis=1)[:, : self.events]
            weight[:, 1 : self.together] = weight[:, :1]
            tau_mem[:], tau_syn[:] = tau_mem[0], tau_syn[0]
        times = times.ravel().astype(np.float32)  # the same in either precision
        units = rng.integers(0, self.inputs, times.size)
        offsets = np.arange(self.batch + 1) * self.events
        theta = rng.uniform(0.7, 1.2, size)
        if self.together:
            theta[:] = theta[0]
        wanted = {
            "times": put(times, self.timed),
            "weight": put(weight, True),
            "recurrent": put(
                rng.normal(0, 0.4 * self.strength * min((5 / size) ** 0.5, 1), (size, size)), True
            ),
            "tau_mem": put(tau_mem, self.learned, torch.float64),
            "tau_syn": put(tau_syn, self.learned, torch.float64),
            "threshold": put(theta * self.threshold, True),
        }
        v_reset = rng.uniform(-0.2, 0.2, size)
        v_reset[1 : self.together] = v_reset[:1]
        spikes = run_exact(
            wanted["times"], put(units, dtype=torch.int64), put(offsets, dtype=torch.int64),
            self.duration, wanted["weight"], wanted["tau_mem"], wanted["tau_syn"],
            wanted["threshold"], put(v_reset), put(np.full(size, self.floor)),
            recurrent=wanted["recurrent"] if self.recurrent else None, limit=self.limit,
        )  # fmt: skip
        found = {
            "times": spikes.times, "marks": spikes.marks, "units": spikes.units,
            "offsets": spikes.offsets,
        }  # fmt: skip
        worth, marks = rng.normal(0, 1, (2, spikes.times.numel()))
        (spikes.times @ put(worth) + spikes.marks @ put(marks)).backward()
        found |= {f"grad of {k}": v.grad for k, v in wanted.items() if v.grad is not None}
        return {k: v.detach().cpu().double() for k, v in found.items()}


def assert_close(found: dict, expected: dict, tolerance: float) -> None:
    """Of one shape and within ``tolerance`` of the largest entry."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        finite = value[value.isfinite()]  # slopes of spikes that are no crossing are not
        scale = max(1.0, float(finite.abs().max())) if finite.numel() else 1.0
        np.testing.assert_allclose(
            found[name] / scale, value / scale, rtol=0, atol=tolerance, err_msg=name
        )
