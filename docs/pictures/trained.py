"""A briefly trained network, and the traces of its neurons forward and backward.

The backward traces come from the layer's own gradient. By EventProp the gradient of a weight is
the sum of b = dL/dI of the neuron at the spikes that pass it. An extra input unit whose weights are
0 and which spikes once, at time t, changes nothing. The gradient of its weights is b(t) of all
neurons.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_modules import fit
from lightning_modules.data.module import SpokenDigits
from lightning_modules.training.classifier import SpikingClassifier
from snn_eventprop import EventPropLI, EventPropLIF, SpikeEvents
from snn_eventprop.losses import ClassificationLoss
from snn_eventprop.neurons import lif as equations

OPTIONS = ["--model.network.solver", "exact", "--config", "plain", "--trainer.max_epochs", "30"]
SMALL = ["--config", "tiny", *OPTIONS[:2], "--data.duration", "0.6", "--trainer.max_epochs", "1"]


class Trained(NamedTuple):
    """One hidden layer and its readout (both in float64), the loss, and a sample."""

    hidden: EventPropLIF
    readout: EventPropLI
    loss: ClassificationLoss
    class_names: tuple[str, ...]
    known: list[tuple[SpikeEvents, int]]  # correctly classified test samples, by number of events
    events: SpikeEvents
    label: int

    def showing(self, size: float) -> Trained:
        """With another known sample: the smallest for ``size`` 0, the largest for 1."""
        events, label = self.known[round(size * (len(self.known) - 1))]
        return self._replace(events=events, label=label)


def train(folder: str, small: bool = False) -> Path:
    """Train in ``folder`` with the options above. Returns the last checkpoint."""
    quiet = ["--trainer.enable_progress_bar", "false", "--test", "false", "--run_dir", folder]
    fit.main([*(SMALL if small else OPTIONS), *quiet])
    return Path(folder) / "checkpoints" / "last.ckpt"


def load(checkpoint: Path | None = None, small: bool = False) -> Trained:
    """The network of ``checkpoint``, or a new one, with the samples of the first test batch that
    it classifies correctly (all, if there are none)."""
    if checkpoint is None:
        with tempfile.TemporaryDirectory() as folder:
            return load(train(folder, small), small)
    data = SpokenDigits.load_from_checkpoint(checkpoint)
    model = SpikingClassifier.load_from_checkpoint(checkpoint, map_location="cpu").double()
    (hidden,), readout = model.network.hidden, model.network.readout
    batch = next(iter(data.test_dataloader()))
    events = _double(batch.events)
    with torch.no_grad():
        right = model.network(events).logits.argmax(1) == batch.labels
    indices = torch.where(right)[0] if right.any() else torch.arange(len(batch.labels))
    indices = indices[events.offsets.diff()[indices].argsort()].tolist()
    known = [(events[i], int(batch.labels[i])) for i in indices]
    return Trained(hidden, readout, model.loss, data.class_names, known, *known[-1])


def _double(events: SpikeEvents) -> SpikeEvents:
    return SpikeEvents(
        events.times.double(), events.units, events.offsets, events.num_units, events.duration
    )


def loss_of(trained: Trained, spikes: SpikeEvents) -> Tensor:
    """The loss of the sample for these hidden spikes."""
    loss = trained.loss
    scores = loss.scale * trained.readout.integral(spikes, loss.weighting)
    return loss.from_logits(scores, torch.tensor([trained.label]))


def hidden_spikes(trained: Trained) -> SpikeEvents:
    with torch.no_grad():
        return trained.hidden(trained.events)


def spikes_of(spikes: SpikeEvents, neuron: int) -> np.ndarray:
    """Times [S] of one neuron's spikes, s."""
    return spikes.times[spikes.units == neuron].numpy()


def with_probes(
    trained: Trained, times: np.ndarray, weights: Tensor | None = None
) -> tuple[EventPropLIF, SpikeEvents]:
    """The layer and its input with one more unit for each of ``times`` [Q] (s), which spikes at
    that time. ``weights`` [N, Q] of these units are 0 by default."""
    old, events = trained.hidden, trained.events
    size, inputs = old.weight.shape
    layer = EventPropLIF(
        inputs + times.size, size, recurrent=old.recurrent, tau_mem=old.tau_mem,
        tau_syn=old.tau_syn, threshold=old.threshold, solver="exact", grazing_guard=0.0,
        dtype=torch.float64,
    )  # fmt: skip
    probes = torch.zeros(size, times.size, dtype=torch.float64) if weights is None else weights
    with torch.no_grad():
        layer.weight.copy_(torch.cat([old.weight, probes], 1))
        if old.recurrent:
            layer.recurrent_weight.copy_(old.recurrent_weight)
    at = torch.cat([events.times, torch.from_numpy(times)])
    units = torch.cat([events.units, inputs + torch.arange(times.size)])
    order = at.argsort(stable=True)
    probed = SpikeEvents(
        at[order], units[order], torch.tensor([0, at.numel()]), inputs + times.size,
        events.duration,
    )  # fmt: skip
    return layer, probed


def worth_of_current(trained: Trained, times: np.ndarray) -> np.ndarray:
    """b = dL/dI of every neuron at ``times`` [Q] (s), ``[N, Q]``."""
    layer, events = with_probes(trained, times)
    loss_of(trained, layer(events)).backward()
    assert layer.weight.grad is not None
    return layer.weight.grad[:, -times.size :].numpy()


class Adjoint(NamedTuple):
    """b = dL/dI and a = dL/dV of one neuron at ``times`` [Q] (s)."""

    times: np.ndarray
    b: np.ndarray
    a: np.ndarray


def adjoint_of(trained: Trained, neurons: list[int], points: int = 60) -> list[Adjoint]:
    """The adjoint of some neurons over the whole sample.

    Between a neuron's own spikes the adjoint has no jumps. Two probes in each gap therefore give a
    and b at its end, and ``points`` samples of the flow fill it.
    """
    spikes, duration = hidden_spikes(trained), trained.events.duration
    marks = [np.array([0.0, *spikes_of(spikes, n), duration]) for n in neurons]
    ends = [np.stack([m[:-1] + 0.5 * np.diff(m), m[1:]]) for m in marks]  # [2, gaps] each
    worth = worth_of_current(trained, np.concatenate([e.ravel() for e in ends]))
    tau_mem, tau_syn = (_each(tau, worth.shape[0]) for tau in
                        (trained.hidden.tau_mem, trained.hidden.tau_syn))  # fmt: skip
    traces, first = [], 0
    for neuron, mark, end in zip(neurons, marks, ends, strict=True):
        middle, last = worth[neuron, first : first + end.size].reshape(2, -1)
        first += end.size
        rows = []
        for gap in range(mark.size - 1):
            taus = tau_mem[neuron], tau_syn[neuron]
            e_syn, psp, _ = _flow_constants(mark[gap + 1] - end[0, gap], *taus)
            a = (middle[gap] - e_syn * last[gap]) / psp
            for t in np.linspace(mark[gap], mark[gap + 1], points):
                constants = _flow_constants(mark[gap + 1] - t, *taus)
                current, (voltage,) = equations.adjoint_flow(last[gap], (a,), constants)
                rows.append((t, current, voltage))
        traces.append(Adjoint(*np.array(rows).T))
    return traces


def _each(value: Tensor, size: int) -> list[float]:
    return value.detach().double().expand(size).tolist()


def _flow_constants(gap: float, tau_mem: float, tau_syn: float) -> tuple[float, float, float]:
    """s, c and m of the flow over ``gap`` seconds."""
    psp = equations.psp_coefficient(gap, tau_mem, tau_syn)
    return float(np.exp(-gap / tau_syn)), psp, float(np.exp(-gap / tau_mem))


def membrane_of(trained: Trained, neuron: int, times: np.ndarray) -> np.ndarray:
    """V of one neuron at ``times`` [Q] (s): the membrane of an integrator under the same spikes,
    minus the neuron's own resets."""
    layer, spikes, events = trained.hidden, hidden_spikes(trained), trained.events
    inputs, size = layer.in_features, layer.out_features
    tau_mem, tau_syn = (_each(tau, size)[neuron] for tau in (layer.tau_mem, layer.tau_syn))
    integrator = EventPropLI(
        inputs + size, 1, tau_mem=tau_mem, tau_syn=tau_syn, dtype=torch.float64
    )
    with torch.no_grad():
        recurrent = (
            layer.recurrent_weight[neuron] if layer.recurrent else layer.weight.new_zeros(size)
        )
        integrator.weight.copy_(torch.cat([layer.weight[neuron], recurrent])[None])
        at = torch.cat([events.times, spikes.times])
        order = at.argsort(stable=True)
        everything = SpikeEvents(
            at[order], torch.cat([events.units, inputs + spikes.units])[order],
            torch.tensor([0, at.numel()]), inputs + size, events.duration,
        )  # fmt: skip
        free = integrator.sample(everything, torch.from_numpy(times))[:, 0, 0].numpy()
    own = spikes_of(spikes, neuron)
    since = times[:, None] - own
    threshold = _each(layer.threshold, size)[neuron]
    taken = np.where(since > 0, np.exp(-np.maximum(since, 0) / tau_mem), 0).sum(axis=1)
    return free - threshold * taken
