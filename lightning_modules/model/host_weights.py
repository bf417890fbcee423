"""State dicts for networks of snnTorch's and Norse's own modules, which docs/export.md shows.

The grid solver's step, ``I <- I + X; V <- m V + c I; I <- s I``, is theirs up to a gain of the
weights. Everything is float64; a float32 network rounds it when it loads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_modules.model.network import recurrent_weight
from snn_eventprop import EventPropLI, EventPropLIF
from snn_eventprop.discretisation import exponential

Layer = EventPropLIF | EventPropLI
_StateDict = dict[str, Tensor]

_NO_RESET = 2  # snnTorch's number for reset_mechanism="none"


def for_snntorch(layers: Sequence[Layer]) -> _StateDict:
    """``snntorch.Synaptic`` has s as alpha, m as beta, and c = 1; V is the same."""

    def constants(layer: Layer) -> tuple[Tensor, _StateDict]:
        s, c, m = _maps(layer)
        return c, {
            "lif.alpha": s,
            "lif.beta": m,
            "lif.threshold": _threshold(layer, default=1.0),
            "lif.graded_spikes_factor": torch.tensor(1.0),
            "lif.reset_mechanism_val": torch.tensor(_NO_RESET),
        }

    return _state_dict(layers, constants)


def for_norse(layers: Sequence[Layer]) -> _StateDict:
    """Norse's Euler steps have s = 1 - dt/tau_syn and m = 1 - dt/tau_mem.

    Spiking layers are ``LIBoxCell`` and ``LIFBoxCell``, whose inputs have the gains 1 - s and
    1 - m; the readout is ``LICell``, with the gain 1 - m.
    """

    def constants(layer: Layer) -> tuple[Tensor, _StateDict]:
        s, c, m = _maps(layer)
        inverse = {
            "tau_syn_inv": (1 - s) / layer.dt,
            "tau_mem_inv": (1 - m) / layer.dt,
            "dt": torch.tensor(layer.dt, dtype=torch.float64),
        }
        if isinstance(layer, EventPropLI):
            return c / (1 - m), inverse
        return c / ((1 - m) * (1 - s)), {**inverse, "v_th": _threshold(layer)}

    return _state_dict(layers, constants)


def _state_dict(
    layers: Sequence[Layer], constants: Callable[[Layer], tuple[Tensor, _StateDict]]
) -> _StateDict:
    state: _StateDict = {}
    *hidden, readout = layers
    names = [*(f"hidden.{number}" for number in range(len(hidden))), "readout"]
    for name, layer in zip(names, [*hidden, readout], strict=True):
        gain, rest = constants(layer)
        state[f"{name}.fc.weight"] = gain[:, None] * layer.weight.detach()
        if isinstance(layer, EventPropLIF) and layer.recurrent_weight is not None:
            recurrent = recurrent_weight(layer)
            assert recurrent is not None
            state[f"{name}.recurrent.weight"] = gain[:, None] * recurrent.detach()
        state.update({f"{name}.{key}": value for key, value in rest.items()})
    return state


def _maps(layer: Layer) -> list[Tensor]:
    """s, c, m, one number per neuron."""
    factors = exponential(layer.tau_mem.detach(), layer.tau_syn.detach(), layer.dt)
    return [factor.expand(layer.out_features).clone() for factor in factors]


def _threshold(layer: Layer, default: float | None = None) -> Tensor:
    value = getattr(layer, "threshold", default)
    return torch.as_tensor(value).detach().double().expand(layer.out_features).clone()
