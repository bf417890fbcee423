"""NIR graphs read as rows of layers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import nir
import numpy as np

T = TypeVar("T")


@dataclass
class Stage:
    """Weights, and the neurons they go into: what most libraries have as a layer or two.

    Attributes:
        name: of the node in the graph.
        weight: [outputs, inputs], or None.
        bias: [outputs], or None.
        neuron: ``CubaLIF``, ``CubaLI``, or None.
        recurrent: [neurons, neurons], [post, pre], or None.
    """

    name: str
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    neuron: Any = None
    recurrent: np.ndarray | None = None

    def step(self, dt: float | None) -> float:
        """Width of a time step: ``dt``, or else what the node's metadata say."""
        if dt is None:
            dt = self.neuron.metadata.get("dt")
        if dt is None:
            raise ValueError(f"the graph does not say in which steps {self.name} runs; give dt (s)")
        return float(dt)

    def scaled(self, dt: float | None) -> Stage:
        """The same layer with r = 1, in which a spike raises I by exactly its weight."""
        node = self.neuron
        gain = node.r * node.w_in * self.step(dt) / node.tau_syn
        if np.allclose(gain, 1, rtol=1e-6, atol=0):
            return self
        weight = np.eye(len(gain)) if self.weight is None else self.weight
        return Stage(
            self.name,
            gain[:, None] * weight,
            None if self.bias is None else gain * self.bias,
            node,
            None if self.recurrent is None else gain[:, None] * self.recurrent,
        )


def read_stages(graph: nir.NIRGraph | str | os.PathLike[str]) -> list[Stage]:
    """The stages of a graph, or of a file with one, from its input to its output.

    Raises:
        TypeError: a node without counterpart here.
        ValueError: a graph that is no row of layers.
    """
    if not isinstance(graph, nir.NIRNode):
        graph = nir.read(os.fspath(graph))
    stages: list[Stage] = []
    waiting: Stage | None = None  # weights whose neurons are yet to come
    for name, node, loop in _row(graph):
        if isinstance(node, (nir.Linear, nir.Affine)):
            if waiting is not None:
                stages.append(waiting)
            waiting = Stage(name, node.weight, getattr(node, "bias", None))
        elif isinstance(node, (nir.CubaLIF, nir.CubaLI)):
            before = waiting or Stage(name)
            recurrent = None if loop is None else loop.weight
            # What a loop adds at all times adds to the bias.
            bias = _sum(before.bias, getattr(loop, "bias", None))
            weight = before.weight
            if bias is not None and weight is None:
                weight = np.eye(len(bias))
            stages.append(Stage(name, weight, bias, node, recurrent))
            waiting = None
        else:
            raise TypeError(
                f"node {name!r} is a {type(node).__name__}; Linear, Affine, CubaLIF and CubaLI "
                "have counterparts here"
            )
    return stages if waiting is None else [*stages, waiting]


def _row(graph: nir.NIRGraph) -> Iterator[tuple[str, nir.NIRNode, nir.NIRNode | None]]:
    """Name, node, and the node in a loop with it, of all nodes from input to output."""
    edges = {(str(start), str(end)) for start, end in graph.edges}
    place = _only(name for name, node in graph.nodes.items() if isinstance(node, nir.Input))
    while True:
        edge = _only(edge for edge in edges if edge[0] == place)
        edges.remove(edge)  # so that a ring ends in an error
        place = edge[1]
        node = graph.nodes[place]
        if isinstance(node, nir.Output):
            return
        back = [name for name in graph.nodes if (place, name) in edges and (name, place) in edges]
        if isinstance(node, nir.NIRGraph):
            _, inner, own_loop = _only(_row(node))
            yield place, inner, own_loop
        elif back:
            loop = _only(back)
            edges -= {(place, loop), (loop, place)}
            yield place, node, _checked_loop(loop, graph.nodes[loop])
        else:
            yield place, node, None


def _only(found: Iterable[T]) -> T:
    found = tuple(found)
    if len(found) != 1:
        raise ValueError(
            f"the graph is no row of layers from one input to one output: {len(found)} nodes where "
            "one should follow; nirtorch.nir_to_torch reads graphs that branch"
        )
    return found[0]


def _sum(*biases: np.ndarray | None) -> np.ndarray | None:
    """None for nothing, zeros included."""
    given = [bias for bias in biases if bias is not None and bias.any()]
    return np.sum(given, axis=0) if given else None


def _checked_loop(name: str, node: nir.NIRNode) -> nir.NIRNode:
    if not isinstance(node, (nir.Linear, nir.Affine)):
        raise TypeError(f"the loop {name!r} is a {type(node).__name__}, not Linear or Affine")
    return node
