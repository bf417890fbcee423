"""The page docs/your_own_task.md: its code runs from top to bottom, and the network learns."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

PAGE = Path(__file__).parents[2] / "docs" / "your_own_task.md"


def test_the_pages_code_runs_and_its_network_learns(own_folder, capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    assert len(blocks) == 6
    names: dict = {}
    exec(compile("\n".join(blocks), PAGE.name, "exec"), names)
    assert names["accuracy"] > 0.8  # chance: 1/3
    assert (own_folder / "one_recording.png").stat().st_size > 10_000
    # A trace in bins of 1 ms is not the closed form, but the loss of both is nearly the same.
    assert names["by_trace"].item() == pytest.approx(names["in_closed_form"].item(), rel=0.1)
    assert "% silent" in capsys.readouterr().out


def test_a_spike_lifts_the_membrane_as_far_as_the_page_says():
    stated = float(re.search(r"lifts V by at most (\S+) w", PAGE.read_text("utf-8")).group(1))
    t = np.linspace(0, 0.1, 100_001)
    psp = 5 / (5 - 20) * (np.exp(-t / 5e-3) - np.exp(-t / 20e-3))
    assert psp.max() == pytest.approx(stated, abs=0.005)
