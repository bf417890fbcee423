"""snnTorch's forward pass and conventions hold for the classes that replace its neurons."""

from __future__ import annotations

import itertools

import pytest
import torch

snntorch = pytest.importorskip("snntorch")

from support.pairwise import pairwise  # noqa: E402
from torch import nn  # noqa: E402

import snn_eventprop.snntorch as ep  # noqa: E402

NAMES = ["Leaky", "RLeaky", "Synaptic", "RSynaptic"]
DTYPES = {"f64": torch.float64, "f32": torch.float32}


def _dtype_keeping(shift):
    """snnTorch's surrogates return float32 whatever comes in, on which its float64 layers fail."""
    return (shift > 0).to(shift.dtype)


def _arguments(name, shape, dtype, generator):
    def draw(low, high):
        return (low + (high - low) * torch.rand(shape, generator=generator)).to(dtype)

    arguments = {
        "beta": draw(0, 1),
        "threshold": draw(0.3, 1.3),
        "learn_beta": True,
        "learn_threshold": True,
    }
    if "Synaptic" in name:
        arguments |= {"alpha": draw(0, 0.8), "learn_alpha": True}
    if name.startswith("R"):
        arguments["linear_features"] = shape[0]
    return arguments


def _pair(name, dtype=torch.float64, shape=(5,), seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    arguments = _arguments(name, shape, dtype, generator) | options
    torch.manual_seed(seed)
    host = getattr(snntorch, name)(**arguments, spike_grad=_dtype_keeping).to(dtype)
    ours = getattr(ep, name)(**arguments).to(dtype)
    ours.load_state_dict(host.state_dict())
    return host, ours


def _states(layer, returned):
    """Arguments of the next call from what a call returned."""
    names = layer._states
    shown = dict(zip([n for n in names if n != "spk"], returned[1:], strict=True))
    return shown | ({"spk": returned[0]} if "spk" in names else {})


# snnTorch's own RSynaptic raises with reset_delay=False.
@pairwise(
    name=NAMES,
    reset_mechanism=["subtract", "zero", "none"],
    reset_delay={"delayed": True, "immediate": False},
    dtype=DTYPES,
    unless=lambda name, reset_delay, **_: name == "RSynaptic" and not reset_delay,
)
def test_step_mode_equals_the_host_bit_by_bit(name, reset_mechanism, reset_delay, dtype):
    for seed, (init_hidden, output) in enumerate(itertools.product([False, True], repeat=2)):
        options = {"init_hidden": init_hidden, "output": output}
        options |= {"reset_mechanism": reset_mechanism, "reset_delay": reset_delay}
        host, ours = _pair(name, dtype, seed=seed, **options)
        x = torch.randn(40, 3, 5, dtype=dtype, generator=torch.Generator().manual_seed(seed)) * 0.7
        theirs_states, our_states, fired = {}, {}, 0
        for current in x:
            theirs, own = host(current, **theirs_states), ours(current, **our_states)
            if init_hidden and not output:
                theirs, own = (theirs,), (own,)
            assert len(theirs) == len(own)
            for expected, found in zip(theirs, own, strict=True):
                assert torch.equal(expected, found)
            fired += int(own[0].sum())
            if not init_hidden:
                theirs_states, our_states = _states(ours, theirs), _states(ours, own)
        assert fired


@pairwise(
    name=NAMES,
    options={
        "subtract": {"reset_mechanism": "subtract"},
        "zero": {"reset_mechanism": "zero"},
        "zero-immediate": {"reset_mechanism": "zero", "reset_delay": False},
        "subtract-immediate": {"reset_mechanism": "subtract", "reset_delay": False},
        "none": {"reset_mechanism": "none"},
    },
    chunks={"whole": (40,), "chunks": (15, 25), "chunks and steps": (1, 1, 12, 1, 25)},
    dtype=DTYPES,
    counts={"exact": 0.0, "counts": 0.7},
)
def test_sequence_mode_equals_step_mode_in_values_and_gradients(
    name, dtype, options, chunks, counts
):
    """Also in chunks, and with single steps between them, through state that is not detached."""
    _, layer = _pair(name, dtype, **options)
    layer.count_gradient = counts
    generator = torch.Generator().manual_seed(1)
    x = (torch.randn(40, 3, 5, dtype=dtype, generator=generator) * 0.4 + 0.2).requires_grad_()
    start = (torch.rand(3, 5, dtype=dtype, generator=generator) * 0.3).requires_grad_()
    factors = torch.randn(2, 40, 3, 5, dtype=dtype, generator=generator)

    def run(lengths):
        layer.reset_mem()
        states, spikes, membranes, at = {"mem": start * 1.0}, [], [], 0
        for length in lengths:
            if length == 1:
                out = layer(x[at], **states)
                spikes.append(out[0][None])
                membranes.append(out[-1][None])
            else:
                out = layer.sequence(x[at : at + length], trace=True, **states)
                spikes.append(out[0])
                membranes.append(out[-1])
            states = {state: getattr(layer, state) for state in layer._states}
            at += length
        spikes, membranes = torch.cat(spikes), torch.cat(membranes)
        loss = (spikes * factors[0]).sum() + (membranes * factors[1]).sum()
        gradients = torch.autograd.grad(loss, [x, start, *layer.parameters()], allow_unused=True)
        return spikes, membranes, gradients

    expected, found = run([1] * 40), run(chunks)
    assert expected[0].sum() > 20
    assert torch.equal(expected[0], found[0])
    exactness = 1e-12 if dtype == torch.float64 else 1e-5
    assert (expected[1] - found[1]).abs().max() < exactness
    for one, other in zip(expected[2], found[2], strict=True):
        error = (one - other).norm() / one.norm().clamp(min=1e-12)
        assert error < (1e-9 if dtype == torch.float64 else 2e-3)


def test_sequence_mode_of_feature_maps():
    torch.manual_seed(0)
    layer = ep.Leaky(beta=torch.rand(2, 1, 1), threshold=0.5)
    x = torch.rand(12, 3, 2, 4, 5)
    spikes, mem = layer.sequence(x)
    layer.reset_mem()
    stepped = torch.stack([layer(current)[0] for current in x])
    assert torch.equal(spikes, stepped)
    torch.testing.assert_close(mem, layer.mem)


@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_load_both_ways_strictly(name):
    host, ours = _pair(name)
    assert list(host.state_dict()) == list(ours.state_dict())
    host.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(host.state_dict(), strict=True)
    assert isinstance(ours, getattr(snntorch, name))


@pytest.mark.parametrize("shape", [(0, 3, 5), (1, 3, 5), (6, 0, 5)], ids=["T0", "T1", "B0"])
def test_empty_and_single_step_sequences(shape):
    layer = ep.Synaptic(alpha=0.8, beta=0.9)
    spikes, syn, mem = layer.sequence(torch.rand(shape, requires_grad=True))
    assert spikes.shape == shape and syn.shape == mem.shape == shape[1:]


def test_unbatched_and_strided_inputs():
    layer = ep.Leaky(beta=0.9)
    x = torch.rand(7, 20)
    spikes = torch.stack([layer(current)[0] for current in x.t()])
    layer.reset_mem()
    assert torch.equal(layer.sequence(x.t())[0], spikes)


def test_passing_state_to_a_layer_that_keeps_its_own_raises():
    layer = ep.Leaky(beta=0.9, init_hidden=True)
    with pytest.raises(TypeError, match="init_hidden"):
        layer(torch.rand(2, 3), mem=torch.zeros(2, 3))


def test_reset_delay_false_works_for_rsynaptic():
    """snnTorch's own raises; the equations are those of its RLeaky."""
    layer = ep.RSynaptic(
        alpha=0.5, beta=0.9, linear_features=3, reset_delay=False, reset_mechanism="zero"
    )
    for _ in range(5):
        spk, _, mem = layer(torch.ones(2, 3))
        assert bool((mem[spk > 0] == 0).all())


@pytest.mark.parametrize("arguments", [{"all_to_all": False, "V": 0.5}, {"conv": True}], ids=str)
def test_other_recurrent_connections(arguments):
    if arguments.pop("conv", False):
        arguments = {"conv2d_channels": 2, "kernel_size": 3}
    torch.manual_seed(0)
    host = snntorch.RLeaky(beta=0.8, **arguments)
    ours = ep.RLeaky(beta=0.8, **arguments)
    ours.load_state_dict(host.state_dict())
    x = torch.rand(10, 2, 2, 4, 4)
    expected, states, spikes = [], (), None
    for current in x:
        spikes, *states = host(current, *states)
        states = (spikes, *states)
        expected.append(spikes)
    assert torch.equal(ours.sequence(x)[0], torch.stack(expected))


def test_what_has_no_exact_gradient_raises_at_construction():
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"use snntorch\.Leaky"):
        ep.Leaky(beta=0.9, inhibition=True)
    with pytest.raises(ValueError, match="grazing_guard"):
        ep.Leaky(beta=0.9, grazing_guard=-1.0)


def test_graded_spikes_scale_spikes_and_their_gradient():
    plain, graded = ep.Leaky(beta=0.9), ep.Leaky(beta=0.9, graded_spikes_factor=3.0)
    x = torch.rand(20, 2, 4, requires_grad=True)
    weight = torch.randn(20, 2, 4)
    one = plain.sequence(x)[0]
    three = graded.sequence(x)[0]
    assert torch.equal(three, 3 * one)
    gradients = [torch.autograd.grad((out * weight).sum(), x)[0] for out in (one, three)]
    torch.testing.assert_close(gradients[1], 3 * gradients[0])


def test_state_quantisation_keeps_the_host_forward():
    from snntorch.functional import quant

    host = snntorch.Synaptic(alpha=0.8, beta=0.9, state_quant=quant.state_quant(num_bits=4))
    ours = ep.Synaptic(alpha=0.8, beta=0.9, state_quant=quant.state_quant(num_bits=4))
    x, theirs, own = torch.rand(15, 2, 3), (), ()
    for current in x:
        expected, found = host(current, *theirs), ours(current, *own)
        theirs, own = expected[1:], found[1:]
        for one, other in zip(expected, found, strict=True):
            assert torch.equal(one, other)


def test_nothing_is_saved_without_gradients():
    layer = ep.Leaky(beta=0.9, learn_beta=True)
    with torch.no_grad():
        spk, mem = layer(torch.rand(2, 3))
    assert spk.grad_fn is None and mem.grad_fn is None and not hasattr(mem, "inverse_slopes")


def test_two_forward_passes_before_one_backward_and_a_layer_used_twice():
    torch.manual_seed(0)
    layer, fc = ep.Synaptic(alpha=0.8, beta=0.9), nn.Linear(4, 4)
    x = torch.rand(2, 15, 3, 4)
    weight = torch.randn(15, 3, 4)

    def gradient(*losses):
        return torch.autograd.grad(sum(losses), fc.weight, retain_graph=True)[0]

    zeros = torch.zeros(3, 4)

    def explicit(which):
        states, spikes = (zeros, zeros), []
        for current in which:
            spk, *states = layer(fc(current), *states)
            spikes.append(spk)
        return (torch.stack(spikes) * weight).sum()

    first, second = explicit(x[0]), explicit(x[1])
    alone = gradient(first) + gradient(second)
    torch.testing.assert_close(gradient(first, second), alone)

    states = [(zeros, zeros), (zeros, zeros)]
    total = 0.0
    for k in range(15):
        for i in range(2):
            spk, *states[i] = layer(fc(x[i, k]), *states[i])
            total = total + (spk * weight[k]).sum()
    torch.testing.assert_close(gradient(total), alone)
