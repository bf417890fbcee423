"""Parsers of jsonargparse whose errors suggest what was meant, and that find configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, auto_cli

from lightning_modules.options.catalogue import loss_names
from lightning_modules.options.config_files import find_config, lineage
from lightning_modules.options.suggestions import suggestions


class SuggestingParser(ArgumentParser):
    """Errors say what could have been meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        known = [name for action in self._actions for name in action.option_strings]
        hints = suggestions(message, known)
        if 'key "model.loss"' in message:
            hints.append(f"losses: {', '.join(loss_names())}")
        super().error("\n".join([message, *hints]), ex)


class ConfigAction(ActionConfigFile):
    """``--config`` for a path or the name of a shipped configuration, read after its bases."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        try:
            files = lineage(find_config(values))
        except (FileNotFoundError, ValueError) as error:
            parser.error(str(error))
        for options in files:
            super().__call__(parser, cfg, yaml.safe_dump(options), option_string)


def command(function: Callable[..., Any], **options: Any) -> None:
    """Call ``function`` with the program's arguments, which are named after its parameters."""
    name = function.__module__ if function.__module__ != "__main__" else function.__name__
    program = f"python -m lightning_modules.{name.rpartition('.')[2]}"
    auto_cli(function, parser_class=SuggestingParser, prog=program, **options)
