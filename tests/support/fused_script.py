"""Run by ``test_processes``, alone and under torchrun: two steps of training of fused models.

    fused_script.py FOLDER

Each process takes its share of the same batch; writes to FOLDER, a file for each process, what
every model ran at once and its gradients in both steps.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings

import snntorch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import snn_eventprop

STEPS, BATCH, INPUTS, HIDDEN, OUTPUTS = 30, 8, 40, 12, 4


class Explicit(nn.Module):
    """States handed from step to step; trained on spike rates, with learned constants."""

    options = {"count_gradient": 1.0}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        learned = {"threshold": 0.5, "learn_beta": True, "learn_threshold": True}
        self.fc1 = nn.Linear(INPUTS, HIDDEN)
        self.lif1 = snntorch.Synaptic(alpha=0.7, beta=0.9, learn_alpha=True, **learned)
        self.fc2, self.lif2 = nn.Linear(HIDDEN, OUTPUTS), snntorch.Leaky(beta=0.9, **learned)

    def forward(self, x: Tensor) -> Tensor:
        syn, mem1 = self.lif1.reset_mem()
        mem2, record = self.lif2.reset_mem(), []
        for step in range(x.size(0)):
            spk, syn, mem1 = self.lif1(self.fc1(x[step]), syn, mem1)
            spk, mem2 = self.lif2(self.fc2(spk), mem2)
            record.append(spk)
        return torch.stack(record).mean(0)


class Hidden(nn.Module):
    """States kept by the layers, which begin where the sample before ended; membranes."""

    options = {}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(INPUTS, HIDDEN), snntorch.Leaky(beta=0.9, threshold=0.5, init_hidden=True),
            nn.Linear(HIDDEN, OUTPUTS),
            snntorch.Leaky(beta=0.9, init_hidden=True, output=True, reset_mechanism="none"),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net[1::2]:
            layer.detach_hidden()
        return torch.stack([self.net(current)[1] for current in x]).mean(0)


def train(kind: type, wrapped_first: bool, rank: int, processes: int) -> dict:
    torch.manual_seed(0)
    inputs = (torch.rand(2, STEPS, BATCH, INPUTS) < 0.1).float().chunk(processes, 2)[rank]
    targets = torch.randint(OUTPUTS, (2, BATCH)).chunk(processes, 1)[rank]
    model = kind()
    swap = functools.partial(snn_eventprop.swap, fuse=True, verbose=False, inplace=True)
    if wrapped_first and processes > 1:
        runs = swap(DistributedDataParallel(model, find_unused_parameters=True), **kind.options)
    else:
        swap(model, **kind.options)
        runs = DistributedDataParallel(model) if processes > 1 else model
    optimiser = torch.optim.SGD(model.parameters(), 1e-3)
    gradients = []
    for x, target in zip(inputs, targets, strict=True):
        optimiser.zero_grad()
        cross_entropy(5 * runs(x), target).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        optimiser.step()
    return {"fusion": model.fusion, "gradients": gradients}


def main(folder: str) -> None:
    warnings.filterwarnings("error", message="the forward pass of")
    torch.set_num_threads(1)
    processes, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if processes > 1:
        dist.init_process_group("gloo")
    found = {
        f"{kind.__name__}, {'wrapped' if first else 'swapped'} first": train(
            kind, first, rank, processes
        )
        for kind, first in ((Explicit, False), (Hidden, False), (Hidden, True))
    }
    torch.save(found, f"{folder}/{rank}.pt")
    if processes > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
