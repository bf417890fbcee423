"""Rules of the published recipe that act between batches and between epochs.

Source: T. Nowotny, J. P. Turner and J. C. Knight, Neuromorph. Comput. Eng. 5 (2025).
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_modules.training.validation_epochs import ends_with_validation


def ease_in(step: int, start: float = 1e-3, growth: float = 1.05) -> float:
    """Factor on the learning rate: ``start`` at step 0, times ``growth`` per step until 1."""
    # 1.05 ** 1e5 would overflow; the factor reaches 1 at a far smaller exponent.
    return min(1.0, start * growth ** min(step, 10_000))


class HalveOnPlateau(Callback):
    """Halve the learning rate when accuracy stops rising.

    With a the accuracy of an epoch, two moving averages start at 0 and follow it,
    ``fast <- 0.8 fast + 0.2 a`` and ``slow <- 0.85 slow + 0.15 a``. Where fast falls below slow,
    ``pl_module.lr_scale`` is halved, but not within ``gap`` epochs of the last time or the start.

    The accuracy is that of validation, or of training if nothing is held out.

    Args:
        gap: epochs between two halvings, at least 1.
        fast, slow: weights of the past in the two averages.
    """

    def __init__(self, gap: int = 50, fast: float = 0.8, slow: float = 0.85) -> None:
        if gap < 1:
            raise ValueError(f"gap must be at least 1 epoch, got {gap!r}")
        self.gap = gap
        self._weights = (fast, slow)
        self._averages = [0.0, 0.0]
        self._scale = 1.0
        self._last = 0
        self._hits = torch.zeros(2, dtype=torch.int64)  # correct samples of this epoch, and all

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.lr_scale = self._scale  # type: ignore[assignment]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        right = (outputs["logits"].argmax(dim=1) == batch.labels).sum().cpu()
        self._hits += torch.stack([right, torch.tensor(len(batch.labels))])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        hits = trainer.strategy.reduce(self._hits.to(pl_module.device), reduce_op="sum")
        self._hits = torch.zeros_like(self._hits)
        if "val/accuracy" in trainer.callback_metrics:
            # If only every few epochs validate, there is nothing new in between.
            if not ends_with_validation(trainer):
                return
            accuracy = float(trainer.callback_metrics["val/accuracy"])
        else:
            assert isinstance(hits, Tensor)
            accuracy = float(hits[0] / hits[1].clamp(min=1))
        self.update(trainer.current_epoch, accuracy)
        pl_module.lr_scale = self._scale  # type: ignore[assignment]

    def update(self, epoch: int, accuracy: float) -> float:
        """The factor on the learning rate after an epoch of this accuracy."""
        self._averages = [
            weight * average + (1 - weight) * accuracy
            for weight, average in zip(self._weights, self._averages, strict=True)
        ]
        if self._averages[0] < self._averages[1] and epoch - self._last >= self.gap:
            self._scale /= 2
            self._last = epoch
        return self._scale

    def state_dict(self) -> dict[str, Any]:
        return {
            "averages": list(self._averages), "scale": self._scale, "last": self._last,
            "hits": self._hits.tolist(),
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._averages = list(state_dict["averages"])
        self._scale = state_dict["scale"]
        self._last = state_dict["last"]
        self._hits = torch.tensor(state_dict["hits"], dtype=torch.int64)


class LiftSilent(Callback):
    """Raise the incoming weights of neurons that did not spike once in an epoch of training.

    A silent neuron has no spikes whose times could move. It therefore has no gradient and would
    stay silent. All weights from the layer below are raised by ``lift``; recurrent weights are not.

    This happens before the first batch of the next epoch, so that checkpoints of an epoch hold the
    weights that were validated.

    Args:
        lift: in units of the weights, positive (paper: 0.002).
    """

    def __init__(self, lift: float = 0.002) -> None:
        if not lift > 0:
            raise ValueError(f"lift must be positive, got {lift!r}")
        self.lift = lift
        self._spikes: list[Tensor] = []  # of each layer: [N], over this epoch or the previous one

    @torch.no_grad()
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, index: int
    ) -> None:
        if index or not self._spikes:  # not the start of an epoch, or the first epoch
            return
        weights = pl_module.network.input_weights()  # type: ignore[operator, union-attr]
        for weight, spikes in zip(weights, self._spikes, strict=True):
            total = trainer.strategy.reduce(spikes.to(weight.device), reduce_op="sum")
            weight[total == 0] += self.lift
        self._spikes = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        counts = [layer.detach().sum(dim=0, dtype=torch.float64) for layer in outputs["counts"]]
        if self._spikes:
            counts = [past.to(new) + new for past, new in zip(self._spikes, counts, strict=True)]
        self._spikes = counts

    def state_dict(self) -> dict[str, Any]:
        return {"spikes": [layer.cpu() for layer in self._spikes]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._spikes = list(state_dict["spikes"])


class StopAfter(Callback):
    """End training early, but keep the learning-rate schedule of the full number of epochs.

    Args:
        epochs: number of epochs after which training ends.
    """

    def __init__(self, epochs: int) -> None:
        if epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {epochs!r}")
        self.epochs = epochs

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # True for a run that was killed between its last epoch and its end.
        trainer.should_stop = trainer.current_epoch >= self.epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs
