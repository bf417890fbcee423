"""The wheel and the sdist: they build, install into empty environments, and carry their data."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from support.compiled_kernels import lend_kernels

pytest.importorskip("build")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def run(*command: object, **options) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, stdin=subprocess.DEVNULL,
        timeout=300, env=environment, **options,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """A folder with the sdist, and the wheel built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


@pytest.fixture(scope="module", params=["*.whl", "*.tar.gz"], ids=["wheel", "sdist"])
def installed(request, dist, tmp_path_factory) -> Path:
    """Python of a new environment into which pip installed the package.

    Its dependencies and compiled kernels are borrowed from the environment that runs the tests.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", with_pip=True)
    python = next((folder / "env").glob("[bS]*/python*"))
    place = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    borrowed = Path(pytest.__file__).parent.parent
    Path(place, "dependencies.pth").write_text(f"{borrowed}\n")
    run(
        python, "-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation",
        "--force-reinstall", only(dist, request.param),
    )  # fmt: skip
    lend_kernels(Path(place))
    where = run(python, "-c", "import snn_eventprop as s; print(s.__file__)", cwd=folder)
    assert Path(where.strip()).is_relative_to(place)
    return python


def test_the_package_asks_for_torch_numpy_and_numba_alone(dist):
    with zipfile.ZipFile(only(dist, "*.whl")) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
    required = [r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    assert {r.split(">")[0] for r in required} == {"torch", "numpy", "numba"}
    extras = set(metadata.get_all("Provides-Extra"))
    assert {"snntorch", "norse", "train", "cuda", "dev", "all"} <= extras


def test_the_wheel_carries_configs_and_embedded_data(dist):
    with zipfile.ZipFile(only(dist, "*.whl")) as archive:
        names = set(archive.namelist())
    for config in (ROOT / "configs").rglob("*.yaml"):
        name = config.relative_to(ROOT / "configs").as_posix()
        assert f"lightning_modules/configs/{name}" in names
    for split in ("train", "test"):
        assert f"lightning_modules/data/embedded/twin_{split}.npz" in names
    assert not [n for n in names if "__pycache__" in n or n.startswith("tests/")]


def test_an_installed_package_imports_without_any_training_library(installed, tmp_path):
    code = """
import sys
for name in ("lightning", "tonic", "wandb", "rich", "matplotlib", "scipy", "snntorch", "norse"):
    sys.modules[name] = None  # as if it were not there
import snn_eventprop, snn_eventprop.losses, snn_eventprop.regularizers
"""
    run(installed, "-c", code, cwd=tmp_path)


@pytest.mark.parametrize("installed", ["*.whl"], ids=["wheel"], indirect=True)
def test_an_installed_package_trains_a_shipped_config(installed, tmp_path):
    pytest.importorskip("lightning")
    out = run(
        installed, "-m", "lightning_modules.fit", "--config", "tiny", "--data.limit_samples", "32",
        cwd=tmp_path,
    )  # fmt: skip
    assert "accuracy, test" in out
    assert (tmp_path / "runs/0001/confusion.png").exists()
