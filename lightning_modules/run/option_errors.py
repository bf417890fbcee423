"""Values that parts of a run refuse end it with one line that names the option."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException

# What parts of a run raise for values that they refuse.
_REFUSALS = (ValueError, TypeError, ImportError, MisconfigurationException)


@contextmanager
def of_options(config: Namespace) -> Iterator[None]:
    """Around the construction of a run's parts from ``config``: a refused value ends the program.

    Raises:
        SystemExit: with the message, and the option that it is about.
    """
    try:
        yield
    except _REFUSALS as error:
        option = blamed(str(error), dict(config.items()))
        sys.exit(f"error: {option}{error}")


def blamed(message: str, values: dict[str, Any]) -> str:
    """The option that ``message`` is about, with a colon; empty if that is unclear.

    It is the first word that is the name of an option, or else the value of one.

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
