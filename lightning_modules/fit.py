"""Train the reference network: ``python -m lightning_modules.fit [options]``.

Without options it trains the embedded spoken digits with ``configs/default.yaml``. Everything the
run makes lies in one folder, ``runs/0001`` and so on: checkpoints, ``config.yaml``,
``metrics.csv``, ``results.json`` and figures.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from lightning_modules import wandb_mode
from lightning_modules.callbacks import Figures, History, Interrupt, ProgressBar, checkpoints
from lightning_modules.classifier import SpikingClassifier
from lightning_modules.configs_by_name import ConfigAction, config_folder, config_names
from lightning_modules.data import SpokenDigits
from lightning_modules.processes import is_first, shared_run
from lightning_modules.report import console, peak_memory, summary
from lightning_modules.run_folder import CHECKPOINTS, CONFIG, RESULTS, resumed
from lightning_modules.whole_files import write_json


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
        parser = LightningArgumentParser(
            prog="python -m lightning_modules.fit", usage="%(prog)s [--config NAME] [options]",
            description=__doc__, **kwargs,
        )  # fmt: skip
        parser.add_argument(
            "-c", "--config", action=ConfigAction,
            help="A YAML file, or a shipped configuration by name "
            f"({', '.join(config_names())}). Can be given several times; later ones and later "
            "options go before earlier ones.",
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

    def before_instantiate_classes(self) -> None:
        if self.config.wandb or "WandbLogger" in str(self.config.trainer.logger):
            wandb_mode.settle()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        self.run = shared_run(self.config.run_dir)
        self.history = History(self.run)
        monitor = self.config.monitor if self.datamodule.pools["val"].indices.size else None
        options = self.config_init.trainer
        options.callbacks = [
            *(options.callbacks or []),
            self.history,
            Figures(self.run, self.history),
            *checkpoints(self.run / CHECKPOINTS, monitor),
            Interrupt(self.run / CHECKPOINTS),
        ]
        if options.enable_progress_bar is not False:
            options.callbacks.append(ProgressBar(leave=False))
        if options.default_root_dir is None:
            options.default_root_dir = str(self.run)
        if self.config.wandb:
            options.logger = _with_wandb(options.logger, self.run)
        return super().instantiate_trainer(**kwargs)


def _with_wandb(loggers: Any, run: Path) -> list[Any]:
    from lightning.pytorch.loggers import Logger, WandbLogger

    others = loggers if isinstance(loggers, list) else [loggers]
    project = os.environ.get("WANDB_PROJECT", "snn-eventprop")
    return [
        *(logger for logger in others if isinstance(logger, Logger)),
        WandbLogger(project=project, save_dir=str(run)),
    ]


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
    ):
        warnings.filterwarnings("ignore", message=message)


def main(args: list[str] | None = None) -> dict[str, float]:
    """Train, test and print the summary; the numbers in it are returned."""
    quiet()
    try:
        arguments = resumed(sys.argv[1:] if args is None else args)
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    cli = FitCLI(arguments)
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    if is_first():
        cli.parser.save(cli.config, str(cli.run / CONFIG), overwrite=True)
        (cli.run / RESULTS).unlink(missing_ok=True)  # of a run that this one goes on with
    trainer.fit(model, data, ckpt_path=cli.config.ckpt_path)

    metrics = trainer.callback_metrics.items()
    # Those without a "/" are of single batches, for the progress bar.
    results = {name: float(value) for name, value in metrics if "/" in name}
    if cli.config.test:
        best = cli.run / CHECKPOINTS / "best.ckpt"
        chosen = str(best) if best.exists() else None
        results.update(trainer.test(model, data, ckpt_path=chosen, verbose=False)[0])
    rate = cli.history.samples_per_s()
    if rate is not None:
        results["samples_per_s"] = rate
    if trainer.is_global_zero:
        write_json(cli.run / RESULTS, {
            **results, "epochs": trainer.current_epoch, "seconds": cli.history.seconds(),
            "peak_memory_mib": peak_memory() / 2**20, "complete": True,
        })  # fmt: skip
        console.print(summary(results, f"{data.dataset}, {trainer.current_epoch} epochs"))
        print(f"checkpoints, metrics.csv, results.json and figures: {cli.run}")
    return results


if __name__ == "__main__":
    main()
