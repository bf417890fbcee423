"""Ctrl-C and SIGTERM end a run with a checkpoint to resume from."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_modules.run.checkpoint_files import LAST
from lightning_modules.run.distributed import in_any_process
from lightning_modules.run.summary import console


class Interrupt(Checkpoint):
    """Ctrl-C or SIGTERM stops after the step under way and leaves a checkpoint to resume from.

    A step is one of the optimiser, since checkpoints do not hold gradients that are being
    accumulated. After the last step of an epoch the run first validates and writes its metrics.

    Agents of W&B, schedulers and containers send SIGTERM to a run that has to end. The process
    then exits without an error. A second signal stops it at once; the checkpoint is then that of
    the last full epoch.

    It is a ``Checkpoint`` because Lightning calls those after all other callbacks, when these have
    counted the batch. In a run of several processes it holds the counts of the first one only.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._received: int | None = None  # the signal
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Called after Lightning has set its own handler of SIGTERM, which this replaces.
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        except ValueError:  # only the main thread may handle signals
            pass

    def _receive(self, number: int, frame: Any) -> None:
        if self._received is not None:
            raise _stopped(number)
        self._received = number
        again = "Ctrl-C again" if number == signal.SIGINT else "once more"
        print(f"\nstopping after this step ({again}: at once)", flush=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        done = index + 1
        if done % trainer.accumulate_grad_batches or done == trainer.num_training_batches:
            return
        self._stop_if_signalled(trainer, save=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_signalled(trainer, save=False)  # the last epoch's checkpoint is there

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_signalled(trainer, save=False)
        self._restore()

    def _stop_if_signalled(self, trainer: Trainer, save: bool) -> None:
        # Signals reach the processes of a run at different batches; all stop after the same batch.
        if in_any_process(trainer, self._received is not None):
            if save:
                trainer.save_checkpoint(self.folder / LAST)
            terminated = in_any_process(trainer, self._received == signal.SIGTERM)
            raise _stopped(signal.SIGTERM if terminated else signal.SIGINT)

    def on_exception(self, trainer: Trainer, *args: Any) -> None:
        self._restore()
        if self._received is not None and (self.folder / LAST).exists():
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
