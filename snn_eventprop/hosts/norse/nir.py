"""Norse's neurons, and ours, to and from NIR.

Norse's own ``to_nir`` turns ``LIF``, ``LIFRecurrent``, ``LI`` and ``LICell`` into nodes without
content, and its time constants are in steps; here they are in seconds, which Norse's own
``from_nir`` expects.
"""

from __future__ import annotations

import os
from typing import Any

import nir
import norse.torch as host
import torch
from torch import Tensor, nn

from ...nir.export_graph import Nodes, integrators, matrix, neurons, node_of, to_nir
from ...nir.import_graph import linear, shared
from ...nir.stages import Stage, read_stages
from .neurons import LIF, LIFRecurrent

__all__ = ["from_nir", "to_nir"]


def _constants(module: Any) -> dict:
    p = module.p
    return {
        "tau_mem": 1 / p.tau_mem_inv.double(), "tau_syn": 1 / p.tau_syn_inv.double(),
        "v_leak": p.v_leak, "dt": float(module.dt),
    }  # fmt: skip


def _spiking(module: Any, size: int, recurrent: Tensor | None = None) -> Nodes:
    p = module.p
    return neurons(
        size, **_constants(module), v_threshold=p.v_th, v_reset=p.v_reset, recurrent=recurrent,
        reset="zero",
    )  # fmt: skip


@node_of.register(host.LIF)
@node_of.register(host.LIFCell)
def _(module, size: int) -> Nodes:
    return _spiking(module, size)


@node_of.register(host.LIFRecurrent)
@node_of.register(host.LIFRecurrentCell)
def _(module, size: int) -> Nodes:
    return {
        "weight": nir.Linear(matrix(module.input_weights)),
        **_spiking(module, size, module.recurrent_weights),
    }


@node_of.register(host.LI)
@node_of.register(host.LICell)
def _(module, size: int) -> Nodes:
    return integrators(size, **_constants(module))


@node_of.register(host.LILinearCell)
def _(module, size: int) -> Nodes:
    return {
        "weight": nir.Linear(matrix(module.input_weights)),
        **integrators(size, **_constants(module)),
    }


def from_nir(
    graph: nir.NIRGraph | str | os.PathLike[str], dt: float | None = None
) -> host.SequentialState:
    """The layers of a NIR graph as ``LIF``, ``LIFRecurrent``, Norse's ``LI`` and ``nn.Linear``.

    Args:
        graph: a graph, or a file with one; a row of layers, each with recurrent weights or not.
        dt: width of a time step in s. Default: what the graph's metadata say, if ``to_nir`` made
            it. A spike is a pulse of height 1 and this length, which is what w_in refers to.

    Returns:
        A ``SequentialState`` for rasters [T, B, N], in Norse's Euler steps.

    Raises:
        TypeError: a node other than Linear, Affine, CubaLIF and CubaLI.
        ValueError: a graph that branches, or an unknown dt.
    """
    layers: list[nn.Module] = []
    for stage in read_stages(graph):
        layers += _layers(stage, dt)
    return host.SequentialState(*layers)


def _layers(stage: Stage, dt: float | None) -> list[nn.Module]:
    dtype = torch.get_default_dtype()
    if stage.neuron is None:
        return [linear(stage, dtype)]
    stage = stage.scaled(dt)
    node, step = stage.neuron, stage.step(dt)
    constants = {
        "tau_syn_inv": shared(1 / node.tau_syn).to(dtype),
        "tau_mem_inv": shared(1 / node.tau_mem).to(dtype),
        "v_leak": shared(node.v_leak).to(dtype),
    }
    weights = [] if stage.weight is None else [linear(stage, dtype)]
    if isinstance(node, nir.CubaLI):
        return [*weights, host.LI(host.LIParameters(**constants), dt=step)]
    p = host.LIFParameters(
        **constants, v_th=shared(node.v_threshold).to(dtype), v_reset=shared(node.v_reset).to(dtype)
    )
    if stage.recurrent is None:
        return [*weights, LIF(p, dt=step)]
    size = len(node.tau_mem)
    before = weights if stage.bias is not None else []
    given = torch.eye(size) if before or not weights else weights[0].weight.detach()
    layer = LIFRecurrent(
        given.shape[1], size, p, dt=step, autapses=True,
        input_weights=nn.Parameter(given.to(dtype)),
        recurrent_weights=nn.Parameter(torch.as_tensor(stage.recurrent).to(dtype)),
    )  # fmt: skip
    return [*before, layer]
