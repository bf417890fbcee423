"""The options of ``fit``, read from the sources that define them without importing those.

Importing torch and Lightning takes many times as long as answering ``--help`` or a typing error.
Signatures, annotations and docstrings are therefore read as text (``ast``). Nothing is listed
twice: the parser that trains reads the same signatures.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import docstring_parser
import yaml

from lightning_modules.options.config_files import config_folder, config_names, flattened


class Option(NamedTuple):
    """One option.

    Attributes:
        name: without the dashes, such as ``model.lr``.
        kind: its type as the source writes it.
        default: as YAML would say it; None: there is none.
        help: what it does.
        choices: the values that it takes, where these are few.
    """

    name: str
    kind: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()


# Options of the run itself, which no signature holds.
RUN_OPTIONS = (
    Option(
        "seed_everything", "bool | int", 0,
        "Seed of initial weights, the order of samples and augmentation; true: a random one.",
    ),
    Option(
        "run_dir", "str | None", None,
        "Folder for everything the run makes (default: the next of runs/0001, ...).",
    ),
    Option(
        "ckpt_path", "str | None", None,
        'Checkpoint to resume from: a path, or "last" to continue the latest run (or that of '
        "--run_dir) in its folder and with its options.",
    ),
    Option(
        "seeds", "list[int]", None,
        "Train once with each of these seeds (instead of --seed_everything), each run in a folder "
        "of its own, and report mean and standard deviation. Given the same --run_dir again, "
        "complete runs are kept and an interrupted one is resumed.",
    ),
    Option(
        "monitor", "str", "val/accuracy",
        "Metric that picks best.ckpt, the checkpoint that is tested. Without validation samples "
        "last.ckpt is tested.",
    ),
    Option("test", "bool", True, "Test the best checkpoint after training."),
    Option(
        "wandb", "bool", False,
        "Log to Weights & Biases too (project: WANDB_PROJECT or snn-eventprop). Without an API key "
        "or a network it logs offline. --trainer.logger WandbLogger takes every option of the "
        "logger.",
    ),
)  # fmt: skip

CONFIG_HELP = (
    f"A YAML file, or a shipped configuration by name ({', '.join(config_names())}). Can be given "
    "several times; of files and options, later ones win."
)

# Set from other options, not by the user.
_LINKED = ("data.seed", "model.num_inputs", "model.num_classes")


@lru_cache
def own_options() -> tuple[Option, ...]:
    """The options of the run, the model and the data."""
    found = [
        *RUN_OPTIONS,
        *_of_class("lightning_modules.training.classifier", "SpikingClassifier", "model"),
        *_of_class("lightning_modules.data.module", "SpokenDigits", "data"),
    ]
    return _with_shipped_defaults([one for one in found if one.name not in _LINKED])


@lru_cache
def trainer_options() -> tuple[Option, ...]:
    """The options of Lightning's trainer."""
    return _with_shipped_defaults(
        _of_class("lightning.pytorch.trainer.trainer", "Trainer", "trainer")
    )


@lru_cache
def loss_names() -> tuple[str, ...]:
    """The losses of ``snn_eventprop.losses``."""
    for statement in _parsed("snn_eventprop.losses").body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return tuple(ast.literal_eval(statement.value))
    raise LookupError("snn_eventprop.losses has no __all__")


def _with_shipped_defaults(options: list[Option]) -> tuple[Option, ...]:
    path = config_folder() / "default.yaml"
    shipped = dict(flattened(yaml.safe_load(path.read_text(encoding="utf-8"))))
    shipped["model.loss"] = shipped["model.loss.class_path"].rpartition(".")[2]
    return tuple(one._replace(default=shipped.get(one.name, one.default)) for one in options)


@lru_cache
def _parsed(module: str) -> ast.Module:
    top, *rest = module.split(".")
    spec = find_spec(top)  # which does not import it
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {top!r}", name=top)
    path = Path(spec.origin).parent.joinpath(*rest)
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def _of_class(module: str, name: str, prefix: str) -> list[Option]:
    """The constructor's arguments, or the fields of a dataclass."""
    body = next(
        one for one in _parsed(module).body if isinstance(one, ast.ClassDef) and one.name == name
    )
    documentation = ast.get_docstring(body) or ""
    init = [one for one in body.body if getattr(one, "name", "") == "__init__"]
    if init:
        documentation += "\n\n" + (ast.get_docstring(init[0]) or "")  # type: ignore[arg-type]
        found = _arguments(init[0].args)  # type: ignore[attr-defined]
    else:
        found = [
            (one.target.id, one.annotation, one.value) for one in body.body
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        ]  # fmt: skip
    said = {
        one.arg_name: " ".join((one.description or "").split())
        for one in docstring_parser.parse(documentation).params
    }
    options = []
    for argument, annotation, default in found:
        kind = ast.unparse(annotation)
        if kind == "NetworkOptions":
            options += _of_class("lightning_modules.model.network", kind, f"{prefix}.{argument}")
            continue
        choices = loss_names() if "ClassificationLoss" in kind else _choices(module, annotation)
        options.append(
            Option(f"{prefix}.{argument}", kind, _value(default), said.get(argument, ""), choices)
        )
    return options


def _arguments(arguments: ast.arguments) -> list[tuple[str, ast.expr, ast.expr | None]]:
    positional = arguments.args[1:]  # without self
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    pairs = [
        *zip(positional, [*defaults, *arguments.defaults], strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return [(one.arg, one.annotation or ast.Constant("Any"), default) for one, default in pairs]


def _value(default: ast.expr | None) -> Any:
    """A default as a value; ``field(default_factory=lambda: x)`` has the default x."""
    if isinstance(default, ast.Call):
        factory = default.keywords[0].value if default.keywords else None
        default = factory.body if isinstance(factory, ast.Lambda) else None
    try:
        return None if default is None else ast.literal_eval(default)
    except ValueError:
        return ast.unparse(default)  # type: ignore[arg-type]


def _choices(module: str, annotation: ast.expr) -> tuple[str, ...]:
    """The values of the ``Literal`` in an annotation, which may be written elsewhere by name."""
    for part in ast.walk(annotation):
        if isinstance(part, ast.Subscript) and ast.unparse(part.value) == "Literal":
            values = part.slice.elts if isinstance(part.slice, ast.Tuple) else [part.slice]
            return tuple(str(ast.literal_eval(value)) for value in values)
    for part in ast.walk(annotation):
        if isinstance(part, ast.Name) and module.startswith(("lightning_modules", "snn_eventprop")):
            for statement in _parsed(module).body:
                if isinstance(statement, ast.Assign) and part.id == ast.unparse(
                    statement.targets[0]
                ):
                    return _choices(module, statement.value)
                if isinstance(statement, ast.ImportFrom) and statement.module and any(
                    one.name == part.id for one in statement.names
                ) and statement.module.startswith(("lightning_modules", "snn_eventprop")):
                    return _choices(statement.module, part)
    return ()
