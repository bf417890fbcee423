"""What ``swap(model, fuse=True)`` gains: a training step of a snnTorch model as its tutorials write
one, as it is (surrogate gradients), swapped, and swapped and fused, in turn, in one process.

The model is 700 inputs -> linear -> spiking neurons -> linear -> 20 leaky integrators, each called
once per time step; the loss is on the membranes. Prints medians of processor time, summed over
threads, which other work on the machine lengthens less than it does the time on the clock.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor, nn

from .._extras import require
from ..hosts.swap import swap
from .calibration import calibrate
from .cases import TAU_MEM, TAU_SYN, Case, draw_weights
from .options import positive
from .peers.base import DenseNetwork, linear
from .turns import in_turns

NEURONS = ("Leaky", "Synaptic")
LABELS = {
    "before": "before, surrogate gradients",
    "swapped": "swap(model)",
    "fused": "swap(model, fuse=True)",
}


class Tutorial(nn.Module):
    """Raster [T, B, inputs] -> hidden spikes [T, B, hidden], output membranes [T, B, outputs]."""

    def __init__(self, case: Case, neuron: str) -> None:
        import snntorch

        super().__init__()
        beta = math.exp(-case.dt / TAU_MEM)
        options = {"beta": beta, "init_hidden": True, "output": True}
        if neuron == "Synaptic":
            options["alpha"] = math.exp(-case.dt / TAU_SYN)
        make = getattr(snntorch, neuron)
        weights = draw_weights(case)
        # Its membrane adds the whole input in each step; the weights carry the missing factor.
        self.fc1, self.lif1 = linear(weights.input * (1 - beta)), make(**options)
        self.fc2 = linear(weights.output * (1 - beta))
        self.lif2 = make(**options, reset_mechanism="none")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.lif1.reset_mem()
        self.lif2.reset_mem()
        spikes, membranes = [], []
        for step in range(len(x)):
            spk, *_ = self.lif1(self.fc1(x[step]))
            *_, mem = self.lif2(self.fc2(spk))
            spikes.append(spk)
            membranes.append(mem)
        return torch.stack(spikes), torch.stack(membranes)


class Loop(DenseNetwork):
    """``Tutorial`` or what ``swap`` has made of it."""

    def __init__(self, case: Case, model: Tutorial) -> None:
        super().__init__(case)
        self.model = model
        self.layers = nn.ModuleList([model])
        self.weights = {"input": (model.fc1.weight, 1.0)}

    @torch.no_grad()
    def spikes_per_neuron(self, encoded: Tensor) -> float:
        return self.model(encoded)[0].sum(0).mean().item()

    def forward(self, encoded: Tensor, target: Tensor) -> Tensor:
        return self.loss(self.model(encoded)[1], target)


def networks(case: Case, neuron: str, count_gradient: float) -> dict[str, Loop]:
    """The same model with the same weights, by the names of ``LABELS``."""
    before = Loop(case, Tutorial(case, neuron))
    calibrate(before, case)
    swapped, fused = (
        swap(before.model, count_gradient=count_gradient, fuse=fuse, verbose=False)
        for fuse in (False, True)
    )
    return {"before": before, "swapped": Loop(case, swapped), "fused": Loop(case, fused)}


def main() -> None:
    default = Case()
    parser = argparse.ArgumentParser(
        prog="python -m snn_eventprop.benchmark.fuse",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, value, text in (
        ("steps", default.steps, "time steps in a sample of 1 s"),
        ("batch", default.batch, "samples in a batch"),
        ("hidden", default.hidden, "hidden neurons"),
        ("events", default.events, "input events per sample"),
        ("repeats", 5, "measured steps of each"),
        ("threads", 1, "threads of torch and of the engine"),
    ):
        parser.add_argument(
            f"--{name}", type=positive, default=value, metavar="N",
            help=f"{text} (default: {value})",
        )  # fmt: skip
    parser.add_argument("--neuron", choices=NEURONS, default=NEURONS[0],
                        help=f"the model's neurons (default: {NEURONS[0]})")  # fmt: skip
    parser.add_argument("--count-gradient", type=float, default=0.0, metavar="X",
                        help="as of swap (default: 0)")  # fmt: skip
    args = parser.parse_args()
    require("snntorch", extra="snntorch")
    torch.set_num_threads(args.threads)
    case = Case(steps=args.steps, batch=args.batch, hidden=args.hidden, events=args.events)
    compared = networks(case, args.neuron, args.count_gradient)
    found = in_turns(compared, case, args.repeats)
    print(
        f"{args.neuron}, {case}, {args.threads} thread{'s' * (args.threads > 1)}; processor time "
        f"of a training step, median of {args.repeats}:"
    )
    width = max(map(len, LABELS.values()))
    print(f"{'':{width}}  ms per sample  speed")
    for name, label in LABELS.items():
        print(f"{label:{width}}  {found[name]:13.2f}  {found['before'] / found[name]:5.2f}")
    print(f"fused: {compared['fused'].model.fusion}")


if __name__ == "__main__":
    main()
