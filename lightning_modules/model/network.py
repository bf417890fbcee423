"""The reference network: hidden LIF layers and a leaky-integrator (or spiking) readout."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from snn_eventprop import EventPropLI, EventPropLIF, SpikeEvents
from snn_eventprop.layers import Gradient, Solver
from snn_eventprop.losses import ClassificationLoss


class Outcome(NamedTuple):
    """The output of a network for a batch.

    Attributes:
        logits: [B, O] class scores.
        counts: one [B, N] per hidden layer: spikes of each neuron, differentiable.
    """

    logits: Tensor
    counts: list[Tensor]


class Observation(NamedTuple):
    """Everything that figures of single samples need, without gradients.

    Attributes:
        hidden: spikes of each hidden layer.
        trace: [T, B, O] readout membranes; None if the readout spikes.
        output: spikes of the readout; None if it does not.
    """

    hidden: list[SpikeEvents]
    trace: Tensor | None
    output: SpikeEvents | None


class Network(Protocol):
    """The interface of a network for the classifier, whatever its training method."""

    def __call__(self, events: SpikeEvents) -> Outcome: ...

    def observe(self, events: SpikeEvents) -> Observation: ...

    def input_weights(self) -> list[nn.Parameter]:
        """For each hidden layer, the weights [N, inputs] from the layer below."""
        ...


@dataclass(frozen=True)
class NetworkOptions:
    """The reference network's sizes, constants and initial weights.

    Args:
        hidden: neurons of each hidden layer.
        recurrent: give each hidden layer recurrent connections.
        recurrent_diagonal: include connections of neurons to themselves.
        tau_mem: membrane time constant of hidden neurons in s.
        tau_syn: synaptic time constant of hidden neurons in s.
        heterogeneous: start each hidden neuron with time constants drawn from a Gamma
            distribution of shape 3 with the means above, clipped between the minima below and 3
            times the means.
        tau_mem_min: minimum of the drawn membrane time constants in s.
        tau_syn_min: minimum of the drawn synaptic time constants in s.
        threshold: threshold of hidden neurons.
        learn_tau_mem: train the membrane time constants of hidden neurons.
        learn_tau_syn: train the synaptic time constants of hidden neurons.
        learn_threshold: train the thresholds of hidden neurons.
        max_delay: give every input and recurrent synapse of hidden layers a delay of at most this
            many seconds (solver grid, method eventprop); None: no delays.
        learn_delays: train the delays.
        initial_delay: initial delays of input synapses are uniform between 0 and this, in s; None:
            max_delay.
        initial_recurrent_delay: the same for recurrent synapses; 0: they start without delay.
        readout_tau_mem: membrane time constant of the readout in s.
        readout_tau_syn: synaptic time constant of the readout in s.
        solver: solver of spiking layers; "grid": bins of dt; "exact": continuous time.
        dt: bin width of the grid, and sampling interval of readout traces, in s.
        grazing_guard: see EventPropLIF; 0: off.
        gradient: "exact": spikes move in time; "hybrid": peaks of the membrane that nearly spike
            count as well (solver grid, method eventprop, on a CPU); "auto": hybrid with the grid,
            exact with the exact solver. See docs/gradients.md.
        threshold_noise: half width of the noise that the hybrid gradient assumes, in units of
            the threshold.
        input_mean: mean of the initial weights into the first hidden layer.
        input_std: standard deviation of these weights.
        hidden_mean: mean of the initial weights between hidden layers; None: 21 / neurons below.
        hidden_std: standard deviation of these weights; None: 7 / neurons below.
        recurrent_std: standard deviation of the initial recurrent weights (mean 0).
        readout_mean: mean of the initial weights into the readout.
        readout_std: standard deviation of these weights.
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
    gradient: Literal["auto", "exact", "hybrid"] = "exact"
    threshold_noise: float = 1.0
    input_mean: float = 0.03
    input_std: float = 0.01
    hidden_mean: float | None = None
    hidden_std: float | None = None
    recurrent_std: float = 0.02
    readout_mean: float = 0.0
    readout_std: float = 0.03


class ReferenceNetwork(nn.Module):
    """Parameters of the reference network: hidden ``EventPropLIF`` layers and a readout.

    Every training method has the same parameters under the same names, drawn in the same order. All
    methods therefore start from the same weights given the same seed, and a checkpoint of one
    method loads into the others.

    Args:
        num_inputs: input units.
        num_classes: outputs.
        options: sizes, constants and initial weights.
        loss: the loss that reads the outputs.
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
                grazing_guard=options.grazing_guard, gradient=_gradient(options),
                threshold_noise=options.threshold_noise, **constants,
            )  # fmt: skip
        else:
            self.readout = EventPropLI(sizes[-1], num_classes, **constants)
        self.readout.reset_parameters(options.readout_mean, options.readout_std)

    def input_weights(self) -> list[nn.Parameter]:
        return [layer.weight for layer in self.hidden]  # type: ignore[misc]


def _gradient(options: NetworkOptions) -> Gradient:
    if options.gradient == "auto":
        return "hybrid" if options.solver == "grid" else "exact"
    return options.gradient


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
        gradient=_gradient(options),
        threshold_noise=options.threshold_noise,
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


def recurrent_weight(layer: Any) -> Tensor | None:
    """Weights ``[post, pre]``, with a zero diagonal where neurons do not connect to themselves."""
    weight = layer.recurrent_weight
    if weight is None or layer.recurrent_diagonal:
        return weight
    return weight - torch.diag(weight.diagonal())
