"""A neuron's functions for the GPU compiler, and access to its state and constants.

Arrays hold a row for each variable and a column for each neuron. A thread reads the columns of its
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
    entering_of, put_entering   the same of bin t, of rows [S, bins, H]
    adjoint_of, put_adjoint     the same of rows [S - 1, H]
    plus_first                  the adjoint, with a number added to its first entry
    plus_last                   the adjoint, with the rows [S, B, H] of sample b added
    constants_of                constants, of rows [P + 1, H]
    flow_constants_of           those of the flow
    add_flow, add_spike         add to gradients of flow constants, of spike constants
    put_kept, kept_of           what is kept of a spike [K, S2]
    leap, leap_back             flow and adjoint flow over bins without events
    """
    others = len(neuron.STATE) - 1
    flows, at_spikes = len(neuron.FLOW_CONSTANTS), len(neuron.SPIKE_CONSTANTS)
    constants, kept = flows + at_spikes + len(neuron.FIXED_CONSTANTS) + 1, len(neuron.KEPT)
    code = SimpleNamespace(**vars(compiled(neuron, scalar)))

    def entries(count: int, arguments: str, expression: str):
        return scalar(per_entry(count, arguments, expression))

    def statements(count: int, arguments: str, statement: str):
        return scalar(for_each_entry(count, arguments, statement))

    code.state_of = entries(others, "rows, h", "rows[{i} + 1, h]")
    code.put_state = statements(others, "rows, h, values", "rows[{i} + 1, h] = values[{i}]")
    code.entering_of = entries(others, "rows, t, h", "rows[{i} + 1, t, h]")
    code.put_entering = statements(
        others, "rows, t, h, values", "rows[{i} + 1, t, h] = values[{i}]"
    )
    code.adjoint_of = entries(others, "rows, h", "rows[{i}, h]")
    code.put_adjoint = statements(others, "rows, h, values", "rows[{i}, h] = values[{i}]")
    code.plus_last = entries(others, "values, rows, b, h", "values[{i}] + rows[{i} + 1, b, h]")
    code.constants_of = entries(constants, "rows, h", "rows[{i}, h]")
    code.flow_constants_of = entries(flows, "rows, h", "rows[{i}, h]")
    code.add_flow = statements(flows, "rows, h, values", "rows[{i}, h] += values[{i}]")
    code.add_spike = statements(
        at_spikes, "rows, h, values", f"rows[{{i}} + {flows}, h] += values[{{i}}]"
    )
    code.put_kept = statements(kept, "rows, b, e, values", "rows[b, {i}, e] = values[{i}]")
    code.kept_of = entries(kept, "rows, e", "rows[{i}, e]")
    flow, adjoint_flow, twice = code.flow, code.adjoint_flow, code.twice

    @scalar
    def plus_first(values, x):
        return (values[0] + x,) + values[1:]  # noqa: RUF005 - Numba adds tuples, unpacks none

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

    code.plus_first, code.leap, code.leap_back = plus_first, leap, leap_back
    return code
