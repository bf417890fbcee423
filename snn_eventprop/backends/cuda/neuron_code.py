"""A neuron's functions for the GPU compiler, and access to its state and constants.

Arrays hold a row for each variable and a column for each neuron; a thread reads the columns of its
own neurons.
"""

from __future__ import annotations

import functools
from types import ModuleType, SimpleNamespace

from ..binding import compiled, for_each_entry, per_entry
from .launch import scalar


@functools.cache
def neuron_code(neuron: ModuleType) -> SimpleNamespace:
    """The compiled functions of the neuron, and

    state_of, put_state         state beside the current, of rows [S, H]
    adjoint_of, put_adjoint     the same of rows [S - 1, H]
    constants_of                constants, of rows [P + 1, H]
    flow_constants_of           those of the flow
    add_flow, add_spike         add to gradients of flow constants, of spike constants
    put_kept, kept_of           what is kept of a spike [K, S2]
    leap, leap_back             flow and adjoint flow over bins without events
    """
    others = len(neuron.STATE) - 1
    flows, at_spikes = len(neuron.FLOW_CONSTANTS), len(neuron.SPIKE_CONSTANTS)
    number, kept = flows + at_spikes + len(neuron.FIXED_CONSTANTS) + 1, len(neuron.KEPT)
    code = SimpleNamespace(**vars(compiled(neuron, scalar)))

    def entries(count: int, expression: str):
        return scalar(per_entry(count, "rows, h", expression))

    def statements(count: int, statement: str):
        return scalar(for_each_entry(count, "rows, h, values", statement))

    code.state_of = entries(others, "rows[{i} + 1, h]")
    code.put_state = statements(others, "rows[{i} + 1, h] = values[{i}]")
    code.adjoint_of = entries(others, "rows[{i}, h]")
    code.put_adjoint = statements(others, "rows[{i}, h] = values[{i}]")
    code.constants_of = entries(number, "rows[{i}, h]")
    code.flow_constants_of = entries(flows, "rows[{i}, h]")
    code.add_flow = statements(flows, "rows[{i}, h] += values[{i}]")
    code.add_spike = statements(at_spikes, f"rows[{{i}} + {flows}, h] += values[{{i}}]")
    code.put_kept = statements(kept, "rows[{i}, h] = values[{i}]")
    code.kept_of = entries(kept, "rows[{i}, h]")
    flow, adjoint_flow, twice = code.flow, code.adjoint_flow, code.twice

    @scalar
    def leap(current, state, constants, steps):
        """Cross ``steps`` bins without events, by squaring the flow."""
        while steps > 0:
            if steps & 1:
                current, state = flow(current, state, constants)
            constants = twice(constants)
            steps >>= 1
        return current, state

    @scalar
    def leap_back(b, adjoint, constants, steps):
        """The same backwards: b and the adjoint of bin k from those of bin k + ``steps``."""
        one_bin = constants
        while steps > 0:
            if steps & 1:
                _, before = adjoint_flow(b, adjoint, one_bin)
                earlier, _ = adjoint_flow(b, before, constants)
                _, adjoint = adjoint_flow(b, adjoint, constants)
                b = earlier
            constants = twice(constants)
            steps >>= 1
        return b, adjoint

    code.leap, code.leap_back = leap, leap_back
    return code
