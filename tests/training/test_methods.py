"""Training methods beside EventProp compute what their definitions say, on the same network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")

from support.grid_runs import lif_layer
from support.tiny_run import TINY, rows

from lightning_modules import evaluate, fit
from lightning_modules.methods import METHODS, filters
from lightning_modules.methods.build import build_network
from lightning_modules.methods.stepped import Maps, maps
from lightning_modules.model.network import NetworkOptions
from snn_eventprop import SpikeEvents
from snn_eventprop.backends.reference import grid as reference_grid
from snn_eventprop.losses import FirstSpikeLoss, StepCrossEntropyLoss, SumExpLoss, SumLoss

INPUTS, CLASSES, BATCH, DURATION = 12, 4, 3, 0.15
LIVELY = {"input_mean": 0.6, "input_std": 0.5, "recurrent_std": 0.2, "readout_std": 0.5}
VARIANTS = [
    {},
    {"hidden": [7, 5], "hidden_mean": 0.5, "hidden_std": 0.5},
    {"recurrent": False},
    {"recurrent_diagonal": False, "heterogeneous": True, "dt": 2e-3, "input_mean": 0.3},
]


def network(method, loss=None, **options):
    torch.manual_seed(5)
    options = NetworkOptions(**{"hidden": [9], **LIVELY, **options})
    return build_network(method, INPUTS, CLASSES, options, loss or SumExpLoss(10.0)).double()


@pytest.fixture
def events():
    generator = torch.Generator().manual_seed(2)
    samples = [
        (DURATION * torch.rand(n, generator=generator, dtype=torch.float64),
         torch.randint(INPUTS, (n,), generator=generator))
        for n in (150, 0, 260)
    ]  # fmt: skip
    return SpikeEvents.from_list(samples, num_units=INPUTS, duration=DURATION)


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("method", ["snntorch", "eprop", "eprop-random"])
def test_spikes_and_traces_are_those_of_the_grid_solver(method, options, events):
    if "eprop" in method and len(options.get("hidden", [9])) > 1:
        pytest.skip("e-prop trains one hidden layer")
    ours, theirs = network("eventprop", **options), network(method, **options)
    expected, found = ours.observe(events), theirs.observe(events)
    for one, other in zip(expected.hidden, found.hidden, strict=True):
        assert one.times.numel() > 100
        assert torch.equal(one.to_dense(ours.readout.dt), other.to_dense(ours.readout.dt))
    assert torch.allclose(expected.trace, found.trace, rtol=1e-10, atol=1e-12)
    for one, other in zip(ours(events).counts, theirs(events).counts, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("options", VARIANTS)
def test_norse_steps_are_the_grid_reference_with_a_reset_to_zero(options, events):
    net = network("norse", **options)
    seen = net.observe(events)
    signal = events.to_dense(net.dt).numpy()
    for layer, found in zip(net.hidden, seen.hidden, strict=True):
        s, c, m = (factor.expand(layer.out_features).numpy() for factor in maps(layer))
        threshold = layer.threshold.expand(layer.out_features).numpy()
        recurrent = None
        if layer.recurrent:
            recurrent = layer.recurrent_weight.detach().numpy().T.copy()
            if not layer.recurrent_diagonal:
                np.fill_diagonal(recurrent, 0)
        reference = lif_layer(
            layer.weight.detach().numpy().T, s, c, m, threshold, 0 * threshold, "zero",
            recurrent=recurrent,
        )
        runs = [reference_grid.forward(reference, signal[:, b]).spikes for b in range(BATCH)]
        signal = np.stack(runs, 1)
        assert signal.sum() > 100
        assert np.array_equal(found.to_dense(net.dt).numpy(), signal)


def test_every_method_starts_from_the_same_weights():
    first = network("eventprop").state_dict()
    for method in METHODS[1:]:
        state = network(method).state_dict()
        assert state.keys() == first.keys()
        assert all(torch.equal(state[name], first[name]) for name in first), method


@pytest.mark.parametrize("method", ["snntorch", "norse", "eprop", "paralif"])
def test_time_constants_and_thresholds_learn(method, events):
    names = ("learn_tau_mem", "learn_tau_syn", "learn_threshold")
    net = network(method, **dict.fromkeys(names, True))
    outcome = net(events)
    net.loss.from_logits(outcome.logits, torch.tensor([0, 1, 2])).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("method", ["eprop", "eprop-random"])
@pytest.mark.parametrize("options", [{}, {"recurrent": False}, {"recurrent_diagonal": False}])
def test_eprop_is_the_sum_of_learning_signals_times_eligibility(method, options, events):
    """The definition in loops: traces forwards in time, one synapse beside the other."""
    net = network(method, loss=SumLoss(10.0), **options)
    target = torch.tensor([1, 3, 0])
    outcome = net(events)
    net.loss.from_logits(outcome.logits, target).backward()

    layer, steps = net.hidden[0], round(DURATION / net.dt)
    s, c, m = (float(factor) for factor in maps(layer))
    s_out, c_out, m_out = (float(factor) for factor in maps(net.readout))
    weight, threshold = layer.weight.detach().numpy(), float(layer.threshold)
    recurrent = layer.recurrent_weight
    if recurrent is not None:
        recurrent = recurrent.detach().numpy().copy()
        if not layer.recurrent_diagonal:
            np.fill_diagonal(recurrent, 0)
    back = net.readout.weight if method == "eprop" else net.feedback
    raster = events.to_dense(net.dt).numpy()
    size = layer.out_features
    # dE/dV_out is the same in every step for a plain time average.
    error = outcome.logits.detach().softmax(1).numpy()
    error[np.arange(BATCH), target.numpy()] -= 1
    error *= 10.0 / steps / BATCH
    expected, expected_recurrent = np.zeros_like(weight), np.zeros((size, size))
    for b in range(BATCH):
        # How much the readout's membranes, summed over the rest of the trial, owe to a spike in k.
        tail, worth = 0.0, np.zeros(steps)
        response, slow = 0.0, 1.0
        for k in reversed(range(steps)):
            response, slow = m_out * response + c_out * slow, s_out * slow
            tail += response
            worth[k] = tail
        signal = error[b] @ back.detach().numpy()
        current, voltage, spiked = np.zeros(size), np.zeros(size), np.zeros(size)
        trace_i, trace_v = np.zeros(INPUTS + size), np.zeros(INPUTS + size)
        for k in range(steps):
            arriving = np.concatenate([raster[k, b], spiked])
            current = s * current + weight @ raster[k, b]
            if recurrent is not None:
                current = current + recurrent @ spiked
            voltage = m * voltage + c * current
            # Eligibility vectors (dI/dW, dV/dW) are alike for all neurons that share constants.
            trace_i = s * trace_i + arriving
            trace_v = m * trace_v + c * trace_i
            psi = 0.3 / threshold * np.clip(1 - np.abs(voltage - threshold) / threshold, 0, None)
            spiked = (voltage > threshold).astype(float)
            voltage = voltage - threshold * spiked
            product = np.outer(psi * signal * worth[k], trace_v)
            expected += product[:, :INPUTS]
            expected_recurrent += product[:, INPUTS:]
    np.testing.assert_allclose(layer.weight.grad, expected, rtol=1e-9, atol=1e-14)
    if recurrent is not None:
        if not layer.recurrent_diagonal:
            np.fill_diagonal(expected_recurrent, 0)
        found = layer.recurrent_weight.grad
        np.testing.assert_allclose(found, expected_recurrent, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_parallel_integration_is_the_sequential_filter(dtype, tolerance):
    torch.manual_seed(0)
    currents = torch.randn(300, 2, 5, dtype=dtype)
    factors = Maps(*(torch.rand(5, dtype=dtype) for _ in range(3)))
    factors.s[0] = factors.m[0]
    factors.s[1] = 0
    factors.m[2] = 1
    current = voltage = torch.zeros(2, 5, dtype=dtype)
    expected = []
    for arriving in currents:
        current = current + arriving
        voltage = factors.m * voltage + factors.c * current
        current = factors.s * current
        expected.append(voltage)
    expected = torch.stack(expected)
    found = filters.integrate(currents, factors)
    assert (found - expected).abs().max() < tolerance * expected.abs().max()


def test_paralif_spikes_where_its_membrane_rises(events):
    net = network("paralif")
    layer = net.hidden[0]
    s, c, m = (float(factor) for factor in maps(layer))
    raster = events.to_dense(net.dt).double()
    threshold = 0.01 * layer.threshold
    zero = torch.zeros(BATCH, layer.out_features, dtype=torch.float64)
    i1, v1, i2, v2, last, hidden = zero, zero, zero, zero, zero, zero
    with torch.no_grad():
        for k, arriving in enumerate(raster):
            x = arriving @ layer.weight.T
            i2 = i2 + x + hidden @ layer.recurrent_weight.T
            before = v1
            i1 = i1 + x
            v1, v2 = m * v1 + c * i1, m * v2 + c * i2
            i1, i2 = s * i1, s * i2
            hidden = (v1 - before > threshold).double()
            expected = v1 + v2 - last > threshold
            last = v1 + v2
            found = net.spikes(layer, raster)[k]
            assert torch.equal(found, expected.double()), k


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("own_folder", "no_figures")
def test_every_method_trains_and_is_evaluated_from_its_checkpoint(method):
    results = fit.main([*TINY, "--model.method", method, "--model.network.dt", "5e-3"])
    assert len(rows("runs/0001")) == 2
    again = evaluate.evaluate("best")
    assert again["test/loss"] == pytest.approx(results["test/loss"], rel=1e-6)


def test_what_a_method_cannot_do_is_said_at_construction():
    with pytest.raises(ValueError, match="method must be one of eventprop, snntorch"):
        network("bptt")
    with pytest.raises(ValueError, match="solver='exact' belongs to method eventprop"):
        network("snntorch", solver="exact")
    with pytest.raises(ValueError, match=r"max_delay=0.1 belongs to method eventprop"):
        network("norse", max_delay=0.1)
    with pytest.raises(ValueError, match="FirstSpikeLoss reads spike times"):
        network("norse", loss=FirstSpikeLoss())
    with pytest.raises(ValueError, match=r"one hidden layer, got hidden=\[4, 4\]"):
        network("eprop", hidden=[4, 4])


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("lightning_modules.methods.build.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "snn-eventprop\[norse\]"'):
        network("norse")


@pytest.mark.parametrize("loss", [SumExpLoss(10.0), StepCrossEntropyLoss()], ids=repr)
@pytest.mark.parametrize("method", ["eventprop", "snntorch", "eprop"])
def test_outcomes_of_a_sample_do_not_depend_on_longer_neighbours(method, loss):
    model = network(method, loss)
    rng = np.random.default_rng(3)
    lengths = [0.06, 0.15]
    samples = [(rng.uniform(0, t, 150), rng.integers(0, INPUTS, 150)) for t in lengths]
    both = SpikeEvents.from_list(
        samples, num_units=INPUTS, duration=lengths, dtype=torch.float64
    )
    outcome = model(both)
    for b, sample in enumerate(samples):
        alone = model(SpikeEvents.from_list(
            [sample], num_units=INPUTS, duration=lengths[b], dtype=torch.float64
        ))  # fmt: skip
        assert torch.allclose(outcome.logits[b], alone.logits[0], rtol=1e-9, atol=1e-12)
        assert torch.equal(outcome.counts[0][b], alone.counts[0][0])
        assert alone.counts[0].sum() > 10
