"""Options of ``fit`` are checked before anything slow is imported.

What is certainly wrong ends the program here: names that do not exist, values outside of a short
list, files that are missing. Everything else is left to the parser that trains.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from lightning_modules.data.data_files import DataFileError, find_files
from lightning_modules.options.catalogue import Option, loss_names, own_options, trainer_options
from lightning_modules.options.config_files import config_names, find_config, flattened, lineage
from lightning_modules.options.listing import USAGE, help_text
from lightning_modules.options.precision import refused
from lightning_modules.options.suggestions import meant, suggestions

_SPECIAL = ("config", "print_config", "print_shtab", "help", "help_all")
_GROUPS = ("model", "model.network", "data", "trainer")


class _Stated(NamedTuple):
    """An option as the user gave it."""

    name: str
    value: Any
    source: str  # "" on the command line, else the configuration file


def check(args: Sequence[str], description: str | None = None, usage: str = USAGE) -> None:
    """End the program where ``args`` ask for help or are certainly wrong.

    Args:
        args: options of ``fit``.
        description: heads the help; None: ``args`` hold no request for help.
        usage: of the command, for errors.

    Raises:
        SystemExit: one of the two is the case.
    """
    if description is not None and {"-h", "--help", "--help_all"} & set(args):
        sys.stdout.write(help_text(description, "--help_all" in args))
        sys.exit(0)
    try:
        stated = list(_stated(args))
    except (FileNotFoundError, ValueError) as error:
        _refuse(usage, str(error))
    known = {one.name: one for one in (*own_options(), *trainer_options())}
    _check_names(stated, known, usage)
    for one in stated:
        _check_value(one, known, usage)
    last = {one.name: one.value for one in stated}
    if reason := refused(last.get("trainer.precision"), last.get("model.method") or "eventprop"):
        sys.exit(f"error: {reason}")
    _check_files(last)


def _stated(args: Sequence[str]) -> Iterator[_Stated]:
    """Every option, in the order in which later ones win."""
    words = list(args)
    while words:
        word = words.pop(0)
        if word == "-c" or (word.startswith("-c") and not word.startswith("--")):
            word, value = "--config", word[2:]
            words[:0] = [value] if value else []
        if not word.startswith("--"):
            yield _Stated(word, None, "stray")
            continue
        name, equals, value = word[2:].partition("=")
        values = [value] if equals else []
        while not equals and words and not words[0].startswith("--") and words[0] != "-c":
            if values and name != "seeds":
                break
            values.append(words.pop(0))
        name = name.removesuffix("+")
        if name != "config":
            yield _Stated(name, values[0] if len(values) == 1 else values or None, "")
            continue
        for value in values:
            path = find_config(value)
            for options in lineage(path):
                for inner, said in flattened(options):
                    yield _Stated(inner, said, path)


def _check_names(stated: Sequence[_Stated], known: dict[str, Option], usage: str) -> None:
    unknown = [one for one in stated if not _is_known(one.name, known)]
    for one in unknown:
        if one.source and one.source != "stray":
            hint = meant(one.name, known)
            _refuse(usage, f"{one.source}: there is no option {one.name}; {hint}".rstrip("; "))
    words = [one.name if one.source == "stray" else f"--{one.name}" for one in unknown]
    if not words:
        return
    message = "unrecognized arguments: " + " ".join(words)
    hints = suggestions(message, [f"--{name}" for name in known])
    for word in words:
        if word in config_names():
            hints.append(f"instead of {word}, did you mean --config {word}?")
    _refuse(usage, "\n".join([message, *hints]))


def _is_known(name: str, known: dict[str, Option]) -> bool:
    """Whether an option exists, or may exist inside a class that another option names."""
    if name in known or name in _SPECIAL or name in _GROUPS:
        return True
    parts = name.split(".")
    outer = (".".join(parts[:n]) for n in range(1, len(parts)))
    return any(
        one in known and not set(_types(known[one])) <= {"int", "float", "bool", "str", "Literal"}
        for one in outer
    )


def _check_value(one: _Stated, known: dict[str, Option], usage: str) -> None:
    option, value = known.get(one.name), one.value
    if option is None or value is None:
        return
    where = f"{one.source}: {one.name}" if one.source else f"--{one.name}"
    if not isinstance(value, str):
        return
    if one.name == "model.loss" and value.isidentifier() and value not in loss_names():
        _refuse(
            usage, f"{where}: there is no loss {value}; {meant(value, loss_names())}\n"
            f"losses: {', '.join(loss_names())}",
        )  # fmt: skip
    types = _types(option)
    if types == ["Literal"] and value not in (*option.choices, "null"):
        hint = meant(value, option.choices)
        _refuse(usage, f"{where}: must be one of {', '.join(option.choices)}, got {value}; {hint}")
    if types in (["int"], ["float"]):
        try:
            float(yaml.safe_load(value) if value != "null" else 0)
        except (TypeError, ValueError, yaml.YAMLError):
            _refuse(usage, f"{where}: must be a number ({types[0]}), got {value}")


def _types(option: Option) -> list[str]:
    """The types of an option but for None; a ``Literal`` however it is written."""
    if option.choices and option.name != "model.loss":
        return ["Literal"]
    return [part for part in option.kind.split(" | ") if part != "None"]


def _check_files(last: dict[str, Any]) -> None:
    root, checkpoint = last.get("data.root"), last.get("ckpt_path")
    if isinstance(root, str) and root != "null" and last.get("data.dataset") in (None, "folder"):
        try:
            find_files(root)
        except DataFileError as error:
            sys.exit(f"error: {error}")
    unnamed = (None, "null", "last", "best")
    if isinstance(checkpoint, str) and checkpoint not in unnamed and not Path(checkpoint).is_file():
        sys.exit(f"error: --ckpt_path {checkpoint}: no such file")


def _refuse(usage: str, message: str) -> NoReturn:
    print(f"usage: {usage}\nerror: {message}", file=sys.stderr)
    sys.exit(2)
