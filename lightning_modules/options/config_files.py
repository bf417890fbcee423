"""Configuration files: found by path or by the name of a shipped one, and read with their bases.

A file's key ``base`` names the configurations (one, or a list) that it builds on: files beside it,
or shipped ones. They are read first, so that the file states only what differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.options.suggestions import meant

SWEEPS = "sweeps"  # files for Weights & Biases, not for --config


def config_folder() -> Path:
    """The shipped YAML files: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    beside = package.parent / "configs"
    return beside if (package.parent / "pyproject.toml").exists() else package / "configs"


def config_names() -> list[str]:
    """Names of the shipped configurations, as ``--config`` takes them."""
    files = (p.relative_to(config_folder()) for p in config_folder().rglob("*.yaml"))
    return sorted(p.with_suffix("").as_posix() for p in files if p.parts[0] != SWEEPS)


def find_config(name: str, beside: Path | None = None) -> str:
    """The path of a configuration: a file as it is, or a shipped one by name.

    Args:
        name: path or name.
        beside: a folder that is searched before the working folder.

    Raises:
        FileNotFoundError: there is neither.
    """
    plain = name.removesuffix(".yaml")
    if beside is not None and (beside / f"{plain}.yaml").is_file():
        return str(beside / f"{plain}.yaml")
    if Path(name).is_file():
        return name
    shipped = config_folder() / f"{plain}.yaml"
    if shipped.is_file():
        return str(shipped)
    names = config_names()
    hint = meant(plain, names)
    raise FileNotFoundError(
        f"no file {name!r} and no shipped configuration of that name{'; ' + hint if hint else ''}\n"
        f"shipped: {', '.join(names)}"
    )


def lineage(path: str, below: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """The options of a configuration's bases and its own, in the order in which they apply.

    Raises:
        FileNotFoundError: a base is missing.
        ValueError: a file is not a mapping of options, or bases go in a circle.
    """
    here = Path(path).resolve()
    if here in below:
        circle = " -> ".join(p.name for p in (*below, here))
        raise ValueError(f"{path}: its bases go in a circle ({circle}); remove one of the keys")
    try:
        options = yaml.safe_load(here.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML ({error})") from error
    if options is None:
        options = {}
    if not isinstance(options, dict):
        raise ValueError(
            f"{path}: must hold options such as 'model: {{lr: 1.0e-3}}', got "
            f"{type(options).__name__}"
        )
    bases = options.pop("base", None) or []
    found: list[dict[str, Any]] = []
    for base in [bases] if isinstance(bases, str) else bases:
        found += lineage(find_config(base, here.parent), (*below, here))
    return [*found, options]


def flattened(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in nested options with its dotted name, such as ``model.lr``."""
    for name, value in options.items():
        if isinstance(value, dict) and value:
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
