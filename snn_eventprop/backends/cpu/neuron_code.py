"""A neuron's functions for the CPU compiler, and access to its state and constants.

State is [S, H], the current first; constants are [P + 1, H]. Blocks of neurons are ``Lanes``.
"""

from __future__ import annotations

import functools
from types import ModuleType, SimpleNamespace

from ..binding import compiled, for_each_entry, per_entry
from .compile import index, inlined
from .lanes import constant, load_row, store_row

_NAMES = {
    "index": index, "constant": constant, "load_row": load_row, "store_row": store_row,
}  # fmt: skip


@functools.cache
def neuron_code(neuron: ModuleType) -> SimpleNamespace:
    """The compiled functions of the neuron, and

    load_state, store_state     state beside the current, of a block of neurons
    load_adjoint, store_adjoint the same of rows [S - 1, H]
    constants_at                constants of a block
    state_of, put_state         state beside the current, of one neuron
    adjoint_of, put_adjoint     the same of rows [S - 1, H]
    constants_of                constants of one neuron
    powers_of                   flow constants of one neuron from ``Neurons.powers``
    add_flow, add_spike         add to gradients of flow constants, of spike constants
    put_kept, kept_of           what is kept of a spike [K, S2]
    """
    others = len(neuron.STATE) - 1
    flows, at_spikes = len(neuron.FLOW_CONSTANTS), len(neuron.SPIKE_CONSTANTS)
    number = flows + at_spikes + len(neuron.FIXED_CONSTANTS) + 1
    kept = len(neuron.KEPT)

    def entries(count: int, arguments: str, expression: str):
        return inlined(per_entry(count, arguments, expression, **_NAMES))

    def statements(count: int, arguments: str, statement: str):
        return inlined(for_each_entry(count, arguments, statement, **_NAMES))

    code = SimpleNamespace(**vars(compiled(neuron, inlined)))
    code.load_state = entries(
        others, "state, at, width", "load_row(state, index({i} + 1), at, width)"
    )
    code.store_state = statements(
        others, "state, at, values", "store_row(state, index({i} + 1), at, values[{i}])"
    )
    code.load_adjoint = entries(others, "rows, at, width", "load_row(rows, index({i}), at, width)")
    code.store_adjoint = statements(
        others, "rows, at, values", "store_row(rows, index({i}), at, values[{i}])"
    )
    code.constants_at = entries(number, "blocks, at, width", "constant(blocks[{i}], at, width)")
    code.state_of = entries(others, "state, h", "state[index({i} + 1), index(h)]")
    code.put_state = statements(
        others, "state, h, values", "state[index({i} + 1), index(h)] = values[{i}]"
    )
    code.adjoint_of = entries(others, "rows, h", "rows[index({i}), index(h)]")
    code.put_adjoint = statements(
        others, "rows, h, values", "rows[index({i}), index(h)] = values[{i}]"
    )
    code.constants_of = entries(number, "rows, h", "rows[index({i}), index(h)]")
    code.powers_of = entries(flows, "table, j, h", "table[index(j), index({i}), index(h)]")
    code.put_powers = statements(
        flows, "table, j, h, values", "table[index(j), index({i}), index(h)] = values[{i}]"
    )
    code.add_flow = statements(
        flows, "rows, at, width, values",
        "store_row(rows, index({i}), at, load_row(rows, index({i}), at, width) + values[{i}])",
    )  # fmt: skip
    code.add_spike = statements(
        at_spikes, "rows, h, values",
        f"rows[index({{i}} + {flows}), index(h)] += values[{{i}}]",
    )  # fmt: skip
    code.put_kept = statements(
        kept, "rows, e, values", "rows[index({i}), index(e)] = values[{i}]"
    )
    code.kept_of = entries(kept, "rows, e", "rows[index({i}), index(e)]")
    return code
