r"""The exact gradient of one grid step, in plain autograd: the dipole rule.

A step-by-step cell computes V[k] = m V[k-1] + c I[k], compares it with the threshold, resets it
and hands it on. A spike of bin k moves to a later bin when V[k] falls, by 1 / (V' dt) bins per
unit of V, V' dt = c I[k] - (1 - m) theta being the slope per bin. With G the gradient that
autograd delivers for the spike output ("what is a spike worth in this bin"), moving the spike by
one bin is worth G[k+1] - G[k], so dL/dV[k] receives

    first half   +G[k]   / (V' dt)     in the backward of step k
    second half  -G[k+1] / (V' dt)     in the backward of step k + 1, which knows G[k+1]

and the membrane handed from step k to step k + 1 is all that connects the two. The reset is one
more receiver of the spike: it injects -(theta - v_reset) into V, where an injection is worth the
gradient p of the membrane that step k returned, or a = dL/dV[k+1] one step later. Its first half
scales p, which holds the second half already, by f = 1 - (theta - v_reset) / (V' dt); step k + 1
therefore divides what it sends by f. Written out, for a neuron that spiked in bin k,

    step k       a[k] = f p + G[k] / (V' dt)
    step k + 1   p   += m a[k+1] - (G[k+1] - (theta - v_reset) a[k+1]) / (V' dt) / f

in which every factor f cancels: in total
a[k] = q - (G[k+1] - G[k] - (theta - v_reset) (a[k+1] - q)) / (V' dt), q = m a[k+1] + dL/d(mem).

A step that no other follows cannot know G[k+1] and takes G[k] for it: its spikes do not feel the
end of the recording. Which one that is, the backward pass tells: every step hands on zeros,
``end``, to which the step after it sends the gradient 1.

A spike that is no upward crossing (the membrane was above the threshold before the step, as after
a reset by subtraction that leaves it there) has no time that V could shift: its slope counts as
infinite. Crossings always have V' dt >= V[k] - theta, which tells the two apart.

Without a reset the output is no spike but a level, H(V - theta); its exact gradient sits at the
bins where the level switches: dL/dV[k] += G[k] / |V' dt|.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Reset = Literal["none", "delayed", "immediate"]


class Earlier(NamedTuple):
    """What a step hands on to the one after it, beside the membrane.

    Attributes:
        inverse: 1 / (V' dt) of its spikes; 0 where there is none.
        end: zeros, whose gradients tell the step where another one followed.
    """

    inverse: Tensor
    end: Tensor


def was_followed(end: Tensor) -> Tensor:
    """Ones and zeros from the gradient of ``Earlier.end``; several may have followed."""
    return (end != 0).to(end)


class _Emit(torch.autograd.Function):
    """Attach the dipole rule to the spikes and the membrane that a host's step has computed."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        free, previous, threshold, v_reset, end, spikes, membrane, pending, inverse, earlier,
        counts, reset, rerun,
    ):  # fmt: skip
        # Tensors of their own, neither inputs nor views: hosts detach states in place.
        return spikes.clone(), membrane.clone(), membrane.new_zeros(()).expand_as(membrane)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, _, threshold, v_reset, _, spikes, _, pending, inverse, earlier, counts, *rest = inputs
        ctx.reset, ctx.rerun = rest
        ctx.save_for_backward(threshold, v_reset, spikes, pending, inverse, earlier, counts)

    @staticmethod
    @once_differentiable
    def backward(ctx, worth, p, end):
        threshold, v_reset, spikes, pending, inverse, earlier, counts = ctx.saved_tensors
        _, wants_previous, wants_threshold, wants_v_reset, wants_end, *_ = ctx.needs_input_grad
        drop = threshold if v_reset is None else threshold - v_reset
        if ctx.reset == "none":
            moved = worth * inverse
        else:
            change = worth if ctx.rerun else worth * was_followed(end)
            moved = (change - drop * p) * inverse
        if counts is not None:
            moved = moved + worth * counts
        a = p + moved
        sent = None if earlier is None else (worth - drop * a) * earlier / (1 - drop * earlier)

        # How the membrane after the reset depends on theta and, with the opposite sign, v_reset.
        # ``p`` of an immediate reset misses what the next step has sent; that step adds it.
        if ctx.reset == "immediate":
            direct = p * spikes if sent is None else p * spikes + sent
        elif ctx.reset == "delayed":
            direct = a * pending
        else:
            direct = torch.zeros_like(a)
        grad_threshold = grad_v_reset = None
        if wants_threshold:
            crossing = -moved if sent is None else sent - moved
            grad_threshold = (crossing - direct).sum_to_size(threshold.shape)
        if wants_v_reset:
            grad_v_reset = direct.sum_to_size(v_reset.shape)
        grad_previous = -sent if wants_previous and sent is not None else None
        grad_end = end.new_ones(()).expand_as(end) if wants_end else None
        return a, grad_previous, grad_threshold, grad_v_reset, grad_end, *(None,) * 8


def beside_the_drop(slope: Tensor, drop: Tensor) -> Tensor:
    """``slope``, moved a little where it equals the height of the reset.

    There f = 1 - drop / slope vanishes, and nothing could be sent through it. Moving the slope by
    a relative sqrt(eps) bounds both the error so made and the rounding error at sqrt(eps).
    """
    margin = torch.finfo(slope.dtype).eps ** 0.5
    return torch.where((slope - drop).abs() < margin * drop.abs(), drop * (1 + margin), slope)


def inverse_slopes(
    crossing: Tensor, slope: Tensor, over: Tensor, floor: Tensor, drop: Tensor
) -> Tensor:
    """1 / (V' dt) where there was an upward crossing, else 0; ``over`` is V[k] - theta."""
    crossing = crossing & (slope >= over)
    slope = beside_the_drop(torch.maximum(slope, floor), drop)
    return torch.where(crossing, 1 / slope, 0)


def remember_spikes(membrane: Tensor, earlier: Earlier) -> None:
    """Let a differentiable state carry what its step hands on."""
    membrane.inverse_slopes, membrane.end = earlier  # type: ignore[attr-defined]


def remembered_spikes(membrane: Tensor) -> Earlier:
    """What ``remember_spikes`` has stored."""
    return Earlier(membrane.inverse_slopes, membrane.end)  # type: ignore[attr-defined]


def _remembered(membrane: Tensor) -> Earlier | None:
    untouched = torch.compiler.is_compiling() or membrane._version == 0
    known = untouched and hasattr(membrane, "inverse_slopes")
    return remembered_spikes(membrane) if known else None


def _entries(membrane: Tensor, last: Tensor) -> Earlier | None:
    """What the step of ``last`` hands on where ``membrane`` consists of entries of it, else None.

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


def _in_a_backward() -> bool:
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
    """What the step that made ``membrane`` hands on; None: no gradient to send.

    Args:
        membrane: as it comes in.
        last: the membrane that the layer has returned last, of which ``membrane`` may be a copy, a
            slice or a stack.
        recover: computes the slopes from the state; for reentrant checkpointing, which hands on
            states bare of all that was attached to them.

    Raises:
        RuntimeError: a step lies behind ``membrane``, but its spikes are unknown.
    """
    if not torch.is_grad_enabled() or not membrane.requires_grad:
        return None
    compiling = torch.compiler.is_compiling()
    if membrane.is_leaf:
        # Reentrant checkpointing hands on states as leaves, when it runs a part again in the
        # backward.
        if not _in_a_backward():
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


def emit(
    free: Tensor,
    previous: Tensor,
    *,
    tested: Tensor,
    spikes: Tensor,
    membrane: Tensor,
    slope: Tensor,
    floor: Tensor,
    threshold: Tensor,
    v_reset: Tensor | None = None,
    reset: Reset,
    pending: Tensor | None = None,
    last: Tensor | None = None,
    recover: Callable[[], Tensor] | None = None,
    count_slope: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Spikes and membrane of one step, with the exact gradient behind them.

    Args (any shape [...]; values as the host library computes them):
        free: V[k] before any reset, differentiable; its gradient is a[k] = dL/dV[k].
        previous: membrane that step k - 1 returned, differentiable.
        tested: V[k] as compared with the threshold.   spikes: ``tested > threshold``, as numbers.
        membrane: V[k] as returned.
        slope: V' dt = c I[k] - (1 - m) theta.
        floor: smallest slope used (the grazing guard); 0 switches it off.
        threshold, v_reset: broadcast against V; v_reset None is 0.
        reset: "delayed" acts in step k + 1, "immediate" on the membrane returned.
        pending: spikes of step k - 1 whose delayed reset acted in this step, as numbers.
        last, recover: see ``earlier_spikes``.
        count_slope: straight-through d(spike)/dV, added to the exact gradient (a heuristic).

    Raises:
        RuntimeError: ``previous`` needs a gradient, but is not what a step returned.
    """
    differentiable = (free, previous, threshold, *(() if v_reset is None else (v_reset,)))
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in differentiable)):
        return spikes, membrane
    earlier = None if reset == "none" else earlier_spikes(previous, last, recover)
    with torch.no_grad():
        drop = threshold if v_reset is None else threshold - v_reset
        if reset == "none":
            switched = (spikes != 0) != (previous > threshold)
            inverse = torch.where(switched, 1 / torch.maximum(slope.abs(), floor), 0)
        else:
            inverse = inverse_slopes(spikes != 0, slope, tested - threshold, floor, drop)
    before, end = earlier or (None, None)
    spikes, membrane, end = _Emit.apply(
        free, previous, threshold, v_reset, end, spikes, membrane, pending, inverse, before,
        count_slope, reset, _in_a_backward(),
    )  # fmt: skip
    remember_spikes(membrane, Earlier(inverse, end))
    return spikes, membrane
