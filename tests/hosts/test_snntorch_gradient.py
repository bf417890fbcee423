"""The backward pass of our neurons for snnTorch against continuous time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

pytest.importorskip("snntorch")

from scipy.integrate import solve_ivp
from support.host_problem import SIZES, TAU_MEM, TAU_SYN, problem, relative_error
from support.pairwise import pairwise
from torch import nn

import snn_eventprop.snntorch as ep

COARSE, FINE = 1e-4, 1e-5


class _Recurrent(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, spikes):
        return spikes @ self.weight.T


def _grid_gradients(task, dt, by_hand=False, **options):
    """Gradients of the two-layer problem on a grid, for weights in units of the continuous ones."""
    gain = dt / TAU_MEM  # snnTorch adds I to U in each step, undivided by tau_mem
    weights = [torch.tensor(array, requires_grad=True) for array in task.arrays]
    layers = []
    for index, size in enumerate(SIZES):
        arguments = dict(
            alpha=math.exp(-dt / TAU_SYN),
            beta=math.exp(-dt / TAU_MEM),
            threshold=torch.tensor(1.0, dtype=torch.float64),
            learn_threshold=True,
            grazing_guard=0.0,
            **options,
        )
        if task.recurrent:
            layer = ep.RSynaptic(linear_features=size, **arguments)
            layer.recurrent = _Recurrent(weights[2 + index] * gain)
        else:
            layer = ep.Synaptic(**arguments)
        layers.append(layer.double())
    x = task.raster(dt)
    histories = [[], []]
    states = [{}, {}]
    spikes = []
    for current in x:
        for index, layer in enumerate(layers):
            out = layer(current @ weights[index].T * gain, **states[index])
            names = ("spk", "syn", "mem") if task.recurrent else ("syn", "mem")
            states[index] = dict(zip(names, out[-len(names) :], strict=True))
            if by_hand:
                states[index]["mem"] = states[index]["mem"] - layer.threshold * out[0]
            histories[index].append(states[index]["mem"])
            current = out[0]
        spikes.append(current)
    task.grid_loss(torch.stack(spikes), [torch.stack(h) for h in histories], dt).backward()
    threshold = sum(layer.threshold.grad for layer in layers)
    return [weight.grad for weight in weights], threshold


@pairwise(
    options={
        "delayed": {"reset_mechanism": "subtract"},
        "immediate": pytest.param(
            {"reset_mechanism": "subtract", "reset_delay": False}, marks=pytest.mark.slow
        ),
        "zero": pytest.param(
            {"reset_mechanism": "zero", "reset_delay": False}, marks=pytest.mark.slow
        ),
    },
    recurrent={"Synaptic": False, "RSynaptic": pytest.param(True, marks=pytest.mark.slow)},
    loss=["spikes", "membrane"],
)
def test_step_mode_converges_first_order_to_the_continuous_gradient(recurrent, loss, options):
    task = problem(recurrent, loss)
    exact = task.exact_gradients
    coarse, coarse_threshold = _grid_gradients(task, COARSE, **options)
    fine, fine_threshold = _grid_gradients(task, FINE, **options)
    for before, after, truth in zip(coarse, fine, exact, strict=False):
        # Ten times finer bins: about ten times better.
        assert relative_error(after, truth) < 0.4 * relative_error(before, truth)
        assert relative_error(after, truth) < 0.12
    truth = exact[-1][0]
    assert abs(fine_threshold.item() - truth) < 0.4 * abs(coarse_threshold.item() - truth)


@pairwise(
    recurrent={"Synaptic": False, "RSynaptic": pytest.param(True, marks=pytest.mark.slow)},
    loss=["spikes", pytest.param("membrane", marks=pytest.mark.slow)],
)
def test_a_reset_that_the_loop_writes_out_has_the_gradient_of_a_reset(recurrent, loss):
    """As the network that ``docs/export.md`` builds of snnTorch's modules."""
    task = problem(recurrent, loss)
    exact = task.exact_gradients
    coarse, coarse_threshold = _grid_gradients(task, COARSE, True, reset_mechanism="none")
    fine, fine_threshold = _grid_gradients(task, FINE, True, reset_mechanism="none")
    for before, after, truth in zip(coarse, fine, exact, strict=False):
        assert relative_error(after, truth) < 0.4 * relative_error(before, truth)
        assert relative_error(after, truth) < 0.12
    truth = exact[-1][0]
    assert abs(fine_threshold.item() - truth) < 0.4 * abs(coarse_threshold.item() - truth)


@pytest.mark.parametrize(
    "reset_delay", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["delayed", "immediate"]
)
def test_leaky_with_smooth_currents_converges_to_the_continuous_gradient(reset_delay):
    tau, duration, neurons = 10e-3, 50e-3, 3
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.8, 1.6, (neurons, 2))
    phase = rng.uniform(0, 6, 2)

    def drive(time):
        return 1 + 0.5 * np.cos(2 * math.pi * time / 30e-3 + phase)

    def exact_loss(weight):
        total, count = 0.0, 0
        for row in weight:
            start, level = 0.0, 0.0

            def crossing(_, v):
                return v[0] - 1.0

            crossing.terminal, crossing.direction = True, 1
            while start < duration:
                path = solve_ivp(
                    lambda t, v, row=row: (row @ drive(t) - v) / tau,
                    (start, duration), [level], events=crossing, rtol=1e-10, atol=1e-12,
                )  # fmt: skip
                if not len(path.t_events[0]):
                    break
                start = path.t_events[0][0]
                total += math.sin(100 * start)
                count += 1
        return total, count

    truth = np.zeros_like(weight)
    for index in np.ndindex(weight.shape):
        for sign in (1, -1):
            moved = weight.copy()
            moved[index] += sign * 1e-5
            truth[index] += sign * exact_loss(moved)[0] / 2e-5

    errors = []
    for dt in (COARSE, FINE):
        layer = ep.Leaky(
            beta=math.exp(-dt / tau), reset_delay=reset_delay, grazing_guard=0.0
        ).double()
        weights = torch.tensor(weight, requires_grad=True)
        mem, loss = None, 0.0
        for k in range(round(duration / dt)):
            current = torch.from_numpy(drive(k * dt)) @ weights.T * dt / tau
            spk, mem = layer(current[None], mem)
            loss = loss + (spk * math.sin(100 * k * dt)).sum()
        loss.backward()
        errors.append(relative_error(weights.grad, truth))
    assert errors[1] < 0.02
    assert errors[1] < 0.3 * errors[0]


@pytest.mark.slow
def test_without_reset_the_gradient_of_time_above_threshold_is_exact():
    """H(U - theta) is a level then: d/dw of its integral is the sum over crossings of dU / |U'|."""
    layers = ep.Leaky(beta=1.0, reset_mechanism="none", grazing_guard=0.0).double()
    dt = 1e-4
    time = torch.arange(0, 1, dt, dtype=torch.float64)
    amplitude = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    # U(t) = amplitude * sin(pi t): above 1 for 1 - 2 asin(1 / amplitude) / pi.
    currents = amplitude * math.pi * torch.cos(math.pi * time) * dt
    mem, total = None, 0.0
    for current in currents:
        spk, mem = layers(current[None, None], mem)
        total = total + spk.sum() * dt
    total.backward()
    assert total.item() == pytest.approx(1 - 2 * math.asin(0.5) / math.pi, abs=1e-3)
    exact = 2 / math.pi / math.sqrt(1 - 0.25) / 4
    assert amplitude.grad.item() == pytest.approx(exact, rel=1e-2)


def test_the_gradient_of_a_spike_count_is_zero_away_from_the_end():
    torch.manual_seed(0)
    layer = ep.Synaptic(alpha=0.8, beta=0.9).double()
    weight = torch.rand(5, 4, dtype=torch.float64, requires_grad=True)
    count, syn, mem = 0.0, None, None
    for k in range(60):
        spk, syn, mem = layer(
            torch.ones(1, 4, dtype=torch.float64) @ weight.T * (k < 20) * 0.1, syn, mem
        )
        count = count + spk.sum()
    assert count > 5
    (gradient,) = torch.autograd.grad(count, weight)
    assert gradient.abs().max() < 1e-9


def test_count_gradient_adds_the_surrogate_gradient_of_spike_grad():
    """On a single step the exact part is known: G / slope at a spike; the rest is the surrogate."""
    import snntorch

    current = torch.tensor([[0.5, 1.3]], dtype=torch.float64, requires_grad=True)
    plain = ep.Leaky(beta=0.9, grazing_guard=0.0).double()
    mixed = ep.Leaky(beta=0.9, grazing_guard=0.0, count_gradient=0.5).double()
    host = snntorch.Leaky(beta=0.9).double()
    parts = [torch.autograd.grad(net(current)[0].sum(), current)[0] for net in (plain, mixed, host)]
    torch.testing.assert_close(parts[1], parts[0] + 0.5 * parts[2])


COPIES = {
    "itself": lambda mem: mem,
    "copied": lambda mem: mem.clone(),
    "of a stack": lambda mem: torch.stack([mem.detach(), mem])[-1],
    "in parts": lambda mem: torch.cat([mem[:1], mem[1:]]),
    "times one": lambda mem: mem * 1.0,
}
CHANGES = {
    "masked": lambda mem: mem * (torch.arange(mem.shape[-1]) > 0),
    "spikes masked": lambda mem: mem * (mem <= 1),
    "clamped": lambda mem: mem.clamp(max=1.0),
    "scaled": lambda mem: 0.9 * mem,
    "shifted": lambda mem: mem - 0.05,
    "averaged": lambda mem: (mem + mem.flip(0)) / 2,
    "in place": lambda mem: mem.mul_(0.9),
}
BETWEEN = {**COPIES, **CHANGES}


def count_gradient(layer, change, x):
    """Of the sum of all spikes, none of which is near the end: 0, as spikes do not appear."""
    weight = torch.full((3,), 1.5, dtype=torch.float64, requires_grad=True)
    states, count = (), torch.zeros(())
    for current in torch.cat([x, torch.full((20, *x.shape[1:]), -1.0)]):
        spikes, *states = layer(current * weight, *states)
        if "spk" in layer._states:
            states = [spikes, *states]
        states[-1] = change(states[-1])
        count = count + spikes.sum()
    assert count > 10 and not spikes.any()
    return torch.autograd.grad(count, weight)[0]


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("name", ["Leaky", "RLeaky", "Synaptic", "RSynaptic"])
def test_copies_of_a_membrane_have_its_gradient_and_altered_ones_raise(name, between):
    torch.manual_seed(1)
    arguments = {"beta": 0.9, **({"alpha": 0.8} if "Synaptic" in name else {})}
    arguments |= {"all_to_all": False, "V": -0.2} if name[0] == "R" else {}
    layer = getattr(ep, name)(**arguments, grazing_guard=0.0).double()
    x = torch.rand(30, 2, 3, dtype=torch.float64)
    if between in COPIES:
        assert count_gradient(layer, BETWEEN[between], x).abs().max() < 1e-9
    else:
        with pytest.raises(RuntimeError, match="as it was returned"):
            count_gradient(layer, BETWEEN[between], x)


def test_a_detached_membrane_may_be_altered():
    x = torch.rand(30, 2, 3, dtype=torch.float64)
    layer = ep.Synaptic(alpha=0.8, beta=0.9).double()
    assert torch.isfinite(count_gradient(layer, lambda mem: 0.9 * mem.detach(), x)).all()


@pytest.mark.parametrize("name", ["Leaky", "Synaptic"])
def test_a_part_of_the_batch_goes_on_with_its_gradient(name):
    """What is dropped ends at the border, what is kept knows its slopes."""
    arguments = {"beta": 0.9, **({"alpha": 0.8} if name == "Synaptic" else {})}
    layer = getattr(ep, name)(**arguments).double()
    x = torch.rand(24, 4, 3, dtype=torch.float64, requires_grad=True)
    factor = torch.randn(24, 4, 3, dtype=torch.float64)
    kept, left = torch.tensor([2, 0]), torch.tensor([1, 3])

    def run(states, steps, part):
        if not states:
            layer.reset_mem()
        given = dict(zip(layer._states, states, strict=False))
        spikes, *states = layer.sequence(x[steps][:, part], **given)
        return (spikes * factor[steps][:, part]).sum(), states

    whole, _ = run([], slice(0, 24), kept)
    ended, _ = run([], slice(0, 12), left)
    (expected,) = torch.autograd.grad(whole + ended, x)
    assert expected.any()
    found, states = run([], slice(0, 12), slice(None))
    more, _ = run([state[kept] for state in states], slice(12, 24), kept)
    torch.testing.assert_close(torch.autograd.grad(found + more, x)[0], expected)


@pytest.mark.parametrize("above", [1e-2, 1e-4, 1e-6, 3e-7, 1e-7, 0.0, -1e-7, -1e-5])
@pytest.mark.parametrize("learned", ["beta", "threshold"])
def test_a_chunk_may_end_at_a_spike_as_steep_as_the_reset_is_high(above, learned):
    """There the membrane that is handed on can carry nothing, were it not moved a little."""
    currents = torch.tensor([0.0, 1.0, 0.3, 0.5, 1.2, 0.2, 0.7])
    worth = torch.arange(7.0)

    def gradients(lengths):
        lif = ep.Leaky(beta=0.9, grazing_guard=0.0, **{f"learn_{learned}": True})
        weight = torch.tensor(1.1 * (1 + above), requires_grad=True)
        mem, spikes = lif.reset_mem(), []
        for chunk in (weight * currents)[:, None, None].split(lengths):
            if len(chunk) == 1:
                out, mem = lif(chunk[0], mem)
                spikes.append(out[None])
            else:
                out, mem = lif.sequence(chunk, mem=mem)
                spikes.append(out)
        loss = (torch.cat(spikes)[:, 0, 0] * worth).sum() + mem.sum()
        return torch.stack(torch.autograd.grad(loss, [weight, getattr(lif, learned)]))

    whole = gradients([7])
    for lengths in ([2, 5], [2, *[1] * 5], [1] * 7, [1, 1, 5]):
        torch.testing.assert_close(gradients(lengths), whole, rtol=2e-3, atol=1e-4)


def test_a_trainable_initial_state_receives_its_gradient():
    layer = ep.Leaky(beta=0.9).double()
    start = torch.full((3,), 0.5, dtype=torch.float64, requires_grad=True)
    _, mem = layer(torch.full((2, 3), 0.1, dtype=torch.float64), start.expand(2, 3) * 1.0)
    (gradient,) = torch.autograd.grad(mem.sum(), start)
    torch.testing.assert_close(gradient, torch.full((3,), 1.8, dtype=torch.float64))


@pytest.mark.parametrize("mode", ["step", "sequence", "chunks"])
@pytest.mark.parametrize("name", ["Leaky", "Synaptic"])
def test_a_spike_does_not_feel_the_end_of_the_recording(name, mode):
    """The bin beyond the last is worth what the last one is; so counts are constant."""
    current = torch.tensor(0.35, dtype=torch.float64, requires_grad=True)

    def gradient(steps, worth):
        layer = getattr(ep, name)(beta=0.9, **({"alpha": 0.5} if name == "Synaptic" else {}))
        x = current.expand(steps, 1, 1)
        zero, spikes = torch.zeros(1, 1, dtype=torch.float64), []
        state = [zero] if name == "Leaky" else [zero, zero]
        for piece in x.split({"step": 1, "sequence": steps, "chunks": 3}[mode]):
            if mode == "step":
                spk, *state = layer(piece[0], *state)
                spikes.append(spk[None])
            else:  # goes on where it was
                spikes.append(layer.sequence(piece)[0])
        fired = torch.cat(spikes)
        assert fired[steps - 1 if worth is None else 0].sum() == (worth is None)
        loss = fired.sum() if worth is None else (fired[:, 0, 0] * worth[:steps]).sum()
        return torch.autograd.grad(loss, current)[0].item()

    last = {"Leaky": 3, "Synaptic": 2}[name]
    assert gradient(last + 1, None) == pytest.approx(0, abs=1e-9)
    worth = torch.arange(20.0, dtype=torch.float64).clamp(max=last)  # constant from its bin on
    assert gradient(last + 1, worth) == pytest.approx(gradient(last + 4, worth), abs=1e-9)
