"""Norse's forward pass and conventions hold, and the backward pass is exact."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

norse = pytest.importorskip("norse.torch")

from support.host_problem import INPUTS, SIZES, TAU_MEM, TAU_SYN, problem, relative_error  # noqa: E402
from support.pairwise import pairwise  # noqa: E402

import snn_eventprop.norse as ep  # noqa: E402

NEURONS, INPUT = 5, 4
DTYPES = {"f64": torch.float64, "f32": torch.float32}


def _parameters(per_neuron, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        size = (NEURONS,) if per_neuron else ()
        return (low + (high - low) * torch.rand(size, generator=generator)).to(dtype)

    return norse.LIFParameters(
        tau_syn_inv=draw(50, 400),
        tau_mem_inv=draw(30, 200),
        v_leak=torch.zeros((), dtype=dtype),
        v_th=draw(0.3, 1.0),
        v_reset=draw(-0.3, 0.0),
    )


def _pair(name, parameters=None, dtype=torch.float64):
    arguments = (INPUT, NEURONS) if "Recurrent" in name else ()
    options = {} if parameters is None else {"p": parameters}
    torch.manual_seed(0)
    host = getattr(norse, name)(*arguments, **options).to(dtype)
    ours = getattr(ep, name)(*arguments, **options).to(dtype)
    ours.load_state_dict(host.state_dict(), strict=True)
    host.load_state_dict(ours.state_dict(), strict=True)
    return host, ours


def _input(name, dtype, steps=40, shape=(3,)):
    generator = torch.Generator().manual_seed(1)
    width = INPUT if "Recurrent" in name else NEURONS
    spikes = torch.rand(steps, *shape, width, generator=generator) < 0.4
    return spikes.to(dtype) * (1 if "Recurrent" in name else 4)


@pairwise(
    name=["LIFCell", "LIFRecurrentCell"], kind=["default", "scalar", "per-neuron"], dtype=DTYPES
)
def test_cells_equal_the_host_bit_by_bit(name, dtype, kind):
    parameters = None if kind == "default" else _parameters(kind == "per-neuron", dtype)
    host, ours = _pair(name, parameters, dtype)
    theirs, own = None, None
    fired = 0
    for current in _input(name, dtype):
        expected, theirs = host(current, theirs)
        found, own = ours(current, own)
        assert type(theirs) is type(own)
        for one, other in zip((expected, *theirs), (found, *own), strict=True):
            assert one.dtype == other.dtype and torch.equal(one, other)
        fired += found.sum()
    assert fired


@pairwise(
    name=["LIF", "LIFRecurrent"],
    shape={"batch": (3,), "unbatched": (), "extra": (2, 3)},
    kind=["default", "per-neuron"],
    dtype=DTYPES,
    counts={"exact": 0.0, "counts": 0.7},
)
def test_sequences_equal_the_host_and_steps_in_values_and_gradients(
    name, dtype, kind, shape, counts
):
    parameters = None if kind == "default" else _parameters(True, dtype)
    host, ours = _pair(name, parameters, dtype)
    ours.count_gradient = counts
    x = _input(name, dtype, shape=shape).requires_grad_()
    weight = torch.randn(40, *shape, NEURONS, dtype=dtype)

    def run(lengths):
        state, spikes, at = None, [], 0
        for length in lengths:
            if length:
                out, state = ours(x[at : at + length], state)
            else:
                length, state = 1, ours._start(x[at : at + 1], state)
                out, state = ours._advance(x[at], state)
                out = out[None]
            spikes.append(out)
            at += length
        spikes = torch.cat(spikes)
        loss = (spikes * weight).sum() + state.v.sum() + state.i.sum()
        return spikes, state, torch.autograd.grad(loss, [x, *ours.parameters()])

    expected, last = host(x)
    steps = run([0] * 40)
    exactness = 1e-12 if dtype == torch.float64 else 1e-5
    for lengths in ([40], [15, 25], [0, 14, 0, 24]):
        spikes, state, gradients = run(lengths)
        assert torch.equal(spikes, expected)
        for one, other in zip(last, state, strict=True):
            assert one.shape == other.shape and (one - other).abs().max() < exactness
        for one, other in zip(steps[2], gradients, strict=True):
            error = (one - other).norm() / one.norm()
            assert error < (1e-9 if dtype == torch.float64 else 5e-3)


COPIES = {
    "itself": lambda v: v,
    "copied": lambda v: v.clone(),
    "of a stack": lambda v: torch.stack([v.detach(), v])[-1],
}
CHANGES = {
    "shifted a little": lambda v: v + 1e-12,
    "scaled": lambda v: 0.9 * v,
    "masked": lambda v: v * (torch.arange(v.shape[-1]) > 0),
    "spikes masked": lambda v: v * (v > 0),
    "clamped": lambda v: v.clamp(min=0.01),
    "in place": lambda v: v.mul_(0.9),
}
BETWEEN = {**COPIES, **CHANGES}


@pairwise(
    between=list(BETWEEN),
    recurrent={"LIFCell": False, "LIFRecurrentCell": True},
    v_reset={"reset to 0": 0.0, "reset below 0": -0.1},
)
def test_copies_of_v_have_its_gradient_and_altered_ones_raise(recurrent, v_reset, between):
    """A count of spikes that are not near the end has the gradient 0."""
    p = norse.LIFParameters(
        v_th=torch.tensor(0.3, dtype=torch.float64), v_reset=torch.tensor(v_reset).double()
    )
    torch.manual_seed(0)
    if recurrent:
        cell = ep.LIFRecurrentCell(NEURONS, NEURONS, p, grazing_guard=0.0).double()
        cell.recurrent_weights.data.mul_(0.1)
        cell.input_weights.data.copy_(torch.eye(NEURONS))
    else:
        cell = ep.LIFCell(p, grazing_guard=0.0)
    weight = torch.full((NEURONS,), 4.0, dtype=torch.float64, requires_grad=True)
    x = (torch.rand(60, 3, NEURONS) < 0.3).double()

    def gradient():
        state, count = None, torch.zeros(())
        for current in torch.cat([x, torch.full((30, 3, NEURONS), -1.0)]):
            spikes, state = cell(current * weight, state)
            state = state._replace(v=BETWEEN[between](state.v))
            count = count + spikes.sum()
        assert count > 10 and not spikes.any()
        return torch.autograd.grad(count, weight)[0]

    if between in CHANGES:
        with pytest.raises(RuntimeError, match="as it was returned"):
            gradient()
    else:
        assert gradient().abs().max() < 1e-9


@pytest.mark.parametrize("name", ["LIF", "LIFRecurrent"])
def test_some_samples_of_a_batch_go_on_with_their_gradients(name):
    _, layer = _pair(name)
    x = _input(name, torch.float64).requires_grad_()
    factor = torch.randn(40, 3, NEURONS, dtype=torch.float64)

    def worth(spikes, steps, samples):
        return (spikes * factor[steps, samples]).sum()

    whole, _ = layer(x[:, :2])
    ended, _ = layer(x[:15, 2:])
    loss = worth(whole, slice(40), slice(2)) + worth(ended, slice(15), slice(2, 3))
    (expected,) = torch.autograd.grad(loss, x)
    first, state = layer(x[:15])
    state = type(state)(*(value[:2] for value in state))
    second, last = layer(x[15:, :2], state)
    assert last.v.shape == (2, NEURONS) and expected.any()
    loss = worth(first, slice(15), slice(3)) + worth(second, slice(15, 40), slice(2))
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], expected)


@pytest.mark.parametrize("name", ["LIFCell", "LIF", "LIFRecurrentCell", "LIFRecurrent"])
def test_a_state_of_another_batch_is_named(name):
    _, layer = _pair(name, dtype=torch.float32)
    x = _input(name, torch.float32)
    x = x[0] if "Cell" in name else x
    _, state = layer(x)
    with pytest.raises(ValueError, match=r"state\.[vz] has shape \(3, 5\).* needs \(2, 5\)"):
        layer(x[..., :2, :], state)
    _, state = layer(x[..., :1, :])
    assert layer(x, state)[0].shape == (*x.shape[:-1], NEURONS)  # one state for all samples


def test_masked_spikes_between_chunks_are_those_of_the_steps():
    _, layer = _pair("LIFRecurrent")
    x = _input("LIFRecurrent", torch.float64)
    x[14] += 5.0
    x.requires_grad_()
    factor = torch.randn(40, 3, NEURONS, dtype=torch.float64)

    def gradient(run):
        first, state = run(x[:15], None)
        assert state.z.any()
        second, _ = run(x[15:], state._replace(z=0 * state.z))
        return torch.autograd.grad((torch.cat([first, second]) * factor).sum(), x)[0]

    def step(part, state):
        state, outs = layer._start(part, state), []
        for current in part:
            out, state = layer._advance(current, state)
            outs.append(out)
        return torch.stack(outs), state

    torch.testing.assert_close(gradient(layer), gradient(step))


@pytest.mark.parametrize(
    "recurrent", [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["LIFCell", "LIFRecurrentCell"],
)  # fmt: skip
def test_cells_converge_first_order_to_the_continuous_gradient(recurrent):
    task = problem(recurrent, "spikes")
    errors = []
    for dt in (1e-4, 1e-5):
        weights = [torch.tensor(array, requires_grad=True) for array in task.arrays]
        threshold = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        v_reset = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
        p = norse.LIFParameters(
            tau_syn_inv=torch.tensor(1 / TAU_SYN, dtype=torch.float64),
            tau_mem_inv=torch.tensor(1 / TAU_MEM, dtype=torch.float64),
            v_leak=torch.tensor(0.0, dtype=torch.float64),
            v_th=threshold,
            v_reset=v_reset,
        )
        if recurrent:
            cells = [
                ep.LIFRecurrentCell(
                    size, out, p, dt=dt, grazing_guard=0.0, autapses=True,
                    input_weights=weights[i], recurrent_weights=weights[2 + i],
                )
                for i, (size, out) in enumerate(((INPUTS, SIZES[0]), SIZES))
            ]  # fmt: skip
        else:
            cells = [ep.LIFCell(p, dt=dt, grazing_guard=0.0) for _ in SIZES]
        states, spikes = [None, None], []
        for current in task.raster(dt):
            for i, cell in enumerate(cells):
                given = current if recurrent else current @ weights[i].T
                current, states[i] = cell(given, states[i])
            spikes.append(current)
        task.grid_loss(torch.stack(spikes), [], dt).backward()
        found = [w.grad for w in weights] + [torch.stack([threshold.grad, v_reset.grad])]
        errors.append(
            [relative_error(g, t) for g, t in zip(found, task.exact_gradients, strict=True)]
        )
    for coarse, fine in zip(*errors, strict=True):
        assert fine < 0.12
        assert fine < 0.5 * coarse


def test_sequential_state_and_chunks_work_as_in_norse():
    def build(lib):
        torch.manual_seed(0)
        net = norse.SequentialState(
            norse.Lift(torch.nn.Conv2d(1, 2, 3)),
            lib.LIF(),
            torch.nn.Flatten(2),
            torch.nn.Linear(2 * 6 * 6, 5),
            lib.LIF(),
            lib.LIFRecurrent(5, 3),
            lib.LI(),
        )
        with torch.no_grad():  # enough to make every layer fire
            net[0].lifted_module.weight.abs_()
            net[3].weight.mul_(10)
            net[5].input_weights.abs_().mul_(3)
        return net

    model = build(ep)
    x = torch.rand(60, 2, 1, 8, 8)
    factor = torch.randn(60, 2, 3)

    def run(*lengths):
        state, outs = None, []
        for part in x.split(list(lengths)):
            out, state = model(part, state)
            outs.append(out)
        out = torch.cat(outs)
        return out, torch.autograd.grad((out * factor).sum(), list(model.parameters()))

    whole, expected = run(60)
    torch.testing.assert_close(whole, build(norse)(x)[0])
    chunked, found = run(25, 35)
    torch.testing.assert_close(chunked, whole)
    for one, other in zip(expected, found, strict=True):
        assert one.norm() > 0
        assert (one - other).norm() / one.norm() < 5e-3


def test_lift_runs_cells_over_time_as_in_norse():
    x = _input("LIF", torch.float32)
    assert torch.equal(norse.Lift(ep.LIFCell())(x)[0], norse.Lift(norse.LIFCell())(x)[0])


def test_recorded_states_and_sparse_input_are_those_of_the_host():
    x = _input("LIF", torch.float32)
    host, ours = norse.LIF(record_states=True), ep.LIF(record_states=True)
    for one, other in zip(host(x)[1], ours(x)[1], strict=True):
        assert torch.equal(one, other)
    cells = _pair("LIFRecurrentCell", dtype=torch.float32)
    sparse = _input("LIFRecurrentCell", torch.float32)[0].to_sparse()
    (expected, theirs), (found, own) = (cell(sparse) for cell in cells)
    assert found.is_sparse and torch.equal(expected.to_dense(), found.to_dense())
    torch.testing.assert_close(theirs.v, own.v)


@pytest.mark.parametrize("name", ["LIFCell", "LIF", "LIFRecurrentCell", "LIFRecurrent"])
def test_neurons_pickle_copy_and_save(name):
    """Norse's own do not pickle: their parameter tuple is of a class pickle cannot find."""
    _, layer = _pair(name, _parameters(True, torch.float32), torch.float32)
    x = _input(name, torch.float32)
    x = x[0] if "Cell" in name else x
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), loaded):
        assert torch.equal(layer(x)[0], other(x)[0])


def test_to_moves_the_parameter_tuple():
    layer = ep.LIF(p=_parameters(True, torch.float32)).to("meta")
    assert layer.p.tau_mem_inv.device.type == "meta"


def test_count_gradient_of_sequences_from_above_the_threshold_is_that_of_the_steps():
    """There the engine does not know V before the reset, which the surrogate reads."""
    layer = ep.LIF(count_gradient=1.0, p=norse.LIFParameters(alpha=torch.tensor(1.0)))
    x = torch.rand(10, 3, NEURONS).requires_grad_()
    start = norse.LIFFeedForwardState(v=torch.full((3, NEURONS), 1.5), i=torch.zeros(3, NEURONS))
    spikes, state = [], start
    for current in x:
        out, state = layer._advance(current, state)
        spikes.append(out)
    factor = torch.randn(10, 3, NEURONS)
    expected, found = (
        torch.autograd.grad((out * factor).sum(), x)[0]
        for out in (torch.stack(spikes), layer(x, start)[0])
    )
    torch.testing.assert_close(found, expected)


def test_count_gradient_adds_the_host_surrogate():
    x = torch.tensor([[3.0, 20.0]], requires_grad=True)
    nets = ep.LIFCell(), ep.LIFCell(count_gradient=0.5), norse.LIFCell()
    parts = [torch.autograd.grad(net(x)[0].sum(), x)[0] for net in nets]
    torch.testing.assert_close(parts[1], parts[0] + 0.5 * parts[2])
