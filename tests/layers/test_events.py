"""SpikeEvents: what goes in comes out, and what cannot go in is named."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from support.event_cases import same, three_samples

from snn_eventprop import EventPropLIF, SpikeEvents

# Construction


def test_from_list_sorts_each_sample_and_keeps_pairs():
    events = three_samples()
    assert events.times.tolist() == pytest.approx([0.001, 0.002, 0.003])
    assert events.units.tolist() == [1, 0, 2]
    assert events.offsets.tolist() == [0, 2, 3, 3]
    assert (len(events), events.num_units, events.duration) == (3, 3, 0.01)


def test_events_of_one_time_keep_their_order():
    events = SpikeEvents.from_list([([0.1] * 4, [3, 0, 2, 1])], num_units=4, duration=1.0)
    assert events.units.tolist() == [3, 0, 2, 1]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("units", [np.uint8, np.uint16, np.int32, np.int64])
def test_arrays_of_any_precision_will_do(kind, units):
    pair = (np.array([0.5, 0.25], kind), np.array([2, 1], units))
    for outside in ("raise", "drop"):
        events = SpikeEvents.from_list([pair], num_units=3, duration=1.0, outside=outside)
        assert events.times.tolist() == [0.25, 0.5] and events.units.tolist() == [1, 2]
        assert events.units.dtype == torch.int64 and events.times.dtype == torch.float32


def test_packed_units_of_any_integer_type_will_do():
    for kind in (torch.uint8, torch.int16, torch.uint16, torch.int32):
        events = SpikeEvents(
            torch.tensor([0.1]), torch.tensor([2], dtype=kind),
            torch.tensor([0, 1], dtype=torch.int32), num_units=3, duration=1.0,
        )  # fmt: skip
        assert events.units.dtype == events.offsets.dtype == torch.int64
    with pytest.raises(ValueError, match=r"0\.\.1 .*got 2"):
        SpikeEvents(torch.tensor([0.1]), torch.tensor([2], dtype=torch.uint16),
                    torch.tensor([0, 1]), num_units=2, duration=1.0)  # fmt: skip


def test_times_keep_their_gradient_through_from_list():
    times = torch.tensor([0.3, 0.1], requires_grad=True)
    events = SpikeEvents.from_list([(times, [0, 1])], num_units=2, duration=1.0)
    (events.times * torch.tensor([1.0, 2.0])).sum().backward()
    assert times.grad.tolist() == [2.0, 1.0]  # the earlier one comes first


def test_empty_batch_and_empty_samples():
    none = SpikeEvents.from_list([], num_units=2, duration=0.01)
    assert len(none) == 0 and none.to_dense(1e-3).shape == (10, 0, 2)
    assert none.counts().shape == (0, 2) and list(none) == []
    silent = SpikeEvents.from_list([([], []), ([], [])], num_units=2, duration=0.01)
    assert silent.to_dense(1e-3).sum() == 0 and silent.counts().tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    "change,error,words",
    [
        ({"times": torch.tensor([1, 2, 3])}, TypeError, "times must be floating point.*int64"),
        ({"times": [0.1, 0.2, 0.3]}, TypeError, "times must be a tensor, got list.*from_list"),
        ({"units": torch.tensor([0.0, 1.0, 0.0])}, TypeError, "units must be integers.*float32"),
        ({"units": torch.tensor([True, False, True])}, TypeError, "units must be integers.*bool"),
        ({"offsets": torch.tensor([0.0, 3.0])}, TypeError, "offsets must be integers.*float32"),
        ({"times": torch.zeros(1, 3)}, ValueError, r"1-d and of one length.*\(1, 3\).*\(3,\)"),
        ({"units": torch.tensor([0, 1])}, ValueError, r"of one length.*\(3,\).*\(2,\)"),
        ({"units": torch.tensor([0, 1, 2])}, ValueError, r"0\.\.1 \(num_units=2\), got 2"),
        ({"units": torch.tensor([0, -1, 1])}, ValueError, r"0\.\.1 .*got -1"),
        ({"offsets": torch.tensor([0, 2])}, ValueError, r"number of events \(3\), got 0\.\.2"),
        ({"offsets": torch.tensor([1, 3])}, ValueError, r"ascend from 0.*got 1\.\.3"),
        ({"offsets": torch.tensor([0, 2, 1, 3])}, ValueError, "must ascend"),
        ({"offsets": torch.tensor([], dtype=torch.long)}, ValueError, r"B \+ 1 entries"),
        ({"offsets": torch.tensor([[0, 3]])}, ValueError, r"B \+ 1 entries.*\(1, 2\)"),
        ({"times": torch.tensor([0.3, 0.2, 0.4])}, ValueError, "times must ascend.*from_list"),
        ({"times": torch.tensor([-0.1, 0.2, 0.4])}, ValueError, r"duration=1\.0.*got -0\.1.*drop"),
        ({"times": torch.tensor([0.1, 0.2, 1.5])}, ValueError, r"got 1\.5; crop"),
        ({"times": torch.tensor([0.1, 0.2, torch.nan])}, ValueError, "times contain NaN"),
        ({"times": torch.tensor([0.1, 0.2, torch.inf])}, ValueError, "infinite"),
        ({"num_units": 0}, ValueError, "num_units must be.*at least 1, got 0"),
        ({"num_units": 2.5}, ValueError, r"num_units must be an integer.*2\.5"),
        ({"num_units": None}, ValueError, "num_units must be an integer.*None"),
        ({"duration": "1"}, TypeError, "duration must be a time in seconds, got '1'"),
        ({"duration": 0.0}, ValueError, r"duration must be a positive time.*got 0\.0"),
        ({"duration": -1}, ValueError, "duration must be a positive time.*got -1"),
        ({"duration": torch.nan}, ValueError, "duration must be a positive time.*got nan"),
        ({"marks": torch.ones(2)}, ValueError, r"marks must have shape \(3,\)"),
        ({"units": torch.zeros(3, dtype=torch.long, device="meta")}, ValueError,
         "units is on meta but times is on cpu"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else None,
)  # fmt: skip
def test_bad_arguments_are_named(change, error, words):
    good = {
        "times": torch.tensor([0.1, 0.2, 0.4]), "units": torch.tensor([0, 1, 0]),
        "offsets": torch.tensor([0, 3]), "num_units": 2, "duration": 1.0,
    }  # fmt: skip
    SpikeEvents(**good)
    with pytest.raises(error, match=words):
        SpikeEvents(**{**good, **change})


def test_order_is_asked_for_within_samples_only():
    packed = {"units": torch.tensor([0, 0, 0]), "num_units": 1, "duration": 1.0}
    times = torch.tensor([0.5, 0.1, 0.2])
    SpikeEvents(times, offsets=torch.tensor([0, 1, 3]), **packed)
    SpikeEvents(times, offsets=torch.tensor([0, 0, 1, 1, 3, 3]), **packed)
    with pytest.raises(ValueError, match="ascend"):
        SpikeEvents(times, offsets=torch.tensor([0, 2, 3]), **packed)


def test_bad_samples_are_named_by_their_index():
    with pytest.raises(TypeError, match=r"sample 1: units must be integers.*float32"):
        SpikeEvents.from_list([([], []), ([0.1], [1.0])], num_units=2, duration=1.0)
    with pytest.raises(ValueError, match="sample 0: 2 times but 1 units"):
        SpikeEvents.from_list([([0.1, 0.2], [1])], num_units=2, duration=1.0)
    with pytest.raises(ValueError, match="outside must be 'raise' or 'drop', got 'crop'"):
        SpikeEvents.from_list([], num_units=2, duration=1.0, outside="crop")


# Events outside the duration


def test_events_outside_the_duration_raise_or_are_dropped():
    pair = ([-0.1, 0.2, 1.7, 1.0], [0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"\[0, duration=1.0\].*got -0.1"):
        SpikeEvents.from_list([pair], num_units=4, duration=1.0)
    kept = SpikeEvents.from_list([pair], num_units=4, duration=1.0, outside="drop")
    assert kept.units.tolist() == [1, 3]


def test_dropping_does_not_hide_nan():
    with pytest.raises(ValueError, match="NaN"):
        SpikeEvents.from_list([([torch.nan], [0])], num_units=1, duration=1.0, outside="drop")


def test_an_event_at_the_very_end_falls_in_the_last_bin():
    events = SpikeEvents.from_list([([1.0], [0])], num_units=1, duration=1.0)
    assert events.to_dense(0.1)[:, 0, 0].tolist() == [0] * 9 + [1]
    layer = EventPropLIF(1, 1, dt=0.1)
    with torch.no_grad():
        layer.weight.fill_(1e3)
    assert layer(events).times.tolist() == pytest.approx([0.9])


# Choosing samples, moving, copying


@pytest.mark.parametrize(
    "index,chosen",
    [
        (1, [1]), (-1, [2]), (np.int64(1), [1]), (torch.tensor(0), [0]),
        (slice(1, None), [1, 2]), (slice(None, None, -1), [2, 1, 0]), (slice(5, 9), []),
        ([2, 0, 0], [2, 0, 0]), ([-1, -3], [2, 0]), ([], []), (range(2), [0, 1]),
        (torch.tensor([1, 0]), [1, 0]), (np.array([2]), [2]),
        (torch.tensor([True, False, True]), [0, 2]), (np.array([False] * 3), []),
    ],
    ids=str,
)  # fmt: skip
def test_samples_are_chosen_as_a_tensor_chooses_rows(index, chosen):
    events = three_samples()
    part = events[index]
    assert isinstance(part, SpikeEvents) and len(part) == len(chosen)
    assert torch.equal(part.to_dense(1e-3), events.to_dense(1e-3)[:, chosen])
    assert (part.num_units, part.duration) == (3, 0.01)


@pytest.mark.parametrize(
    "index,error",
    [(3, IndexError), (-4, IndexError), ([0, 3], IndexError), ([-4], IndexError),
     (torch.tensor([True, False]), IndexError), (1.5, TypeError), ("a", TypeError),
     (None, TypeError), ([None], TypeError), ([[0], [1, 2]], TypeError), (1j, TypeError)],
    ids=str,
)  # fmt: skip
def test_samples_that_are_not_there_raise(index, error):
    with pytest.raises(error, match="samples"):
        three_samples()[index]


def test_slices_carry_gradients_and_marks():
    layer = EventPropLIF(3, 2)
    with torch.no_grad():
        layer.weight.fill_(20.0)
    out = layer(three_samples())[1:2]
    assert out.times.numel() > 0
    assert out.times.requires_grad and out.counts().requires_grad
    out.times.sum().backward()
    assert layer.weight.grad[:, 2].abs().sum() > 0 and layer.weight.grad[:, :2].abs().sum() == 0


def test_to_casts_times_alone():
    double = three_samples().to(torch.float64)
    assert (double.dtype, double.units.dtype) == (torch.float64, torch.int64)
    assert three_samples().to("meta").units.device.type == "meta"
    assert same(three_samples().to("cpu"), three_samples())


def test_copies_are_equal_and_iteration_ends():
    events = three_samples()
    assert same(pickle.loads(pickle.dumps(events)), events)
    assert same(copy.deepcopy(events), events)
    assert [s.times.numel() for s in events] == [2, 1, 0]


def test_repr_tells_what_is_inside():
    shown = repr(three_samples(torch.float64))
    assert shown == "SpikeEvents(3 samples, 3 events, 3 units, 0.01 s, float64, cpu)"


def test_detach_cuts_the_history():
    layer = EventPropLIF(3, 2)
    with torch.no_grad():
        layer.weight.fill_(20.0)
    out = layer(three_samples()).detach()
    assert not out.times.requires_grad and not out.counts().requires_grad


# Straight-through counts


def test_count_gradient_is_the_same_at_each_own_spike():
    """dR/dcount is added to dL/dV at each spike, and nothing else is.

    Of one input spike and one output spike in the same bin, dL/dw = c dL/dV, c = dV/dw.
    """
    layer = EventPropLIF(1, 2, dt=1e-3, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[30.0], [40.0]]))
    events = SpikeEvents.from_list([([0.004], [0])], num_units=1, duration=0.005)
    counts = layer(events.to(torch.float64)).counts()
    assert counts.tolist() == [[1.0, 1.0]]
    (counts * torch.tensor([[2.0, -3.0]])).sum().backward()
    s, m = np.exp(-1 / 5), np.exp(-1 / 20)
    c = 5 / (5 - 20) * (s - m)
    assert layer.weight.grad[:, 0].tolist() == pytest.approx([2 * c, -3 * c], rel=1e-12)


def test_counts_of_plain_events_have_no_gradient():
    events = three_samples()
    events.times.requires_grad_()
    assert not events.counts().requires_grad


def test_batches_are_put_together():
    one = SpikeEvents.from_list([([0.1, 0.2], [0, 1]), ([], [])], num_units=2, duration=1.0)
    marked = one[:1]
    marked.marks = torch.ones(2, requires_grad=True)
    both = SpikeEvents.cat([one, marked, one[:0]])
    assert len(both) == 3 and both.offsets.tolist() == [0, 2, 2, 4]
    assert torch.equal(both.counts(), torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]))
    assert both.counts().requires_grad and SpikeEvents.cat([one, one]).marks is None
    loader = torch.utils.data.DataLoader(
        [one[0], one[1], one[0]], batch_size=2, collate_fn=SpikeEvents.cat
    )
    assert [len(batch) for batch in loader] == [2, 1]


def test_batches_that_do_not_fit_together_are_named():
    one = SpikeEvents.from_list([([0.1], [0])], num_units=2, duration=1.0)
    with pytest.raises(ValueError, match="no batches"):
        SpikeEvents.cat([])
    other = SpikeEvents.from_list([([0.1], [0])], num_units=3, duration=1.0)
    with pytest.raises(ValueError, match="one num_units, got 2 in batch 0 and 3 in batch 1"):
        SpikeEvents.cat([one, other])
    with pytest.raises(ValueError, match="one device, got cpu in batch 0 and meta in batch 1"):
        SpikeEvents.cat([one, one.to("meta")])
    for wrong in (one, 3):
        with pytest.raises(TypeError, match="batches must be several SpikeEvents, got"):
            SpikeEvents.cat(wrong)
    with pytest.raises(TypeError, match="must hold SpikeEvents, got Tensor as batch 1"):
        SpikeEvents.cat(iter([one, torch.zeros(3)]))
    assert len(SpikeEvents.cat(batch for batch in (one, one))) == 2


def test_one_sample_without_its_list_is_named():
    with pytest.raises(TypeError, match=r"sample 0 must be a pair of lists.*\[\(times, units\)\]"):
        SpikeEvents.from_list(([0.1, 0.2], [0, 1]), num_units=2, duration=1.0)


def test_torch_load_reads_what_torch_save_wrote(tmp_path):
    events = SpikeEvents.from_list([([0.1], [0])], num_units=2, duration=1.0)
    torch.save(events, tmp_path / "events.pt")
    read = torch.load(tmp_path / "events.pt", weights_only=True)
    assert torch.equal(read.times, events.times) and read.duration == 1.0
