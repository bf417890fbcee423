"""What a misspelled name could have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def meant(name: str, known: Iterable[str]) -> str:
    """``did you mean ...?``, or nothing where no known name is similar."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"did you mean {' or '.join(near)}?" if near else ""


def suggestions(message: str, known: Sequence[str]) -> list[str]:
    """For each option that ``message`` calls unrecognized, what it could have meant.

    That is the same name in a group (``--lr``: ``--model.lr``), or else the most similar one.
    """
    found = []
    _, _, unknown = message.partition("unrecognized arguments: ")
    for word in unknown.split():
        name = word.partition("=")[0]
        if not name.startswith("--"):
            continue
        inner = [option for option in known if option.endswith("." + name[2:])]
        near = inner or difflib.get_close_matches(name, known, n=1)
        if near:
            found.append(f"instead of {name}, did you mean {' or '.join(near)}?")
    return found
