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
    dense: bool  # whether its memory grows with steps x neurons
    devices: tuple[str, ...] = ("cpu",)

    def installed(self) -> bool:
        return find_spec(self.package) is not None

    def load(self) -> type[Network]:
        """Import the library; ImportError where it is missing."""
        return getattr(import_module(f".{self.module}", __name__), self.network)


PEERS = {
    "grid": Peer(
        "ours, grid", "ours", "Grid", "snn_eventprop", "snn-eventprop", False, ("cpu", "cuda")
    ),
    "exact": Peer(
        "ours, exact", "ours", "Exact", "snn_eventprop", "snn-eventprop", False, ("cpu", "cuda")
    ),
    "snntorch": Peer("snnTorch BPTT", "snntorch", "SnnTorchTutorial", "snntorch", "snntorch", True),
    "snntorch-hoisted": Peer(
        "snnTorch BPTT, hoisted", "snntorch", "SnnTorch", "snntorch", "snntorch", True
    ),
    "norse": Peer("Norse BPTT", "norse", "Norse", "norse", "norse", True),
    "spikingjelly": Peer(
        "SpikingJelly BPTT", "spikingjelly", "SpikingJelly", "spikingjelly", "spikingjelly", True
    ),
    "spyx": Peer("Spyx BPTT (JAX)", "spyx", "Spyx", "spyx", "spyx", True),
}
OURS = ("grid", "exact")
BASELINE = "snntorch"
