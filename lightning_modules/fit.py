"""Train the reference network: ``python -m lightning_modules.fit [options]``.

Without options it trains the embedded spoken digits with ``configs/default.yaml``. Everything the
run makes lies in one folder, ``runs/0001`` and so on: checkpoints, ``config.yaml``,
``metrics.csv``, ``results.json`` and figures.
"""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from lightning_modules.data.module import SpokenDigits
from lightning_modules.data.shd_files import DataFileError
from lightning_modules.model.classifier import SpikingClassifier
from lightning_modules.run import loggers, wandb_mode
from lightning_modules.run import option_errors as messages
from lightning_modules.run.atomic_files import WholeCheckpoints, WriteError, whole_file, write_json
from lightning_modules.run.callbacks import (
    BEST,
    LAST,
    Figures,
    Gradients,
    History,
    Interrupt,
    ProgressBar,
    WarmUp,
    checkpoints,
)
from lightning_modules.run.checkpoints import CheckpointError, read_checkpoint
from lightning_modules.run.configs import ConfigAction, config_folder, config_names
from lightning_modules.run.folder import CHECKPOINTS, CONFIG, RESULTS, resumed
from lightning_modules.run.media import Media
from lightning_modules.run.processes import shared_run
from lightning_modules.studies import seeds
from lightning_modules.studies.report import console, memory, summary


class FitCLI(LightningCLI):
    """Options of the trainer, the model, the data and the run, from YAML files and arguments."""

    history: History
    run: Path

    def __init__(self, args: list[str]) -> None:
        super().__init__(
            SpikingClassifier,
            SpokenDigits,
            args=args,
            run=False,
            save_config_callback=None,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            parser_kwargs={"default_config_files": [str(config_folder() / "default.yaml")]},
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = messages.Parser(
            prog="python -m lightning_modules.fit", usage="%(prog)s [--config NAME] [options]",
            description=__doc__, **kwargs,
        )  # fmt: skip
        parser.add_argument(
            "-c", "--config", action=ConfigAction,
            help="A YAML file, or a shipped configuration by name "
            f"({', '.join(config_names())}). Can be given several times; of files and "
            "options later ones win.",
        )  # fmt: skip
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--run_dir", type=str | None,
            help="Folder for everything the run makes (default: the next of runs/0001, ...).",
        )  # fmt: skip
        parser.add_argument(
            "--ckpt_path", type=str | None,
            help='Checkpoint to go on from: a path, or "last" to go on with the latest run (or '
            "that of --run_dir) in its folder and with its options.",
        )  # fmt: skip
        parser.add_argument(
            "--seeds", type=int, nargs="+",
            help="Train once for each of these seeds (instead of --seed_everything), each run in "
            "a folder of its own, and report mean and standard deviation. With the same --run_dir "
            "again, complete runs are kept and an interrupted one goes on.",
        )  # fmt: skip
        parser.add_argument(
            "--monitor", type=str, default="val/accuracy",
            help="Metric that picks best.ckpt, which is the one tested; without validation "
            "samples it is the last.",
        )  # fmt: skip
        parser.add_argument(
            "--test", type=bool, default=True, help="Test the best checkpoint after training."
        )
        parser.add_argument(
            "--wandb", type=bool, default=False,
            help="Log to Weights & Biases too (project: WANDB_PROJECT or snn-eventprop). Without "
            "an API key or a network it logs offline. --trainer.logger WandbLogger takes every "
            "option of the logger.",
        )  # fmt: skip
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("data.num_units", "model.num_inputs", apply_on="instantiate")
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self.config = parser.parse_args(args)  # type: ignore[arg-type]

    def instantiate_classes(self) -> None:
        if self.config.seeds:
            sys.exit("error: seeds in a YAML file make one run; say --seeds on the command line")
        stated = self.config.trainer.logger
        if self.config.wandb or "WandbLogger" in str(stated):
            wandb_mode.settle()
        self.run = shared_run(self.config.run_dir)
        try:
            self.config.trainer.logger = loggers.placed(stated, self.run)
            with messages.of_options(self.config):
                super().instantiate_classes()
            self.check_checkpoint()
        except BaseException:
            with suppress(OSError):  # not empty: somebody else's, too
                self.run.rmdir()
            raise
        finally:
            self.config.trainer.logger = stated

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        self.history = History(self.run)
        options = self.config_init.trainer
        if not any(isinstance(callback, Media) for callback in options.callbacks or []):
            options.callbacks = [*(options.callbacks or []), Media()]
        options.plugins = _listed(options.plugins)
        if not any(isinstance(plugin, CheckpointIO) for plugin in options.plugins):
            options.plugins.append(WholeCheckpoints())
        options.callbacks += [
            Opening(self),
            WarmUp(),  # before the history, which starts the clock
            Gradients(),  # before the history as well, which writes what has been logged
            self.history,
            Figures(self.run, self.history),
            *checkpoints(self.run / CHECKPOINTS, self._monitor()),
            Interrupt(self.run / CHECKPOINTS),
        ]
        if options.enable_progress_bar is not False:
            options.callbacks.append(ProgressBar(leave=False))
        if options.default_root_dir is None:
            options.default_root_dir = str(self.run)
        if self.config.wandb:
            others = [one for one in _listed(options.logger) if isinstance(one, Logger)]
            options.logger = [*others, loggers.wandb_logger(self.run)]
        return super().instantiate_trainer(**kwargs)

    def _monitor(self) -> tuple[str, str] | None:
        """The metric that picks best.ckpt, and its mode; None: nothing is validated."""
        data = self.datamodule
        if not data.pools["val"].indices.size:
            return None
        choices = self.model.monitors()
        heard = {voice in data.train_speakers for voice in data.val_speakers if voice >= 0}
        for voices, there in (("seen", True in heard), ("unseen", False in heard)):
            if not there:
                del choices[f"val/accuracy_{voices}"]
        name = self.config.monitor
        if name not in choices:
            sys.exit(f"error: --monitor must be one of {', '.join(choices)}, got {name}")
        return name, choices[name]

    def check_checkpoint(self) -> None:
        """See that training can go on from the checkpoint, if one is given.

        Raises:
            FileNotFoundError: it is not there.
            CheckpointError: it is none, or of another network.
        """
        if self.config.ckpt_path:
            checkpoint = read_checkpoint(self.config.ckpt_path)
            try:
                self.model.on_load_checkpoint(checkpoint)
            except ValueError as error:
                raise CheckpointError(f"--ckpt_path {self.config.ckpt_path}: {error}") from error

    def describe(self) -> None:
        """Write every option to the run's folder, and hand them to the loggers."""
        config = self.config.clone()
        config.run_dir = config.ckpt_path = None  # whoever repeats the run wants it elsewhere
        # With what was switched off: shipped defaults may have it on.
        text = self.parser.dump(config, skip_none=False)
        with whole_file(self.run / CONFIG) as partial:
            partial.write_text(text, encoding="utf-8")
        options = yaml.safe_load(text)
        for logger in self.trainer.loggers:
            logger.log_hyperparams(options)


class Opening(Callback):
    """States the options in the run's folder, and withdraws the results of a run that goes on.

    When training starts, no sooner: what is refused before leaves the folder as it was.
    """

    def __init__(self, cli: FitCLI) -> None:
        self._cli = cli

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._cli.describe()
            (self._cli.run / RESULTS).unlink(missing_ok=True)


def _listed(options: Any) -> list[Any]:
    return options if isinstance(options, list) else [] if options is None else [options]


def quiet() -> None:
    """Silence what Lightning says at every start and a user can do nothing about."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        "The '.*_dataloader' does not have many workers",  # loading needs none
        "Total length of `list` across ranks is zero",  # no validation, as asked
        "Attribute 'loss' is an instance of `nn.Module`",  # kept so that checkpoints load
        "The number of training batches",  # on log_every_n_steps, for small sets
        "Using `DistributedSampler`",  # ours repeats no sample of a test
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # Lightning against newer torch
        "Checkpoint directory .* exists and is not empty",  # on resuming, as it should
        r"\s*\S+ (parameter )?was deprecated in v4",  # jsonargparse: what older versions need
    ):
        warnings.filterwarnings("ignore", message=message)


def main(args: list[str] | None = None) -> dict[str, float]:
    """Train, test and print the summary; the numbers in it are returned."""
    quiet()
    try:
        arguments = loggers.with_folders(resumed(sys.argv[1:] if args is None else args))
        if chosen := seeds.chosen(arguments):
            return seeds.train(*chosen)
        return _train(FitCLI(arguments))
    except WriteError as error:
        sys.exit(f"error: {error} (--ckpt_path last goes on with a run)")
    except (CheckpointError, DataFileError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")


def _train(cli: FitCLI) -> dict[str, float]:
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    trainer.fit(model, data, ckpt_path=cli.config.ckpt_path)

    # Before the test: loading best.ckpt takes the history back to the epoch of that checkpoint.
    rate, seconds = cli.history.samples_per_s(), cli.history.seconds()
    best = _best(cli)
    results, epoch = _at_checkpoint(cli.history.rows, best)
    if cli.config.test:
        # Empty where --trainer.limit_test_batches 0 leaves nothing to test on.
        for tested in trainer.test(model, data, ckpt_path=best, verbose=False):
            results.update(tested)
    if rate is not None:
        results["samples_per_s"] = rate
    if trainer.is_global_zero:
        name = BEST if best else LAST
        write_json(cli.run / RESULTS, {
            **results, "checkpoint": name, "checkpoint_epoch": epoch,
            "epochs": trainer.current_epoch, "seconds": seconds, **memory(), "complete": True,
        })  # fmt: skip
        title = f"{data.dataset}, epoch {epoch} of {trainer.current_epoch}"
        console.print(summary(results, f"{title} ({name})"))
        print(f"checkpoints, metrics.csv, results.json and figures: {cli.run}")
    loggers.finish(trainer.loggers)
    return results


def _best(cli: FitCLI) -> str | None:
    """The path of best.ckpt; None: there is no validation to pick one."""
    path = cli.run / CHECKPOINTS / BEST
    picked = any(getattr(kept, "monitor", None) for kept in cli.trainer.checkpoint_callbacks)
    return str(path) if picked and path.exists() else None


def _at_checkpoint(
    rows: list[dict[str, float]], best: str | None
) -> tuple[dict[str, float], int]:
    """Metrics of the epoch that best.ckpt (or else the last one) was saved after, and its number.

    The number counts from 1.
    """
    epoch = read_checkpoint(best)["epoch"] if best else rows[-1]["epoch"] if rows else -1
    row = next((row for row in rows if row["epoch"] == epoch), {})
    return {name: value for name, value in row.items() if "/" in name}, int(epoch) + 1


if __name__ == "__main__":
    main()
