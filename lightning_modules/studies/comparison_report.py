"""Runs of several methods side by side: table, figures, report."""

from __future__ import annotations

import base64
import csv
import html
import shlex
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from rich.table import Table

from lightning_modules.studies.finished_runs import Run, band, by_epoch

_SIMILARITY = "similarity/"


class _Column(NamedTuple):
    """A column of the table: the mean over seeds and, with ``spread``, the standard deviation."""

    title: str
    metric: str
    form: str
    spread: bool = False


_COLUMNS = (
    _Column("test accuracy", "test/accuracy", ".3f", True),
    _Column("speakers of the training file", "test/accuracy_seen", ".3f", True),
    _Column("never heard", "test/accuracy_unseen", ".3f", True),
    _Column("spikes/neuron", "test/spikes_per_neuron_0", ".1f"),
    _Column("samples/s", "samples_per_s", ",.0f"),
    _Column("training s", "seconds", ",.0f"),
    _Column("peak MiB", "peak_memory_mib", ",.0f"),
)


MEASURED = (
    "Training s: all epochs with loading, validation and checkpoints, without start, compilation "
    "and the comparison of gradients. Peak MiB: the whole process, with that comparison "
    "(--similarity 0 leaves it out)."
)


def _by_label(runs: Iterable[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.label, []).append(run)
    return groups


def cells(group: Sequence[Run]) -> list[str]:
    """A row of the table: the results of one method's runs."""
    found = []
    for column in _COLUMNS:
        values = [run.results[column.metric] for run in group if column.metric in run.results]
        if not values:
            found.append("")
            continue
        text = format(statistics.mean(values), column.form)
        if column.spread and len(values) > 1:
            text += f" ± {statistics.stdev(values):{column.form}}"
        found.append(text)
    return found


def table(runs: Sequence[Run]) -> Table:
    made = Table("method", "seeds", *(column.title for column in _COLUMNS))
    for label, group in _by_label(runs).items():
        made.add_row(label, str(len(group)), *cells(group))
    return made


def curves(runs: Sequence[Run]) -> Figure:
    """Validation accuracy over epochs and seconds, and what a method costs."""
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    (over_epochs, over_time, spikes), bars = figure.subplots(2, 3)
    groups = _by_label(runs)
    for number, (label, group) in enumerate(groups.items()):
        for axes, name in ((over_epochs, "val/accuracy"), (spikes, "train/spikes_per_neuron_0")):
            band(axes, *by_epoch(group, name), label, number)
        epochs, accuracies = by_epoch(group, "val/accuracy")
        every, seconds = by_epoch(group, "seconds")
        band(over_time, seconds[:, np.isin(every, epochs)].mean(0), accuracies, label, number)
    over_epochs.set(xlabel="epoch", ylabel="validation accuracy")
    over_time.set(xlabel="training time (s)", ylabel="validation accuracy")
    low, high = over_time.dataLim.intervalx
    if low > 0 and high > 10 * low:
        over_time.set_xscale("log")
        over_time.xaxis.set_minor_formatter(NullFormatter())  # 2, 3, ... would overlap
    else:  # within a decade, labels of a logarithmic axis would overlap
        over_time.set_xlim(left=0)
    spikes.set(xlabel="epoch", ylabel="spikes per neuron")
    over_epochs.legend(fontsize="small")
    for axes, title, metric in zip(
        bars, ("samples/s", "peak memory (MiB)", "test accuracy"),
        ("samples_per_s", "peak_memory_mib", "test/accuracy"), strict=True,
    ):  # fmt: skip
        means = [
            statistics.mean(run.results.get(metric, 0.0) for run in group)
            for group in groups.values()
        ]
        axes.barh(list(groups), means, color=[f"C{i}" for i in range(len(groups))])
        axes.set_xlim(left=0)
        axes.invert_yaxis()
        axes.set_xlabel(title)
    for axes in (over_epochs, over_time):
        axes.set_ylim(bottom=0)
    for axes in (over_epochs, spikes):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (over_epochs, over_time, spikes):
        axes.grid(alpha=0.3)
    return figure


def similarity(runs: Sequence[Run]) -> Figure | None:
    """Cosine of each parameter's gradient with the exact one over training; None: not logged."""
    groups = _by_label(runs)
    names = sorted({
        name for run in runs for row in run.rows() for name in row if name.startswith(_SIMILARITY)
    })  # fmt: skip
    if not names:
        return None
    figure = Figure(figsize=(3.6 * len(names), 3.2), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for number, (label, group) in enumerate(groups.items()):
            band(axes, *by_epoch(group, name), label, number)
        axes.set(title=name.removeprefix(_SIMILARITY), xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.axhline(0, color="k", linewidth=0.5)
        axes.grid(alpha=0.3)
    lowest = min(axes.dataLim.y0 for axes in panels)  # of the panels' shared axis
    panels[0].set_ylim(min(-0.25, lowest - 0.05), 1.05)
    panels[0].set_ylabel("cosine with the exact gradient")
    panels[0].legend(fontsize="small")
    return figure


def write_report(runs: Sequence[Run], folder: Path, options: Sequence[str]) -> Table:
    """``report.html`` (everything in one file), ``compare.csv`` and PNG figures in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "compare.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "seed", *(column.metric for column in _COLUMNS)])
        for run in runs:
            values = [run.results.get(column.metric, "") for column in _COLUMNS]
            writer.writerow([run.label, run.seed, *values])
    pictures = {"compare": curves(runs), "similarity": similarity(runs)}
    body = [_html_table(runs)]
    for name, figure in pictures.items():
        if figure is None:
            continue
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=120)
        encoded = base64.b64encode(path.read_bytes()).decode()
        body.append(f'<p><img alt="{name}" src="data:image/png;base64,{encoded}"></p>')
    said = html.escape(shlex.join(options))
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Training methods</title>'
        "<style>body{font:15px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:right}"
        "td:first-child,th:first-child{text-align:left}img{max-width:100%}</style>"
        "<h1>Training methods on one network</h1><p>Mean over seeds ± standard deviation; bands in "
        f"figures are from the lowest to the highest seed. {MEASURED} Options: <code>{said}</code>"
        "</p>"
    )
    (folder / "report.html").write_text(page + "".join(body) + "</html>\n", encoding="utf-8")
    return table(runs)


def _html_table(runs: Sequence[Run]) -> str:
    head = ["method", "seeds", *(column.title for column in _COLUMNS)]
    lines = ["".join(f"<th>{html.escape(title)}</th>" for title in head)]
    for label, group in _by_label(runs).items():
        row = [label, str(len(group)), *cells(group)]
        lines.append("".join(f"<td>{html.escape(cell)}</td>" for cell in row))
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
