"""Errors in options, told in a line or two that name the option."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace, auto_cli
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser

from snn_eventprop import losses

# What the parts of a run raise at values that they refuse.
REFUSALS = (ValueError, TypeError, ImportError, MisconfigurationException)


class _Suggesting(ArgumentParser):
    """Errors say what could have been meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        known = [name for action in self._actions for name in action.option_strings]
        meant = suggestions(message, known)
        if 'key "model.loss"' in message:
            meant.append(f"losses: {', '.join(losses.__all__)}")
        super().error("\n".join([message, *meant]), ex)


class Parser(_Suggesting, LightningArgumentParser):
    """The parser of ``fit``."""


def command(function: Callable[..., Any], **options: Any) -> None:
    """Call ``function`` with the program's arguments, which are named after its parameters."""
    auto_cli(function, parser_class=_Suggesting, **options)


def suggestions(message: str, known: Sequence[str]) -> list[str]:
    """For each option that ``message`` does not recognise, what it could be.

    That is the same name in a group (``--lr``: ``--model.lr``), or else the most similar one.
    """
    found = []
    _, _, unknown = message.partition("unrecognized arguments: ")
    for word in unknown.split():
        name = word.partition("=")[0]
        if not name.startswith("--"):
            continue
        inner = [option for option in known if option.endswith("." + name[2:])]
        meant = inner or difflib.get_close_matches(name, known, n=1)
        if meant:
            found.append(f"instead of {name}, did you mean {' or '.join(meant)}?")
    return found


@contextmanager
def of_options(config: Namespace) -> Iterator[None]:
    """Where the parts of a run are made of ``config``: what they refuse ends the program.

    Raises:
        SystemExit: with the message, and the option that it is about.
    """
    try:
        yield
    except REFUSALS as error:
        option = blamed(str(error), dict(config.items()))
        sys.exit(f"error: {option}{error}")


def blamed(message: str, values: dict[str, Any]) -> str:
    """The option that ``message`` is about, with a colon; empty where that cannot be told.

    By the first word that is the name of an option, or else the value of one.

    Args:
        message: of an exception.
        values: of all options by name, such as ``model.lr``.
    """
    words = re.findall(r"\w+", message)
    names = [name for name in values if name.startswith(("model.", "data.", "trainer."))]
    by_name = {name.rpartition(".")[2]: name for name in reversed(names)}
    by_value = {values[name]: name for name in reversed(names) if isinstance(values[name], str)}
    for table in (by_name, by_value):
        for word in words:
            if word in table:
                return f"--{table[word].replace('.init_args', '')}: "
    return ""
