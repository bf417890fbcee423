"""The grid solver's gradients converge, at first order in dt, to those of the continuous system.

The reference is central finite differences of a continuous-time simulation (``continuous_network``)
that knows neither grid nor adjoint.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.continuous_network import Network, central_differences

from snn_eventprop import EventPropLI, EventPropLIF, SpikeEvents, losses

DURATION = 0.05
INPUTS, HIDDEN, OUTPUTS = 5, 4, 3
TARGET = 1
SAMPLES = 4000  # of the readout's membrane, for the reference's integrals
STEPS = [3e-4, 1e-4, 3e-5, 1e-5, 3e-6]


def psp(gap, tau_mem, tau_syn):
    """Membrane response to one unit of current; ``tau_mem != tau_syn``."""
    gap = np.maximum(gap, 0)
    ratio = tau_syn / (tau_syn - tau_mem)
    return ratio * (np.exp(-gap / tau_syn) - np.exp(-gap / tau_mem))


def cross_entropy(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return -(shifted[..., TARGET] - np.log(np.exp(shifted).sum(-1)))


def reference_loss(name, trace, time):
    """The shaped losses in NumPy, from a finely sampled membrane [SAMPLES, OUTPUTS]."""
    share = time / DURATION
    shapes = {
        "SumLoss": np.ones_like(share),
        "SumExpLoss": np.exp(-share),
        "LinearLoss": 1 - share,
    }
    if name in shapes:
        return cross_entropy((shapes[name][:, None] * trace).mean(0))
    if name == "MaxLoss":
        return cross_entropy(trace.max(0))
    return cross_entropy(trace).mean()


class Problem:
    def __init__(self, layers: int, recurrent: bool, loss: str, seed: int):
        self.loss, self.recurrent, self.layers = loss, recurrent, layers
        self.taus = np.array([20e-3, 5e-3])
        self.threshold = np.array([1.0])
        self.time = (np.arange(SAMPLES) + 0.5) / SAMPLES * DURATION
        # Spikes far enough from grazing the threshold that none appears or vanishes when it moves
        # by 2 %, nor then on the coarsest grid.
        for attempt in range(1000):
            self.draw(np.random.default_rng([seed, attempt]))
            counts = [self.counts(theta) for theta in (0.98, 1.0, 1.02)]
            if counts[0] == counts[1] == counts[2] and min(counts[1]) >= 4 and self.smooth():
                return
        raise AssertionError("no robust network found")

    def smooth(self):
        """Whether each readout has a peak, and not in a kink, where it has no derivative."""
        if self.loss != "MaxLoss":
            return True
        spikes = self.spikes(1.0)[-1]
        trace = self.trace(spikes)
        peaks = self.time[trace.argmax(0)]
        clear = all(abs(at - peak) > 3e-4 for at, _ in spikes for peak in peaks)
        return clear and trace.max(0).min() > 0.1

    def draw(self, rng):
        sizes = [INPUTS] + [HIDDEN] * self.layers
        self.weights = [
            rng.normal(1.3 if i == 0 else 1.7, 0.8, (HIDDEN, sizes[i])) for i in range(self.layers)
        ]
        self.back = [rng.normal(0, 0.4, (HIDDEN, HIDDEN)) for _ in range(self.layers)]
        self.out = rng.normal(0, 3.0, (OUTPUTS, HIDDEN))
        times = np.sort(rng.uniform(0, 0.7 * DURATION, 20))
        self.events = list(zip(times, rng.integers(0, INPUTS, 20), strict=True))

    def spikes(self, threshold):
        back = self.back if self.recurrent else [None] * self.layers
        layers = list(zip(self.weights, back, strict=True))
        return Network(layers, *self.taus, threshold).run(self.events, DURATION)[0]

    def counts(self, threshold):
        return [len(layer) for layer in self.spikes(threshold)]

    def arrays(self):
        back = self.back if self.recurrent else []
        return [*self.weights, *back, self.out]

    def value(self):
        spikes = self.spikes(self.threshold[0])
        value = reference_loss(self.loss, self.trace(spikes[-1]), self.time)
        return value, [len(s) for s in spikes]

    def trace(self, spikes):
        trace = np.zeros((SAMPLES, OUTPUTS))
        for at, n in spikes:
            trace += psp(self.time[:, None] - at, 20e-3, 5e-3) * self.out[:, n]
        return trace

    def exact(self):
        step = [1e-6] * len(self.arrays()) + [1e-8, 1e-6]
        return [
            central_differences(self.value, [array], step=s)[0]
            for array, s in zip([*self.arrays(), self.taus, self.threshold], step, strict=True)
        ]

    def grid(self, dt, use_raster):
        double = {"dtype": torch.float64, "dt": dt}
        hidden = [
            EventPropLIF(
                w.shape[1], HIDDEN, recurrent=self.recurrent, grazing_guard=0, learn_tau_mem=True,
                learn_tau_syn=True, learn_threshold=True, **double,
            )
            for w in self.weights
        ]  # fmt: skip
        readout = EventPropLI(HIDDEN, OUTPUTS, **double)
        with torch.no_grad():
            for layer, w, r in zip(hidden, self.weights, self.back, strict=True):
                layer.weight.copy_(torch.from_numpy(w))
                if self.recurrent:
                    layer.recurrent_weight.copy_(torch.from_numpy(r))
            readout.weight.copy_(torch.from_numpy(self.out))
        x = SpikeEvents.from_list(
            [([at for at, _ in self.events], [unit for _, unit in self.events])],
            num_units=INPUTS,
            duration=DURATION,
            dtype=torch.float64,
        )
        if use_raster:
            x = x.to_dense(dt)
        for layer in hidden:
            x = layer(x)
        loss = getattr(losses, self.loss)()(readout(x), torch.tensor([TARGET]))
        loss.backward()
        back = [layer.recurrent_weight.grad for layer in hidden] if self.recurrent else []
        weights = [*(layer.weight.grad for layer in hidden), *back, readout.weight.grad]
        # d/d tau = d/d log(tau) / tau; one number stands for all neurons of all layers.
        taus = [
            sum(layer.log_tau_mem.grad.sum() for layer in hidden) / self.taus[0],
            sum(layer.log_tau_syn.grad.sum() for layer in hidden) / self.taus[1],
        ]
        threshold = sum(layer.threshold.grad.sum() for layer in hidden)
        return [g.numpy() for g in weights] + [np.array(taus), np.array([threshold])]


def assert_first_order(layers, recurrent, loss, use_raster):
    """Errors averaged (geometrically) over networks and gradients fall in proportion to dt.

    Averaged, because rounding spike times to bins makes each single error jump about.
    """
    logs = []
    for seed in range(4):
        problem = Problem(layers, recurrent, loss, seed)
        exact = problem.exact()
        for dt in STEPS:
            ours = problem.grid(dt, use_raster)
            logs += [
                np.log(np.linalg.norm(o - e) / np.linalg.norm(e))
                for o, e in zip(ours, exact, strict=True)
            ]
    mean = np.array(logs).reshape(4, len(STEPS), -1).mean((0, 2))
    order = np.polyfit(np.log(STEPS), mean, 1)[0]
    assert order > 0.8, (order, np.exp(mean))
    assert np.exp(mean[-1]) < 0.005, np.exp(mean)


@pytest.mark.parametrize(
    "layers,recurrent,use_raster",
    [
        pytest.param(1, False, True, id="1-feedforward-raster"),
        pytest.param(1, True, False, id="1-recurrent-events"),
        pytest.param(2, True, True, id="2-recurrent-raster"),
        pytest.param(3, False, False, id="3-feedforward-events", marks=pytest.mark.slow),
        pytest.param(3, True, False, id="3-recurrent-events", marks=pytest.mark.slow),
    ],
)
def test_gradient_converges_first_order_in_dt(layers, recurrent, use_raster):
    assert_first_order(layers, recurrent, "SumExpLoss", use_raster)


@pytest.mark.parametrize("loss", ["SumLoss", "LinearLoss", "MaxLoss", "StepCrossEntropyLoss"])
def test_gradient_of_every_loss_converges_first_order_in_dt(loss):
    assert_first_order(1, True, loss, use_raster=False)
