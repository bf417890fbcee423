"""Means, standard deviations, tables and curves of runs that differ in a seed or a fold."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.table import Table

from lightning_modules.run.atomic_files import whole_file, write_json
from lightning_modules.run.summary import console
from lightning_modules.studies.finished_runs import Run, band, by_epoch


class _Spread(NamedTuple):
    """Mean and standard deviation (of the sample, with n - 1; of one value: None)."""

    mean: float
    std: float | None

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + (f" ± {self.std:.3f}" if self.std is not None else "")


def spread(values: Sequence[float]) -> _Spread:
    """Of at least one value."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return _Spread(statistics.mean(values), std)


def spreads(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Of every number that all runs report, by name."""
    numbers = [
        {k: v for k, v in one.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
        for one in results
    ]
    common = [name for name in numbers[0] if all(name in one for one in numbers)]
    return {name: spread([one[name] for one in numbers])._asdict() for name in common}


def validation_curves(groups: Mapping[str, Sequence[Run]], marks: Mapping[str, int]) -> Figure:
    """Validation accuracy over epochs.

    Args:
        groups: runs by label; drawn as their mean, and a band from lowest to highest.
        marks: by label: an epoch (from 1) to mark.
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for number, (label, runs) in enumerate(groups.items()):
        epochs, values = by_epoch(runs, "val/accuracy")
        if not values.size:
            continue
        band(axes, epochs, values, label, number, alpha=0.15)
        if label in marks:
            axes.axvline(marks[label], color=f"C{number}", linestyle=":", linewidth=1)
    axes.set(xlabel="epoch", ylabel="validation accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize="small")
    return figure


def write_summary(
    folder: Path, stem: str, values: Mapping[str, Any], tables: Mapping[str, Table], text: str,
    figure: Figure,
) -> None:  # fmt: skip
    """``stem.json``, ``stem.md`` and ``stem.png`` in ``folder``; the tables are printed as well."""
    write_json(folder / f"{stem}.json", values)
    page = [text]
    for title, table in tables.items():
        page += ["", f"## {title}", "", *_markdown(table)]
        console.print(table)
    with whole_file(folder / f"{stem}.md") as partial:
        partial.write_text("\n".join([*page, "", f"![{stem}]({stem}.png)", ""]), encoding="utf-8")
    with whole_file(folder / f"{stem}.png") as partial:
        figure.savefig(partial, dpi=120, format="png")
    print(f"{stem}.json, {stem}.md and {stem}.png: {folder}")


def _markdown(table: Table) -> list[str]:
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    lines = ["| " + " | ".join(str(column.header) for column in table.columns) + " |"]
    lines.append("| " + " | ".join("---" for _ in columns) + " |")
    return lines + ["| " + " | ".join(row) + " |" for row in zip(*columns, strict=True)]
