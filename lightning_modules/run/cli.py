"""The parser of ``fit``, and the trainer, model and data that it makes."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from lightning_modules.data.module import SpokenDigits
from lightning_modules.options.catalogue import CONFIG_HELP, RUN_OPTIONS
from lightning_modules.options.config_files import config_folder
from lightning_modules.options.listing import PROGRAM, USAGE
from lightning_modules.options.parsers import ConfigAction, SuggestingParser
from lightning_modules.options.precision import refused
from lightning_modules.run import loggers, wandb_mode
from lightning_modules.run.atomic_files import whole_file
from lightning_modules.run.callbacks import (
    Figures,
    Gradients,
    History,
    Interrupt,
    ProgressBar,
    WarmUp,
)
from lightning_modules.run.checkpoint_files import WholeCheckpoints, checkpoint_callbacks
from lightning_modules.run.checkpoints import CheckpointError, read_checkpoint
from lightning_modules.run.distributed import shared_run
from lightning_modules.run.folder import CHECKPOINTS, CONFIG, RESULTS
from lightning_modules.run.logged_media import LogMedia
from lightning_modules.run.option_errors import of_options
from lightning_modules.training.classifier import SpikingClassifier


class _Parser(SuggestingParser, LightningArgumentParser):
    pass


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
        parser = _Parser(prog=PROGRAM, usage=USAGE, **kwargs)
        parser.add_argument("-c", "--config", action=ConfigAction, help=CONFIG_HELP)
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        types = {"seeds": int, "monitor": str, "test": bool, "wandb": bool}
        for option in RUN_OPTIONS:
            if option.name != "seed_everything":  # which Lightning adds
                many: Any = {"nargs": "+"} if option.kind.startswith("list") else {}
                parser.add_argument(
                    f"--{option.name}", type=types.get(option.name, str | None),
                    default=option.default, help=option.help, **many,
                )  # fmt: skip
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("data.num_units", "model.num_inputs", apply_on="instantiate")
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self.config = parser.parse_args(args)  # type: ignore[arg-type]

    def instantiate_classes(self) -> None:
        if self.config.seeds:
            sys.exit("error: seeds in a YAML file make one run; say --seeds on the command line")
        if reason := refused(self.config.trainer.precision, self.config.model.method):
            sys.exit(f"error: {reason}")
        stated = self.config.trainer.logger
        if self.config.wandb or "WandbLogger" in str(stated):
            wandb_mode.settle()
        self.run = shared_run(self.config.run_dir)
        try:
            self.config.trainer.logger = loggers.placed(stated, self.run)
            with of_options(self.config):
                super().instantiate_classes()
            self._check_checkpoint()
        except BaseException:
            with suppress(OSError):  # it holds files of another run
                self.run.rmdir()
            raise
        finally:
            self.config.trainer.logger = stated

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        self.history = History(self.run)
        options = self.config_init.trainer
        if not any(isinstance(callback, LogMedia) for callback in options.callbacks or []):
            options.callbacks = [*(options.callbacks or []), LogMedia()]
        options.plugins = _listed(options.plugins)
        if not any(isinstance(plugin, CheckpointIO) for plugin in options.plugins):
            options.plugins.append(WholeCheckpoints())
        options.callbacks += [
            _Opening(self),
            WarmUp(),  # before the history, which starts the clock
            Gradients(),  # also before the history, which writes what has been logged
            self.history,
            Figures(self.run, self.history),
            *checkpoint_callbacks(self.run / CHECKPOINTS, self._monitor()),
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
        """The metric that picks best.ckpt, and its mode; None: there is no validation."""
        data = self.datamodule
        if not data.pools["val"].indices.size:
            return None
        choices = self.model.monitors()
        heard = {one in data.train_speakers for one in data.val_speakers if one >= 0}
        for group, there in (("seen", True in heard), ("unseen", False in heard)):
            if not there:
                del choices[f"val/accuracy_{group}"]
        name = self.config.monitor
        if name not in choices:
            sys.exit(f"error: --monitor must be one of {', '.join(choices)}, got {name}")
        return name, choices[name]

    def _check_checkpoint(self) -> None:
        """Check that training can resume from the checkpoint, if one is given.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: it is no checkpoint, or one of another network.
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
        config.run_dir = config.ckpt_path = None  # a repetition of the run goes elsewhere
        # Options that are off are written too: the shipped defaults may switch them on.
        text = self.parser.dump(config, skip_none=False)
        with whole_file(self.run / CONFIG) as partial:
            partial.write_text(text, encoding="utf-8")
        options = yaml.safe_load(text)
        for logger in self.trainer.loggers:
            logger.log_hyperparams(options)


class _Opening(Callback):
    """Writes the options to the run's folder, and removes the results of a run that is resumed.

    Not before training starts: options that are refused earlier leave the folder as it was.
    """

    def __init__(self, cli: FitCLI) -> None:
        self._cli = cli

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._cli.describe()
            (self._cli.run / RESULTS).unlink(missing_ok=True)


def _listed(options: Any) -> list[Any]:
    return options if isinstance(options, list) else [] if options is None else [options]
