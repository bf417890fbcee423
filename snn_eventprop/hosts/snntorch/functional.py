"""Losses in the conventions of ``snntorch.functional``."""

from __future__ import annotations

import torch
from snntorch.functional.loss import LossFunctions
from torch import Tensor
from torch.nn.functional import nll_loss

from ...losses import SumExpLoss


class sum_exp_loss(LossFunctions):
    """Cross-entropy of membranes averaged over time with the decaying weight exp(-t/T).

    Args:
        population_code, num_classes: the outputs are ``num_classes`` groups of neurons, the mean
            of each group being a class.
        reduction, weight: as in the losses of ``snntorch.functional``.
        scale: factor of the averages before the softmax.

    Call with the output membranes [T, B, C] and integer targets [B].

    >>> sum_exp_loss()(torch.zeros(5, 2, 4), torch.tensor([0, 3])).item()
    1.3862943649291992

    Source: Nowotny, Turner and Knight, Neuromorph. Comput. Eng. (2025).
    """

    def __init__(
        self,
        population_code: bool = False,
        num_classes: int | bool = False,
        reduction: str = "mean",
        weight: Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__(reduction=reduction, weight=weight)
        self.population_code = population_code
        self.num_classes = num_classes
        self.__name__ = "sum_exp_loss"
        self._average = SumExpLoss(scale)
        if population_code and not num_classes:
            raise ValueError("num_classes must be given with population_code=True")

    def _compute_loss(self, mem_out: Tensor, targets: Tensor) -> Tensor:
        if self.population_code:
            neurons = mem_out.shape[-1]
            if neurons % self.num_classes:
                raise ValueError(
                    f"{neurons} outputs cannot form num_classes={self.num_classes} equal groups"
                )
            mem_out = mem_out.unflatten(-1, (self.num_classes, -1)).mean(-1)
        log_p = torch.log_softmax(self._average.logits(mem_out), dim=-1)
        return nll_loss(
            log_p, targets, weight=self.weight, reduction=self._intermediate_reduction()
        )
