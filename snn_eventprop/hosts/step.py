r"""The exact gradient of one grid step in plain autograd: the dipole rule.

A cell computes V[k] = m V[k-1] + c I[k], compares it with the threshold, resets it and returns it.
A larger V[k] moves the spike of bin k to an earlier time, by 1 / (V' dt) bins per unit of V. The
slope per bin is V' dt = c I[k] - (1 - m) theta. Let G[k] be dL/dS[k], the gradient that autograd
delivers for the spike output. A spike that moves from bin k to bin k + 1 changes the loss by
G[k+1] - G[k]. So dL/dV[k] receives

    first half   +G[k]   / (V' dt)     in the backward of step k
    second half  -G[k+1] / (V' dt)     in the backward of step k + 1, which knows G[k+1]

The membrane that step k returns and step k + 1 receives is the only link between the two.

The reset depends on the spike time as well. It adds -(theta - v_reset) to V. The sensitivity to
that jump is p, the gradient of the membrane that step k returned, or a = dL/dV[k+1] one step later.
Its first half scales p, which contains the second half already, by
f = 1 - (theta - v_reset) / (V' dt). Step k + 1 therefore divides what it sends by f. For a neuron
that spiked in bin k,

    step k       a[k] = f p + G[k] / (V' dt)
    step k + 1   p   += m a[k+1] - (G[k+1] - (theta - v_reset) a[k+1]) / (V' dt) / f

Every factor f cancels. With q = m a[k+1] + dL/d(mem), the total is
a[k] = q - (G[k+1] - G[k] - (theta - v_reset) (a[k+1] - q)) / (V' dt).

The last step of a recording knows no G[k+1] and uses G[k] in its place: its spikes have no gradient
with respect to time. The backward pass finds out which step is the last. Every step returns zeros,
``end``, and the step after it sends the gradient 1 to them.

A spike without an upward crossing has no time that V could shift. It occurs where a reset by
subtraction left the membrane above the threshold. Its slope counts as infinite. Crossings always
have V' dt >= V[k] - theta; this distinguishes the two.

Without a reset the output is a level, H(V - theta). Its exact gradient lies in the bins where the
level switches: dL/dV[k] += G[k] / |V' dt|.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .step_memory import Earlier, earlier_spikes, in_a_backward, remember_spikes, was_followed

Reset = Literal["none", "delayed", "immediate"]


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
    def backward(ctx, grad_spikes, p, end):
        threshold, v_reset, spikes, pending, inverse, earlier, counts = ctx.saved_tensors
        _, wants_previous, wants_threshold, wants_v_reset, wants_end, *_ = ctx.needs_input_grad
        drop = threshold if v_reset is None else threshold - v_reset
        if ctx.reset == "none":
            moved = grad_spikes * inverse
        else:
            change = grad_spikes if ctx.rerun else grad_spikes * was_followed(end)
            moved = (change - drop * p) * inverse
        if counts is not None:
            moved = moved + grad_spikes * counts
        a = p + moved
        sent = (
            None if earlier is None else (grad_spikes - drop * a) * earlier / (1 - drop * earlier)
        )

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
        count_slope, reset, in_a_backward(),
    )  # fmt: skip
    remember_spikes(membrane, Earlier(inverse, end))
    return spikes, membrane
