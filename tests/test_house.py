"""The house itself: imports run one way, names say what is inside, signatures stay short.

Read from the source by its syntax tree; nothing is imported.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("snn_eventprop", "lightning_modules")
FILES = sorted(
    path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.py")
)
TESTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py"))

# Rooms from the top floor down: a module may import from its own floor and from those below.
FLOORS = {
    "snn_eventprop": [
        ["benchmark"],
        ["nir", "hosts", "snntorch", "norse"],
        ["layers"],
        ["backends"],  # register their kernels on the operators, which know none of them
        ["ops"],
        ["neurons", "synapses"],
    ],
    "lightning_modules": [
        # The commands are the modules that lie in no room.
        ["studies"],
        ["run"],
        ["model", "methods", "training"],
        ["data", "options"],
    ],
}
# The commands' names, of which a room may use nothing.
COMMANDS = {"fit", "evaluate", "predict", "export", "compare", "crossval", "sweep"}
# Data types and losses run on any backend, hence on none.
NO_BACKEND = {
    "snn_eventprop.events", "snn_eventprop.losses", "snn_eventprop.ops",
    "snn_eventprop.regularizers", "snn_eventprop.diagnostics",
}  # fmt: skip
FORBIDDEN_NAMES = {
    "rows", "drive", "offsets", "turn", "by_unit", "gaps", "snapshot", "whole_files", "messages",
    "trained",
}  # fmt: skip
MOST_PARAMETERS = 15
MOST_LINES = 400


@functools.cache
def tree_of(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), file)


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(file): file for file in FILES}


def _names(node: ast.Import | ast.ImportFrom, file: str) -> list[str]:
    """The dotted names that a statement imports, relative ones resolved."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        package = (
            module_of(file) if file.endswith("__init__.py") else module_of(file).rpartition(".")[0]
        )
        parts = package.split(".")
        base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
    return [f"{base}.{alias.name}" for alias in node.names]


def _own(name: str) -> str | None:
    """The module of this project that holds an imported name."""
    while name:
        if name in MODULES:
            return name
        name = name.rpartition(".")[0]
    return None


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(file: str, *, at_once: bool = False) -> set[str]:
    """The modules of this project that a file imports.

    Args:
        at_once: only what is imported while the module itself is being imported.
    """
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.update(filter(None, map(_own, _names(node, file))))
        if at_once and (
            _type_checking(node)
            or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        ):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree_of(file))
    return found - {module_of(file)}


def floor_of(module: str) -> tuple[str, int, str] | None:
    """(package, floor counted from the bottom, room) of a module that lies in a room."""
    package, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    for height, rooms in enumerate(reversed(FLOORS[package])):
        if room in rooms:
            return package, height, room
    return None


@pytest.mark.parametrize("file", FILES)
def test_imports_go_down(file):
    ours = module_of(file)
    place = floor_of(ours)
    imported = imports_of(file)
    if ours.startswith("snn_eventprop"):
        assert not [name for name in imported if name.startswith("lightning_modules")]
    if place is None:
        return
    above = [
        name for name in imported
        if (other := floor_of(name)) and other[0] == place[0] and other[1] > place[1]
    ]  # fmt: skip
    assert not above, f"{ours} imports from the floors above"
    if ours.startswith("lightning_modules"):
        commands = {f"lightning_modules.{command}" for command in COMMANDS}
        assert not imported & commands, f"{ours} imports a command"


def test_no_module_is_part_of_a_circle_of_imports():
    graph = {module_of(file): imports_of(file, at_once=True) for file in FILES}
    path: list[str] = []
    done: set[str] = set()
    circles: list[str] = []

    def visit(module: str) -> None:
        if module in path:
            circles.append(" -> ".join([*path[path.index(module) :], module]))
            return
        if module in done:
            return
        path.append(module)
        for other in sorted(graph[module]):
            visit(other)
        path.pop()
        done.add(module)

    for module in sorted(graph):
        visit(module)
    assert not circles, "\n".join(circles)


@pytest.mark.parametrize(
    "file", [file for file in FILES if any(
        module_of(file) == name or module_of(file).startswith(f"{name}.") for name in NO_BACKEND
    )],
)  # fmt: skip
def test_data_types_losses_and_operators_import_no_backend(file):
    assert not [name for name in imports_of(file) if name.startswith("snn_eventprop.backends.")]


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> int:
    every = function.args
    return (
        len([*every.posonlyargs, *every.args, *every.kwonlyargs])
        + bool(every.vararg)
        + bool(every.kwarg)
    )


@pytest.mark.parametrize("file", FILES)
def test_no_function_but_a_public_constructor_takes_many_parameters(file):
    long = []

    def visit(node: ast.AST, owner: str | None) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                visit(child, child.name)
                continue
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                name = getattr(child, "name", "lambda")
                public = name == "__init__" and owner is not None and not owner.startswith("_")
                if parameters(child) > MOST_PARAMETERS and not public:
                    long.append(f"{file}:{child.lineno} {name} takes {parameters(child)}")
                visit(child, None)
            else:
                visit(child, owner)

    visit(tree_of(file), None)
    assert not long, "\n".join(long)


@pytest.mark.parametrize("file", [*FILES, *TESTS])
def test_a_long_file_says_why_it_is_long(file):
    lines = len((ROOT / file).read_text(encoding="utf-8").splitlines())
    reason = re.search(r"\b(long|lines)\b", ast.get_docstring(tree_of(file)) or "")
    assert lines <= MOST_LINES or reason, f"{file} has {lines} lines"


@pytest.mark.parametrize("file", FILES)
def test_names_of_files_say_what_is_inside(file):
    names = {part.removesuffix(".py").lstrip("_") for part in Path(file).parts}
    assert not names & FORBIDDEN_NAMES


@pytest.mark.parametrize("file", FILES)
def test_no_module_travels_as_its_id(file):
    """Operators take tensors and numbers, which do not tell whose they are.

    As a key of a dictionary, where it is looked up again, an id is in order.
    """
    lookups = {"get", "pop", "setdefault"}
    passed = [
        f"{file}:{call.lineno} {ast.unparse(argument)}"
        for call in ast.walk(tree_of(file))
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") not in lookups
        for argument in [*call.args, *(keyword.value for keyword in call.keywords)]
        if isinstance(argument, ast.Call) and ast.unparse(argument.func) == "id"
    ]
    assert not passed, "\n".join(passed)


ROOMS = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} - {"support"}


@pytest.mark.parametrize("file", TESTS)
def test_tests_share_through_support_alone(file):
    """They do not import each other, nor reach for files by way of ``sys.path``."""
    nodes = list(ast.walk(tree_of(file)))
    imported = {
        name.partition(".")[0]
        for node in nodes
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in _names(node, file)
    }
    assert not imported & ROOMS
    assert not [name for name in imported if name.startswith(("test_", "tests", "conftest"))]
    assert "sys.path" not in {ast.unparse(n) for n in nodes if isinstance(n, ast.Attribute)}


def test_there_is_one_conftest():
    assert [file for file in TESTS if file.endswith("conftest.py")] == ["tests/conftest.py"]


def test_a_neuron_takes_the_two_files_that_the_guide_names():
    """Nothing but its own files knows of adaptive LIF, beside the lines that export the layer."""
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    section = guide.split("## Adding a neuron")[1].split("\n## ")[0]
    named = {name.replace("NAME", "alif") for name in re.findall(r"^\| `(\S+)` \|", section, re.M)}
    assert named == {"snn_eventprop/neurons/alif.py", "snn_eventprop/layers/alif.py"}
    assert all((ROOT / name).exists() for name in named)
    exports = {"snn_eventprop/layers/__init__.py", "snn_eventprop/__init__.py"}
    sign = re.compile(r'EventPropALIF|"alif"|neurons.alif')
    knowing = {file for file in FILES if sign.search((ROOT / file).read_text())}
    assert knowing == named | exports
