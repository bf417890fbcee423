"""NIR graphs to EventProp layers."""

from __future__ import annotations

import os
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, nn

from ..hosts.registry import hosts
from ..layers import EventPropLI, EventPropLIF, EventPropNeuron
from .stages import Stage, read_stages


def from_nir(
    graph: nir.NIRGraph | str | os.PathLike[str],
    dt: float | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    """The layers of a NIR graph as ``EventPropLIF``, ``EventPropNeuron``, ``EventPropLI``, Linear.

    Args:
        graph: a graph, or a file with one; a row of layers, each with recurrent weights or not.
        dt: width of a time step in s. Default: what the graph's metadata say, if ``to_nir`` made
            it. A spike is a pulse of height 1 and this length, which is what w_in refers to.
        dtype: of parameters.

    Returns:
        The layers in their order, for rasters [T, B, N] and ``SpikeEvents``. They step exactly
        (exponentially) in time and V drops by threshold - v_leak at a spike; libraries with
        Euler steps, or with a reset to v_reset, differ by first order in dt.

    Raises:
        TypeError: a node other than Linear, Affine, CubaLIF and CubaLI.
        ValueError: a graph that branches, an unknown dt, or neurons whose v_reset is not their
            v_leak.
    """
    layers: list[nn.Module] = []
    for stage in read_stages(graph):
        layers += _layers(stage, dt, dtype or torch.get_default_dtype())
    return nn.Sequential(*layers)


def linear(stage: Stage, dtype: torch.dtype) -> nn.Linear:
    """The weights of a stage alone."""
    assert stage.weight is not None
    outputs, inputs = stage.weight.shape
    layer = nn.Linear(inputs, outputs, bias=stage.bias is not None, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(stage.weight))
        if stage.bias is not None:
            layer.bias.copy_(torch.as_tensor(stage.bias))
    return layer


def shared(values: np.ndarray) -> Tensor:
    """A scalar where all neurons have one value, or else the values."""
    tensor = torch.as_tensor(values).double()
    return tensor[0] if bool((tensor == tensor[0]).all()) else tensor


def _layers(stage: Stage, dt: float | None, dtype: torch.dtype) -> list[nn.Module]:
    if stage.neuron is None:
        return [linear(stage, dtype)]
    stage = stage.scaled(dt)
    node = stage.neuron
    size = len(node.tau_mem)
    constants: dict[str, Any] = {
        "tau_mem": shared(node.tau_mem), "tau_syn": shared(node.tau_syn),
        "dt": stage.step(dt), "dtype": dtype,
    }  # fmt: skip
    if isinstance(node, nir.CubaLI):
        if node.v_leak.any():
            raise ValueError(f"{stage.name} has v_leak other than 0, which EventPropLI has not")
        return _with_weights(stage, EventPropLI, **constants)
    if not np.array_equal(node.v_reset, node.v_leak):
        others = ", ".join(f"{host.package}.from_nir" for host in hosts() if host.nodes)
        raise ValueError(
            f"{stage.name} has a v_reset that is not its v_leak; EventProp layers reset to rest. "
            f"Read the graph with {others}, whose neurons have other resets"
        )
    constants["threshold"] = shared(node.v_threshold - node.v_leak)
    if stage.recurrent is None and (stage.weight is None or stage.bias is not None):
        weights = [] if stage.weight is None else [linear(stage, dtype)]
        per_neuron = any(v.ndim for v in constants.values() if isinstance(v, Tensor))
        return [*weights, EventPropNeuron(size if per_neuron else None, **constants)]
    return _with_weights(
        stage, EventPropLIF, recurrent=stage.recurrent is not None,
        solver=node.metadata.get("solver", "grid"), **constants,
    )  # fmt: skip


def _with_weights(
    stage: Stage, layer_type: type, *, dtype: torch.dtype, **options: Any
) -> list[nn.Module]:
    """A layer that has weights of its own, after an ``nn.Linear`` where there is a bias too."""
    size = len(stage.neuron.tau_mem)
    before = [linear(stage, dtype)] if stage.bias is not None else []
    weight = np.eye(size) if before or stage.weight is None else stage.weight
    layer = layer_type(weight.shape[1], size, dtype=dtype, **options)
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(weight))
        if stage.recurrent is not None:
            layer.recurrent_weight.copy_(torch.as_tensor(stage.recurrent))
    return [*before, layer]
