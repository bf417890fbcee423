"""What users of a host take for granted of its neurons holds for ours: names, calls, tools."""

from __future__ import annotations

import inspect
import pickle

import pytest
import torch
from torch import nn

snntorch = pytest.importorskip("snntorch")
norse = pytest.importorskip("norse.torch")

import snn_eventprop.norse as ep_norse  # noqa: E402
import snn_eventprop.snntorch as ep_snn  # noqa: E402

SNN = {
    "Leaky": {"beta": 0.9}, "RLeaky": {"beta": 0.9, "linear_features": 3},
    "Synaptic": {"alpha": 0.8, "beta": 0.9},
    "RSynaptic": {"alpha": 0.8, "beta": 0.9, "linear_features": 3},
}  # fmt: skip
NORSE = {
    "LIFCell": {}, "LIF": {}, "LIFRecurrentCell": {"input_size": 3, "hidden_size": 3},
    "LIFRecurrent": {"input_size": 3, "hidden_size": 3},
}  # fmt: skip
ALL = [(snntorch, ep_snn, name, given) for name, given in SNN.items()]
ALL += [(snntorch, ep_snn, "Lapicque", {"beta": 0.9})]
ALL += [(norse, ep_norse, "LIFBoxCell", {})]
ALL += [(norse, ep_norse, name, given) for name, given in NORSE.items()]


@pytest.mark.parametrize(("host", "ours", "name", "given"), ALL, ids=[row[2] for row in ALL])
def test_arguments_attributes_and_calls_are_those_of_the_host(host, ours, name, given):
    theirs, own = getattr(host, name), getattr(ours, name)
    wanted = [
        str(p) for p in list(inspect.signature(theirs.__init__).parameters.values())[1:]
        if p.kind is not p.VAR_KEYWORD
    ]  # fmt: skip
    shown = list(map(str, inspect.signature(own).parameters.values()))
    assert shown[: len(wanted)] == wanted
    call = inspect.signature(theirs.forward).parameters
    assert list(inspect.signature(own.forward).parameters) == list(call)
    one, other = theirs(**given), own(**given)
    assert isinstance(other, theirs) and not set(dir(one)) - set(dir(other))
    assert list(one.state_dict()) == list(other.state_dict())
    theirs_shown = one.extra_repr() and f"{one.extra_repr()}, "
    assert other.extra_repr() == f"{theirs_shown}gradient=exact"
    other = own(**given, count_gradient=1.0, grazing_guard=0.1)
    assert other.extra_repr().endswith("gradient=exact, grazing_guard=0.1, count_gradient=1")


def test_subclasses_of_ours_have_their_own_arguments():
    class Chosen(ep_snn.Leaky):
        def __init__(self, share: float):
            super().__init__(beta=0.9, count_gradient=share)

    class Same(ep_norse.LIF):
        pass

    assert Chosen(0.5).count_gradient == 0.5
    assert list(inspect.signature(Chosen).parameters) == ["share"]
    assert inspect.signature(Same) == inspect.signature(ep_norse.LIF)


def test_tuples_and_leaky_integrators_are_norses_own():
    for name in (
        "LI", "LICell", "LILinearCell", "LIFParameters", "LIFState", "LIFFeedForwardState",
        "LIParameters", "LIState",
    ):  # fmt: skip
        assert getattr(ep_norse, name) is getattr(norse, name)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", SNN)
def test_random_layers_and_sequences_equal_snntorchs(name, seed):
    """Any parameters, shapes and options, in steps and as a sequence, in float32."""
    draw = torch.Generator().manual_seed(seed)

    def pick(*choices):
        return choices[int(torch.randint(len(choices), (), generator=draw))]

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(shape, generator=draw)

    size, batch, steps = pick(1, 3, 7), pick(1, 2, 5), pick(1, 2, 17, 70)
    shape = pick((), (size,))
    given = {
        "beta": uniform(-0.1, 1.1, *shape), "threshold": uniform(0.2, 1.5, *shape),
        "reset_mechanism": pick("subtract", "zero", "none"),
        "reset_delay": name == "RSynaptic" or pick(True, False),
    }  # fmt: skip
    if "Synaptic" in name:
        given["alpha"] = uniform(0, 0.9, *shape)
    if name[0] == "R":
        given |= pick(
            {"linear_features": size},
            {"all_to_all": False, "V": uniform(-0.5, 0.5, size)},
        )
    torch.manual_seed(seed)
    theirs, ours = getattr(snntorch, name)(**given), getattr(ep_snn, name)(**given)
    ours.load_state_dict(theirs.state_dict())
    x = uniform(-0.4, 0.9, steps, batch, size)
    states, spikes = {}, []
    for current in x:
        expected, found = theirs(current, **states), ours(current, **states)
        assert all(map(torch.equal, expected, found))
        states = dict(zip(ours._states[-len(expected) + 1 :], expected[1:], strict=True))
        if name[0] == "R":
            states["spk"] = expected[0]
        spikes.append(expected[0])
    ours.reset_mem()
    whole = ours.sequence(x)
    assert torch.equal(whole[0], torch.stack(spikes))
    for one, other in zip(whole[1:], expected[1:], strict=True):
        assert (one - other).abs().max() < 1e-5 * other.abs().max().clamp(min=1)


@pytest.mark.parametrize("name", SNN)
def test_reset_mechanism_and_learnable_parameters_as_in_snntorch(name):
    learned = {"learn_beta": True, "learn_threshold": True}
    learned |= {"learn_graded_spikes_factor": True} if name == "Leaky" else {}
    layer = getattr(ep_snn, name)(**SNN[name], **learned)
    assert layer.reset_mechanism_val == 0
    for value, mechanism in enumerate(("subtract", "zero", "none")):
        layer.reset_mechanism = mechanism  # may change after construction
        assert layer.reset_mechanism_val == value
        layer.reset_mem()
        spk, *_, mem = layer(torch.full((1, 3), 3.0))
        spk, *_, mem = layer(torch.zeros(1, 3), **dict(
            zip(layer._states, (spk, *_, mem)[-len(layer._states) :], strict=True)
        ))  # fmt: skip
        host = getattr(snntorch, name)(**SNN[name], reset_mechanism=mechanism)
        host.load_state_dict(layer.state_dict(), strict=False)
        out = host(torch.full((1, 3), 3.0))
        states = out if name[0] == "R" else out[1:]
        assert torch.equal(host(torch.zeros(1, 3), *states)[-1], mem)
    assert len(learned) <= sum(p.ndim == 0 for p in layer.parameters() if p.requires_grad)
    known = len(snntorch.SpikingNeuron.instances)
    with pytest.raises(ValueError, match="reset_mechanism"):
        getattr(ep_snn, name)(**SNN[name], reset_mechanism="never")
    if name[0] == "R":
        with pytest.raises(TypeError):
            getattr(ep_snn, name)(**{k: v for k, v in SNN[name].items() if k != "linear_features"})
    # Those that could not be made are not on the list through which snnTorch resets neurons.
    assert len(snntorch.SpikingNeuron.instances) == known


@pytest.mark.parametrize("name", SNN)
def test_initial_states_come_from_the_hosts_functions(name):
    layer = getattr(ep_snn, name)(**SNN[name])
    start = getattr(layer, f"init_{name.lower()}")()
    start = start if isinstance(start, tuple) else (start,)
    assert len(start) == len(layer._states)
    assert layer(torch.rand(2, 3), *start)[0].shape == (2, 3)


def test_states_of_several_layers_stay_apart_and_can_be_cut_by_class():
    net = nn.Sequential(*(ep_snn.Leaky(beta=0.9, init_hidden=True, threshold=0.1) for _ in "ab"))
    net(torch.rand(2, 3, requires_grad=True) + 1)
    assert net[0].mem is not net[1].mem and net[1].mem.requires_grad
    snntorch.Leaky.detach_hidden()
    assert not net[0].mem.requires_grad and net[0].mem.any()
    snntorch.Leaky.reset_hidden()
    assert not net[0].mem.any()


def test_spikes_go_into_snntorchs_plots():
    plots = pytest.importorskip("snntorch.spikeplot")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    spikes, _ = ep_snn.Leaky(beta=0.9, threshold=0.3).sequence(torch.rand(20, 2, 5))
    figure, axes = pyplot.subplots()
    plots.raster(spikes[:, 0].detach(), axes)
    assert len(axes.collections[0].get_offsets()) == int(spikes[:, 0].sum()) > 0
    pyplot.close(figure)


@pytest.mark.parametrize("name", NORSE)
def test_norses_modules_train_and_hand_on_their_state(name):
    layer = getattr(ep_norse, name)(
        **NORSE[name], p=norse.LIFParameters(v_th=torch.tensor(0.1), method="tanh", alpha=3.0)
    )
    assert layer.p.method == "tanh" and layer.dt == 1e-3
    x = (10 * torch.rand(12, 2, 3)).requires_grad_()
    if "Cell" in name:
        state, outs = None, []
        for current in x:
            out, state = layer(current, state)
            outs.append(out)
        spikes = torch.stack(outs)
    else:
        spikes, state = layer(x)
    assert spikes.shape == x.shape and state.v.shape == state.i.shape == (2, 3)
    host = getattr(norse, name)(**NORSE[name])
    assert type(state) is type(host(x[0] if "Cell" in name else x)[1])
    (spikes.cumsum(0).sum() + state.v.sum()).backward()
    assert x.grad.abs().sum() > 0 and torch.isfinite(x.grad).all()
    for parameter in layer.parameters():
        assert torch.isfinite(parameter.grad).all()
    if "Recurrent" in name:  # no neuron reaches itself, in value and in gradient
        assert not layer.recurrent_weights.diagonal().any()
        assert not layer.recurrent_weights.grad.diagonal().any()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", ["LIF", "LIFRecurrent"])
def test_random_norse_layers_and_sequences_equal_norses(name, seed):
    draw = torch.Generator().manual_seed(seed)
    steps, batch = (int(torch.randint(1, high, (), generator=draw)) for high in (60, 5))
    rate = torch.rand(4, generator=draw)
    p = norse.LIFParameters(
        tau_syn_inv=50 + 400 * rate[0], tau_mem_inv=30 + 200 * rate[1], v_th=0.1 + rate[2],
        v_leak=0.3 * (rate[3] - 0.5), v_reset=torch.tensor(-0.2),
    )  # fmt: skip
    torch.manual_seed(seed)
    theirs = getattr(norse, name)(**NORSE[name], p=p)
    ours = getattr(ep_norse, name)(**NORSE[name], p=p)
    ours.load_state_dict(theirs.state_dict())
    for density in (0.02, 0.5):  # from event to event, and with a dense product
        x = (torch.rand(steps, batch, 3, generator=draw) < density).float() * 5
        (expected, last), (found, state) = theirs(x), ours(x)
        assert torch.equal(expected, found)
        for one, other in zip(last, state, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_one_public_class_bears_the_name_of_the_layer():
    """The classes below it have other names, and pickles name the neurons alone."""
    for _, ours, name, given in ALL:
        classes = [c for c in getattr(ours, name).__mro__ if c.__module__.startswith("snn_event")]
        shown, *below = [c.__name__ for c in classes]
        assert shown == name and name not in below and below[-1] == "ExactGradient"
        stored = pickle.dumps(getattr(ours, name)(**given))
        assert not [other for other in below if other.encode() in stored]
