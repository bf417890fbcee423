"""``fit --help``: model, data and run first; ``--help_all`` adds the trainer."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import yaml

from lightning_modules.options.catalogue import (
    CONFIG_HELP,
    RUN_OPTIONS,
    Option,
    own_options,
    trainer_options,
)

PROGRAM = "python -m lightning_modules.fit"
USAGE = f"{PROGRAM} [--config NAME] [options]"
_MORE = """\
Options of the trainer, such as --trainer.max_epochs:  --help_all
Options of a class that an option names:               --model.loss.help SumLoss,
                                                       --trainer.logger.help WandbLogger, ...
The configuration that all options result in:          --print_config
"""


def help_text(description: str, everything: bool) -> str:
    """The help of ``fit``.

    Args:
        description: what the command does.
        everything: with the trainer's options.
    """
    parser = argparse.ArgumentParser(
        prog=PROGRAM, usage=USAGE, description=_escaped(description), epilog=_MORE, add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    run, own = len(RUN_OPTIONS), own_options()
    group = parser.add_argument_group("run")
    group.add_argument("-h", "--help", action="store_true", help="Show this list and end.")
    group.add_argument(
        "--help_all", action="store_true", help="The same with the options of the trainer."
    )
    group.add_argument("-c", "--config", metavar="NAME", help=_escaped(CONFIG_HELP))
    _add(group, own[:run])
    _add(parser.add_argument_group("model"), _under(own, "model."))
    _add(parser.add_argument_group("data"), _under(own, "data."))
    if everything:
        _add(parser.add_argument_group("trainer (of Lightning)"), trainer_options())
    return parser.format_help()


def _under(options: Iterable[Option], prefix: str) -> list[Option]:
    return [one for one in options if one.name.startswith(prefix)]


def _add(group: argparse._ArgumentGroup, options: Iterable[Option]) -> None:
    for one in options:
        short = one.name.rpartition(".")[2].upper()
        metavar = "{" + ",".join(one.choices) + "}" if one.choices else short
        default = yaml.safe_dump(one.default, default_flow_style=True).split("\n")[0]
        kind = "" if one.choices else one.kind.replace("None", "null") + ", "
        group.add_argument(
            f"--{one.name}", metavar=metavar, nargs="+" if one.name == "seeds" else None,
            help=_escaped(f"{one.help} ({kind}default: {default})"),
        )  # fmt: skip


def _escaped(text: str) -> str:
    return text.replace("%", "%%").replace("``", "")
