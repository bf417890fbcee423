"""``SpikingClassifier``: loss, optimiser and metrics around the reference network."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from lightning_modules.data.loader import Batch
from lightning_modules.methods import Method
from lightning_modules.methods.build import build_network
from lightning_modules.model.network import NetworkOptions, Outcome
from lightning_modules.training.metrics import Share, SilentShare, SpikesPerNeuron
from lightning_modules.training.recipe import HalveOnPlateau, LiftSilent, ease_in
from snn_eventprop import SpikeEvents
from snn_eventprop.diagnostics import name_layers
from snn_eventprop.losses import ClassificationLoss, SumExpLoss
from snn_eventprop.regularizers import SpikeCountRegularizer

_STAGES = ("train", "val", "test")
# In tests, seen speakers are those of the training file, held out for validation or not. In
# validation they are those that training hears.
_SPEAKERS = ("seen", "unseen")


class SpikingClassifier(LightningModule):
    """A network of spiking neurons that classifies spike trains, with its loss and optimiser.

    Args:
        num_inputs: input units.
        num_classes: number of classes.
        method: how gradients are computed. "eventprop": exact event-based gradients (with the
            solver of ``network``). "snntorch", "norse": surrogate gradients by backpropagation
            through time in these libraries. "eprop", "eprop-random": e-prop with symmetric or
            random feedback. "paralif": ParaLIF neurons. See lightning_modules/methods/.
        network: sizes, constants and initial weights of the network.
        loss: a loss of snn_eventprop.losses by class name, such as SumLoss. Default: SumExpLoss.
        lr: learning rate of Adam.
        delay_lr: its learning rate for delays, in s per step (paper: 0.1 ms). Schedules change both
            learning rates by the same factor.
        warmup_steps: optimiser steps over which the learning rate rises linearly from 0 to lr.
        ease_in: start the learning rate at lr/1000 and increase it by a factor of 1.05 per step up
            to lr, as published; an alternative to ``warmup_steps``.
        cosine: decrease the learning rate along a cosine to 0 at the end of training.
        halve_on_plateau: halve the learning rate when a moving average of validation accuracy
            (of training accuracy without validation) falls below a slower one.
        halving_gap: least number of epochs between two halvings (paper: 50).
        lift_silent: before each epoch, raise the input weights of neurons that did not spike in
            the previous epoch by this much (paper: 0.002); 0: off.
        weight_decay: decoupled weight decay (AdamW) of the weights, per step in units of lr.
        rate_strength: strength of the spike-count penalty on every hidden layer; 0: off.
        rate_target: spikes per neuron and sample that the penalty aims at.

    Raises:
        ValueError: an argument out of range, or (on loading) a checkpoint of another network.
    """

    def __init__(
        self,
        num_inputs: int = 700,
        num_classes: int = 20,
        method: Method = "eventprop",
        network: NetworkOptions = NetworkOptions(),  # noqa: B008 (frozen)
        loss: ClassificationLoss | None = None,
        lr: float = 1e-3,
        delay_lr: float = 1e-4,
        warmup_steps: int = 0,
        ease_in: bool = False,
        cosine: bool = False,
        halve_on_plateau: bool = False,
        halving_gap: int = 50,
        lift_silent: float = 0.0,
        weight_decay: float = 0.0,
        rate_strength: float = 0.0,
        rate_target: float = 14.0,
    ) -> None:
        super().__init__()
        if not lr > 0:
            raise ValueError(f"lr must be positive, got {lr!r}")
        if not delay_lr > 0:
            raise ValueError(f"delay_lr must be positive (seconds per step), got {delay_lr!r}")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay must be 0 or positive, got {weight_decay!r}")
        self.save_hyperparameters(logger=False)  # loggers get every option from fit
        if not warmup_steps >= 0:
            raise ValueError(f"warmup_steps must be 0 or positive, got {warmup_steps!r}")
        if ease_in and warmup_steps:
            raise ValueError(
                f"ease_in and warmup_steps={warmup_steps} are two ways to start; use one of them"
            )
        if not lift_silent >= 0:
            raise ValueError(f"lift_silent must be 0 or positive, got {lift_silent!r}")
        if halving_gap < 1:
            raise ValueError(f"halving_gap must be at least 1 epoch, got {halving_gap!r}")
        self.lr = lr
        self.delay_lr = delay_lr
        self.lr_scale = 1.0  # the factor of HalveOnPlateau so far
        self.warmup_steps = warmup_steps
        self.ease_in = ease_in
        self.cosine = cosine
        self.halve_on_plateau = halve_on_plateau
        self.halving_gap = halving_gap
        self.lift_silent = lift_silent
        self.weight_decay = weight_decay
        self.loss = loss or SumExpLoss()
        self.network: Any = build_network(method, num_inputs, num_classes, network, self.loss)
        self.rate_penalty = SpikeCountRegularizer(rate_target, rate_strength)
        self.metrics = nn.ModuleDict(
            {f"{stage}_": _stage_metrics(num_classes, network.hidden) for stage in _STAGES}
        )
        self.speaker_groups = nn.ModuleDict({
            f"{stage}_{group}": Share() for stage in ("val", "test") for group in _SPEAKERS
        })
        self.confusion = MulticlassConfusionMatrix(num_classes)

    def forward(self, events: SpikeEvents) -> Outcome:
        return self.network(events)

    def objective(self, outcome: Outcome, labels: Tensor) -> Tensor:
        """The training objective of a batch: the loss and the penalties of all hidden layers."""
        loss = self.loss.from_logits(outcome.logits, labels)
        if self.rate_penalty.strength:
            for counts in outcome.counts:
                loss = loss + self.rate_penalty(counts)
        return loss

    def configure_callbacks(self) -> list[Callback]:
        """The rules of the recipe that are enabled."""
        rules: list[Callback] = []
        if self.halve_on_plateau:
            rules.append(HalveOnPlateau(self.halving_gap))
        if self.lift_silent:
            rules.append(LiftSilent(self.lift_silent))
        return rules

    def monitors(self) -> dict[str, str]:
        """Metrics of an epoch that can select a checkpoint, and whether "min" or "max" is best.

        Spikes per neuron are not among them, since neither more nor fewer is better.
        """
        modes = {"loss": "min", "accuracy": "max"}
        modes |= {f"silent_share_{layer}": "min" for layer in range(len(self.network.hidden))}
        found = {f"{stage}/{name}": m for stage in ("val", "train") for name, m in modes.items()}
        found |= {f"val/accuracy_{group}": "max" for group in _SPEAKERS}
        return {**found, "train/guarded_spikes": "min"}

    def on_fit_start(self) -> None:
        name_layers(self.network)  # for the warning of a layer that never spikes

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0:  # checkpoints of an epoch hold its metrics
            for metric in self._training_metrics().values():
                metric.reset()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        loss, outcome = self._step("train", batch)
        accuracy: Any = self.metrics["train_"]["accuracy"]  # type: ignore[index]
        live = {"loss": loss.detach()}
        if self.trainer.world_size == 1:  # with more, every step would wait for all of them
            live["acc"] = accuracy.compute()
        self.log_dict(live, prog_bar=True, logger=False, batch_size=len(batch.labels))
        if self.rate_penalty.strength:
            for counts in outcome.counts:
                loss = loss + self.rate_penalty(self._with_joint_mean(counts))
        spikes = [layer.detach() for layer in outcome.counts]
        return {"loss": loss, "logits": outcome.logits.detach(), "counts": spikes}

    def _with_joint_mean(self, counts: Tensor) -> Tensor:
        """``counts`` [B, N], shifted so that their mean is that of the batches of all processes.

        A penalty on the mean then has the gradient of the joint batch after DDP has averaged.
        """
        if self.trainer.world_size == 1:
            return counts
        mine = counts.detach().mean(dim=0)
        joint: Any = self.trainer.strategy.reduce(mine.clone(), reduce_op="mean")
        return counts + (joint - mine)

    def on_validation_start(self) -> None:
        self.confusion.reset()
        self._seen = self._speakers("train_speakers")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val")

    def on_test_start(self) -> None:
        self.confusion.reset()
        self._seen = self._speakers("test_seen_speakers")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _speakers(self, name: str) -> Tensor:
        """The speakers that the data module lists under this name."""
        datamodule = getattr(self.trainer, "datamodule", None)
        return torch.tensor(getattr(datamodule, name, ()), device=self.device)

    def _evaluate(self, stage: str, batch: Batch) -> None:
        _, outcome = self._step(stage, batch)
        self.confusion.update(outcome.logits, batch.labels)
        right = outcome.logits.argmax(dim=1) == batch.labels
        known = batch.speakers >= 0
        seen = torch.isin(batch.speakers, self._seen)
        for group, chosen in (("seen", seen), ("unseen", ~seen)):
            metric: Any = self.speaker_groups[f"{stage}_{group}"]
            metric.update(right[chosen & known])

    def _log_evaluation(self, stage: str) -> None:
        """Log the metrics of all samples.

        This happens at the end and not for each batch, so that all processes of a distributed run
        log the same names in the same order, even if the samples of one are none or have no unseen
        speaker. ``sync_dist`` only states that they agree.
        """
        metrics: Any = dict(self.metrics[f"{stage}_"].items())  # type: ignore[operator]
        for group in _SPEAKERS:
            metrics[f"accuracy_{group}"] = self.speaker_groups[f"{stage}_{group}"]
        for name, metric in metrics.items():
            value = metric.compute()
            metric.reset()
            if not value.isnan():  # NaN: there were no samples
                bar = stage == "val" and name in ("loss", "accuracy")
                self.log(f"{stage}/{name}", value, prog_bar=bar, sync_dist=True)
        self.confusion.compute()  # in all processes; one of them draws the cached result

    def _step(self, stage: str, batch: Batch) -> tuple[Tensor, Outcome]:
        """Loss and outcome of a batch, with its metrics updated."""
        outcome = self.network(batch.events)
        loss = self.loss.from_logits(outcome.logits, batch.labels)
        metrics: Any = self.metrics[f"{stage}_"]  # nn.ModuleDict has a method "train"
        metrics["loss"].update(loss.detach(), weight=len(batch.labels))
        metrics["accuracy"].update(outcome.logits, batch.labels)
        for layer, counts in enumerate(outcome.counts):
            metrics[f"spikes_per_neuron_{layer}"].update(counts)
            metrics[f"silent_share_{layer}"].update(counts)
        if stage == "train":
            self.log_dict(
                {f"train/{name}": metric for name, metric in metrics.items()},
                on_step=False, on_epoch=True, batch_size=len(batch.labels),
            )  # fmt: skip
        return loss, outcome

    def configure_optimizers(self) -> torch.optim.Optimizer:
        named = list(self.network.named_parameters())
        weights = [p for name, p in named if name.endswith("weight")]
        delays = [p for name, p in named if name.endswith("delay")]
        constants = [p for name, p in named if not name.endswith(("weight", "delay"))]
        groups: list[dict[str, Any]] = [
            {"params": weights, "weight_decay": self.weight_decay},
            {"params": constants, "weight_decay": 0.0},
        ]
        self._base_lrs = [self.lr, self.lr]
        if delays:
            groups.append({"params": delays, "weight_decay": 0.0})
            self._base_lrs.append(self.delay_lr)
        return torch.optim.AdamW(groups, lr=self.lr)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Computed from the step alone: a schedule without state can resume within an epoch.
        factor = self.lr_scale * self._lr_factor(self.trainer.global_step)
        for group, lr in zip(optimizer.param_groups, self._base_lrs, strict=True):
            group["lr"] = lr * factor

    def _lr_factor(self, step: int) -> float:
        linear = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        rise = ease_in(step) if self.ease_in else linear
        if not self.cosine:
            return rise
        total = float(self.trainer.estimated_stepping_batches)
        return rise * (1 + math.cos(math.pi * min(1.0, step / total))) / 2

    def _training_metrics(self) -> dict[str, Any]:
        return dict(self.metrics["train_"].items())  # type: ignore[operator, union-attr]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the metrics of training, since the checkpoint may be taken within an epoch."""
        checkpoint["train_metrics"] = {
            name: {part: value.cpu() for part, value in metric.metric_state.items()}
            for name, metric in self._training_metrics().items()
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the first difference, where torch would list every tensor."""
        theirs = {name: tuple(t.shape) for name, t in checkpoint["state_dict"].items()}
        ours = {name: tuple(t.shape) for name, t in self.state_dict().items()}
        for name in [*ours, *theirs]:
            if ours.get(name) != theirs.get(name):
                raise ValueError(
                    f"the checkpoint is of another network: {name} has shape "
                    f"{theirs.get(name, 'none')} there and {ours.get(name, 'none')} here; use the "
                    "options it was trained with (--config with the config.yaml of its run)"
                )
        metrics = self._training_metrics()
        for name, parts in checkpoint.get("train_metrics", {}).items():
            for part, value in parts.items():
                getattr(metrics[name], part).copy_(value)


def _stage_metrics(num_classes: int, hidden: list[int]) -> nn.ModuleDict:
    metrics: dict[str, Metric] = {
        "loss": MeanMetric(), "accuracy": MulticlassAccuracy(num_classes, average="micro")
    }  # fmt: skip
    for layer, size in enumerate(hidden):
        metrics[f"spikes_per_neuron_{layer}"] = SpikesPerNeuron(size)
        metrics[f"silent_share_{layer}"] = SilentShare(size)
    return nn.ModuleDict(metrics)
