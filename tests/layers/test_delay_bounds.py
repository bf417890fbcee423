"""Delays stay within [0, max_delay], whoever reads them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from snn_eventprop import EventPropLIF, SpikeEvents


@pytest.mark.parametrize("learn", [True, False])
def test_delays_that_are_read_are_those_that_act(learn):
    layer = EventPropLIF(3, 2, recurrent=True, max_delay=40e-3, learn_delays=learn)
    kept = dict(layer.named_parameters() if learn else layer.named_buffers())
    with torch.no_grad():
        for name in ("delay", "recurrent_delay"):
            kept[name].flatten()[:2] = torch.tensor([-6e-3, 46e-3])
            assert getattr(layer, name).flatten()[:2].tolist() == pytest.approx([0, 40e-3])
            assert getattr(layer, name) is kept[name]
            kept[name].flatten()[0] = 46e-3
            assert layer.state_dict()[name].max().item() == pytest.approx(40e-3)
            assert name in layer.state_dict() and (name in dict(layer.named_parameters())) == learn
    for name in ("delay", "recurrent_delay"):
        assert not hasattr(EventPropLIF(3, 2), name)
    assert not hasattr(EventPropLIF(3, 2, max_delay=1e-2), "recurrent_delay")


def test_an_optimiser_whose_momentum_leads_out_stays_within_bounds():
    layer = EventPropLIF(3, 2, max_delay=40e-3)
    torch.nn.init.constant_(layer.weight, 10.0)
    with torch.no_grad():
        layer.delay.copy_(torch.tensor([[1e-3, 20e-3, 39e-3]] * 2))
    optimiser = torch.optim.SGD([layer.delay], lr=1.0, momentum=0.9)
    events = SpikeEvents.from_list([([0.0, 0.01], [0, 2])], num_units=3, duration=0.1)
    raw = dict(layer.named_parameters())["delay"]
    left = False
    for _ in range(4):
        optimiser.zero_grad()
        layer(events).counts().sum().backward()
        layer.delay.grad.copy_(torch.tensor([[6e-3, 0.0, -6e-3]] * 2))
        optimiser.step()
        left |= bool(((raw < 0) | (raw > 40e-3)).any())
        shown = layer.delay
        assert shown is raw and shown.min() >= 0 and shown.max() <= np.float32(40e-3)
    assert left
    other = EventPropLIF(3, 2, max_delay=40e-3)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.delay, layer.delay)


def test_reading_delays_between_the_passes_changes_no_gradient():
    layer = EventPropLIF(3, 2, max_delay=40e-3)
    torch.nn.init.constant_(layer.weight, 10.0)
    with torch.no_grad():
        dict(layer.named_parameters())["delay"].fill_(-6e-3)
    events = SpikeEvents.from_list([([0.0, 0.01], [0, 2])], num_units=3, duration=0.1)
    out = layer(events)
    assert layer.delay.max() <= layer.max_delay
    out.times.sum().backward()  # would refuse a delay that was changed in place
