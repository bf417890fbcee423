"""Several runs of fit, one after the other, that can be killed at any time and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lightning_modules.run.atomic_files import write_json
from lightning_modules.run.folder import CHECKPOINTS, RESULTS
from lightning_modules.run.summary import console

FIT = (sys.executable, "-m", "lightning_modules.fit")


class RunFailed(RuntimeError):
    """A run ended with an error; the message holds the end of its log."""


class Job(NamedTuple):
    """One run: its name in progress and errors, its folder, and the options of fit."""

    name: str
    folder: Path
    options: Sequence[str]


def finished(jobs: Sequence[Job]) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Each job with its results, in order: trained now, resumed, or found complete.

    Raises:
        SystemExit: a run failed (with the end of its log), Ctrl-C was pressed (the run under way
            leaves a checkpoint first), or a folder holds a run with other options.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(12), MofNCompleteColumn(), TimeElapsedColumn()
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(jobs))
        for number, job in enumerate(jobs, 1):
            progress.update(task, description=job.name)
            if not (job.folder / RESULTS).exists():
                if not console.is_terminal:
                    print(f"{job.name} ({number}/{len(jobs)}): {job.folder}/log.txt", flush=True)
                try:
                    for epoch in _train(job):
                        progress.update(task, description=f"{job.name}, epoch {epoch}")
                except RunFailed as error:
                    sys.exit(f"error: {error}")
            _same_options(job)
            progress.advance(task)
            yield job, json.loads((job.folder / RESULTS).read_text(encoding="utf-8"))


def _train(job: Job) -> Iterator[int]:
    """Run or resume fit; its output goes to ``log.txt``. Yields the current epoch."""
    job.folder.mkdir(parents=True, exist_ok=True)
    with alone(job.folder) as lock:
        if (job.folder / RESULTS).exists():  # trained by the process that held the lock
            return
        _same_options(job)
        write_json(job.folder / "options.json", {"options": list(job.options)})
        going_on = (job.folder / CHECKPOINTS / "last.ckpt").exists()
        options = ["--ckpt_path", "last"] if going_on else job.options
        yield from follow([*FIT, *options, "--run_dir", str(job.folder)], job, lock)


def follow(
    command: Sequence[str], job: Job, lock: int | None, environment: Mapping[str, str] | None = None
) -> Generator[int, None, None]:
    """Run a command with its output in the job's ``log.txt``; yields the epoch now and then.

    Closing the iterator ends the run as an agent of W&B would: by SIGTERM, and by SIGKILL if it is
    still there after 30 s.

    Raises:
        RunFailed: the command ended with an error.
        SystemExit: Ctrl-C, or the run itself received SIGTERM.
    """
    with (job.folder / "log.txt").open("a", encoding="utf-8") as log:
        # The run inherits the lock and holds it even if this process is killed.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            pass_fds=() if lock is None else (lock,),
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
        try:
            while process.poll() is None:
                yield _epochs(job.folder)
                try:
                    process.wait(timeout=0.5)
                except subprocess.TimeoutExpired:
                    pass
        except KeyboardInterrupt:
            process.wait()  # the run got the same Ctrl-C and is saving a checkpoint
            sys.exit(_stopped(job))
        except GeneratorExit:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
    if process.returncode:
        tail = (job.folder / "log.txt").read_text(encoding="utf-8").splitlines()[-5:]
        raise RunFailed("\n".join([f"{job.name}: {job.folder}/log.txt ends with", *tail]))
    if not (job.folder / RESULTS).exists():
        sys.exit(_stopped(job))


@contextmanager
def alone(folder: Path) -> Iterator[int | None]:
    """Wait until no other process trains in this folder; yields the lock, to be inherited."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield None
        return
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process is training in {folder}; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _stopped(job: Job) -> str:
    return f"stopped at {job.name}; the same command resumes there"


def _same_options(job: Job) -> None:
    path = job.folder / "options.json"
    if not path.exists():
        return
    before = json.loads(path.read_text(encoding="utf-8"))["options"]
    if before != list(job.options):
        sys.exit(
            f"error: {job.folder} holds a run with other options ({' '.join(before)}); these are "
            f"{' '.join(job.options)}. Name another folder, or remove that one"
        )


def _epochs(folder: Path) -> int:
    try:
        return len((folder / "metrics.csv").read_text(encoding="utf-8").splitlines()) or 1
    except FileNotFoundError:
        return 1
