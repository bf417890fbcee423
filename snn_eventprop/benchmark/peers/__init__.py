"""The methods that are compared, each in a small module that is imported in its own process."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

from .base import Network


class Peer(NamedTuple):
    """Where a method lives and what it needs."""

    label: str
    module: str
    network: str  # class in ``module``
    package: str  # importable name of the library
    install: str
    dense: bool = True  # whether its memory grows with steps x neurons
    slow: bool = False  # seconds per sample: measured where it is asked for by name

    def installed(self) -> bool:
        return find_spec(self.package) is not None

    def load(self) -> type[Network]:
        """Import the library; ImportError where it is missing."""
        return getattr(import_module(f".{self.module}", __name__), self.network)


def _ours(label: str, network: str) -> Peer:
    return Peer(label, "ours", network, "snn_eventprop", "snn-eventprop", dense=False)


PEERS = {
    "grid": _ours("ours, grid", "Grid"),
    "grid-delays": _ours("ours, grid, learned delays", "GridDelays"),
    "exact": _ours("ours, exact", "Exact"),
    "snntorch": Peer("snnTorch BPTT", "snntorch", "SnnTorchTutorial", "snntorch", "snntorch"),
    "snntorch-hoisted": Peer(
        "snnTorch BPTT, hoisted", "snntorch", "SnnTorch", "snntorch", "snntorch"
    ),
    "norse": Peer("Norse BPTT", "norse", "Norse", "norse", "norse"),
    "spikingjelly": Peer(
        "SpikingJelly BPTT", "spikingjelly", "SpikingJelly", "spikingjelly", "spikingjelly"
    ),
    "spyx": Peer("Spyx BPTT (JAX)", "spyx", "Spyx", "spyx", "spyx"),
    "jaxsnn": Peer(
        "jaxsnn EventProp (JAX)", "jaxsnn", "Jaxsnn", "jaxsnn", "jaxsnn", dense=False, slow=True
    ),
    "eventax": Peer(
        "eventax EventProp (JAX)", "eventax", "Eventax", "eventax", "eventax",
        dense=False, slow=True,
    ),
    "exact-snn": Peer(
        "exact-snn-nn", "exact_snn", "ExactSnn", "exact_snn", "exact-snn-nn",
        dense=False, slow=True,
    ),
}
OURS = ("grid", "grid-delays", "exact")
BASELINE = "snntorch"
DEFAULT = tuple(name for name, peer in PEERS.items() if not peer.slow)
REFERENCE = "reference"


def method(name: str) -> Peer:
    """One of ``PEERS``, or what gradients are compared with."""
    return _ours("exact solver, float64", "Reference") if name == REFERENCE else PEERS[name]
