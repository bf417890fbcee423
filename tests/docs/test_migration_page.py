"""The examples of the migration page run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("snntorch")
pytest.importorskip("norse")
pytest.importorskip("nir")


def test_every_example_of_the_migration_page_runs():
    page = (Path(__file__).parents[2] / "docs" / "migration.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(blocks) == 6
    exec("\n".join(blocks), {})
