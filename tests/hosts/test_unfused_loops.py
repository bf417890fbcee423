"""What of a loop over time cannot be fused: it runs as it is written, with one warning."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from support.fusable_models import (
    BATCH,
    STEPS,
    stepped_and_fused,
)
from torch import nn

snntorch = pytest.importorskip("snntorch")
norse = pytest.importorskip("norse.torch")


pytestmark = pytest.mark.filterwarnings("error:the forward pass of")


class _Times(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 5 * grad


def _feedback(model, x):
    back, mem1, mem2, out = torch.zeros(BATCH, 4), None, None, []
    for current in x:
        spk, mem1 = model.a(model.fc(current) + back, mem1)
        back, mem2 = model.b(spk, mem2)
        out.append(back)
    return torch.stack(out)


def _loop(change):
    def forward(model, x):
        mem, out = model.a.reset_mem(), []
        for current in x:
            spk, mem = model.a(model.fc(current), mem)
            spk, mem = change(spk, mem)
            out.append(spk)
        return torch.stack(out)

    return forward


def _written(model, x):
    mem, out = model.a.reset_mem(), torch.zeros(BATCH, len(x), 4)
    for k, current in enumerate(x):
        out[:, k], mem = model.a(model.fc(current), mem)
    return out


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (_feedback, "feeds back.*RLeaky"),
        (_loop(lambda spk, mem: (spk, mem) if mem.sum() > -1e9 else None), "values; decide"),
        (_loop(lambda spk, mem: (spk * float(mem.mean().item() < 1e9), mem)), "values; decide"),
        (_loop(lambda spk, mem: (spk * spk.detach().numpy().max(), mem)), "move .numpy.. after"),
        (_loop(lambda spk, mem: (_Times.apply(spk), mem)), "autograd.*; do that around"),
        (_loop(lambda spk, mem: (spk.mul_(2), mem)), r"writes.*total = total \+ spk"),
        (_loop(lambda spk, mem: (torch.relu_(spk), mem)), "writes.*use relu,"),
        (_loop(lambda spk, mem: (F.relu(spk, inplace=True), mem)), "writes.*inplace=False"),
        (_written, "writes.*torch.stack"),
    ],
    ids=[
        "feedback", "branch", "item", "numpy", "function", "inplace", "relu_", "relu", "setitem",
    ],
)  # fmt: skip
def test_what_cannot_be_fused_runs_as_written_with_one_warning(forward, reason):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(5, 4)
            self.a, self.b = snntorch.Leaky(beta=0.9), snntorch.Leaky(beta=0.9)

        def forward(self, x):
            return forward(self, x)

    torch.manual_seed(0)
    stepped, fused = stepped_and_fused(Model())
    x = torch.rand(STEPS, BATCH, 5) * 3
    with pytest.warns(UserWarning, match=f"step by step: .*{reason}"):
        first = fused(x)
    weight = torch.randn_like(first)
    assert first.sum() > 10 and torch.equal(first, stepped(x))
    assert re.search(reason, fused.fusion)
    gradients = [
        torch.autograd.grad((model(x) * weight).sum(), model.fc.weight)[0]
        for model in (stepped, fused)
    ]
    assert torch.equal(*gradients)


def test_the_reason_names_the_module_in_which_it_came_up():
    class Reading(nn.Module):
        def forward(self, spk):
            return spk * float(spk.sum().item() >= 0)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lif, self.gate = snntorch.Leaky(beta=0.9), Reading()

        def forward(self, x):
            mem, out = None, []
            for current in x:
                spk, mem = self.lif(current, mem)
                out.append(self.gate(spk))
            return torch.stack(out)

    _, fused = stepped_and_fused(Model())
    with pytest.warns(UserWarning, match=r"in gate \(Reading\), item needs values"):
        fused(torch.rand(STEPS, BATCH, 4))
