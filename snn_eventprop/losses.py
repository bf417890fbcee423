r"""Classification losses on the membranes, or the first spikes, of a readout.

A loss turns a readout into class scores ("logits", ``[B, O]``) and these into a number:

- losses on a weighted time average of the membrane,
  :math:`\ell_k = \frac{c}{T} \int_0^T w(t) V_k(t)\, dt`, then cross-entropy: ``SumLoss``,
  ``SumExpLoss``, ``LinearLoss``, ``SigmoidLoss``;
- losses on the trace itself: ``MaxLoss``, ``StepCrossEntropyLoss``;
- a loss on spike times: ``FirstSpikeLoss``.

**Time averages.** Integrals are divided by the duration T, so logits are in units of V and depend
neither on the unit of time nor, to first order, on ``dt``. Nowotny, Turner and Knight (2025) write
the plain integral; in seconds it is T times ours. ``scale`` (the factor c) multiplies the logits,
so ``SumExpLoss(scale=T)`` is their formula in seconds.

Whoever has the time averages already, as from ``EventPropLI.integral(events, loss.weighting)``,
passes them to ``loss.from_logits(loss.scale * averages, target)`` and needs no trace.

**Samples of different length.** T is each sample's own: ``EventPropLI.integral`` knows it from the
events, and losses on a trace from ``mask``, the bins ``[T, B]`` that belong to each sample, which
``events.valid_bins(dt)`` gives. Without a mask every sample lasts as long as the trace.

Source: T. Nowotny, J. P. Turner and J. C. Knight, "Loss shaping enhances exact gradient learning
with EventProp in spiking neural networks", Neuromorph. Comput. Eng. 5 (2025).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._checks import nonnegative, positive
from .events import SpikeEvents

__all__ = [
    "FirstSpikeLoss",
    "LinearLoss",
    "MaxLoss",
    "SigmoidLoss",
    "StepCrossEntropyLoss",
    "SumExpLoss",
    "SumLoss",
]


class ClassificationLoss(nn.Module):
    """Base of the losses: ``forward(readout, target, mask) = from_logits(logits(readout, mask),
    target)``, where ``mask``, the valid bins ``[T, B]`` of a trace, may be left out.

    Attributes:
        reads: what ``logits`` takes: ``"trace"`` (membranes ``[T, B, O]``) or ``"spikes"``
            (``SpikeEvents`` with one unit per class).
        weighting: name of w(t) for ``EventPropLI.integral`` where the logits are a time average
            that it knows in closed form, else None.
        scale: factor c of the logits.
    """

    reads: ClassVar[Literal["trace", "spikes"]] = "trace"
    weighting: ClassVar[Literal["uniform", "exponential", "linear"] | None] = None

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = positive("scale", scale)

    def logits(self, readout: Any, mask: Tensor | None = None) -> Tensor:
        """Class scores ``[B, O]``; the largest is the predicted class.

        Args:
            readout: as ``reads`` says.
            mask: ``[T, B]`` bool, the bins of a trace that belong to each sample, from its first
                on (``events.valid_bins(dt)``); None: all.

        Raises:
            TypeError, ValueError: a mask that is not bool, not ``[T, B]``, or that leaves out the
                first bins of a sample or all.
        """
        raise NotImplementedError

    def from_logits(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy of ``softmax(logits)``, a scalar."""
        return F.cross_entropy(logits, _checked_target(target, logits))

    def forward(self, readout: Any, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.from_logits(self.logits(readout, mask), target)

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}"


class _WeightedAverageLoss(ClassificationLoss):
    """Cross-entropy of the time averages of w(t) V(t)."""

    def weight(self, phase: Tensor) -> Tensor:
        """w at t = ``phase`` T."""
        raise NotImplementedError

    def logits(self, readout: Tensor, mask: Tensor | None = None) -> Tensor:
        trace = _checked_trace(readout)
        # V of bin k is the membrane at the bin's end.
        end = torch.arange(1, trace.shape[0] + 1, device=trace.device, dtype=torch.float64)
        if mask is not None:
            own = _checked_mask(mask, trace).sum(dim=0).double()
            each = self.weight(end[:, None] / own) * (self.scale / own)
            each = torch.where(mask, each, 0.0).to(trace.dtype)
            return torch.einsum("tb,tbo->bo", each, trace)
        steps = trace.shape[0]
        phase = end / steps
        weight = (self.weight(phase) * (self.scale / steps)).to(trace.dtype)
        return torch.einsum("t,tbo->bo", weight, trace)


class SumLoss(_WeightedAverageLoss):
    r"""Cross-entropy of the time-averaged membranes.

    .. math:: L = -\frac1B \sum_m \log \mathrm{softmax}\Big(
        \frac{c}{T} \int_0^T V^m(t)\, dt \Big)_{l_m}

    Args:
        scale: the factor c.

    Shapes:
        ``forward``: trace ``[T, B, O]``, target ``[B]`` integers -> scalar.

    Raises:
        ValueError: shapes that do not fit, labels out of range or not integers.

    >>> loss = SumLoss()(torch.zeros(100, 2, 20), torch.tensor([3, 19]))
    >>> round(loss.item(), 4)  # log 20
    2.9957

    Source: Nowotny, Turner and Knight (2025), "sum".
    """

    weighting = "uniform"

    def weight(self, phase: Tensor) -> Tensor:
        return torch.ones_like(phase)


class SumExpLoss(_WeightedAverageLoss):
    r"""Cross-entropy of membranes averaged with a weight that decays over the trial.

    .. math:: L = -\frac1B \sum_m \log \mathrm{softmax}\Big(
        \frac{c}{T} \int_0^T e^{-t/T} V^m(t)\, dt \Big)_{l_m}

    The decaying weight asks for evidence early in the trial; the paper found it to train best.

    Args:
        scale: the factor c.

    Shapes:
        ``forward``: trace ``[T, B, O]``, target ``[B]`` integers -> scalar.

    Raises:
        ValueError: shapes that do not fit, labels out of range or not integers.

    Source: Nowotny, Turner and Knight (2025), "sum_exp".
    """

    weighting = "exponential"

    def weight(self, phase: Tensor) -> Tensor:
        return torch.exp(-phase)


class LinearLoss(_WeightedAverageLoss):
    r"""Cross-entropy of membranes averaged with a weight that falls linearly to zero.

    .. math:: L = -\frac1B \sum_m \log \mathrm{softmax}\Big(
        \frac{c}{T} \int_0^T (1 - t/T)\, V^m(t)\, dt \Big)_{l_m}

    Args, shapes and errors as in ``SumExpLoss``.

    Source: Nowotny, Turner and Knight (2025), "linear".
    """

    weighting = "linear"

    def weight(self, phase: Tensor) -> Tensor:
        return 1 - phase


class SigmoidLoss(_WeightedAverageLoss):
    r"""Cross-entropy of membranes averaged with a weight that falls along a sigmoid.

    .. math:: L = -\frac1B \sum_m \log \mathrm{softmax}\Big(\frac{c}{T} \int_0^T
        \frac{V^m(t)}{1 + e^{(t/T - \mu)/\sigma}}\, dt \Big)_{l_m}

    Args:
        midpoint: mu, the share of the trial after which the weight is one half.
        width: sigma, how fast it falls, as a share of the trial; positive.
        scale: the factor c.

    Shapes and errors as in ``SumExpLoss``.

    Source: Nowotny, Turner and Knight (2025), "sigmoid"; 0.5 and 0.2 are their values.
    """

    def __init__(self, midpoint: float = 0.5, width: float = 0.2, scale: float = 1.0) -> None:
        super().__init__(scale)
        self.midpoint = float(midpoint)
        self.width = positive("width", width)

    def weight(self, phase: Tensor) -> Tensor:
        return torch.sigmoid((self.midpoint - phase) / self.width)

    def extra_repr(self) -> str:
        return f"midpoint={self.midpoint:g}, width={self.width:g}, {super().extra_repr()}"


class MaxLoss(ClassificationLoss):
    r"""Cross-entropy of the largest membrane value over time.

    .. math:: L = -\frac1B \sum_m \log \mathrm{softmax}\big(c \max_t V^m(t) \big)_{l_m}

    The gradient reaches the one moment of the maximum only.

    Args, shapes and errors as in ``SumExpLoss``.

    Source: B. Cramer et al., "The Heidelberg Spiking Data Sets", IEEE TNNLS 33 (2022).
    """

    def logits(self, readout: Tensor, mask: Tensor | None = None) -> Tensor:
        trace = _checked_trace(readout)
        if mask is not None:
            trace = trace.masked_fill(~_checked_mask(mask, trace)[..., None], -torch.inf)
        return self.scale * trace.amax(dim=0)


class StepCrossEntropyLoss(ClassificationLoss):
    r"""Cross-entropy at every moment, averaged over time.

    .. math:: L = -\frac1{BT} \sum_m \int_0^T \log \mathrm{softmax}\big(c\, V^m(t)\big)_{l_m} dt

    ``logits`` are time-averaged log-probabilities.

    Args, shapes and errors as in ``SumExpLoss``.

    Source: Nowotny, Turner and Knight (2025), average cross-entropy.
    """

    def logits(self, readout: Tensor, mask: Tensor | None = None) -> Tensor:
        trace = _checked_trace(readout)
        scores = torch.log_softmax(self.scale * trace, dim=-1)
        if mask is None:
            return scores.mean(dim=0)
        inside = _checked_mask(mask, trace)
        summed = torch.where(inside[..., None], scores, 0.0).sum(dim=0)
        return summed / inside.sum(dim=0)[:, None]

    def from_logits(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(logits, _checked_target(target, logits))


class FirstSpikeLoss(ClassificationLoss):
    r"""Cross-entropy of first spike times: the class that fires first wins.

    .. math:: L = -\frac1B \sum_m \Big[ \log \mathrm{softmax}\big(-t^m / \tau_0\big)_{l_m}
        - \alpha \big(e^{t^m_{l_m} / \tau_1} - 1\big) \Big]

    A class that does not fire counts as firing at the end of the trial, t = T, the duration of its
    sample. That constant has
    no gradient: the exact gradient cannot call a silent output into being, so readout weights
    must start large enough, or be lifted, for outputs to fire.

    Args:
        tau_0: s, temperature of the softmax; positive.
        tau_1: s, time constant of the penalty on late label spikes; positive.
        alpha: strength of that penalty; 0 switches it off.

    Shapes:
        ``forward``: ``SpikeEvents`` of B samples with one unit per class, target ``[B]`` integers
        -> scalar. Events of a sample that share a time share the first spike's gradient equally.

    Raises:
        TypeError: a readout that is not ``SpikeEvents``.
        ValueError: labels out of range or not integers, or one count of labels and another of
            samples.

    >>> events = SpikeEvents.from_list([([0.01, 0.05], [1, 0])], num_units=2, duration=0.1)
    >>> loss = FirstSpikeLoss(tau_0=0.01, alpha=0.0)
    >>> loss(events, torch.tensor([1])) < loss(events, torch.tensor([0]))
    tensor(True)

    Source: T. C. Wunderlich and C. Pehle, Scientific Reports 11, 12829 (2021).
    """

    reads = "spikes"

    def __init__(self, tau_0: float = 0.02, tau_1: float = 0.2, alpha: float = 3e-3) -> None:
        super().__init__()
        self.tau_0 = positive("tau_0", tau_0)
        self.tau_1 = positive("tau_1", tau_1)
        self.alpha = nonnegative("alpha", alpha)

    def logits(self, readout: SpikeEvents, mask: Tensor | None = None) -> Tensor:
        """Class scores ``[B, O]``: -t / tau_0. Events know their durations: there is no mask."""
        if mask is not None:
            raise ValueError("FirstSpikeLoss takes no mask: SpikeEvents hold their own durations")
        if not isinstance(readout, SpikeEvents):
            raise TypeError(
                f"FirstSpikeLoss reads SpikeEvents, got {type(readout).__name__}; give the output "
                "of a spiking layer"
            )
        return -readout.first_spike_times() / self.tau_0

    def from_logits(self, logits: Tensor, target: Tensor) -> Tensor:
        target = _checked_target(target, logits)
        loss = F.cross_entropy(logits, target)
        if self.alpha == 0:
            return loss
        label_time = -self.tau_0 * logits.gather(1, target[:, None])
        return loss + self.alpha * torch.expm1(label_time / self.tau_1).mean()

    def extra_repr(self) -> str:
        return f"tau_0={self.tau_0:g}, tau_1={self.tau_1:g}, alpha={self.alpha:g}"


def _checked_trace(trace: Tensor) -> Tensor:
    if not isinstance(trace, Tensor) or not trace.is_floating_point():
        kind = trace.dtype if isinstance(trace, Tensor) else type(trace).__name__
        raise TypeError(f"trace must be a floating-point tensor [T, B, O], got {kind}")
    if trace.ndim != 3 or trace.shape[0] == 0 or trace.shape[2] == 0:
        raise ValueError(
            f"trace must have shape [T, B, O] with T and O at least 1, got {tuple(trace.shape)}"
            + "; of one sample pass trace[:, None]" * (trace.ndim == 2)
        )
    return trace


def _checked_mask(mask: Tensor, trace: Tensor) -> Tensor:
    """``mask``, the valid bins ``[T, B]`` of a trace."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a bool tensor [T, B] (events.valid_bins(dt)), got {kind}")
    if mask.shape != trace.shape[:2]:
        raise ValueError(
            f"mask must have shape [T, B]={list(trace.shape[:2])}, got {list(mask.shape)}; is its "
            "dt that of the readout?"
        )
    if torch.compiler.is_compiling():
        return mask
    if not bool(mask[0].all() & (mask[1:] <= mask[:-1]).all()):
        raise ValueError(
            "mask must be True from the first bin of each sample to its last one, and False after "
            "it; events.valid_bins(dt) gives it"
        )
    return mask


def _checked_target(target: Tensor, logits: Tensor) -> Tensor:
    """``target`` as int64, one label in 0..O-1 for each row of ``logits``."""
    batch, classes = logits.shape
    if not isinstance(target, Tensor):
        raise ValueError(f"target must be a tensor of labels [B], got {type(target).__name__}")
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise ValueError(
            f"target must hold integer class labels, got {target.dtype}; one-hot or soft targets "
            "are not supported (use target.argmax(-1))"
        )
    if target.shape != (batch,):
        raise ValueError(
            f"target must have shape [B={batch}], one label a sample, got {tuple(target.shape)}"
        )
    if batch == 0:
        raise ValueError(
            "the batch has no samples (logits of shape "
            f"[0, {classes}]), and a mean over none has no value; skip empty batches"
        )
    if not torch.compiler.is_compiling():
        low, high = torch.stack(target.long().aminmax()).tolist()  # a GPU is waited for once
        if low < 0 or high >= classes:
            raise ValueError(
                f"target must hold labels in 0..{classes - 1} (the readout has {classes} classes), "
                f"got {low if low < 0 else high}"
            )
    return target.long()
