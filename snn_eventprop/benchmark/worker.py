"""One method in a process of its own, told over a pipe what to do.

Requests and answers are lines of JSON on standard input and output:

    start      import the library and take a step of a tiny network, so that imports, compilation
               and thread pools are no part of what is measured
    build      make input and network of a case, scale the weights, take a step to warm up
    turn       forward, loss, backward, over and over for half a second, at least once
    peak       largest growth of the process since before ``build`` made the input
    gradients  write those of the last step to a file
    epoch      many steps, each with new input and an update of the weights
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from statistics import median
from time import perf_counter, process_time
from typing import Any, TextIO

import torch

from .calibration import calibrate
from .cases import Case, draw_events, draw_targets
from .memory import MIB, DeviceMemory, Memory
from .peers import method
from .peers.base import Network

_TINY = Case(steps=20, hidden=8, batch=2, events=200, spikes=1.0, duration=0.02, inputs=30)
_TURN = 0.5  # s
_BATCHES = 4  # different ones in an epoch


class Worker:
    """State between requests."""

    def start(self, method_name: str, threads: int, device: str) -> dict[str, Any]:
        torch.set_num_threads(threads)
        self.make = method(method_name).load()
        self.device = device
        network = self._network(_TINY)
        encoded = network.encode(draw_events(_TINY))
        network.spikes_per_neuron(encoded)
        network.step(encoded, draw_targets(_TINY))
        return {"threads": torch.get_num_threads()}

    def _network(self, case: Case) -> Network:
        network = self.make(case)
        network.move(self.device)
        return network

    def build(self, case: dict[str, Any], gain: float | None = None) -> dict[str, Any]:
        """``gain`` scales the input weights; None: as ``case.spikes`` asks for."""
        self.case = Case(**case)
        self.memory = Memory() if self.device == "cpu" else DeviceMemory()
        events = draw_events(self.case)
        self.network = self._network(self.case)
        self.encoded = self.network.encode(events)
        self.target = draw_targets(self.case)
        del events
        self.memory.restart()
        input_mib = self.memory.now()
        if gain is None:
            gain = calibrate(self.network, self.case)
        else:
            self.network.set_gain(gain)
        spikes = self.network.spikes_per_neuron(self.encoded)
        self.network.step(self.encoded, self.target)
        self.memory.restart()
        return {
            "gain": gain, "spikes": spikes, "input_mib": input_mib, "remark": self.network.remark
        }  # fmt: skip

    def turn(self) -> dict[str, Any]:
        """Medians. Steps follow one another, as in training: the first one finds cold caches."""
        begin = perf_counter()
        steps: list[tuple[float, float, float]] = []
        while not steps or perf_counter() - begin < _TURN:
            before = process_time()
            forward, total = self.network.step(self.encoded, self.target)
            steps.append((forward, total, process_time() - before))
        forward, total, processor = map(median, zip(*steps, strict=True))
        return {"forward": forward, "total": total, "processor": processor}

    def peak(self) -> dict[str, Any]:
        on_device = self.network.peak_device_memory()
        if on_device is not None:
            return {"peak_mib": on_device / MIB, "includes_warm_up": True}
        return {"peak_mib": self.memory.peak(), "includes_warm_up": not self.memory.exact}

    def gradients(self, path: str) -> dict[str, Any]:
        if self.network.differs:
            return {"differs": self.network.differs}
        torch.save(self.network.gradients(), path)
        return {}

    def epoch(self, samples: int) -> dict[str, Any]:
        """Seconds of the steps alone, and with encoding, transfer and Adam."""
        drawn = [replace(self.case, seed=self.case.seed + 10 * i) for i in range(_BATCHES)]
        batches = [(draw_events(case), draw_targets(case)) for case in drawn]
        if self.device == "cuda":
            batches = [(events.pin_memory(), target.pin_memory()) for events, target in batches]
        rest, steps, number = samples, 0.0, 0
        start = perf_counter()
        while rest > 0:
            events, target = batches[number % _BATCHES]
            if rest < self.case.batch:
                events, target = events[:rest], target[:rest]
            steps += self.network.step(self.network.encode(events), target)[1]
            self.network.update()
            rest -= self.case.batch
            number += 1
        if self.device == "cuda":
            torch.cuda.synchronize()
        return {"steps": steps, "whole": perf_counter() - start, "batches": number}


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
