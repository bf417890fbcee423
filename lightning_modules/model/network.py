"""The reference network: hidden LIF layers and a leaky-integrator (or spiking) readout."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from snn_eventprop import EventPropLI, EventPropLIF, SpikeEvents
from snn_eventprop.layers.layers import Solver
from snn_eventprop.losses import ClassificationLoss
from snn_eventprop.ops.bin_times import num_bins


class Outcome(NamedTuple):
    """What a network made of a batch.

    Attributes:
        logits: [B, O] class scores.
        counts: one [B, N] per hidden layer: spikes of each neuron, differentiable.
    """

    logits: Tensor
    counts: list[Tensor]


class Observation(NamedTuple):
    """Everything a figure of single samples wants, without gradients.

    Attributes:
        hidden: spikes of each hidden layer.
        trace: [T, B, O] readout membranes; None if the readout spikes.
        output: spikes of the readout; None if it does not.
    """

    hidden: list[SpikeEvents]
    trace: Tensor | None
    output: SpikeEvents | None


class Network(Protocol):
    """What the classifier asks of a network, whatever its training method."""

    def __call__(self, events: SpikeEvents) -> Outcome: ...

    def observe(self, events: SpikeEvents) -> Observation: ...

    def input_weights(self) -> list[nn.Parameter]:
        """Of each hidden layer the weights [N, inputs] from the layer below."""
        ...


@dataclass(frozen=True)
class NetworkOptions:
    """The reference network's sizes, constants and initial weights.

    Args:
        hidden: neurons of each hidden layer.
        recurrent: connect each hidden layer to itself.
        recurrent_diagonal: whether neurons also connect to themselves.
        tau_mem: membrane time constant of hidden neurons in s.
        tau_syn: synaptic time constant of hidden neurons in s.
        heterogeneous: start each hidden neuron with time constants drawn from a Gamma
            distribution of shape 3 with the means above, clipped to the smallest values below
            and 3 times the means.
        tau_mem_min: smallest membrane time constant of such a draw in s.
        tau_syn_min: smallest synaptic time constant of such a draw in s.
        threshold: of hidden neurons.
        learn_tau_mem: train the membrane time constants of hidden neurons.
        learn_tau_syn: train their synaptic time constants.
        learn_threshold: train their thresholds.
        max_delay: give every input and recurrent synapse of hidden layers a delay, at most this
            long in s (solver grid, method eventprop); None: no delays.
        learn_delays: train them.
        initial_delay: longest of the delays that input synapses start with, drawn uniformly from
            0 up, in s; None: max_delay.
        initial_recurrent_delay: the same for recurrent synapses; 0: they start without.
        readout_tau_mem: membrane time constant of the readout in s.
        readout_tau_syn: synaptic time constant of the readout in s.
        solver: of spiking layers; "grid": bins of dt; "exact": continuous time.
        dt: bin width of the grid, and distance of the samples of readout traces, in s.
        grazing_guard: see EventPropLIF; 0 switches it off.
        input_mean: mean of the initial weights into the first hidden layer.
        input_std: their standard deviation.
        hidden_mean: mean of the initial weights between hidden layers; None: 21 / neurons below.
        hidden_std: their standard deviation; None: 7 / neurons below.
        recurrent_std: standard deviation of the initial recurrent weights (mean 0).
        readout_mean: mean of the initial weights into the readout.
        readout_std: their standard deviation.
    """

    hidden: list[int] = field(default_factory=lambda: [256])
    recurrent: bool = True
    recurrent_diagonal: bool = True
    tau_mem: float = 20e-3
    tau_syn: float = 5e-3
    heterogeneous: bool = False
    tau_mem_min: float = 3e-3
    tau_syn_min: float = 1e-3
    threshold: float = 1.0
    learn_tau_mem: bool = False
    learn_tau_syn: bool = False
    learn_threshold: bool = False
    max_delay: float | None = None
    learn_delays: bool = True
    initial_delay: float | None = None
    initial_recurrent_delay: float = 0.0
    readout_tau_mem: float = 20e-3
    readout_tau_syn: float = 5e-3
    solver: Solver = "grid"
    dt: float = 1e-3
    grazing_guard: float = 0.05
    input_mean: float = 0.03
    input_std: float = 0.01
    hidden_mean: float | None = None
    hidden_std: float | None = None
    recurrent_std: float = 0.02
    readout_mean: float = 0.0
    readout_std: float = 0.03


class ReferenceNetwork(nn.Module):
    """Parameters of the reference network: hidden ``EventPropLIF`` layers and a readout.

    Every training method holds the same parameters under the same names, drawn alike: the same
    seed starts all methods from the same weights, and a checkpoint of one loads into the others.

    Args:
        num_inputs: input units.
        num_classes: outputs.
        options: everything else.
        loss: the loss that will read the outputs.
    """

    def __init__(
        self, num_inputs: int, num_classes: int, options: NetworkOptions, loss: ClassificationLoss
    ) -> None:
        super().__init__()
        if not options.hidden or min(options.hidden) < 1:
            raise ValueError(
                f"hidden must list one positive size for each layer, got {options.hidden}"
            )
        self.options = options
        self.loss = loss
        sizes = [num_inputs, *options.hidden]
        self.hidden = nn.ModuleList(
            _hidden_layer(sizes[i], sizes[i + 1], first=i == 0, options=options)
            for i in range(len(options.hidden))
        )
        constants: Any = {
            "tau_mem": options.readout_tau_mem, "tau_syn": options.readout_tau_syn,
            "dt": options.dt,
        }  # fmt: skip
        if loss.reads == "spikes":
            self.readout: EventPropLIF | EventPropLI = EventPropLIF(
                sizes[-1], num_classes, solver=options.solver,
                grazing_guard=options.grazing_guard, **constants,
            )  # fmt: skip
        else:
            self.readout = EventPropLI(sizes[-1], num_classes, **constants)
        self.readout.reset_parameters(options.readout_mean, options.readout_std)

    def input_weights(self) -> list[nn.Parameter]:
        return [layer.weight for layer in self.hidden]  # type: ignore[misc]


class EventPropNetwork(ReferenceNetwork):
    """Exact event-based gradients, on events throughout.

    The readout is what the loss reads: closed-form time averages where there are such, membrane
    traces otherwise, and spiking outputs for losses on spike times.
    """

    def forward(self, events: SpikeEvents) -> Outcome:
        spikes = self._hidden_spikes(events)
        counts = [layer.counts() for layer in spikes]
        if isinstance(self.readout, EventPropLI) and self.loss.weighting is not None:
            averages = self.readout.integral(spikes[-1], self.loss.weighting)
            return Outcome(self.loss.scale * averages, counts)
        return Outcome(self.loss.logits(self._read(spikes[-1])), counts)

    @torch.no_grad()
    def observe(self, events: SpikeEvents) -> Observation:
        spikes = self._hidden_spikes(events)
        readout = self._read(spikes[-1])
        if isinstance(readout, SpikeEvents):
            return Observation(spikes, None, readout)
        return Observation(spikes, readout, None)

    def _read(self, spikes: SpikeEvents) -> SpikeEvents | Tensor:
        """The readout's spikes, or its trace at the end of each dt."""
        continuous = self.hidden[0].solver == "exact"
        if continuous and isinstance(self.readout, EventPropLI):
            steps = num_bins(spikes.duration, self.readout.dt)
            times = torch.arange(1, steps + 1, dtype=torch.float64) * self.readout.dt
            return self.readout.sample(spikes, times.to(spikes.device))
        return self.readout(spikes)

    def _hidden_spikes(self, events: SpikeEvents) -> list[SpikeEvents]:
        spikes = [events]
        for layer in self.hidden:
            spikes.append(layer(spikes[-1]))
        return spikes[1:]


def _hidden_layer(
    inputs: int, size: int, *, first: bool, options: NetworkOptions
) -> EventPropLIF:
    tau_mem, tau_syn, drawn = options.tau_mem, options.tau_syn, options.heterogeneous
    layer = EventPropLIF(
        inputs, size,
        recurrent=options.recurrent,
        recurrent_diagonal=options.recurrent_diagonal,
        tau_mem=_gamma(tau_mem, options.tau_mem_min, size) if drawn else tau_mem,
        tau_syn=_gamma(tau_syn, options.tau_syn_min, size) if drawn else tau_syn,
        threshold=options.threshold,
        learn_tau_mem=options.learn_tau_mem,
        learn_tau_syn=options.learn_tau_syn,
        learn_threshold=options.learn_threshold,
        max_delay=options.max_delay,
        learn_delays=options.learn_delays,
        solver=options.solver,
        dt=options.dt,
        grazing_guard=options.grazing_guard,
    )  # fmt: skip
    mean, std = (
        (options.input_mean, options.input_std)
        if first
        else (options.hidden_mean, options.hidden_std)
    )
    layer.reset_parameters(mean, std, options.recurrent_std)
    if options.max_delay is not None:
        layer.reset_delays(options.initial_delay, options.initial_recurrent_delay)
    return layer


def _gamma(mean: float, smallest: float, size: int, shape: float = 3.0) -> Tensor:
    if not 0 < smallest <= 3 * mean:
        raise ValueError(
            f"a drawn time constant needs 0 < smallest <= 3 mean, got smallest {smallest:g} s and "
            f"mean {mean:g} s; see tau_mem_min and tau_syn_min"
        )
    draw = torch.distributions.Gamma(shape, shape / mean).sample((size,))
    return draw.clamp(smallest, 3 * mean)
