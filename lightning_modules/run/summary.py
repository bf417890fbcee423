"""The final summary of a run, the console it is printed on, and the memory of the process."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import torch
from rich.console import Console
from rich.table import Table

console = Console()

_ROWS = (
    ("accuracy, test", "test/accuracy", "{:.3f}"),
    ("accuracy, speakers of the training file", "test/accuracy_seen", "{:.3f}"),
    ("accuracy, speakers never heard", "test/accuracy_unseen", "{:.3f}"),
    ("accuracy, validation", "val/accuracy", "{:.3f}"),
    ("loss, test", "test/loss", "{:.3f}"),
)


def summary(results: Mapping[str, float], title: str, caption: str | None = None) -> Table:
    """A table of the results of a test, and of the training before it.

    Args:
        results: metrics by name, as ``SpikingClassifier`` logs them; absent ones are left out.
        title: heading of the table.
        caption: a line below it.
    """
    table = Table(title=title, caption=caption, show_header=False)
    for label, name, form in _ROWS:
        if name in results:
            table.add_row(label, form.format(results[name]))
    for name, value in results.items():
        stem, _, layer = name.rpartition("_")
        if stem == "test/spikes_per_neuron":
            table.add_row(f"spikes per neuron and sample, hidden layer {layer}", f"{value:.1f}")
        if stem == "test/silent_share":
            table.add_row(f"silent neurons, hidden layer {layer}", f"{value:.1%}")
    if "samples_per_s" in results:
        table.add_row("training samples/s", f"{results['samples_per_s']:,.0f}")
    table.add_row("peak memory of the process", f"{_peak_memory() / 2**20:,.0f} MiB")
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        table.add_row(
            "peak memory on the GPU", f"{torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB"
        )
    return table


def memory() -> dict[str, float]:
    """Largest memory of this process so far in MiB: ``peak_memory_mib`` and, where a GPU is used,
    ``peak_gpu_memory_mib``."""
    found = {"peak_memory_mib": _peak_memory() / 2**20}
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        found["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def _peak_memory() -> int:
    """Largest resident size of this process so far, in bytes; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
