"""Models to NIR graphs."""

from __future__ import annotations

from functools import singledispatch
from importlib import import_module
from itertools import pairwise
from typing import Any

import nir
import numpy as np
from torch import Tensor, nn

from ..hosts.registry import loaded_hosts
from ..layers import EventPropLI, EventPropLIF, EventPropNeuron
from .trace import SAMPLE, trace

Nodes = dict[str, nir.NIRNode]


def to_nir(model: nn.Module, sample: Any) -> nir.NIRGraph:
    """The NIR graph of a model, found by running it once.

    | layer | nodes |
    | --- | --- |
    | ``nn.Linear`` | ``Affine``, or ``Linear`` without bias |
    | ``EventPropLIF`` | ``Linear`` and ``CubaLIF``; recurrent: ``Linear`` and a ``NIRGraph`` \
in which ``CubaLIF`` and ``Linear`` form a loop |
    | ``EventPropNeuron`` | ``CubaLIF`` |
    | ``EventPropLI`` | ``Linear`` and ``CubaLI`` |
    | Norse's and our ``LIF``, ``LIFCell`` | ``CubaLIF`` |
    | Norse's and our ``LIFRecurrent``, ``LIFRecurrentCell`` | as a recurrent ``EventPropLIF`` |
    | Norse's ``LI``, ``LICell``; ``LILinearCell`` | ``CubaLI``; ``Linear`` and ``CubaLI`` |

    Args:
        model: a module made of these layers; one that calls them in a loop over time will do.
        sample: an input of the model: a raster [T, B, N] of any T and B, or ``SpikeEvents``.

    Returns:
        A graph with one input and one output. The ``metadata`` of each neuron have ``dt`` (s) and,
        for spiking ones, ``reset``: ``"subtract"`` where V drops by the threshold, ``"zero"`` where
        it is set to v_reset, the only reset that NIR knows. They differ by what V was above the
        threshold, which vanishes with dt.

    Raises:
        TypeError: a layer that is not in the table.
        ValueError: operations between layers, or a model whose layers have no output.
    """
    for host in loaded_hosts():
        if host.nodes:
            import_module(host.nodes)
    calls = trace(model, sample, lambda module: node_of.dispatch(type(module)) is not _no_node)
    if not calls:
        raise ValueError(f"{type(model).__name__} calls no layer that has a node")
    nodes: Nodes = {}
    edges: list[tuple[str, str]] = []
    last: dict[str, str] = {}
    for name, call in calls.items():
        parts = node_of(call.module, call.size)
        names = [".".join(filter(None, (name, part))) or "neurons" for part in parts]
        nodes.update(zip(names, parts.values(), strict=True))
        edges += pairwise(names)
        edges += [(last.get(source, SAMPLE), names[0]) for source in call.sources]
        last[name] = names[-1]
    fed = {start for start, _ in edges}
    ends = [name for name in nodes if name not in fed]
    if len(ends) != 1:
        raise ValueError(f"a graph has one output, but of this model nothing follows {ends}")
    first = next(end for start, end in edges if start == SAMPLE)
    return nir.NIRGraph(
        {
            SAMPLE: nir.Input({"input": nodes[first].input_type["input"]}),
            **nodes,
            "output": nir.Output({"output": nodes[ends[0]].output_type["output"]}),
        },
        [*edges, (ends[0], "output")],
    )


def _no_node(module: nn.Module, size: int) -> Nodes:
    raise TypeError(f"{type(module).__name__} has no node")


node_of = singledispatch(_no_node)
"""(layer, number of its outputs) -> its nodes in a row, by names to put after the layer's own.

Other modules register theirs here: ``@node_of.register``.
"""


def array(value: Tensor | float, size: int) -> np.ndarray:
    """One float64 number per neuron."""
    plain = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
    return np.array(np.broadcast_to(np.asarray(plain, np.float64), (size,)))


def matrix(weight: Tensor) -> np.ndarray:
    return weight.detach().cpu().numpy().copy()


def integrators(size: int, *, tau_mem: Any, tau_syn: Any, v_leak: Any = 0.0, dt: float) -> Nodes:
    """Current-based leaky integrators, in which a spike raises I by its weight."""
    tau = array(tau_syn, size)
    node = nir.CubaLI(
        tau_syn=tau, tau_mem=array(tau_mem, size), r=np.ones(size), v_leak=array(v_leak, size),
        w_in=tau / dt, metadata={"dt": dt},
    )  # fmt: skip
    return {"li": node}


def neurons(
    size: int, *, tau_mem: Any, tau_syn: Any, v_threshold: Any, v_leak: Any = 0.0,
    v_reset: Any = 0.0, dt: float, recurrent: Tensor | None = None, **metadata: Any,
) -> Nodes:  # fmt: skip
    """Current-based LIF neurons; with ``recurrent`` weights [post, pre], in a graph with a loop."""
    tau = array(tau_syn, size)
    lif = nir.CubaLIF(
        tau_syn=tau, tau_mem=array(tau_mem, size), r=np.ones(size), v_leak=array(v_leak, size),
        v_threshold=array(v_threshold, size), v_reset=array(v_reset, size), w_in=tau / dt,
        metadata={"dt": dt, **metadata},
    )  # fmt: skip
    if recurrent is None:
        return {"lif": lif}
    shape = np.array([size])
    loop = nir.NIRGraph(
        {
            "input": nir.Input({"input": shape}),
            "lif": lif,
            "w_rec": nir.Linear(matrix(recurrent)),
            "output": nir.Output({"output": shape}),
        },
        [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")],
    )
    return {"lif": loop}


@node_of.register
def _(module: nn.Linear, size: int) -> Nodes:
    if module.bias is None:
        return {"": nir.Linear(matrix(module.weight))}
    return {"": nir.Affine(matrix(module.weight), matrix(module.bias))}


_WRITTEN = {"weight", "recurrent_weight", "log_tau_mem", "log_tau_syn", "threshold"}


def _check_written(module: nn.Module) -> None:
    more = set(module.state_dict()) - _WRITTEN
    if more:
        raise TypeError(
            f"{type(module).__name__} has {', '.join(sorted(more))}, for which there is no node"
        )


@node_of.register
def _(module: EventPropLIF, size: int) -> Nodes:
    _check_written(module)
    rows = module._recurrent_rows()
    return {
        "weight": nir.Linear(matrix(module.weight)),
        **neurons(
            module.out_features, tau_mem=module.tau_mem, tau_syn=module.tau_syn,
            v_threshold=module.threshold, dt=module.dt,
            recurrent=None if rows is None else rows.t(),
            reset="subtract", solver=module.solver,
        ),
    }  # fmt: skip


@node_of.register
def _(module: EventPropNeuron, size: int) -> Nodes:
    return neurons(
        size, tau_mem=module.tau_mem, tau_syn=module.tau_syn, v_threshold=module.threshold,
        dt=module.dt, reset="subtract", solver="grid",
    )  # fmt: skip


@node_of.register
def _(module: EventPropLI, size: int) -> Nodes:
    _check_written(module)
    return {
        "weight": nir.Linear(matrix(module.weight)),
        **integrators(
            module.out_features, tau_mem=module.tau_mem, tau_syn=module.tau_syn, dt=module.dt
        ),
    }
