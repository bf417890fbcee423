"""neurons.png: LIF, Izhikevich and Hodgkin-Huxley neurons under the same current pulses."""

from __future__ import annotations

import numpy as np

from pictures import style
from pictures.neuron_models import (
    HodgkinHuxley,
    Izhikevich,
    LeakyIntegrateAndFire,
    Pulse,
    respond,
)

PULSES = [Pulse(50, 150, -100), Pulse(250, 350, 60), Pulse(450, 550, 150), Pulse(650, 750, 300)]
DURATION = 850.0  # ms
MODELS = {
    "leaky integrate-and-fire": (LeakyIntegrateAndFire(), style.BLUE),
    "Izhikevich": (Izhikevich(), style.GREEN),
    "Hodgkin-Huxley": (HodgkinHuxley(), style.RED),
}
SPIKE_HEIGHT = 20.0  # mV, top of the lines that mark spikes of the LIF neuron


def picture() -> style.Picture:
    responses = {
        name: respond(model, PULSES, DURATION) for name, (model, _) in MODELS.items()
    }
    facts = [_row(name, response.spikes) for name, response in responses.items()]
    figure = style.new_figure(8, 5.6)
    panels = figure.subplots(
        4, 2, sharex="col", sharey="row",
        gridspec_kw={"width_ratios": [5, 1.5], "height_ratios": [1, 1.7, 1.7, 1.7]},
    )  # fmt: skip
    edges = np.array([0, *(t for p in PULSES for t in (p.start, p.stop)), DURATION])
    currents = np.array([0, *(j for p in PULSES for j in (p.current, 0))])
    zoom = (448.0, 488.0)
    for side in panels[0]:
        side.stairs(currents, edges, baseline=None, color=style.INK, linewidth=1.3)
    for pulse in PULSES:
        panels[0, 0].annotate(
            f"{pulse.current:.0f} pA".replace("-", "\N{MINUS SIGN}"),
            ((pulse.start + pulse.stop) / 2, max(pulse.current, 0)), (0, 3),
            textcoords="offset points", ha="center", fontsize=8,
        )  # fmt: skip
    panels[0, 0].set(ylabel="current (pA)", ylim=(-130, 420), xlim=(0, DURATION))
    panels[0, 1].set(xlim=zoom, title="third pulse, enlarged")
    for row, (name, response) in zip(panels[1:], responses.items(), strict=True):
        color = MODELS[name][1]
        for side in row:
            side.plot(response.times, response.voltage, color=color, linewidth=1)
            if name == "leaky integrate-and-fire":
                at = response.spikes
                side.vlines(at, MODELS[name][0].peak, SPIKE_HEIGHT, color=color, linewidth=1)
            side.set(ylim=(-100, 60))
        row[0].set(ylabel="V (mV)", title=name)
    threshold = LeakyIntegrateAndFire.peak
    for side in panels[1]:
        style.threshold_line(side, threshold)
    panels[1, 0].text(3, threshold + 3, "threshold", fontsize=8, color=style.GREY)
    for side in panels[-1]:
        side.set_xlabel("time (ms)")
    return style.Picture(figure, facts)


def _row(name: str, spikes: np.ndarray) -> str:
    """Spikes from the start of each pulse to the start of the next; delay of the first one."""
    cells = []
    for pulse, later in zip(PULSES, [*PULSES[1:], Pulse(DURATION, DURATION, 0)], strict=True):
        mine = spikes[(spikes >= pulse.start) & (spikes < later.start)]
        delay = f", first after {mine[0] - pulse.start:.2f} ms" if mine.size else ""
        cells.append(f"{mine.size}{delay}")
    return f"| {name} | {' | '.join(cells)} |"
