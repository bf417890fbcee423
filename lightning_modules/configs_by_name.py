"""Configuration files that ship with the package, found by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile


def config_folder() -> Path:
    """The shipped YAML files: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    beside = package.parent / "configs"
    return beside if (package.parent / "pyproject.toml").exists() else package / "configs"


def config_names() -> list[str]:
    """Names of the shipped configurations, as ``--config`` takes them."""
    folder = config_folder()
    return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))


def find_config(name: str) -> str:
    """The path of a configuration: a file as it is, or a shipped one by name.

    Raises:
        FileNotFoundError: there is neither.
    """
    if Path(name).is_file():
        return name
    shipped = config_folder() / f"{name.removesuffix('.yaml')}.yaml"
    if shipped.is_file():
        return str(shipped)
    raise FileNotFoundError(
        f"no file {name!r} and no shipped configuration of that name; there are "
        f"{', '.join(config_names())}"
    )


class ConfigAction(ActionConfigFile):
    """``--config`` for a path or the name of a shipped configuration."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        try:
            values = find_config(values)
        except FileNotFoundError as error:
            parser.error(str(error))
        super().__call__(parser, cfg, values, option_string)
