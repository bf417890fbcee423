"""The gallery's pictures are drawn, its numbers are those of the page, its neurons are right."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

for needed in ("matplotlib", "scipy", "lightning"):
    pytest.importorskip(needed)

DOCS = Path(__file__).parents[2] / "docs"


def draw(output: Path, *arguments: str) -> None:
    main = runpy.run_path(str(DOCS / "gallery.py"))["main"]
    main([*arguments, "--output", str(output)])


# ------------------------------------------------------------------------------ pages


@pytest.mark.slow
def test_the_command_prints_the_numbers_of_the_page(tmp_path, capsys):
    draw(tmp_path, "neurons", "ann_snn", "codes", "digits")
    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 3 + 1 + 3 + 2 + 7
    for row in rows:
        if "artificial" not in row:  # that one stands in the picture
            assert row in page, row
    for name in ("neurons", "ann_snn", "codes", "digits"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_every_augmentation_has_its_picture(tmp_path, capsys):
    from pictures import augmentations

    draw(tmp_path, *augmentations.PICTURES)
    page = (DOCS / "augmentation.md").read_text(encoding="utf-8")
    shown = re.findall(r"\]\((augment/\w+)\.png\)", page)
    assert sorted(shown) == sorted(augmentations.PICTURES)
    for name in shown:
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    # At the page's strengths, a tenth is dropped and the delay line loses nothing of this digit.
    before, after = map(_number, re.search(r"dropout: (\S+) .* (\S+) after", printed).groups())
    assert after / before == pytest.approx(0.9, abs=0.02)
    delayed = re.search(r"delay_line: (\S+) .* before, (\S+) on", printed)
    before, after = map(_number, delayed.groups())
    assert after == 11 * before


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def test_pages_show_pictures_that_exist_and_are_small():
    total = 0
    for png in DOCS.rglob("*.png"):
        total += png.stat().st_size
        assert png.stat().st_size < 150_000, png.name
    assert total < 1_200_000
    for page in DOCS.glob("*.md"):
        for shown in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (DOCS / shown).is_file(), f"{page.name} shows {shown}"


def test_the_options_of_the_augmentation_page_are_what_they_say(tmp_path, monkeypatch):
    from lightning_modules.run.cli import FitCLI

    monkeypatch.chdir(tmp_path)
    page = (DOCS / "augmentation.md").read_text(encoding="utf-8")
    table = re.search(r"(\| channel shift .*?)\n\n", page, re.S).group(1)
    options = [word for o in re.findall(r"`(--data\.\w+ [\d.]+)`", table) for word in o.split()]
    Path("mine.yaml").write_text(re.search(r"```yaml\n(.*?)```", page, re.S).group(1))
    data = FitCLI(["--config", "mine.yaml", *options]).datamodule
    assert [repr(a) for a in data.augmentations] == [
        "Blend(probability=0.5)", "ChannelShift(max_shift=40)", "TimeStretch(max_stretch=0.1)",
        "TimeShift(max_shift=0.02)", "EventDropout(probability=0.1)", "TimeJitter(std=0.001)",
        "ChannelJitter(std=5.0)", "ChannelJitter(std=2.0)",
    ]  # fmt: skip
    assert (data.delay_line.copies, data.delay_line.delay) == (10, 0.03)
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    names: dict = {}
    exec(code, names)
    assert len(names["batch"]) == 32 and names["batch"].times.size > 100_000


# ---------------------------------------------------------------------- neuron models


@pytest.mark.slow
def test_hodgkin_huxley_agrees_with_another_solver_and_the_equations_of_1952():
    """Runge-Kutta with a fixed step, V as the paper writes it: from rest, outside potential 0."""
    from pictures.neuron_models import HodgkinHuxley, respond
    from pictures.neurons import DURATION, PULSES

    def rates(v):
        with np.errstate(invalid="ignore"):
            a_n = 0.01 * (10 - v) / (np.exp((10 - v) / 10) - 1)
            a_m = 0.1 * (25 - v) / (np.exp((25 - v) / 10) - 1)
        a_h, b_n = 0.07 * np.exp(-v / 20), 0.125 * np.exp(-v / 80)
        b_m, b_h = 4 * np.exp(-v / 18), 1 / (np.exp((30 - v) / 10) + 1)
        return np.array([a_m, a_h, a_n]), np.array([b_m, b_h, b_n])

    def slope(x, density):
        v, (m, h, n) = x[0], x[1:]
        a, b = rates(v)
        ionic = 120 * m**3 * h * (v - 115) + 36 * n**4 * (v + 12) + 0.3 * (v - 10.613)
        return np.array([density - ionic, *(a * (1 - x[1:]) - b * x[1:])])

    a, b = rates(1e-9)
    state, dt = np.array([0.0, *(a / (a + b))]), 0.02
    assert np.abs(slope(state, 0.0)).max() < 0.01  # rests at 0
    model = HodgkinHuxley()
    assert model.rest()[0] == pytest.approx(-65.0, abs=0.02)
    voltage = np.empty(round(DURATION / dt))
    for k in range(voltage.size):
        t = (k + 0.5) * dt
        current = sum(p.current for p in PULSES if p.start <= t < p.stop) / model.capacitance
        k1 = slope(state, current)
        k2 = slope(state + dt / 2 * k1, current)
        k3 = slope(state + dt / 2 * k2, current)
        k4 = slope(state + dt * k3, current)
        state = state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        voltage[k] = state[0]
    up = np.flatnonzero((voltage[:-1] < 65) & (voltage[1:] >= 65))
    theirs = (up + 1 + (65 - voltage[up]) / (voltage[up + 1] - voltage[up])) * dt
    ours = respond(model, PULSES, DURATION).spikes
    assert ours.size == theirs.size == 16
    np.testing.assert_allclose(ours, theirs, atol=0.02)  # ms


def test_lif_neuron_fires_when_its_formula_says():
    from pictures.neuron_models import LeakyIntegrateAndFire, Pulse, respond

    model = LeakyIntegrateAndFire()
    tau, drive = model.capacitance / model.conductance, 150 / model.conductance
    gap = tau * np.log(drive / (drive - (model.peak - model.leak)))
    spikes = respond(model, [Pulse(10, 110, 150)], 120).spikes
    np.testing.assert_allclose(spikes, 10 + gap * np.arange(1, spikes.size + 1), atol=1e-4)
    assert spikes.size == int(100 / gap)


def test_izhikevich_neuron_agrees_with_small_euler_steps():
    from pictures.neuron_models import Izhikevich, Pulse, respond

    v, u, dt, theirs = -60.0, 0.0, 0.0005, []
    for k in range(round(100 / dt)):
        dv = (0.7 * (v + 60) * (v + 40) - u + 300) / 100
        v, u = v + dt * dv, u + dt * 0.03 * (-2 * (v + 60) - u)
        if v >= 35:
            theirs.append((k + 1) * dt)
            v, u = -50.0, u + 100
    ours = respond(Izhikevich(), [Pulse(0, 100, 300)], 100).spikes
    np.testing.assert_allclose(ours, theirs, atol=0.1)


# ---------------------------------------------------------------- spikes and gradients


def test_tangents_of_spike_times_match_finite_differences():
    from pictures import one_neuron

    times, slopes = one_neuron.slopes()
    w, step = one_neuron.WEIGHTS[0], 1e-6
    low, high = one_neuron.spike_times([w - step, w + step])
    np.testing.assert_allclose(slopes, (high - low) / (2 * step), rtol=1e-5)
    # The page names where a spike appears or vanishes, to 0.01.
    counts = [t.size for t in one_neuron.spike_times([0.80, 0.81, 1.0, 1.04, 1.05])]
    assert counts == [2, 3, 3, 3, 4]
    membrane = one_neuron.membrane(one_neuron.spiking_neurons(), times)
    np.testing.assert_allclose(membrane, 1.0, atol=1e-9)


def test_codes_carry_the_values():
    from pictures import codes

    x = np.linspace(0, 1, codes.BANDS)
    np.testing.assert_allclose(codes.read_times(codes.time_code(x)), x, atol=1e-12)
    draws = np.stack([codes.read_rates(codes.rate_code(x, seed)) for seed in range(400)])
    spread = np.sqrt(x / (codes.TOP_RATE * codes.WINDOW))  # of a Poisson count, over its scale
    np.testing.assert_allclose(draws.mean(0), x, atol=4.5 * spread.max() / 20)
    np.testing.assert_allclose(draws.std(0)[5:], spread[5:], rtol=0.2)


@pytest.mark.slow
def test_traces_of_a_trained_network_are_its_membranes_and_its_adjoint(tmp_path, capsys):
    """V is at the threshold at each spike; b and a are what more current and voltage would do."""
    from pictures import adjoint, trained

    checkpoint = trained.train(str(tmp_path / "run"), small=True)
    draw(tmp_path, "raster", "adjoint", "--small", "--ckpt_path", str(checkpoint))
    for name in ("raster", "adjoint"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    net = trained.load(checkpoint, small=True).showing(adjoint.SIZE)
    neuron = adjoint.neurons_to_show(net)[0]
    spikes = trained.hidden_spikes(net)
    own = trained.spikes_of(spikes, neuron)
    assert own.size >= 3
    np.testing.assert_allclose(trained.membrane_of(net, neuron, own), 1.0, atol=1e-6)

    (trace,) = trained.adjoint_of(net, [neuron])
    assert adjoint.check(net, neuron, trace) < 1e-3
    # b between the probes, and through the jumps of a, against probes there.
    between = np.linspace(0, own[-1], 40)[1:-1]
    worth = trained.worth_of_current(net, between)[neuron]
    drawn = np.interp(between, trace.times, trace.b)
    assert np.abs(drawn - worth).max() < 0.02 * np.abs(worth).max()
    # Zero weights change no spike.
    layer, events = trained.with_probes(net, between)
    with torch.no_grad():
        probed = layer(events)
    assert torch.equal(probed.units, spikes.units)
    torch.testing.assert_close(probed.times, spikes.times, rtol=0, atol=1e-9)
