"""Gradients over an ensemble of inputs: the table of docs/gradients.md.

    python docs/mean_gradients.py        about a minute
"""

from __future__ import annotations

import torch

from snn_eventprop import EventPropNeuron

SCALES = (0.15, 0.4, 1.0, 3.0)
NOISES = (0.1, 0.25, 0.5, 1.0, 2.0)
SECONDS = 0.05


def weightings(dt: float) -> dict[str, torch.Tensor]:
    """Losses on spikes: what a spike in each bin adds, ``[T]``."""
    times = torch.arange(round(SECONDS / dt), dtype=torch.float64) * dt
    left = times[-1] - times
    return {
        "spike count": torch.ones_like(times),
        "spikes weighted by cos(100 t)": torch.cos(100 * times),
        "membrane of a readout in the last bin": torch.exp(-left / 20e-3) - torch.exp(-left / 5e-3),
        "mean membrane": left / SECONDS,
    }


def drives(scale: float, dt: float, samples: tuple[int, ...] = (64, 1024)) -> torch.Tensor:
    """Constant currents from random onsets on, ``[T, ...]``."""
    generator = torch.Generator().manual_seed(3)
    height = torch.randn(samples, generator=generator, dtype=torch.float64).mul(0.6).exp()
    steps = round(SECONDS / dt)
    onset = torch.rand(samples, generator=generator) * steps / 2
    return (torch.arange(steps)[:, None, None] >= onset) * height * scale * dt / 1e-3


def mean_gradient(
    current: torch.Tensor, weighting: torch.Tensor, dt: float, **options
) -> tuple[float, float]:
    """Of the mean loss with respect to a gain of all drives; and spikes per bin.

    Args:
        options: of ``EventPropNeuron``.
    """
    gain = torch.ones((), dtype=torch.float64, requires_grad=True)
    spikes = EventPropNeuron(dt=dt, dtype=torch.float64, **options)(current * gain)
    ((spikes * weighting[:, None, None]).sum() / current[0].numel()).backward()
    return gain.grad.item(), spikes.mean().item()


@torch.no_grad()
def difference(
    current: torch.Tensor, weighting: torch.Tensor, dt: float, by: float = 0.03
) -> float:
    """The same by a central difference of the mean loss."""
    neurons = EventPropNeuron(dt=dt, dtype=torch.float64)
    up, down = (
        (neurons(current * gain) * weighting[:, None, None]).sum() / current[0].numel()
        for gain in (1 + by, 1 - by)
    )
    return ((up - down) / (2 * by)).item()


def main() -> None:
    heads = ["dt", "spikes per bin", "loss", "difference", "exact"]
    print("|", " | ".join([*heads, *(f"hybrid, {noise:g}" for noise in NOISES)]), "|")
    print("|", " | ".join(["---"] * (len(heads) + len(NOISES))), "|")
    for dt in (1e-3, 0.25e-3):
        for scale in SCALES:
            current = drives(scale, dt)
            for name, weighting in weightings(dt).items():
                truth = difference(current, weighting, dt)
                exact, rate = mean_gradient(current, weighting, dt)
                row = [f"{1e3 * dt:g} ms", f"{rate:.3f}", name, f"{truth:.2f}", f"{exact:.2f}"]
                for noise in NOISES:
                    found, _ = mean_gradient(
                        current, weighting, dt, gradient="hybrid", threshold_noise=noise
                    )
                    row.append(f"{found:.2f}")
                print("|", " | ".join(row), "|")


if __name__ == "__main__":
    main()
