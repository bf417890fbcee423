"""``swap(model, fuse=True)``: a loop over time in a forward pass runs layer by layer."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
from support.fusable_models import (
    BATCH,
    INPUTS,
    MODELS,
    STEPS,
    Cells,
    Dense,
    Layers,
    assert_same,
    input_of,
    model_of,
    results_of,
    states_of,
    stepped_and_fused,
    steps_one_by_one,
)
from torch import nn

import snn_eventprop

snntorch = pytest.importorskip("snntorch")
norse = pytest.importorskip("norse.torch")


pytestmark = pytest.mark.filterwarnings("error:the forward pass of")


@pytest.mark.parametrize("name", MODELS)
def test_spikes_states_and_gradients_are_those_of_the_loop(name):
    stepped, fused = stepped_and_fused(model_of(name))
    assert list(fused.state_dict()) == list(stepped.state_dict())
    for seed, batch in ((0, BATCH), (1, 2)):
        x = input_of(name, seed, batch)
        expected, states = results_of(stepped, x), states_of(stepped)
        assert expected[0][0].abs().sum() > 10
        assert any(g is not None and g.abs().sum() > 0 for g in expected[1])
        assert_same(results_of(fused, x), expected)
        for one, other in zip(states_of(fused), states, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    if name != "norse_layers":
        assert f"{STEPS} steps" in fused.fusion


@pytest.mark.parametrize("name", ["Leaky", "Synaptic", "zero", "no_reset", "convolutional"])
def test_count_gradient_is_that_of_the_loop_on_the_engine(name, monkeypatch):
    stepped, fused = stepped_and_fused(model_of(name), count_gradient=1.0)
    _, without = results_of(snn_eventprop.swap(model_of(name), verbose=False), input_of(name))
    expected = results_of(stepped, input_of(name))
    assert any(
        (one - other).norm() > 0.01 * other.norm()
        for one, other in zip(without, expected[1], strict=True) if other is not None
    )  # fmt: skip
    monkeypatch.setattr("snn_eventprop.hosts.sequence._PIECE", 50)  # two steps at a time
    neuron = next(m for m in fused.modules() if hasattr(m, "mem"))
    taken = steps_one_by_one(monkeypatch, type(neuron))
    assert_same(results_of(fused, input_of(name)), expected)
    assert not taken and "one by one" not in fused.fusion


@pytest.mark.parametrize("name", ["norse_cells", "norse_layers", "RLeaky"])
def test_count_gradient_of_recurrent_layers_steps_and_says_so(name, capsys):
    stepped = snn_eventprop.swap(model_of(name), count_gradient=1.0, verbose=False)
    fused = snn_eventprop.swap(model_of(name), fuse=True, count_gradient=1.0)
    rows = capsys.readouterr().out.splitlines()
    for row in rows:
        recurrent = "Recurrent" in row or "RLeaky" in row
        assert recurrent == ("one by one: count_gradient of a recurrent layer" in row)
    assert_same(results_of(fused, input_of(name)), results_of(stepped, input_of(name)))
    if name != "norse_layers":
        reason = "25 steps, one by one (count_gradient of a recurrent layer)"
        who = "lif1, lif2 (2 neurons)" if name == "RLeaky" else "lif1"
        assert f"{who}: {reason}" in fused.fusion


@pytest.mark.parametrize("name", ["Leaky", "norse_cells"])
def test_a_fused_forward_pass_equals_the_hosts_own(name):
    model, x = model_of(name), input_of(name)
    fused = snn_eventprop.swap(model, fuse=True, verbose=False)
    for one, other in zip(fused(x), model(x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_sparse_input_runs_as_events(monkeypatch):
    from snn_eventprop.hosts.linear_current import LinearDrive

    folded = []
    rows = LinearDrive.rows
    monkeypatch.setattr(LinearDrive, "rows", lambda self: folded.append(1) or rows(self))
    fused = snn_eventprop.swap(model_of("Leaky"), fuse=True, verbose=False)
    with torch.no_grad():
        fused(input_of("Leaky") * 0)
        assert len(folded) == 2
        fused(torch.rand(STEPS, BATCH, INPUTS))
    assert len(folded) < 4


def test_long_sequences_do_not_reach_the_limit_of_recursion():
    class Summed(Dense):
        def forward(self, x):
            spikes, _ = super().forward(x)
            return sum(spikes.unbind())

    model = Summed(lambda size: snntorch.Leaky(beta=0.9), ("mem",))
    stepped, fused = stepped_and_fused(model)
    x = input_of("Leaky", steps=700)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), stepped(x))


def test_unswapping_copying_and_pickling_keep_or_undo_it():
    model, x = model_of("Leaky"), input_of("Leaky")
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
    x = input_of("norse_layers")
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
    stepped, fused = stepped_and_fused(Chunk())
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


def test_moving_a_tensor_to_where_it_is_needs_no_values():
    class Moving(Dense):
        def forward(self, x):
            spikes, membranes = super().forward(x.to(self.fc1.weight.device))
            return spikes.cpu().to("cpu", torch.float32), membranes.to(spikes)

    torch.manual_seed(0)
    stepped, fused = stepped_and_fused(Moving(lambda size: snntorch.Leaky(beta=0.9), ("mem",)))
    assert_same(results_of(fused, input_of("Leaky")), results_of(stepped, input_of("Leaky")))
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


def test_an_encoder_inside_the_forward_pass_may_look_at_its_input():
    class Encoding(Cells):
        def forward(self, x):
            encoded = norse.ConstantCurrentLIFEncoder(STEPS)(x)
            return super().forward(encoded)

    torch.manual_seed(1)
    stepped, fused = stepped_and_fused(Encoding())
    x = torch.rand(BATCH, INPUTS) * 3
    for one, other in zip(fused(x), stepped(x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert "25 steps" in fused.fusion


def test_an_error_of_the_forward_pass_stays_that_error():
    fused = snn_eventprop.swap(model_of("Leaky"), fuse=True, verbose=False)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fused(torch.rand(STEPS, BATCH, 3))
    fused(input_of("Leaky"))
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
    stepped, fused = stepped_and_fused(Truncated())
    x = torch.rand(30, 2, 5) * 2
    assert_same(results_of(fused, x), results_of(stepped, x))
    assert fused.fusion == "lif: 3 times 10 steps"


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
    stepped, fused = stepped_and_fused(Model())
    x = torch.rand(10, 40, 5)
    results = []
    for model in (stepped, fused):
        torch.manual_seed(3)
        results.append(model(x))
    assert torch.equal(*results)
    assert torch.equal(stepped.norm.running_var, fused.norm.running_var)
    assert int(fused.norm.num_batches_tracked) == 10


def test_autocast_compile_and_no_grad_run():
    stepped, fused = stepped_and_fused(model_of("Leaky"))
    x = input_of("Leaky")
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fused(x)[1], stepped(x)[1])
    torch._dynamo.reset()
    compiled = torch.compile(fused, backend="eager")
    torch.testing.assert_close(compiled(x[:3])[1], stepped(x[:3])[1], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert fused(x)[1].grad_fn is None


def test_two_fused_passes_before_one_backward():
    stepped, fused = stepped_and_fused(model_of("Synaptic"))
    x, y = input_of("Leaky", 0), input_of("Leaky", 1)

    def gradient(model):
        loss = model(x)[1].square().sum() + model(y)[1].sum()
        return torch.autograd.grad(loss, model.fc1.weight)[0]

    torch.testing.assert_close(gradient(fused), gradient(stepped), rtol=1e-4, atol=1e-4)


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
    stepped, fused = stepped_and_fused(model_of("Leaky"))
    good, bad = input_of("Leaky"), input_of("Leaky")
    bad[3, 0, 0] = torch.nan
    with pytest.warns(UserWarning, match="in this call: .*NaN"):
        found = fused(bad)
    for one, other in zip(found, stepped(bad), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)
    assert "last call" in fused.fusion
    assert_same(results_of(fused, good), results_of(stepped, good))
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
        fused(input_of("Leaky"))
    fused.look = False
    fused(input_of("Leaky"))
    assert "steps" not in fused.fusion
    for again in (snn_eventprop.swap(fused, fuse=True, verbose=False), fused):
        snn_eventprop.swap(again, inplace=True, fuse=True, verbose=False)
        again(input_of("Leaky"))
        assert "25 steps" in again.fusion
