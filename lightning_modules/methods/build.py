"""The reference network of a method, by the method's name."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from lightning_modules.methods import METHODS, Method
from lightning_modules.model.network import Network, NetworkOptions
from snn_eventprop.losses import ClassificationLoss

# Module and class of each method.
_WHERE: dict[str, tuple[str, str]] = {
    "eventprop": ("lightning_modules.methods.eventprop", "EventPropNetwork"),
    "snntorch": ("lightning_modules.methods.snntorch", "SnnTorchNetwork"),
    "norse": ("lightning_modules.methods.norse", "NorseNetwork"),
    "eprop": ("lightning_modules.methods.eprop", "EpropNetwork"),
    "eprop-random": ("lightning_modules.methods.eprop", "RandomEpropNetwork"),
    "paralif": ("lightning_modules.methods.paralif", "ParaLifNetwork"),
}
_HOSTS = ("snntorch", "norse")


def build_network(
    method: Method,
    num_inputs: int,
    num_classes: int,
    options: NetworkOptions,
    loss: ClassificationLoss,
) -> Network:
    """The reference network, to be trained by ``method``.

    Raises:
        ValueError: an unknown method, or options that it does not support.
        ImportError: its library is not installed.
    """
    if method not in _WHERE:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method in _HOSTS and find_spec(method) is None:
        raise ImportError(
            f"method {method!r} trains with the library of that name, which is not installed: "
            f'pip install "snn-eventprop[{method}]"'
        )
    module, name = _WHERE[method]
    network = getattr(import_module(module), name)
    return network(num_inputs, num_classes, options, loss)
