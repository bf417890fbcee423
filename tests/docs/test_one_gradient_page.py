"""The page docs/one_gradient.md: its script runs, and prints what the page says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

DOCS = Path(__file__).parents[2] / "docs"


def test_the_script_reproduces_the_pages_numbers(tmp_path, capsys):
    page = (DOCS / "one_gradient.md").read_text(encoding="utf-8")
    runpy.run_path(str(DOCS / "one_gradient.py"))["main"](["--output", str(tmp_path / "a.png")])
    printed = capsys.readouterr().out
    assert (tmp_path / "a.png").stat().st_size > 20_000
    spikes = re.search(r"spike times \(ms\): (.*)", printed).group(1).split()
    assert len(spikes) == 5 and all(t in page for t in spikes)
    for name in ("EventProp, exact solver", "finite differences", "read off the adjoint trace"):
        values = re.search(rf"{name}(.*)", printed).group(1).split()
        assert len(values) == 3 and "| " + " | ".join(values) + " |" in page, name
    errors = [float(e) for e in re.findall(r"relative error of the grid at .*: (\S+)", printed)]
    stated = re.search(r"\| relative error \| (.*) \|", page).group(1).split(" | ")
    assert [float(e) for e in stated[:-1]] == pytest.approx(errors, rel=0.05)
    steps = [1e-3 * float(s) for s in re.findall(r"grid at +(\S+) ms", printed)]
    order = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert order == pytest.approx(1.0, abs=0.15)
    exact = float(re.search(r"error of the exact solver: (\S+)", printed).group(1))
    assert exact < 1e-8


def test_the_pages_code_runs(capsys):
    page = (DOCS / "one_gradient.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    exec(compile(code, "one_gradient.md", "exec"), {})
    printed = re.search(r"tensor\(\[\[(.*?)\]\]", capsys.readouterr().out).group(1)
    in_ms = re.search(r"solver=\"exact\"` \| (.*) \|", page).group(1).split(" | ")
    seconds = [1e-3 * float(value) for value in in_ms]
    assert [float(value) for value in printed.split(", ")] == pytest.approx(seconds, abs=6e-5)
