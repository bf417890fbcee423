"""``swap(model, fuse=True)``: a loop over time in a forward pass runs layer by layer."""

from __future__ import annotations

import copy
import io
import pickle
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import snn_eventprop

snntorch = pytest.importorskip("snntorch")
norse = pytest.importorskip("norse.torch")

from snntorch import utils  # noqa: E402

STEPS, BATCH, INPUTS, HIDDEN, OUTPUTS = 25, 3, 40, 8, 4


class Dense(nn.Module):
    """Two layers with explicit states, as snnTorch's tutorials write them."""

    def __init__(self, neuron, names):
        super().__init__()
        self.names = names
        self.fc1, self.lif1 = nn.Linear(INPUTS, HIDDEN), neuron(HIDDEN)
        self.fc2, self.lif2 = nn.Linear(HIDDEN, OUTPUTS), neuron(OUTPUTS)

    def call(self, layer, current, states):
        spk, *after = layer(current, *states)
        return spk, [spk, *after] if "spk" in self.names else after

    def forward(self, x):
        self.lif1.reset_mem(), self.lif2.reset_mem()
        first, second = [], []
        spikes, membranes = [], []
        for step in range(x.size(0)):
            spk, first = self.call(self.lif1, self.fc1(x[step]), first)
            spk, second = self.call(self.lif2, self.fc2(spk), second)
            spikes.append(spk)
            membranes.append(second[-1])
        return torch.stack(spikes, dim=0), torch.stack(membranes, dim=0)


class KeepsState(nn.Module):
    """``init_hidden``, one image for all steps, convolutions, pooling, eval-mode dropout."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3), snntorch.Leaky(beta=0.9, init_hidden=True, threshold=0.3),
            nn.MaxPool2d(2), nn.Conv2d(4, 6, 2), nn.BatchNorm2d(6), nn.Dropout(0.3),
            snntorch.Leaky(beta=0.8, init_hidden=True, threshold=0.3, reset_mechanism="zero"),
            nn.Flatten(), nn.Linear(24, OUTPUTS),
            snntorch.Synaptic(alpha=0.7, beta=0.8, init_hidden=True, output=True),
        )  # fmt: skip

    def forward(self, image):
        utils.reset(self.net)
        spikes, membranes = [], []
        for _ in range(STEPS):
            spk, _, mem = self.net(image)
            spikes.append(spk)
            membranes.append(mem)
        return torch.stack(spikes), torch.stack(membranes)


class Cells(nn.Module):
    """Norse's cells in a loop, with a leaky integrator at the end and all its voltages."""

    def __init__(self):
        super().__init__()
        p = norse.LIFParameters(v_th=torch.tensor(0.3))
        self.lif1 = norse.LIFRecurrentCell(INPUTS, HIDDEN, p)
        self.fc, self.lif2 = nn.Linear(HIDDEN, HIDDEN), norse.LIFCell(p)
        self.out = norse.LILinearCell(HIDDEN, OUTPUTS)

    def forward(self, x):
        s1 = s2 = so = None
        spikes, voltages = [], []
        for current in x:
            z, s1 = self.lif1(current, s1)
            z, s2 = self.lif2(4 * self.fc(z), s2)
            v, so = self.out(z, so)
            spikes.append(z)
            voltages.append(v)
        return torch.stack(spikes), torch.stack(voltages)


class Layers(nn.Module):
    """Norse's modules that take sequences themselves."""

    def __init__(self):
        super().__init__()
        p = norse.LIFParameters(v_th=torch.tensor(0.3))
        self.net = norse.SequentialState(
            nn.Linear(INPUTS, HIDDEN), norse.LIF(p), norse.LIFRecurrent(HIDDEN, HIDDEN, p),
            nn.Linear(HIDDEN, OUTPUTS), norse.LI(),
        )  # fmt: skip

    def forward(self, x):
        out, state = self.net(6 * x if x.dtype == torch.float64 else x)
        return out, state[-1].v


def _snn(name, **options):
    arguments = {"beta": 0.9, "threshold": 0.5, **options}
    if "Synaptic" in name:
        arguments["alpha"] = 0.7
    names = (*(("spk",) if name[0] == "R" else ()), "mem")

    def neuron(size):
        more = {"linear_features": size} if name[0] == "R" else {}
        return getattr(snntorch, name)(**arguments, **more)

    return lambda: Dense(neuron, names)


MODELS = {
    "Leaky": _snn("Leaky", learn_beta=True, learn_threshold=True),
    "RLeaky": _snn("RLeaky", reset_mechanism="zero"),
    "Synaptic": _snn("Synaptic", learn_alpha=True),
    "RSynaptic": _snn("RSynaptic", learn_beta=True),
    "zero": _snn("Leaky", reset_mechanism="zero", reset_delay=False),
    "no_reset": _snn("Leaky", reset_mechanism="none"),
    "immediate": _snn("Synaptic", reset_delay=False),
    "convolutional": KeepsState,
    "norse_cells": Cells,
    "norse_layers": Layers,
}  # fmt: skip


def _input(name, seed=0, batch=BATCH, steps=STEPS):
    generator = torch.Generator().manual_seed(seed)
    if name == "convolutional":
        return torch.rand(batch, 1, 8, 8, generator=generator) * 2
    return (torch.rand(steps, batch, INPUTS, generator=generator) < 0.05).float()


def _model(name):
    torch.manual_seed(1)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(2).add_(0.1)
    return model.eval()


def _pass(model, x):
    """Results and gradients of a loss on them."""
    x = x.clone().requires_grad_()
    results = model(x)
    generator = torch.Generator().manual_seed(5)
    loss = sum((out * torch.randn(out.shape, generator=generator)).sum() for out in results)
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, [x, *parameters], allow_unused=True)
    return results, gradients


def _states(model):
    return [
        getattr(module, name).detach()
        for module in model.modules() for name in ("spk", "syn", "mem") if hasattr(module, name)
    ]  # fmt: skip


def _assert_same(found, expected, *, gradients=2e-4):
    for one, other in zip(found[0], expected[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert torch.equal(found[0][0] > 0.999, expected[0][0] > 0.999)
    for one, other in zip(found[1], expected[1], strict=True):
        assert (one is None) == (other is None)
        if other is not None:
            assert (one - other).norm() <= gradients * other.norm()


@pytest.fixture(autouse=True)
def no_warning_unless_expected():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the forward pass of")
        yield


def _swapped(model, **options):
    return (
        snn_eventprop.swap(model, verbose=False, **options),
        snn_eventprop.swap(model, fuse=True, verbose=False, **options),
    )


def _one_by_one(monkeypatch, cls):
    """A list that receives each step that a neuron of ``cls`` takes outside the engine."""
    taken, advance = [], cls._advance
    monkeypatch.setattr(
        cls, "_advance", lambda self, *given: taken.append(self) or advance(self, *given)
    )
    return taken


@pytest.mark.parametrize("name", MODELS)
def test_spikes_states_and_gradients_are_those_of_the_loop(name):
    stepped, fused = _swapped(_model(name))
    assert list(fused.state_dict()) == list(stepped.state_dict())
    for seed, batch in ((0, BATCH), (1, 2)):
        x = _input(name, seed, batch)
        expected, states = _pass(stepped, x), _states(stepped)
        assert expected[0][0].abs().sum() > 10
        assert any(g is not None and g.abs().sum() > 0 for g in expected[1])
        _assert_same(_pass(fused, x), expected)
        for one, other in zip(_states(fused), states, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    if name != "norse_layers":
        assert f"{STEPS} steps" in fused.fusion


@pytest.mark.parametrize("name", ["Leaky", "Synaptic", "zero", "no_reset", "convolutional"])
def test_count_gradient_is_that_of_the_loop_on_the_engine(name, monkeypatch):
    stepped, fused = _swapped(_model(name), count_gradient=1.0)
    _, without = _pass(snn_eventprop.swap(_model(name), verbose=False), _input(name))
    expected = _pass(stepped, _input(name))
    assert any(
        (one - other).norm() > 0.01 * other.norm()
        for one, other in zip(without, expected[1], strict=True) if other is not None
    )  # fmt: skip
    monkeypatch.setattr("snn_eventprop.hosts.sequence._PIECE", 50)  # two steps at a time
    taken = _one_by_one(monkeypatch, type(next(m for m in fused.modules() if hasattr(m, "mem"))))
    _assert_same(_pass(fused, _input(name)), expected)
    assert not taken and "one by one" not in fused.fusion


@pytest.mark.parametrize("name", ["norse_cells", "norse_layers", "RLeaky"])
def test_count_gradient_of_recurrent_layers_steps_and_says_so(name, capsys):
    stepped = snn_eventprop.swap(_model(name), count_gradient=1.0, verbose=False)
    fused = snn_eventprop.swap(_model(name), fuse=True, count_gradient=1.0)
    rows = capsys.readouterr().out.splitlines()
    for row in rows:
        recurrent = "Recurrent" in row or "RLeaky" in row
        assert recurrent == ("one by one: count_gradient of a recurrent layer" in row)
    _assert_same(_pass(fused, _input(name)), _pass(stepped, _input(name)))
    if name != "norse_layers":
        assert fused.fusion.count("one by one (count_gradient of a recurrent layer)") == (
            2 if name == "RLeaky" else 1
        )


@pytest.mark.parametrize("name", ["Leaky", "norse_cells"])
def test_a_fused_forward_pass_equals_the_hosts_own(name):
    model, x = _model(name), _input(name)
    fused = snn_eventprop.swap(model, fuse=True, verbose=False)
    for one, other in zip(fused(x), model(x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_sparse_input_runs_as_events(monkeypatch):
    from snn_eventprop.hosts.linear_current import LinearDrive

    folded = []
    rows = LinearDrive.rows
    monkeypatch.setattr(LinearDrive, "rows", lambda self: folded.append(1) or rows(self))
    fused = snn_eventprop.swap(_model("Leaky"), fuse=True, verbose=False)
    with torch.no_grad():
        fused(_input("Leaky") * 0)
        assert len(folded) == 2
        fused(torch.rand(STEPS, BATCH, INPUTS))
    assert len(folded) < 4


def test_fusion_tells_what_was_done_for_what_reason():
    def told(x, neuron, names=("mem",)):
        fused = snn_eventprop.swap(Dense(neuron, names), fuse=True, verbose=False)
        fused(x)
        return fused.fusion

    many = torch.rand(STEPS, BATCH, INPUTS)
    few = (many < 0.01).float()
    first = told(few, lambda size: snntorch.Leaky(beta=0.9, threshold=5.0))
    assert first == "lif1: 25 steps, linear layer folded; lif2: 25 steps, linear layer folded"
    assert told(many, lambda size: snntorch.Leaky(beta=0.9)).startswith("lif1: 25 steps;")
    for why, names, neuron in (
        ("immediate reset by subtraction", ("mem",),
         lambda size: snntorch.Leaky(beta=0.9, reset_delay=False)),
        ("recurrent weights that are no matrix", ("spk", "mem"),
         lambda size: snntorch.RLeaky(beta=0.9, all_to_all=False)),
    ):  # fmt: skip
        assert told(few, neuron, names).count(f"25 steps, one by one ({why})") == 2

    class WithCurrents(Dense):
        def call(self, layer, current, states):
            spk, syn, mem = layer(current, *states)
            return spk + syn, [syn, mem]

    model = WithCurrents(lambda size: snntorch.Synaptic(alpha=0.8, beta=0.9), ("syn", "mem"))
    fused = snn_eventprop.swap(model, fuse=True, verbose=False)
    fused(few)
    assert fused.fusion.count("one by one (syn of every step in use)") == 2


def test_long_sequences_do_not_reach_the_limit_of_recursion():
    class Summed(Dense):
        def forward(self, x):
            spikes, _ = super().forward(x)
            return sum(spikes.unbind())

    model = Summed(lambda size: snntorch.Leaky(beta=0.9), ("mem",))
    stepped, fused = _swapped(model)
    x = _input("Leaky", steps=700)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), stepped(x))


def test_unswapping_copying_and_pickling_keep_or_undo_it():
    model, x = _model("Leaky"), _input("Leaky")
    fused = snn_eventprop.swap(model, fuse=True, verbose=False)
    expected = fused(x)[1]
    assert isinstance(fused, Dense) and repr(fused).startswith("Dense(")
    for other in (copy.deepcopy(fused), copy.copy(fused)):
        assert torch.equal(other(x)[1], expected) and "steps" in other.fusion
    back = snn_eventprop.unswap(fused)
    assert type(back) is Dense and type(back.lif1) is snntorch.Leaky
    torch.testing.assert_close(back(x)[1], expected)


def test_a_fused_model_pickles_and_saves():
    fused = snn_eventprop.swap(Layers(), fuse=True, verbose=False)
    x = _input("norse_layers")
    expected = fused(x)[0]
    buffer = io.BytesIO()
    torch.save(fused, buffer)
    buffer.seek(0)
    for other in (torch.load(buffer, weights_only=False), pickle.loads(pickle.dumps(fused))):
        assert torch.equal(other(x)[0], expected)
        assert other.fusion == fused.fusion


def test_hooks_and_the_shared_state_between_calls_work():
    """State that is not reset between two calls goes on, in value and gradient."""

    class Chunk(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.lif = nn.Linear(5, 4), snntorch.Leaky(beta=0.9, init_hidden=True)

        def forward(self, x):
            return torch.stack([self.lif(self.fc(current)) for current in x])

    torch.manual_seed(0)
    stepped, fused = _swapped(Chunk())
    calls = []
    fused.fc.register_forward_hook(lambda module, given, out: calls.append(out.shape))
    x = torch.rand(20, 2, 5) * 3
    weight = torch.randn(20, 2, 4)

    def gradient(model):
        model.lif.reset_mem()
        out = torch.cat([model(part) for part in x.split([8, 12])])
        assert out.sum() > 10
        return out, torch.autograd.grad((out * weight).sum(), model.fc.weight)[0]

    (one, first), (other, second) = gradient(stepped), gradient(fused)
    assert torch.equal(one, other)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
    assert calls == [(2, 4)] * 20


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
    stepped, fused = _swapped(Model())
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
    stepped, fused = _swapped(Masked())
    results = []
    for model in (stepped, fused):
        torch.manual_seed(2)
        results.append(_pass(model, torch.rand(STEPS, BATCH, 5)))
    _assert_same(*results)
    assert "25 steps" in fused.fusion


def test_results_written_row_by_row_are_fused():
    torch.manual_seed(1)
    stepped, fused = _swapped(Written())
    _assert_same(_pass(fused, _input("Leaky")), _pass(stepped, _input("Leaky")))
    assert fused.fusion.count("25 steps") == 2


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
    stepped, fused = _swapped(_Counting(start, look), count_gradient=1.0)
    x = torch.rand(STEPS, BATCH, 5)
    if fused_too:
        _assert_same(_pass(fused, x), _pass(stepped, x))
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
    stepped, fused = _swapped(Noisy())
    x, results = torch.rand(STEPS, BATCH, 5), []
    with pytest.warns(UserWarning, match="written into after it was used"):
        for model in (stepped, fused):
            torch.manual_seed(2)
            results.append(model(x))
    assert torch.equal(*results) and results[0].sum() > 10


def test_moving_a_tensor_to_where_it_is_needs_no_values():
    class Moving(Dense):
        def forward(self, x):
            spikes, membranes = super().forward(x.to(self.fc1.weight.device))
            return spikes.cpu().to("cpu", torch.float32), membranes.to(spikes)

    torch.manual_seed(0)
    stepped, fused = _swapped(Moving(lambda size: snntorch.Leaky(beta=0.9), ("mem",)))
    _assert_same(_pass(fused, _input("Leaky")), _pass(stepped, _input("Leaky")))
    assert "25 steps" in fused.fusion


def test_a_model_called_step_by_step_is_told_so():
    fused = snn_eventprop.swap(
        nn.Sequential(nn.Linear(5, 4), snntorch.Leaky(beta=0.9, init_hidden=True)),
        fuse=True, verbose=False,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="each call is one step"):
        for _ in range(10):
            fused(torch.rand(2, 5))
    fused(torch.rand(2, 5))


def test_what_a_forward_pass_records_on_its_modules_is_there_afterwards():
    class Recording(Dense):
        def forward(self, x):
            spikes, membranes = super().forward(x)
            self.spikes, self.lif1.record = spikes, {"last": [membranes[-1]]}
            return membranes

    torch.manual_seed(0)
    model = Recording(lambda size: snntorch.Leaky(beta=0.9, threshold=0.3), ("mem",))
    stepped, fused = _swapped(model)
    x = _input("Leaky")
    for run in (stepped, fused):
        run(x)
    assert type(fused.spikes) is torch.Tensor and fused.spikes.sum() > 0
    assert torch.equal(fused.spikes, stepped.spikes)
    torch.testing.assert_close(fused.lif1.record["last"][0], stepped.lif1.record["last"][0])
    penalties = [
        torch.autograd.grad(m.spikes.cumsum(0).sum(), m.fc1.weight)[0] for m in (fused, stepped)
    ]
    torch.testing.assert_close(*penalties, rtol=1e-4, atol=1e-4)


def test_an_encoder_inside_the_forward_pass_may_look_at_its_input():
    class Encoding(Cells):
        def forward(self, x):
            encoded = norse.ConstantCurrentLIFEncoder(STEPS)(x)
            return super().forward(encoded)

    torch.manual_seed(1)
    stepped, fused = _swapped(Encoding())
    x = torch.rand(BATCH, INPUTS) * 3
    for one, other in zip(fused(x), stepped(x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert "25 steps" in fused.fusion


def test_an_error_of_the_forward_pass_stays_that_error():
    fused = snn_eventprop.swap(_model("Leaky"), fuse=True, verbose=False)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fused(torch.rand(STEPS, BATCH, 3))
    fused(_input("Leaky"))
    assert "25 steps" in fused.fusion


def test_detached_states_cut_the_gradient_as_in_the_loop():
    class Truncated(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.lif = nn.Linear(5, 4), snntorch.Synaptic(alpha=0.8, beta=0.9)

        def forward(self, x):
            syn, mem = self.lif.reset_mem()
            out = []
            for k, current in enumerate(x):
                if k % 10 == 0:
                    syn, mem = syn.detach(), mem.detach()
                spk, syn, mem = self.lif(self.fc(current), syn, mem)
                out.append(spk)
            return (torch.stack(out),)

    torch.manual_seed(0)
    stepped, fused = _swapped(Truncated())
    x = torch.rand(30, 2, 5) * 2
    _assert_same(_pass(fused, x), _pass(stepped, x))
    assert fused.fusion.count("10 steps") == 3


def test_training_mode_dropout_and_batch_norm_act_step_by_step():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm, self.drop = nn.Linear(5, 50), nn.BatchNorm1d(50), nn.Dropout(0.5)
            self.lif = snntorch.Leaky(beta=0.5)

        def forward(self, x):
            mem, out = self.lif.reset_mem(), []
            for current in x:
                spk, mem = self.lif(self.drop(2 * self.norm(self.fc(current))), mem)
                out.append(spk)
            return torch.stack(out)

    torch.manual_seed(0)
    stepped, fused = _swapped(Model())
    x = torch.rand(10, 40, 5)
    results = []
    for model in (stepped, fused):
        torch.manual_seed(3)
        results.append(model(x))
    assert torch.equal(*results)
    assert torch.equal(stepped.norm.running_var, fused.norm.running_var)
    assert int(fused.norm.num_batches_tracked) == 10


def test_autocast_compile_and_no_grad_run():
    stepped, fused = _swapped(_model("Leaky"))
    x = _input("Leaky")
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fused(x)[1], stepped(x)[1])
    torch._dynamo.reset()
    compiled = torch.compile(fused, backend="eager")
    torch.testing.assert_close(compiled(x[:3])[1], stepped(x[:3])[1], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert fused(x)[1].grad_fn is None


def test_two_fused_passes_before_one_backward():
    stepped, fused = _swapped(_model("Synaptic"))
    x, y = _input("Leaky", 0), _input("Leaky", 1)

    def gradient(model):
        loss = model(x)[1].square().sum() + model(y)[1].sum()
        return torch.autograd.grad(loss, model.fc1.weight)[0]

    torch.testing.assert_close(gradient(fused), gradient(stepped), rtol=1e-4, atol=1e-4)


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
    stepped, fused = _swapped(Recording())
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


def test_lazy_layers_take_their_shape_in_a_first_call_as_written():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm = nn.LazyLinear(4), nn.LazyBatchNorm1d()
            self.lif = snntorch.Leaky(beta=0.9)

        def forward(self, x):
            mem, out = self.lif.reset_mem(), []
            for current in x:
                spk, mem = self.lif(self.norm(self.fc(current)), mem)
                out.append(spk)
            return torch.stack(out)

    fused = snn_eventprop.swap(Lazy(), inplace=True, fuse=True, verbose=False)
    x = torch.rand(10, BATCH, 5)
    fused(x)
    fused(x)
    assert "10 steps" in fused.fusion and int(fused.norm.num_batches_tracked) == 20


def test_a_bad_batch_does_not_switch_fusion_off():
    stepped, fused = _swapped(_model("Leaky"))
    good, bad = _input("Leaky"), _input("Leaky")
    bad[3, 0, 0] = torch.nan
    with pytest.warns(UserWarning, match="in this call: .*NaN"):
        found = fused(bad)
    for one, other in zip(found, stepped(bad), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)
    assert "last call" in fused.fusion
    _assert_same(_pass(fused, good), _pass(stepped, good))
    assert "25 steps" in fused.fusion
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        for _ in range(12):
            fused(bad)
    assert len(given) == 10 and "runs step by step" in str(given[-1].message)


def test_swapping_again_lets_a_model_try_again():
    class Choosing(Dense):
        def forward(self, x):
            spikes, membranes = super().forward(x)
            return (spikes * float(spikes.sum() < 1e9) if self.look else spikes), membranes

    fused = Choosing(lambda size: snntorch.Leaky(beta=0.9), ("mem",))
    snn_eventprop.swap(fused, inplace=True, fuse=True, verbose=False)
    fused.look = True
    with pytest.warns(UserWarning, match="step by step"):
        fused(_input("Leaky"))
    fused.look = False
    fused(_input("Leaky"))
    assert "steps" not in fused.fusion
    for again in (snn_eventprop.swap(fused, fuse=True, verbose=False), fused):
        snn_eventprop.swap(again, inplace=True, fuse=True, verbose=False)
        again(_input("Leaky"))
        assert "25 steps" in again.fusion
