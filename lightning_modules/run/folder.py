"""Where a run keeps its files: ``runs/0001`` and so on, or a folder the user names."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightning_modules.run.atomic_files import WriteError

_RUNS = Path("runs")
CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
RESULTS = "results.json"  # there once a run is complete


def new_run(folder: str | None) -> Path:
    """The folder ``folder``, or the next number under ``runs``, made if it is not there.

    Raises:
        WriteError: it cannot be made.
    """
    try:
        return _made(folder)
    except OSError as error:
        raise WriteError(
            f"cannot make the run's folder {folder or _RUNS.resolve()} ({error.strerror}); name "
            "another one with --run_dir"
        ) from error


def _made(folder: str | None) -> Path:
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        return Path(folder)
    _RUNS.mkdir(exist_ok=True)
    number = max((int(p.name) for p in _RUNS.iterdir() if p.name.isdigit()), default=0)
    while True:
        number += 1
        run = _RUNS / f"{number:04d}"
        try:
            run.mkdir()
        except FileExistsError:  # another process took the number
            continue
        return run


def find_checkpoint(name: str, folder: str | None = None) -> Path:
    """The checkpoint ``name``: a path, or "last" or "best" of a run.

    A run without validation has no best checkpoint: the last one is taken, with a message.

    Args:
        name: path of a file, "last" or "best".
        folder: the run; None: the run under ``runs`` that was active last.

    Raises:
        FileNotFoundError: there is none.
    """
    if name not in ("last", "best"):
        if not Path(name).is_file():
            raise FileNotFoundError(f"no checkpoint {name!r}; give a file, 'last' or 'best'")
        return Path(name)
    run = Path(folder) if folder else _latest() or _RUNS
    for kind in (name, "last"):
        path = run / CHECKPOINTS / f"{kind}.ckpt"
        if path.exists():
            if kind != name:
                print(f"{run} has no {name}.ckpt, since nothing was validated; taking {kind}.ckpt")
            return path
    raise FileNotFoundError(f"no {CHECKPOINTS}/{name}.ckpt in {run}; give the path of a checkpoint")


def resumed(args: list[str]) -> list[str]:
    """Arguments that resume a run in its folder, for arguments with ``--ckpt_path last``.

    The run's own configuration comes first, so that ``args`` override it. A run that ended before
    its first checkpoint starts again.

    Raises:
        FileNotFoundError: there is no such run.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--ckpt_path")
    parser.add_argument("--run_dir")
    known, _ = parser.parse_known_args(args)
    if known.ckpt_path not in ("last", "best"):
        return args
    run = Path(known.run_dir) if known.run_dir else _latest()
    if run is None or not (run / CONFIG).exists():
        checkpoint = find_checkpoint(known.ckpt_path, known.run_dir)
        return [*args, "--ckpt_path", str(checkpoint), "--run_dir", str(checkpoint.parent.parent)]
    if known.ckpt_path == "last" and not (run / CHECKPOINTS / "last.ckpt").exists():
        print(f"{run} has no checkpoint yet; it starts from the beginning")
        checkpoint_option = "null"
    else:
        checkpoint_option = str(find_checkpoint(known.ckpt_path, str(run)))
    config = ["--config", str(run / CONFIG)]
    return [*config, *args, "--ckpt_path", checkpoint_option, "--run_dir", str(run)]


def _latest() -> Path | None:
    """The run under ``runs`` that was active last; those of ``fit --seeds`` lie a folder deeper."""

    def active(run: Path) -> float:
        traces = (run / CONFIG, run / CHECKPOINTS / "last.ckpt")
        return max((path.stat().st_mtime for path in traces if path.exists()), default=0.0)

    runs = [run for depth in ("*", "*/*") for run in _RUNS.glob(depth) if active(run)]
    return max(runs, key=active, default=None)
