"""What a run leaves behind: metrics as CSV, figures, and a checkpoint when it is interrupted."""

from __future__ import annotations

import csv
import signal
import statistics
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, RichProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.data.loader import BatchKey
from lightning_modules.run import figures
from lightning_modules.run.atomic_files import WriteError, whole_file
from lightning_modules.run.epochs import validates
from lightning_modules.run.media import log_figure, sample_figures
from lightning_modules.run.processes import anywhere
from lightning_modules.studies.report import console, memory
from lightning_modules.studies.similarity import GradientSimilarity
from snn_eventprop import diagnostics

BEST, LAST = "best.ckpt", "last.ckpt"


def checkpoints(folder: Path, monitor: tuple[str, str] | None) -> list[Callback]:
    """``last.ckpt`` after every epoch and, with validation, ``best.ckpt``.

    Args:
        folder: where.
        monitor: the metric that picks ``best.ckpt``, and whether its "min" or "max" is best.
    """
    common: dict[str, Any] = {
        "dirpath": folder, "save_top_k": 1, "enable_version_counter": False,
        "save_on_train_epoch_end": True,
    }  # fmt: skip
    kept: list[Callback] = []
    if monitor:
        name, mode = monitor
        kept.append(ModelCheckpoint(filename="best", monitor=name, mode=mode, **common))
    # After it, so that whoever goes on from last.ckpt knows how good best.ckpt is.
    return [*kept, ModelCheckpoint(filename="last", **common)]


class ProgressBar(RichProgressBar):
    """Rich's progress bar; without a terminal, one plain line per epoch."""

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        name, bar, batches, clock, _speed = super().configure_columns(trainer)
        bar.bar_width = 12  # leaves room for loss and accuracy in 80 columns
        return [name, bar, batches, clock]

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        short = {name: name.replace("/", "_").replace("accuracy", "acc") for name in metrics}
        return {short[name]: value for name, value in metrics.items()}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if console.is_terminal or not trainer.is_global_zero:
            return
        values = trainer.callback_metrics
        shown = ["train/loss", "train/accuracy"]
        if validates(trainer):
            shown += ["val/loss", "val/accuracy"]
        line = "  ".join(f"{name} {values[name].item():.3f}" for name in shown if name in values)
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {line}", flush=True)


class WarmUp(Callback):
    """One step on two training samples before the clock starts, which compiles the kernels.

    Nothing else comes of it: its gradients are thrown away, and no random number is used up.
    """

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        samples = data.event_dataset("train", augmented=True)
        batch = samples[BatchKey(0, 0, np.arange(min(2, len(samples))))]
        batch = data.transfer_batch_to_device(batch, pl_module.device, 0)
        gpus = [pl_module.device] if pl_module.device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus):
            loss = pl_module.objective(pl_module(batch.events), batch.labels)
            weights = [p for p in pl_module.network.parameters() if p.requires_grad]
            # Not backward(): DDP would hear of it.
            torch.autograd.grad(loss, weights, allow_unused=True)


class History(Callback):
    """Metrics of each epoch, kept in checkpoints and written to ``metrics.csv``.

    The clock starts after ``WarmUp``, and stands still while ``GradientSimilarity`` computes.
    Epochs without validation (``--trainer.check_val_every_n_epoch``) have no metrics of it. A
    resumed run goes on with the rows of the run it resumes; throughput of an epoch that was resumed
    in its middle is that of the rest.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self._samples = 0
        self._validated = False  # in this epoch
        self._start = self._end = 0.0
        self._seconds = 0.0  # of training so far
        self._origin = 0.0  # the clock where they were none

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._origin = _clock(trainer) - self._seconds
        # Lightning starts no epoch where it goes on in the middle of one.
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._samples = 0
        self._validated = False
        self._start = self._end = _clock(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self._samples += len(batch.labels)
        self._end = _clock(trainer)
        self._seconds = self._end - self._origin

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = self._end - self._start
        self._seconds = _clock(trainer) - self._origin
        cost = {
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "samples_per_s": self._samples / seconds if seconds > 0 else 0.0,
            **memory(),
        }
        row = {
            "epoch": float(trainer.current_epoch),
            "step": float(trainer.global_step),
            **cost,
            "seconds": self._seconds,
        }
        for name, value in trainer.callback_metrics.items():
            # Those without a "/" are of single batches, for the progress bar; Lightning keeps those
            # of validation until the next one.
            if "/" in name and (self._validated or not name.startswith("val/")):
                row[name] = float(value)
        self.rows.append(row)
        if trainer.is_global_zero:
            self._write()
        for logger in trainer.loggers:
            logger.log_metrics(cost, trainer.global_step)

    def samples_per_s(self) -> float | None:
        """Training throughput, loading included, validation not: the median over epochs."""
        rates = [row["samples_per_s"] for row in self.rows]
        return statistics.median(rates) if rates else None

    def seconds(self) -> float:
        """Time of training in s until the end of the last full epoch.

        With loading, validation and checkpoints; without start, compilation and comparisons of
        gradients.

        Of a resumed run the sum over its parts; what was thrown away does not count.
        """
        return self.rows[-1]["seconds"] if self.rows else 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": self._seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])
        self._seconds = state_dict.get("seconds", self.seconds())  # older checkpoints: without

    def _write(self) -> None:
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        with (
            whole_file(self.folder / "metrics.csv") as partial,
            partial.open("w", newline="") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)


def _clock(trainer: Trainer) -> float:
    """Seconds that go by, but for those spent on comparing gradients."""
    comparing = (one for one in trainer.callbacks if isinstance(one, GradientSimilarity))  # type: ignore[attr-defined]
    return time.perf_counter() - sum(one.seconds for one in comparing)


class Gradients(Callback):
    """Logs how large the gradients of an epoch were, and how often the grazing guard acted.

    That is the norm of each parameter's gradient before clipping, its mean over the steps, and the
    number of guarded spikes. They are summed here and handed to Lightning once an epoch: its
    ``log`` costs ten times as much as the norms themselves.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps: Counter[str] = Counter()
        self._guarded: int | Tensor = 0  # on a GPU summed there, and read once an epoch

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        self._guarded = self._guarded + diagnostics.guarded_spikes(pl_module.network)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: Any, optimizer: Optimizer
    ) -> None:
        for name, parameter in pl_module.network.named_parameters():
            if parameter.grad is not None:
                norm = parameter.grad.norm()
                # Those of a checkpoint may be on another device.
                self._sums[name] = self._sums[name].to(norm) + norm if name in self._sums else norm
                self._steps[name] += 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        means = {f"gradient_norm/{k}": total / self._steps[k] for k, total in self._sums.items()}
        pl_module.log_dict(means, sync_dist=True)  # all processes have the same gradients
        guarded = float(self._guarded)  # of this process
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


class Figures(Callback):
    """PNG figures of a run: learning curves, one sample in the network, confusion matrix."""

    def __init__(self, folder: Path, history: History | None = None) -> None:
        self.folder = folder
        self.history = history

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._learning_curves(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        with suppress(WriteError):  # of a full disk the exception under way tells
            self._learning_curves(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        names = data.class_names
        made = {"confusion": figures.confusion(pl_module.confusion.compute().cpu(), names)}
        if data.pools["test"].indices.size:
            made |= sample_figures(pl_module, data, "test")
        for name, figure in made.items():
            self._save(name, figure)
            log_figure(trainer, f"test/{name}", figure)

    def _learning_curves(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and self.history is not None and self.history.rows:
            self._save("learning_curves", figures.learning_curves(self.history.rows))

    def _save(self, name: str, figure: Any) -> None:
        with whole_file(self.folder / f"{name}.png") as partial:
            figure.savefig(partial, dpi=120, format="png")


class Interrupt(Checkpoint):
    """Ctrl-C or SIGTERM stops after the step under way and leaves a checkpoint to resume from.

    A step is one of the optimiser: gradients that are being accumulated are not in checkpoints.
    After the last one of an epoch that is when the epoch has been validated, and written down.

    SIGTERM is what agents of W&B, schedulers and containers send to a run that has to end; the
    process then exits without an error. A second signal stops at once, and the checkpoint is that
    of the last full epoch.

    A ``Checkpoint``, as Lightning calls those after all other callbacks: what these count per
    batch is then complete. Of several processes, it holds the counts of the first one only.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._asked: int | None = None  # the signal
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # After Lightning set its own handler of SIGTERM, which this one replaces while training.
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._ask)
        except ValueError:  # signals belong to the main thread; elsewhere they are not ours
            pass

    def _ask(self, number: int, frame: Any) -> None:
        if self._asked is not None:
            raise _stopped(number)
        self._asked = number
        again = "Ctrl-C again" if number == signal.SIGINT else "once more"
        print(f"\nstopping after this step ({again}: at once)", flush=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        done = index + 1
        if done % trainer.accumulate_grad_batches or done == trainer.num_training_batches:
            return
        self._stop_if_asked(trainer, save=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_asked(trainer, save=False)  # the last epoch's checkpoint is there

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_asked(trainer, save=False)
        self._restore()

    def _stop_if_asked(self, trainer: Trainer, save: bool) -> None:
        # Signals reach the processes of a run at different batches; they stop after the same one.
        if anywhere(trainer, self._asked is not None):
            if save:
                trainer.save_checkpoint(self.folder / LAST)
            terminated = anywhere(trainer, self._asked == signal.SIGTERM)
            raise _stopped(signal.SIGTERM if terminated else signal.SIGINT)

    def on_exception(self, trainer: Trainer, *args: Any) -> None:
        self._restore()
        if self._asked is not None and (self.folder / LAST).exists():
            console.print(f"checkpoint: {self.folder / LAST}; go on with --ckpt_path last")

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


def _stopped(number: int) -> BaseException:
    """What ends a run after this signal: with exit code 1 after Ctrl-C, 0 after SIGTERM.

    An agent of W&B gives up after runs that exit with a positive code.
    """
    return SIGTERMException() if number == signal.SIGTERM else KeyboardInterrupt()
