"""Command line of the benchmark."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import torch

from . import report
from .cases import DEFAULT, Case, parse_shape, sweeps
from .measure import Row, measure, missing
from .peers import OURS, PEERS

_EXAMPLES = """\
examples:
  python -m snn_eventprop.benchmark --quick
  python -m snn_eventprop.benchmark --shapes 1000x256x64 100x256x64 --repeats 9
  python -m snn_eventprop.benchmark --steps 100 200 500 1000    the same second at dt 10, 5, 2, 1 ms
  python -m snn_eventprop.benchmark --device cuda --shapes 1000x256x256 1000x1024x256
  python -m snn_eventprop.benchmark --scaling --methods grid --png scaling.png
"""


def _shape(text: str) -> Case:
    try:
        return parse_shape(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(text: str) -> int:
    value = int(text) if text.lstrip("-").isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m snn_eventprop.benchmark",
        description=(
            "Time and peak memory of one training step (forward, sum-exp loss, backward) of a "
            "recurrent spiking network, for this package and for the peers that are installed. "
            "Each method runs in its own process; their steps alternate. Takes minutes: steps of "
            "peers take seconds each."
        ),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what to measure")
    what.add_argument(
        "--shapes", nargs="+", type=_shape, metavar="TxHxB",
        help="steps, hidden neurons and batch (default: "
        + " ".join(f"{c.steps}x{c.hidden}x{c.batch}" for c in DEFAULT) + ")",
    )  # fmt: skip
    for name, default, text in (
        ("steps", 1000, "time steps in a sample"),
        ("hidden", 256, "recurrent hidden neurons"),
        ("batch", 64, "samples in a batch"),
    ):
        what.add_argument(
            f"--{name}", nargs="+", type=_positive, metavar="N",
            help=f"{text}; several values of --steps, --hidden and --batch make a grid, in place "
            f"of --shapes (default where another is given: {default})",
        )  # fmt: skip
    what.add_argument("--events", type=_positive, default=8000, metavar="N",
                      help="input events per sample over 700 channels (default: 8000)")  # fmt: skip
    what.add_argument("--spikes", type=float, default=13.0, metavar="X",
                      help="spikes per hidden neuron and sample, to which the input weights "
                      "of each method are scaled (default: 13)")  # fmt: skip
    what.add_argument("--duration", type=float, default=1.0, metavar="S",
                      help="length of a sample in seconds (default: 1)")  # fmt: skip
    what.add_argument("--methods", nargs="+", choices=list(PEERS), default=list(PEERS),
                      metavar="NAME", help="of: " + ", ".join(PEERS) + " (default: all that are "
                      "installed)")  # fmt: skip
    what.add_argument("--scaling", action="store_true",
                      help="instead of shapes: cost against steps for the same events, "
                      "neurons, batch up to 4096, events, spikes, and length up to 100,000 "
                      "steps")  # fmt: skip
    what.add_argument("--peer-limit", type=_positive, default=128_000, metavar="N",
                      help="in --scaling, leave BPTT methods out where steps x batch is larger "
                      "(default: 128000)")  # fmt: skip
    what.add_argument("--quick", action="store_true",
                      help="one repeat, batch of at most 8: about a minute, rough "
                      "figures")  # fmt: skip
    how = parser.add_argument_group("how")
    how.add_argument("--repeats", type=_positive, metavar="N",
                     help="measured steps of each method (default: 5)")  # fmt: skip
    how.add_argument("--threads", type=_positive, metavar="N",
                     help="threads of each method (default: torch's)")  # fmt: skip
    how.add_argument("--device", choices=["cpu", "cuda"], default="cpu",
                     help="where methods run; peers are measured on the CPU alone "
                     "(default: cpu)")  # fmt: skip
    how.add_argument("--seed", type=int, default=0, help="of input and weights (default: 0)")
    out = parser.add_argument_group("output")
    out.add_argument("--output", type=Path, metavar="FILE", help="write the tables here as well")
    out.add_argument("--json", type=Path, metavar="FILE", help="every single figure")
    out.add_argument("--png", type=Path, metavar="FILE", help="time and memory (needs matplotlib)")
    return parser


def _cases(args: argparse.Namespace) -> list[Case]:
    if args.steps or args.hidden or args.batch:
        grid = itertools.product(args.steps or [1000], args.hidden or [256], args.batch or [64])
        cases = [Case(steps=t, hidden=h, batch=b) for t, h, b in grid]
    else:
        cases = list(args.shapes or DEFAULT)
    common = {"events": args.events, "spikes": args.spikes, "duration": args.duration,
              "seed": args.seed, "device": args.device}  # fmt: skip
    cases = [replace(case, **common) for case in cases]
    return [replace(c, batch=min(c.batch, 8)) for c in cases] if args.quick else cases


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="" if text else "\r", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report; see ``--help``."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.shapes and (args.steps or args.hidden or args.batch):
        parser.error("give either --shapes or --steps/--hidden/--batch")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no NVIDIA GPU")
    if args.png and find_spec("matplotlib") is None:
        parser.error("--png needs matplotlib: pip install matplotlib")
    for path in (args.output, args.json, args.png):
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"the folder of {path} does not exist")
    try:
        cases = _cases(args)
    except ValueError as error:
        parser.error(str(error))
    if args.scaling and len(cases) > 1 and (args.shapes or args.steps or args.hidden or args.batch):
        parser.error("--scaling starts from one shape; give one value each")
    threads = args.threads or torch.get_num_threads()
    repeats = args.repeats or (1 if args.quick else 5)

    texts: list[str] = []

    def say(text: str) -> None:
        _progress("")
        print(text + "\n", flush=True)
        texts.append(text)

    facts = report.machine(threads)
    say(report.describe_machine(facts))
    absent = missing(args.methods)
    if absent:
        say("\n".join(f"{PEERS[name].label}: skipped, {why}" for name, why in absent.items()))
    methods = [name for name in args.methods if name not in absent]

    by_shape: list[list[Row]] = []
    by_sweep = []
    try:
        if args.scaling:
            for sweep in sweeps(cases[0], args.quick):
                rows: list[Row] = []
                for case in sweep.cases:
                    small = case.steps * case.batch <= args.peer_limit
                    chosen = [m for m in methods if small or m in OURS]
                    rows += measure(case, chosen, repeats, threads, _progress)
                by_sweep.append((sweep, rows))
                say(report.sweep_table(sweep, rows))
        else:
            for case in cases:
                by_shape.append(measure(case, methods, repeats, threads, _progress))
                say(report.case_table(by_shape[-1]))
    except KeyboardInterrupt:
        say("Interrupted: what follows is of the cases that were finished.")
    every = [row for rows in [*by_shape, *(rows for _, rows in by_sweep)] for row in rows]
    say(report.legend(every, cases[0]))
    if args.output:
        args.output.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    if args.json:
        found = {
            "machine": facts,
            "repeats": repeats,
            "skipped": absent,
            "shapes": [row.as_json() for rows in by_shape for row in rows],
            "scaling": [
                {"title": s.title, "varied": s.varied, "cases": [asdict(c) for c in s.cases],
                 "rows": [row.as_json() for row in rows]}
                for s, rows in by_sweep
            ],
        }  # fmt: skip
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if args.png and every:
        report.figure(args.png, by_shape, by_sweep)


if __name__ == "__main__":
    main()
