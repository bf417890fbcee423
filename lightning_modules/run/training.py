"""A run from its first epoch to its summary."""

from __future__ import annotations

from lightning_modules.run import loggers
from lightning_modules.run.atomic_files import write_json
from lightning_modules.run.checkpoint_files import BEST, LAST
from lightning_modules.run.checkpoints import read_checkpoint
from lightning_modules.run.cli import FitCLI
from lightning_modules.run.folder import CHECKPOINTS, RESULTS
from lightning_modules.run.summary import console, memory, summary


def train(cli: FitCLI) -> dict[str, float]:
    """Train, test, print the summary and return the numbers in it."""
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    trainer.fit(model, data, ckpt_path=cli.config.ckpt_path)

    # Read before the test, which loads best.ckpt and with it the history of that checkpoint.
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
        console.print(summary(results, f"{title} ({name})", data.explanation))
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
    """Metrics of the epoch after which best.ckpt (or else last.ckpt) was saved, and its number.

    Epochs count from 1.
    """
    epoch = read_checkpoint(best)["epoch"] if best else rows[-1]["epoch"] if rows else -1
    row = next((row for row in rows if row["epoch"] == epoch), {})
    return {name: value for name, value in row.items() if "/" in name}, int(epoch) + 1
