"""One method in a process of its own, told over a pipe what to do.

Requests and answers are lines of JSON on standard input and output:

    start  import the library and take a step of a tiny network, so that imports, compilation and
           thread pools are no part of what is measured
    build  make input and network of a case, scale the weights, take a step to warm up
    step   forward, loss, backward once
    peak   largest growth of the process since before ``build`` made the input
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
from dataclasses import replace
from typing import Any, TextIO

import torch

from .cases import Case, draw_events, draw_targets
from .peers import PEERS, Network

_MIB = 2**20
_CALIBRATION_SAMPLES = 4
_TINY = Case(steps=20, hidden=8, batch=2, events=200, spikes=1.0, duration=0.02, inputs=30)


class Memory:
    """Growth of this process's peak memory from the moment of construction, in MiB.

    On Linux the kernel's peak is set back after the warm-up, so that what compilation and making
    the input took for a moment does not count. Elsewhere it does, and ``exact`` is False.
    """

    def __init__(self) -> None:
        self.exact = self.restart()
        self._before = self._field("VmRSS") if self.exact else self._usage()

    def restart(self) -> bool:
        """Forget the peak so far; False where the system cannot."""
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (OSError, AttributeError):
            pass  # not glibc: freed memory may stay in the process
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
            return True
        except OSError:
            return False

    def now(self) -> float:
        return (self._field("VmRSS") if self.exact else self._usage()) - self._before

    def peak(self) -> float:
        return (self._field("VmHWM") if self.exact else self._usage()) - self._before

    @staticmethod
    def _field(name: str) -> float:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith(name):
                    return int(line.split()[1]) / 1024
        raise OSError(f"/proc/self/status has no {name}")

    @staticmethod
    def _usage() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used / _MIB if sys.platform == "darwin" else used / 1024


class DeviceMemory:
    """The same of what torch has allocated on the GPU."""

    exact = True

    def __init__(self) -> None:
        self._before = torch.cuda.memory_allocated() / _MIB

    def restart(self) -> bool:
        torch.cuda.reset_peak_memory_stats()
        return True

    def now(self) -> float:
        return torch.cuda.memory_allocated() / _MIB - self._before

    def peak(self) -> float:
        return torch.cuda.max_memory_allocated() / _MIB - self._before


def calibrate(network: Network, encoded: Any, target: float) -> float:
    """Scale the input weights until neurons spike ``target`` times, within 2 %, by bisection."""
    low, high, gain = 2.0**-6, 2.0**6, 1.0
    for _ in range(24):
        network.set_gain(gain)
        spikes = network.spikes_per_neuron(encoded)
        if abs(spikes - target) <= 0.02 * target:
            break
        if spikes < target:
            low = gain
            gain = min(gain * 1.5, high) if high == 2.0**6 else (low * high) ** 0.5
        else:
            high = gain
            gain = max(gain / 1.5, low) if low == 2.0**-6 else (low * high) ** 0.5
    return gain


class Worker:
    """State between requests."""

    def start(self, method: str, threads: int, device: str) -> dict[str, Any]:
        torch.set_num_threads(threads)
        self.make = PEERS[method].load()
        network = self.make(replace(_TINY, device=device))
        encoded = network.encode(draw_events(_TINY))
        network.spikes_per_neuron(encoded)
        network.step(encoded, draw_targets(_TINY).to(device))
        return {"threads": torch.get_num_threads()}

    def build(self, case: dict[str, Any]) -> dict[str, Any]:
        wanted = Case(**case)
        self.memory = Memory() if wanted.device == "cpu" else DeviceMemory()
        events = draw_events(wanted)
        self.network = self.make(wanted)
        self.encoded = self.network.encode(events)
        few = events[: min(wanted.batch, _CALIBRATION_SAMPLES)]
        self.target = draw_targets(wanted).to(wanted.device)
        del events
        self.memory.restart()
        input_mib = self.memory.now()
        gain = calibrate(self.network, self.network.encode(few), wanted.spikes)
        spikes = self.network.spikes_per_neuron(self.encoded)
        self.network.step(self.encoded, self.target)
        self.memory.restart()
        return {
            "gain": gain, "spikes": spikes, "input_mib": input_mib, "remark": self.network.remark
        }  # fmt: skip

    def step(self) -> dict[str, Any]:
        forward, total = self.network.step(self.encoded, self.target)
        return {"forward": forward, "total": total}

    def peak(self) -> dict[str, Any]:
        return {"peak_mib": self.memory.peak(), "includes_warm_up": not self.memory.exact}


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer until the requests end."""
    worker = Worker()
    for line in requests:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    # Libraries print to standard output as they please: answers get a copy of it to themselves.
    with os.fdopen(os.dup(1), "w") as pipe:
        os.dup2(2, 1)
        serve(sys.stdin, pipe)
