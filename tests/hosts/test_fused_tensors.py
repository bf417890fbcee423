"""Fused loops that write into tensors, and what they record on their modules."""

from __future__ import annotations

import pytest
import torch
from support.fusable_models import (
    BATCH,
    HIDDEN,
    OUTPUTS,
    STEPS,
    Cells,
    Dense,
    assert_same,
    input_of,
    results_of,
    stepped_and_fused,
)
from torch import nn

import snn_eventprop

snntorch = pytest.importorskip("snntorch")
norse = pytest.importorskip("norse.torch")


pytestmark = pytest.mark.filterwarnings("error:the forward pass of")


class _Counting(nn.Module):
    """Adds up spikes in place; what ``start`` makes of the first ones, ``look`` sees of the sum."""

    def __init__(self, start, look=lambda total: total):
        super().__init__()
        self.fc, self.lif = nn.Linear(5, 4), snntorch.Leaky(beta=0.9)
        self.start, self.look = start, look

    def forward(self, x):
        mem, total, seen = self.lif.reset_mem(), None, []
        for k, current in enumerate(x):
            spk, mem = self.lif(3 * self.fc(current), mem)
            total = self.start(spk) if total is None else total
            total += spk
            if k % 10 == 0:
                seen.append(self.look(total))
        total /= len(x)
        total -= 0.01
        total *= 2
        return total, torch.stack([x.sum(0)[:, :4] + part for part in seen])


class Written(Cells):
    """Results written into tensors, as Norse's tutorials do."""

    def forward(self, x):
        s1 = s2 = so = None
        spikes = torch.zeros(len(x), BATCH, HIDDEN)
        voltages = torch.empty(len(x), BATCH, OUTPUTS, device=x.device, dtype=x.dtype)
        for k in range(len(x)):
            z, s1 = self.lif1(x[k], s1)
            z, s2 = self.lif2(4 * self.fc(z), s2)
            voltages[k, :, :], so = self.out(z, so)
            if k % 3:
                spikes[k - len(x)] = z
            if k == 10:
                early = spikes * 2
        spikes[3] = torch.ones(BATCH, HIDDEN)
        return spikes, voltages, early


def test_tensors_made_and_filled_in_the_forward_pass_are_fused():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.lif = nn.Linear(5, 4), snntorch.Leaky(beta=0.9)

        def forward(self, x):
            mem, out, mask = self.lif.reset_mem(), [], torch.zeros(BATCH, 4)
            before = mask + 0.5
            mask[:, :2] = 1
            mask.scatter_(1, torch.full((BATCH, 1), 3), 2.0)
            noise = torch.empty(BATCH, 4)
            for current in x:
                spk, mem = self.lif(self.fc(current) * mask + noise.uniform_() + before, mem)
                noise *= 2
                out.append(spk + noise)
            return torch.stack(out), mask, noise

    torch.manual_seed(0)
    stepped, fused = stepped_and_fused(Masked())
    results = []
    for model in (stepped, fused):
        torch.manual_seed(2)
        results.append(results_of(model, torch.rand(STEPS, BATCH, 5)))
    assert_same(*results)
    assert "25 steps" in fused.fusion


def test_results_written_row_by_row_are_fused():
    torch.manual_seed(1)
    stepped, fused = stepped_and_fused(Written())
    assert_same(results_of(fused, input_of("Leaky")), results_of(stepped, input_of("Leaky")))
    assert fused.fusion == "lif1, lif2 (2 neurons): 25 steps"


@pytest.mark.parametrize(
    ("start", "look", "fused_too"),
    [
        (lambda spk: 0, lambda total: total, True),
        (lambda spk: 0 * spk, lambda total: 2 * total, True),
        (lambda spk: spk.new_zeros(spk.shape), lambda total: total.clone(), True),
        (torch.zeros_like, lambda total: total, True),
        (lambda spk: torch.zeros(spk.shape), lambda total: total, True),
        (lambda spk: 0, lambda total: total.view(BATCH, 4), False),
        (lambda spk: 0, lambda total: total.detach(), False),
        (lambda spk: 0, lambda total: total.contiguous(), False),
        (lambda spk: spk, lambda total: total, False),
    ],
    ids=[
        "number", "product", "new_zeros", "zeros_like", "zeros", "view", "detach", "contiguous",
        "spikes",
    ],
)  # fmt: skip
def test_sums_in_place_are_fused_where_no_view_could_see_them(start, look, fused_too):
    torch.manual_seed(0)
    stepped, fused = stepped_and_fused(_Counting(start, look), count_gradient=1.0)
    x = torch.rand(STEPS, BATCH, 5)
    if fused_too:
        assert_same(results_of(fused, x), results_of(stepped, x))
        assert "25 steps" in fused.fusion
    else:
        with pytest.warns(UserWarning, match="add_ writes"), torch.no_grad():
            for one, other in zip(fused(x), stepped(x), strict=True):
                assert torch.equal(one, other)


def test_a_buffer_that_is_filled_anew_in_each_step_is_not_taken_for_its_last_content():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.lif = nn.Linear(5, 4), snntorch.Leaky(beta=0.9)
            self.register_buffer("noise", torch.zeros(BATCH, 4))

        def forward(self, x):
            mem, out = self.lif.reset_mem(), []
            for current in x:
                spk, mem = self.lif(3 * self.fc(current) + self.noise.normal_(), mem)
                out.append(spk)
            return torch.stack(out)

    torch.manual_seed(0)
    stepped, fused = stepped_and_fused(Noisy())
    x, results = torch.rand(STEPS, BATCH, 5), []
    with pytest.warns(UserWarning, match="written into after it was used"):
        for model in (stepped, fused):
            torch.manual_seed(2)
            results.append(model(x))
    assert torch.equal(*results) and results[0].sum() > 10


def test_what_a_forward_pass_records_on_its_modules_is_there_afterwards():
    class Recording(Dense):
        def forward(self, x):
            spikes, membranes = super().forward(x)
            self.spikes, self.lif1.record = spikes, {"last": [membranes[-1]]}
            return membranes

    torch.manual_seed(0)
    model = Recording(lambda size: snntorch.Leaky(beta=0.9, threshold=0.3), ("mem",))
    stepped, fused = stepped_and_fused(model)
    x = input_of("Leaky")
    for run in (stepped, fused):
        run(x)
    assert type(fused.spikes) is torch.Tensor and fused.spikes.sum() > 0
    assert torch.equal(fused.spikes, stepped.spikes)
    torch.testing.assert_close(fused.lif1.record["last"][0], stepped.lif1.record["last"][0])
    penalties = [
        torch.autograd.grad(m.spikes.cumsum(0).sum(), m.fc1.weight)[0] for m in (fused, stepped)
    ]
    torch.testing.assert_close(*penalties, rtol=1e-4, atol=1e-4)


class Recording(nn.Module):
    """Keeps buffers, lists and counters, and feeds back, which cannot be fused."""

    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(5, 4), nn.BatchNorm1d(4, momentum=None)
        self.a, self.b = snntorch.Leaky(beta=0.9), snntorch.Leaky(beta=0.9)
        self.register_buffer("seen", torch.zeros(4))
        self.steps, self.spikes, self.by_layer = 0, [], {"a": [], "b": []}

    def forward(self, x):
        mem1, mem2 = self.a.reset_mem(), self.b.reset_mem()
        back = torch.zeros(x.shape[1], 4)
        for current in x:
            spk, mem1 = self.a(3 * self.norm(self.fc(current)) + back, mem1)
            back, mem2 = self.b(spk, mem2)
            self.steps += 1
            self.seen = self.seen + self.norm.running_mean
            self.spikes.append(back)
            self.by_layer["a"].append(spk)
        return torch.stack(self.spikes[-len(x) :])


def test_what_an_abandoned_attempt_changed_on_modules_is_undone():
    torch.manual_seed(0)
    stepped, fused = stepped_and_fused(Recording())
    shared = fused.spikes
    x = torch.rand(STEPS, BATCH, 5)
    results = [stepped(x)]
    with pytest.warns(UserWarning, match="feeds back"):
        results.append(fused(x))
    assert torch.equal(*results) and results[0].sum() > 0
    assert fused.steps == STEPS and int(fused.norm.num_batches_tracked) == STEPS
    for (name, one), other in zip(stepped.named_buffers(), fused.buffers(), strict=True):
        assert torch.equal(one, other), name
    assert fused.spikes is shared and len(shared) == STEPS
    assert torch.equal(torch.stack(shared), results[0])
    assert torch.equal(torch.stack(fused.by_layer["a"]), torch.stack(stepped.by_layer["a"]))


def test_undoing_an_attempt_leaves_earlier_graphs_whole():
    model = Recording().eval()
    fused = snn_eventprop.swap(model, fuse=True, verbose=False)
    loss = (fused.norm(torch.rand(3, 4, requires_grad=True)) * fused.seen).sum()
    with pytest.warns(UserWarning, match="feeds back"):
        fused(torch.rand(STEPS, BATCH, 5))
    loss.backward()
