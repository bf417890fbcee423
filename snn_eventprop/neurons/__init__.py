"""One file for each neuron: its dynamics, their adjoint, and what happens at a spike.

A neuron is a module. Its state is a synaptic current I, to which input is added, and further
variables, the first of which is the membrane potential V. Functions take the current apart from
the tuple of the others, ``state``; the adjoint of these has the same shape. ``constants`` is a
tuple of numbers, one of each neuron's, in the order of the names below, and the number 1 at the
end, of the same type as the others (a literal would be of another type).

Names:

    NAME              of the neuron, as operators know it
    STATE             names of I, V and the other variables
    FLOW_CONSTANTS    constants of the flow; gradients by ``flow_gradients``
    SPIKE_CONSTANTS   further constants with a gradient at spikes, by ``grid_jump``
    FIXED_CONSTANTS   constants without a gradient
    KEPT              numbers that are kept of each spike; the first is its slope per bin
    RESETS            reset rules by name

Functions, which ``snn_eventprop.neurons.lif`` documents, for the grid solver:

    flow, adjoint_flow, flow_gradients, twice       between spikes
    tested, may_spike, kept_of_spike                the spike
    reset_at_spike, reset_before_flow, reset_after_flow, is_later
    grid_jump, jump_before_first_bin                its adjoint
    kept_of_peak, grid_peak                         peaks that nearly spike (hybrid gradient)

Functions are plain Python on scalars, without arrays. Backends compile them
(``snn_eventprop.backends.binding``); the reference runs them.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType

_MODULES = [import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
_NEURONS = {module.NAME: module for module in _MODULES if hasattr(module, "NAME")}


def neuron(name: str) -> ModuleType:
    """The neuron's module."""
    return _NEURONS[name]
