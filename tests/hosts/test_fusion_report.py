"""What ``model.fusion`` says, what hooks keep of a fused pass, and what the pass leaves behind."""

from __future__ import annotations

import gc

import pytest
import torch
from support.fusable_models import (
    BATCH,
    INPUTS,
    STEPS,
    Dense,
    assert_same,
    input_of,
    model_of,
    results_of,
    stepped_and_fused,
)
from torch import nn

import snn_eventprop

snntorch = pytest.importorskip("snntorch")
norse = pytest.importorskip("norse.torch")

pytestmark = pytest.mark.filterwarnings("error:the forward pass of")


def test_fusion_shows_what_was_done_for_what_reason():
    def report(x, neuron, names=("mem",)):
        fused = snn_eventprop.swap(Dense(neuron, names), fuse=True, verbose=False)
        fused(x)
        return fused.fusion

    many = torch.rand(STEPS, BATCH, INPUTS)
    few = (many < 0.01).float()
    first = report(few, lambda size: snntorch.Leaky(beta=0.9, threshold=5.0))
    assert first == "lif1, lif2 (2 neurons): 25 steps, linear layer folded"
    assert report(many, lambda size: snntorch.Leaky(beta=0.9)) == (
        "lif1, lif2 (2 neurons): 25 steps"
    )
    for why, names, neuron in (
        ("immediate reset by subtraction", ("mem",),
         lambda size: snntorch.Leaky(beta=0.9, reset_delay=False)),
        ("recurrent weights that are no matrix", ("spk", "mem"),
         lambda size: snntorch.RLeaky(beta=0.9, all_to_all=False)),
    ):  # fmt: skip
        assert report(few, neuron, names) == f"lif1, lif2 (2 neurons): 25 steps, one by one ({why})"

    class WithCurrents(Dense):
        def call(self, layer, current, states):
            spk, syn, mem = layer(current, *states)
            return spk + syn, [syn, mem]

    model = WithCurrents(lambda size: snntorch.Synaptic(alpha=0.8, beta=0.9), ("syn", "mem"))
    fused = snn_eventprop.swap(model, fuse=True, verbose=False)
    fused(few)
    assert fused.fusion == (
        "lif1, lif2 (2 neurons): 25 steps, one by one (syn of every step in use)"
    )


class _Deep(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.fc = nn.ModuleList(nn.Linear(5, 5) for _ in range(depth))
        self.lif = nn.ModuleList(
            snntorch.Leaky(beta=0.9, reset_delay=False) for _ in range(depth)
        )  # fmt: skip

    def forward(self, x):
        states, out = [lif.reset_mem() for lif in self.lif], []
        for current in x:
            for k, (fc, lif) in enumerate(zip(self.fc, self.lif, strict=True)):
                current, states[k] = lif(3 * fc(current), states[k])
            out.append(current)
        return torch.stack(out)


def test_neurons_with_one_reason_are_named_in_one_line():
    fused = snn_eventprop.swap(_Deep(4), fuse=True, verbose=False)
    fused(torch.rand(STEPS, BATCH, 5))
    assert fused.fusion == (
        "lif.0, lif.1, lif.2, lif.3 (4 neurons): 25 steps, one by one "
        "(immediate reset by subtraction)"
    )


def test_a_model_without_swapped_neurons_says_so_and_runs_as_written(capsys):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.lif = snntorch.Alpha(0.9, 0.8, init_hidden=True)

        def forward(self, x):
            return torch.stack([self.lif(current) for current in x])

    fused = snn_eventprop.swap(Plain(), fuse=True)
    why = "no neuron in it has an exact gradient"
    assert f"forward pass runs as written: {why}" in capsys.readouterr().out
    assert fused.fusion == f"step by step: {why}"
    x = torch.rand(4, 2, 3)
    assert torch.equal(fused(x), Plain()(x))


def test_hooks_may_keep_the_outputs_of_single_steps():
    """Of neurons and of layers between them; their gradients are those of the loop."""
    kept = {}
    results = []
    stepped, fused = stepped_and_fused(model_of("Leaky"))
    for model in (stepped, fused):
        kept[model] = []
        for layer in (model.lif1, model.fc2, model.lif2):
            layer.register_forward_hook(lambda _, given, out, to=kept[model]: to.append(out))
        model(input_of("Leaky"))
        spikes = torch.stack([out[0] for out in kept[model][::3]])
        currents = torch.stack(kept[model][1::3])
        membranes = torch.stack([out[1] for out in kept[model][2::3]])
        weight = torch.linspace(-1, 1, STEPS)[:, None, None]
        loss = (weight * spikes).sum() + (weight * currents).sum() + (weight * membranes).sum()
        gradients = torch.autograd.grad(loss, model.fc1.weight)
        results.append(((spikes, currents, membranes), gradients))
    assert results[0][0][0].sum() > 10 and "25 steps" in fused.fusion
    assert_same(results[1], results[0])


def test_a_tensor_that_nothing_needs_raises_where_a_hook_kept_it():
    class Unused(Dense):
        def forward(self, x):
            mem, out = None, []
            for current in x:
                spk, mem = self.lif1(self.fc1(current), mem)
                out.append(spk)
                self.cell(current)
            return torch.stack(out)

    model = Unused(lambda size: snntorch.Leaky(beta=0.9), ("mem",))
    model.cell = norse.LIFCell()
    fused = snn_eventprop.swap(model, fuse=True, verbose=False)
    kept = []
    fused.cell.register_forward_hook(lambda _, given, out: kept.append(out[0]))
    fused(input_of("Leaky"))
    with pytest.raises(RuntimeError, match="nothing that the pass has returned needs it"):
        torch.stack(kept)


def test_a_reset_written_out_in_the_loop_keeps_its_gradient():
    """Each step is a sequence of its own then, as in the network of ``docs/export.md``."""

    class ByHand(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.lif = nn.Linear(5, 4), snntorch.Synaptic(0.8, 0.9, reset_mechanism="none")

        def forward(self, x):
            syn = mem = torch.zeros(x.shape[1], 4)
            out = []
            for current in x:
                spk, syn, mem = self.lif(self.fc(current), syn, mem)
                mem = mem - self.lif.threshold * spk
                out.append(spk)
            return (torch.stack(out),)

    torch.manual_seed(0)
    stepped, fused = stepped_and_fused(ByHand())
    x = torch.rand(STEPS, BATCH, 5) * 2
    expected = results_of(stepped, x)
    assert expected[0][0].sum() > 10
    assert_same(results_of(fused, x), expected)


def test_a_training_step_leaves_no_tensors_to_the_garbage_collector():
    """Circles of references would hold the memory of forward passes until it comes round."""
    fused = snn_eventprop.swap(model_of("Leaky"), fuse=True, verbose=False)
    x = input_of("Leaky")

    def tensors_after(steps):
        for _ in range(steps):
            fused.zero_grad()
            fused(x)[1].square().mean().backward()
        return sum(issubclass(type(known), torch.Tensor) for known in gc.get_objects())

    tensors_after(3)
    gc.collect()
    gc.disable()
    try:
        assert tensors_after(1) == tensors_after(10)
    finally:
        gc.enable()


class WithLeft(nn.Module):
    """A neuron without exact gradient between two that have one."""

    def __init__(self, middle, hidden):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(5, 4), snntorch.Leaky(beta=0.9)
        self.fc2, self.middle = nn.Linear(4, 4), middle
        self.fc3, self.lif3 = nn.Linear(4, 3), snntorch.Leaky(beta=0.9)
        self.hidden = hidden

    def forward(self, x):
        mem1, mem3 = self.lif1.reset_mem(), self.lif3.reset_mem()
        states = self.middle.reset_mem()
        states = [] if self.hidden else states if isinstance(states, tuple) else [states]
        spikes, seen = [], []
        for current in x:
            spk, mem1 = self.lif1(4 * self.fc1(current), mem1)
            out = self.middle(8 * self.fc2(spk), *states)
            spk, states = (out, []) if self.hidden else (out[0], out[1:])
            seen.append(self.middle.mem)
            spk, mem3 = self.lif3(8 * self.fc3(spk), mem3)
            spikes.append(spk)
        return torch.stack(spikes), torch.stack(seen)


@pytest.mark.parametrize("hidden", [False, True], ids=["explicit", "hidden"])
@pytest.mark.parametrize("kind", ["inhibition", "Alpha"])
def test_a_neuron_that_was_left_steps_and_the_rest_is_fused(kind, hidden):
    torch.manual_seed(0)
    if kind == "Alpha":
        middle = snntorch.Alpha(0.9, 0.8, init_hidden=hidden)
    else:
        with pytest.warns(UserWarning, match="Inhibition"):
            middle = snntorch.Leaky(beta=0.9, inhibition=True, init_hidden=hidden)
    stepped, fused = stepped_and_fused(WithLeft(middle, hidden))
    x = torch.rand(STEPS, BATCH, 5)
    for _ in range(2):
        expected = results_of(stepped, x)
        assert expected[0][0].sum() > 5
        assert_same(results_of(fused, x), expected)
        torch.testing.assert_close(fused.middle.mem, stepped.middle.mem)
    assert "middle: 25 steps, one by one (not swapped)" in fused.fusion
    assert "lif1, lif3 (2 neurons): 25 steps" in fused.fusion
    assert "forward" not in vars(fused.middle)


def test_a_cell_of_norse_that_was_left_steps_and_the_rest_is_fused():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.out = nn.Linear(5, 4), norse.LICell()
            self.first, self.middle = norse.LIFCell(), norse.LIFAdExCell()

        def forward(self, x):
            s1 = s2 = s3 = None
            out = []
            for current in x:
                spk, s1 = self.first(20 * self.fc(current), s1)
                spk, s2 = self.middle(20 * spk, s2)
                v, s3 = self.out(spk, s3)
                out.append(v)
            return torch.stack(out), s2.v

    torch.manual_seed(0)
    stepped, fused = stepped_and_fused(Model())
    x = torch.rand(STEPS, BATCH, 5)
    expected = stepped(x)
    assert expected[0].abs().sum() > 0.1
    for one, other in zip(fused(x), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert "first: 25 steps" in fused.fusion
    assert "middle: 25 steps, one by one (not swapped)" in fused.fusion
