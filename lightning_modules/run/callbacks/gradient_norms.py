"""Norms of gradients, and spikes whose gradient was guarded."""

from __future__ import annotations

from collections import Counter
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from snn_eventprop import diagnostics


class Gradients(Callback):
    """Logs the size of the gradients of an epoch, and how often the grazing guard acted.

    The size is the norm of each parameter's gradient before clipping, averaged over the steps. Sums
    are kept here and logged once an epoch, because Lightning's ``log`` costs ten times as much as
    the norms themselves.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps: Counter[str] = Counter()
        self._guarded: int | Tensor = 0  # stays on the GPU until the epoch ends

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        self._guarded = self._guarded + diagnostics.guarded_spikes(pl_module.network)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: Any, optimizer: Optimizer
    ) -> None:
        for name, parameter in pl_module.network.named_parameters():
            if parameter.grad is not None:
                norm = parameter.grad.norm()
                # Sums from a checkpoint may be on another device.
                self._sums[name] = self._sums[name].to(norm) + norm if name in self._sums else norm
                self._steps[name] += 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        means = {f"gradient_norm/{k}": total / self._steps[k] for k, total in self._sums.items()}
        pl_module.log_dict(means, sync_dist=True)  # all processes have the same gradients
        guarded = float(self._guarded)  # in this process
        pl_module.log("train/guarded_spikes", guarded, sync_dist=True, reduce_fx="sum")
        self._sums.clear()
        self._steps.clear()
        self._guarded = 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "sums": {name: total.cpu() for name, total in self._sums.items()},
            "steps": dict(self._steps), "guarded": int(self._guarded),
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sums = dict(state_dict["sums"])
        self._steps = Counter(state_dict["steps"])
        self._guarded = state_dict["guarded"]
