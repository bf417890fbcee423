"""The options of ``python -m snn_eventprop.benchmark``."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch

from . import cases
from .cases import Case, parse_shape, with_steps
from .epoch import SAMPLES
from .peers import DEFAULT, PEERS

_EXAMPLES = """\
examples:
  python -m snn_eventprop.benchmark --quick                           a minute or two, rough
  python -m snn_eventprop.benchmark --shapes 1000x256x64 100x256x64 --repeats 9
  python -m snn_eventprop.benchmark --dt 1 2 5 10 --gradients         the same second, cut finer
  python -m snn_eventprop.benchmark --scaling --png scaling.png       against dt, T, H, batch
  python -m snn_eventprop.benchmark --threads 1 2 --methods grid exact
  python -m snn_eventprop.benchmark --startup                         import and compilation
  python -m snn_eventprop.benchmark --device cuda --dt 1 5 --hidden 256 1024 --batch 256 \\
      --epoch --json gpu.json                                         everything about a GPU
"""


def _shape(text: str) -> Case:
    try:
        return parse_shape(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive(text: str) -> int:
    value = int(text) if text.lstrip("-").isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return value


def positive_number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m snn_eventprop.benchmark",
        description=(
            "Time and peak memory of one training step (forward, sum-exp loss, backward) of a "
            "recurrent spiking network, for this package and for the peers that are installed; "
            "with --gradients also how far their gradients are from those of continuous time. "
            "Each method runs in its own process; they take steps in turn. Says where a peer wins. "
            "Takes minutes: steps of peers take seconds each."
        ),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = made.add_argument_group("what to measure")
    what.add_argument(
        "--shapes", nargs="+", type=_shape, metavar="TxHxB",
        help="steps, hidden neurons and batch (default: "
        + " ".join(f"{c.steps}x{c.hidden}x{c.batch}" for c in cases.DEFAULT) + ")",
    )  # fmt: skip
    for name, default, text in (
        ("steps", 1000, "time steps in a sample"),
        ("hidden", 256, "recurrent hidden neurons"),
        ("batch", 64, "samples in a batch"),
    ):
        what.add_argument(
            f"--{name}", nargs="+", type=positive, metavar="N",
            help=f"{text}; several values of --steps (or --dt), --hidden and --batch make a grid, "
            f"in place of --shapes (default where another is given: {default})",
        )  # fmt: skip
    what.add_argument("--dt", nargs="+", type=positive_number, metavar="MS",
                      help="width of a step in ms, instead of --steps: the same events on finer "
                      "and coarser grids, say 1 2 5 10")  # fmt: skip
    what.add_argument("--events", type=positive, default=8000, metavar="N",
                      help="input events per sample over 700 channels (default: 8000)")  # fmt: skip
    what.add_argument("--spikes", type=positive_number, default=13.0, metavar="X",
                      help="spikes per hidden neuron and sample, to which the input weights "
                      "of each method are scaled (default: 13)")  # fmt: skip
    what.add_argument("--duration", type=positive_number, default=1.0, metavar="S",
                      help="length of a sample in seconds (default: 1)")  # fmt: skip
    slow = ", ".join(name for name, peer in PEERS.items() if peer.slow)
    what.add_argument("--methods", nargs="+", choices=list(PEERS), default=list(DEFAULT),
                      metavar="NAME", help="of: " + ", ".join(PEERS) + " (default: all that are "
                      f"installed but {slow}, which take seconds per sample)")  # fmt: skip
    what.add_argument("--gradients", action="store_true",
                      help="relative error and cosine of each method's gradients, for the same "
                      "weights, against the exact solver in float64; at most 16 "
                      "samples")  # fmt: skip
    what.add_argument("--epoch", action="store_true",
                      help=f"also time an epoch of {SAMPLES:,} samples (SHD's training file), with "
                      "transfer and Adam, and the share of what memory allows")  # fmt: skip
    what.add_argument("--epoch-samples", type=positive, default=SAMPLES, metavar="N",
                      help="samples of that epoch")  # fmt: skip
    what.add_argument("--startup", action="store_true",
                      help="instead of shapes: import, and first step with and without compiled "
                      "kernels on disk, in new processes")  # fmt: skip
    what.add_argument("--scaling", action="store_true",
                      help="instead of shapes: cost against dt for the same events, neurons, "
                      "batch up to 4096, events, spikes, and length up to 100,000 "
                      "steps")  # fmt: skip
    what.add_argument("--peer-limit", type=positive, default=128_000, metavar="N",
                      help="in --scaling, leave BPTT methods out where steps x batch is larger "
                      "(default: 128000)")  # fmt: skip
    what.add_argument("--quick", action="store_true",
                      help="one repeat, batch of at most 8: rough figures")  # fmt: skip
    how = made.add_argument_group("how")
    how.add_argument("--device", choices=("cpu", "cuda"), default="cpu",
                     help="where all methods run (default: cpu)")  # fmt: skip
    how.add_argument("--repeats", type=positive, metavar="N",
                     help="measured steps of each method (default: 5)")  # fmt: skip
    how.add_argument("--threads", nargs="+", type=positive, metavar="N",
                     help="threads of each method; several values show how it scales (default: "
                     "torch's)")  # fmt: skip
    how.add_argument("--seed", type=int, default=0, help="of input and weights (default: 0)")
    out = made.add_argument_group("output")
    out.add_argument("--output", type=Path, metavar="FILE", help="write the tables here as well")
    out.add_argument("--json", type=Path, metavar="FILE", help="every single figure")
    out.add_argument("--png", type=Path, metavar="FILE",
                     help="time, memory and gradient errors (needs matplotlib)")  # fmt: skip
    return made


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[Case]]:
    """Options and the cases they ask for; exits with a message where they make no sense."""
    made = parser()
    args = made.parse_args(arguments)
    grid = args.steps or args.dt or args.hidden or args.batch
    if args.shapes and grid:
        made.error("give either --shapes or --steps/--dt/--hidden/--batch")
    if args.steps and args.dt:
        made.error("--steps and --dt are two ways to say the same; give one")
    if args.device == "cuda" and not torch.cuda.is_available():
        made.error(
            "--device cuda: this torch sees no CUDA device (torch.cuda.is_available() is False); "
            "run it on a machine with an NVIDIA GPU and a CUDA build of torch, or on the CPU"
        )
    if args.png and find_spec("matplotlib") is None:
        made.error("--png needs matplotlib: pip install matplotlib")
    for path in (args.output, args.json, args.png):
        if path is not None and not path.absolute().parent.is_dir():
            made.error(f"the folder of {path} does not exist")
    try:
        chosen = _cases(args)
    except ValueError as error:
        made.error(str(error))
    if args.scaling and len(chosen) > 1 and (args.shapes or grid):
        made.error("--scaling starts from one shape; give one value each")
    args.threads = args.threads or [torch.get_num_threads()]
    args.repeats = args.repeats or (1 if args.quick else 5)
    return args, chosen


def _cases(args: argparse.Namespace) -> list[Case]:
    if args.steps or args.dt or args.hidden or args.batch:
        grid = itertools.product(args.hidden or [256], args.batch or [64], args.steps or [1000])
        chosen = [Case(steps=t, hidden=h, batch=b) for h, b, t in grid]
    else:
        chosen = list(args.shapes or cases.DEFAULT)
    common = {"events": args.events, "spikes": args.spikes, "duration": args.duration,
              "seed": args.seed}  # fmt: skip
    chosen = [replace(case, **common) for case in chosen]
    if args.dt:
        chosen = with_steps(chosen, [1e-3 * dt for dt in args.dt])
    return [replace(c, batch=min(c.batch, 8)) for c in chosen] if args.quick else chosen
