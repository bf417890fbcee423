"""Measures and reports; see ``--help``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from . import report
from .cases import Case, Sweep, sweeps
from .epoch import Epoch, Floor, epochs, floor
from .gradients import Distance, distances
from .measure import Row, measure, missing
from .options import parse
from .peers import OURS, PEERS
from .startup import Startup, startup

_GRADIENT_SAMPLES = 16


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="" if text else "\r", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


class _Run:
    """What was asked for, step by step, and what was found so far."""

    def __init__(self, args: argparse.Namespace, methods: list[str]) -> None:
        self.args = args
        self.methods = methods
        self.threads = max(args.threads)
        self.by_shape: list[list[Row]] = []
        self.by_sweep: list[tuple[Sweep, list[Row]]] = []
        self.distances: list[Distance] = []
        self.epochs: list[Epoch] = []
        self.floors: list[Floor] = []
        self.startup: list[Startup] = []
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        _progress("")
        print(text + "\n", flush=True)
        self.texts.append(text)

    def measure(self, case: Case, methods: list[str], threads: int) -> list[Row]:
        return measure(case, methods, self.args.repeats, threads, self.args.device, _progress)

    def shapes(self, cases: list[Case]) -> None:
        for case in cases:
            rows = [self.measure(case, self.methods, threads) for threads in self.args.threads]
            self.by_shape += rows
            for of_threads in rows:
                self.say(report.case_table(of_threads))
            if len(rows) > 1:
                self.say(report.thread_table([row for several in rows for row in several]))

    def sweeps(self, base: Case) -> None:
        for sweep in sweeps(base, self.args.quick):
            rows: list[Row] = []
            for case in sweep.cases:
                small = case.steps * case.batch <= self.args.peer_limit
                chosen = [m for m in self.methods if small or m in OURS]
                rows += self.measure(case, chosen, self.threads)
            self.by_sweep.append((sweep, rows))
            self.say(report.sweep_table(sweep, rows))

    def compare_gradients(self, cases: list[Case]) -> None:
        few = [replace(case, batch=min(case.batch, _GRADIENT_SAMPLES)) for case in cases]
        for hidden in dict.fromkeys(case.hidden for case in few):
            of_size = list(dict.fromkeys(case for case in few if case.hidden == hidden))
            rows = distances(of_size, self.methods, self.threads, self.args.device, _progress)
            self.distances += rows
            self.say(report.gradient_table(rows))

    def time_epochs(self, cases: list[Case]) -> None:
        samples, where = self.args.epoch_samples, (self.threads, self.args.device)
        for case in cases:
            rows = epochs(case, self.methods, samples, *where, _progress)
            floors = {
                row.method: floor(case, samples, row.spikes, *where)
                for row in rows if row.method in OURS and not row.skipped
            }  # fmt: skip
            self.epochs += rows
            self.floors += floors.values()
            self.say(report.epoch_table(rows, floors))

    def time_startup(self) -> None:
        own = [method for method in self.methods if method in OURS]
        self.startup = startup(own, self.threads, self.args.device, _progress)
        self.say(report.startup_table(self.startup))

    def found(self) -> dict[str, Any]:
        """Every figure, as JSON takes it."""
        return {
            "repeats": self.args.repeats,
            "shapes": [row.as_json() for rows in self.by_shape for row in rows],
            "scaling": [
                {"title": s.title, "varied": s.varied, "cases": [asdict(c) for c in s.cases],
                 "rows": [row.as_json() for row in rows]}
                for s, rows in self.by_sweep
            ],
            "gradients": [row.as_json() for row in self.distances],
            "epochs": [row.as_json() for row in self.epochs],
            "floors": [asdict(least) for least in self.floors],
            "startup": [asdict(row) for row in self.startup],
        }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report; see ``--help``."""
    args, cases = parse(arguments)
    absent = missing(args.methods)
    run = _Run(args, [name for name in args.methods if name not in absent])
    facts = report.machine(args.threads, args.device)
    run.say(report.describe_machine(facts))
    if absent:
        run.say("\n".join(f"{PEERS[name].label}: skipped, {why}" for name, why in absent.items()))
    try:
        if args.startup:
            run.time_startup()
        elif args.scaling:
            run.sweeps(cases[0])
        else:
            run.shapes(cases)
            if args.gradients:
                run.compare_gradients(cases)
            if args.epoch:
                run.time_epochs(cases)
    except KeyboardInterrupt:
        run.say("Interrupted: what follows is of the cases that were finished.")
    every = [row for rows in [*run.by_shape, *(rows for _, rows in run.by_sweep)] for row in rows]
    if every:
        run.say(report.legend(every, cases[0]))
    if args.output:
        args.output.write_text("\n\n".join(run.texts) + "\n", encoding="utf-8")
    if args.json:
        found = {"machine": facts, "skipped": absent, **run.found()}
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if args.png and every:
        report.figure(args.png, run.by_shape, run.by_sweep, run.distances)


if __name__ == "__main__":
    main()
