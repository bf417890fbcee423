"""Data that a step passes to the next one, in addition to the host's own states.

The gradient of a step's spikes depends on the step before (``snn_eventprop.hosts.step``). Only the
host's states pass from call to call. So the membrane carries two tensors as attributes. This module
alone attaches, reads and searches for them. ``docs/step_mode.md`` explains why they are needed and
what breaks them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Earlier(NamedTuple):
    """Data that a step passes to the next one, in addition to the membrane.

    Attributes:
        inverse: 1 / (V' dt) of its spikes; 0 where there is none.
        end: zeros, whose gradients show the step where another one followed.
    """

    inverse: Tensor
    end: Tensor


def was_followed(end: Tensor) -> Tensor:
    """Ones and zeros from the gradient of ``Earlier.end``; several may have followed."""
    return (end != 0).to(end)


def remember_spikes(membrane: Tensor, earlier: Earlier) -> None:
    """Attach ``earlier`` to a differentiable membrane."""
    membrane.inverse_slopes, membrane.end = earlier  # type: ignore[attr-defined]


def remembered_spikes(membrane: Tensor) -> Earlier:
    """The data that ``remember_spikes`` has attached."""
    return Earlier(membrane.inverse_slopes, membrane.end)  # type: ignore[attr-defined]


def _remembered(membrane: Tensor) -> Earlier | None:
    untouched = torch.compiler.is_compiling() or membrane._version == 0
    known = untouched and hasattr(membrane, "inverse_slopes")
    return remembered_spikes(membrane) if known else None


def _entries(membrane: Tensor, last: Tensor) -> Earlier | None:
    """The data of the step of ``last``, if ``membrane`` consists of entries of it; else None.

    Copies, slices and stacks have a Jacobian S with a single 1 in each row. Then S last is
    ``membrane``, S of the squares its square, and S of ones are ones, which masks, factors, means
    and shifts fail. S u is read from the transpose of u -> S^T u, which autograd knows.
    """
    earlier = _remembered(last)
    if earlier is None:
        return None
    try:
        if membrane.shape == last.shape and not torch.equal(membrane, last):
            return None
        pulled = torch.ones_like(membrane, requires_grad=True)
        (pushed,) = torch.autograd.grad(
            membrane, last, pulled, create_graph=True, allow_unused=True
        )
        if pushed is None or not pushed.requires_grad:
            return None

        def taken(values: Tensor, differentiable: bool = False) -> Tensor:
            return torch.autograd.grad(
                pushed, pulled, values, retain_graph=True, create_graph=differentiable
            )[0]

        values, wanted = last.detach(), membrane.detach()
        same = (
            torch.equal(taken(values), wanted)
            and torch.equal(taken(values.square()), wanted.square())
            and bool((taken(torch.ones_like(values)) == 1).all())
        )
        return Earlier(taken(earlier.inverse), taken(earlier.end, True)) if same else None
    except RuntimeError:
        # A function without a second derivative makes no copies; under vmap values have no truth.
        return None


def in_a_backward() -> bool:
    """Whether reentrant checkpointing runs a part again, whose end is not that of the sequence."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _made_by_a_step(membrane: Tensor) -> bool:
    """Whether a step lies behind ``membrane``, rather than, say, a trainable initial state."""
    ahead, seen = [membrane.grad_fn], set()
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        # torch.func gives the first one a longer name.
        if "_Emit" in node.name() or "grid_forward" in node.name():
            return True
        seen.add(node)
        ahead.extend(following for following, _ in node.next_functions)
    return False


def earlier_spikes(
    membrane: Tensor, last: Tensor | None = None, recover: Callable[[], Tensor] | None = None
) -> Earlier | None:
    """The data of the step that made ``membrane``; None: no gradient to send.

    Args:
        membrane: as it comes in.
        last: the membrane that the layer has returned last, of which ``membrane`` may be a copy, a
            slice or a stack.
        recover: computes the slopes from the state; for reentrant checkpointing, which passes
            states bare of all that was attached to them.

    Raises:
        RuntimeError: a step lies behind ``membrane``, but its spikes are unknown.
    """
    if not torch.is_grad_enabled() or not membrane.requires_grad:
        return None
    compiling = torch.compiler.is_compiling()
    if membrane.is_leaf:
        # Reentrant checkpointing passes states as leaves, when it runs a part again in the
        # backward.
        if not in_a_backward():
            return None
        if recover is not None:
            return Earlier(recover(), membrane.new_zeros(()).expand_as(membrane))
    earlier = _remembered(membrane)
    if earlier is not None:
        return earlier
    if not compiling:
        if not membrane.is_leaf and not _made_by_a_step(membrane):
            return None
        earlier = None if last is None else _entries(membrane, last)
        if earlier is not None:
            # The same tensor may come in again, as when checkpointing runs a part once more.
            remember_spikes(membrane, earlier)
            return earlier
    raise RuntimeError(
        "the membrane passed in is differentiable, but is neither what this layer returned last "
        "nor made of its entries, so the slopes of the spikes before are unknown and the gradient "
        "would be wrong; pass the membrane as it was returned, a copy or a slice of it, or detach "
        "it (checkpoint with use_reentrant=False); what shall act on the membrane can be added to "
        "the input current instead, and a mask can act on input and spikes"
    )
