"""Operators of ``torch.library``, registered one level below ``custom_op``.

``torch.library.custom_op`` wraps every kernel in a guard against tracing whose first call imports
torch's compiler, over a second in each process, and checks each call's results for aliases. The
functions that it is made of do neither; compiled graphs hold the operator either way.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch

_ANY_DEVICE = "CompositeExplicitAutograd"


class Operator:
    """A function from tensors to new tensors, with kernels by device and a formula for autograd.

    Args:
        name: ``namespace::name``.
        kernel: an implementation, from whose annotations the schema is read.
        device_types: the device it runs on; None: any.
    """

    def __init__(self, name: str, kernel: Callable, device_types: str | None) -> None:
        self._name = name
        torch.library.define(name, torch.library.infer_schema(kernel, mutates_args=()))
        self.register_kernel(device_types)(kernel)
        namespace, short = name.split("::")
        self._overload = getattr(getattr(torch.ops, namespace), short).default
        self.__doc__ = kernel.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._overload(*args, **kwargs)

    def register_kernel(self, device_types: str | None) -> Callable[[Callable], Callable]:
        """A decorator for the implementation on a device."""

        def register(kernel: Callable) -> Callable:
            torch.library.impl(self._name, device_types or _ANY_DEVICE, _untraced(kernel))
            return kernel

        return register

    def register_fake(self, function: Callable) -> Callable:
        """A decorator for the function that makes results of the right shapes, for tracing."""
        torch.library.register_fake(self._name, function)
        return function

    def register_autograd(self, backward: Callable, *, setup_context: Any = None) -> None:
        """The formula of the gradient, as in ``torch.library.register_autograd``."""
        torch.library.register_autograd(self._name, backward, setup_context=setup_context)


def _untraced(kernel: Callable) -> Callable:
    """The kernel, hidden from torch's compiler, which would look into it after a graph break."""
    hidden: list[Callable] = []

    @functools.wraps(kernel)
    def run(*args: Any) -> Any:
        if "torch._dynamo" not in sys.modules:  # nothing is compiled, and hiding would import it
            return kernel(*args)
        if not hidden:
            hidden.append(torch.compiler.disable(kernel))
        return hidden[0](*args)

    return run


def operator(name: str, *, device_types: str | None = None) -> Callable[[Callable], Operator]:
    """A decorator that makes an ``Operator`` of its first implementation."""
    return lambda kernel: Operator(name, kernel, device_types)


def no_second_derivative(ctx: Any, *grads: Any) -> None:
    """The formula of operators that are part of a backward pass."""
    raise RuntimeError(
        "EventProp has no second derivative: drop create_graph=True, or compute the inner "
        "gradient without it"
    )


def or_zeros(grad: torch.Tensor | None, like: torch.Tensor, shape: Any) -> torch.Tensor:
    """The gradient of an output; zeros where the loss does not depend on it."""
    return like.new_zeros(shape) if grad is None else grad
