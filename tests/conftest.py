"""What tests share: a folder of their own to work in, and training runs that are made once."""

from __future__ import annotations

import signal

import pytest
from support.tiny_run import Runs


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """The test works in an empty folder, and leaves the handlers of signals as they were."""
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def no_account(tmp_path, monkeypatch):
    """There is no account of W&B: neither in the environment nor in the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("API_KEY", "MODE", "BASE_URL", "PROJECT"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.delenv("NETRC", raising=False)


@pytest.fixture
def no_figures(request, monkeypatch):
    """Runs draw no figures, which take half the time of a small one; but for tests of figures."""
    from lightning_modules.run import callbacks

    if request.node.get_closest_marker("figures") is None:
        monkeypatch.setattr(callbacks.Figures, "_save", lambda *_: None)


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Runs:
    """Finished and interrupted runs; each is trained by the first test that asks for it."""
    return Runs(tmp_path_factory.mktemp("runs"))
