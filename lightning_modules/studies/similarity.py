"""How similar a method's gradient is to the exact one."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn.functional import cosine_similarity

from lightning_modules.methods.build import build_network


class GradientSimilarity(Callback):
    """Logs the cosine between the gradient in use and the exact one, per parameter.

    On the first batch of an epoch the gradient of the same loss at the same weights is computed a
    second time in continuous time (``solver="exact"``). ``similarity/hidden.0.weight`` and so on is
    the cosine of the angle between the two: 1 where they agree in direction. Where a layer's exact
    gradient is 0, nothing is logged.

    Args:
        every: epochs between two comparisons.

    Raises:
        ValueError: ``every`` is less than 1, or (when training starts) the network has delays,
            which the exact solver does not support.

    Attributes:
        unclocked_seconds: spent here so far; the history subtracts them from the training time.
    """

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1 epoch, got {every!r}")
        self.every = every
        self.unclocked_seconds = 0.0
        self._batch: Any = None

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        longest = pl_module.network.options.max_delay
        if longest is not None:
            raise ValueError(
                f"max_delay={longest!r}: the exact solver has no delays, so there is no gradient "
                "to compare with; leave GradientSimilarity out (compare: --similarity 0)"
            )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        due = batch_idx == 0 and trainer.current_epoch % self.every == 0
        self._batch = batch if due else None

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        if self._batch is None:
            return
        start = time.perf_counter()
        for name, cosine in similarities(pl_module, self._batch).items():
            pl_module.log(f"similarity/{name}", cosine, on_step=False, on_epoch=True, batch_size=1)
        self._batch = None
        self.unclocked_seconds += time.perf_counter() - start


def similarities(model: Any, batch: Any) -> dict[str, float]:
    """Cosines between the gradients that ``model`` holds and the exact ones, by parameter.

    Args:
        model: a ``SpikingClassifier`` after a backward pass of its training loss on ``batch``.
        batch: that batch.
    """
    options = replace(model.network.options, solver="exact")
    sizes = model.hparams["num_inputs"], model.hparams["num_classes"]
    # Drawing initial weights must not change the random numbers of training.
    with torch.random.fork_rng(devices=[]):
        exact: Any = build_network("eventprop", *sizes, options, model.loss)
    exact.load_state_dict(model.network.state_dict())
    exact.to(model.device)
    model.objective(exact(batch.events), batch.labels).backward()
    cosines = {}
    for (name, ours), theirs in zip(
        model.network.named_parameters(), exact.parameters(), strict=True
    ):
        if ours.grad is not None and theirs.grad is not None and theirs.grad.any():
            cosines[name] = cosine_similarity(
                ours.grad.flatten().double(), theirs.grad.flatten().double(), dim=0
            ).item()
    return cosines
