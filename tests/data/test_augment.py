"""Each augmentation does what it says, and nothing else."""

from __future__ import annotations

import copy

import numpy as np
import pytest

pytest.importorskip("h5py")

from lightning_modules.data import event_kernels
from lightning_modules.data.augment import (
    Augmentation,
    Blend,
    ChannelJitter,
    ChannelShift,
    DelayLine,
    EventDropout,
    TimeJitter,
    TimeShift,
    TimeStretch,
)
from lightning_modules.data.spike_arrays import PackedSpikes, SamplePool

UNITS, DURATION = 100, 1.0
EVERY = [
    ChannelShift(30), Blend(1.0), TimeStretch(0.3), TimeShift(0.2), EventDropout(0.3),
    TimeJitter(0.05), ChannelJitter(10.0),
]


def make_pool(samples=40, events=50, seed=0, times=None, units=None):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 2 * events, samples, endpoint=True)
    counts[0] = 0
    offsets = np.concatenate([[0], np.cumsum(counts)])
    times = times or (lambda n: rng.uniform(0, DURATION, n))
    units = units or (lambda n: rng.integers(0, UNITS, n))
    packed = PackedSpikes(
        np.concatenate([np.sort(times(n)).astype(np.float32) for n in counts]),
        np.concatenate([units(n) for n in counts]).astype(np.uint16),
        offsets, np.arange(samples) % 4, np.arange(samples) % 3, tuple("abcd"),
    )
    return SamplePool(packed, np.arange(samples))


def batch_of(pool, indices=None):
    indices = pool.indices if indices is None else np.asarray(indices)
    return pool.packed.gather(indices, UNITS, DURATION, pool)


def sample(events, b):
    part = slice(events.offsets[b], events.offsets[b + 1])
    return events.times[part], events.units[part]


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("augmentation", EVERY, ids=repr)
def test_result_is_a_valid_batch_and_the_input_is_untouched(augmentation: Augmentation):
    events = batch_of(make_pool())
    before = copy.deepcopy((events.times, events.units, events.offsets))
    result = augmentation(events, rng())
    for one, other in zip(before, (events.times, events.units, events.offsets), strict=True):
        np.testing.assert_array_equal(one, other)
    assert result.times.dtype == np.float32 and result.units.dtype == np.int64
    assert result.offsets[0] == 0 and result.offsets[-1] == result.times.size == result.units.size
    assert (np.diff(result.offsets) >= 0).all() and len(result) == len(events)
    assert ((result.times >= 0) & (result.times < DURATION)).all()
    assert ((result.units >= 0) & (result.units < UNITS)).all()
    for b in range(len(result)):
        assert (np.diff(sample(result, b)[0]) >= 0).all()
    np.testing.assert_array_equal(result.labels, events.labels)


@pytest.mark.parametrize("augmentation", EVERY, ids=repr)
def test_same_random_numbers_same_result(augmentation):
    one, two, other = (augmentation(batch_of(make_pool()), rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.times, two.times)
    np.testing.assert_array_equal(one.units, two.units)
    assert one.times.tolist() != other.times.tolist() or one.units.tolist() != other.units.tolist()


@pytest.mark.parametrize("augmentation", [
    ChannelShift(0), Blend(0.0), TimeStretch(0.0), TimeShift(0.0), EventDropout(0.0),
    TimeJitter(0.0), ChannelJitter(0.0),
], ids=repr)
def test_strength_zero_changes_nothing(augmentation):
    events = batch_of(make_pool())
    result = augmentation(events, rng())
    np.testing.assert_array_equal(result.times, events.times)
    np.testing.assert_array_equal(result.units, events.units)
    np.testing.assert_array_equal(result.offsets, events.offsets)


def test_shift_moves_a_whole_sample_and_keeps_the_times_of_what_stays():
    events = batch_of(make_pool())
    result = ChannelShift(30)(events, rng())
    shifts = []
    for b in range(1, len(events)):
        times, units = sample(events, b)
        candidates = []
        for shift in range(-30, 31):
            stays = (units + shift >= 0) & (units + shift < UNITS)
            if np.array_equal(units[stays] + shift, sample(result, b)[1]) and np.array_equal(
                times[stays], sample(result, b)[0]
            ):
                candidates.append(shift)
        assert candidates
        shifts.append(candidates[0])
    assert len(set(shifts)) > 20  # one of its own for each sample


def test_shift_is_uniform_on_its_range():
    pool = make_pool(3000, events=1, units=lambda n: np.full(n, 50))
    result = ChannelShift(3)(batch_of(pool), rng())
    first = result.offsets[:-1][result.counts > 0]
    drawn = np.bincount(result.units[first] - 47, minlength=7)
    assert drawn.size == 7
    expected = drawn.sum() / 7
    assert np.abs(drawn - expected).max() < 4 * np.sqrt(expected)


def test_stretch_scales_times_by_one_factor_per_sample():
    events = batch_of(make_pool(times=lambda n: np.random.default_rng(n).uniform(0.1, 0.5, n)))
    result = TimeStretch(0.3)(events, rng())
    np.testing.assert_array_equal(result.units, events.units)
    factors = result.times / events.times
    for b in range(1, len(events)):
        part = factors[events.offsets[b] : events.offsets[b + 1]]
        assert np.ptp(part) < 1e-5 and 0.7 - 1e-5 <= part[0] <= 1.3 + 1e-5


def test_stretch_drops_what_leaves_the_duration():
    events = batch_of(make_pool())
    result = TimeStretch(0.5)(events, rng())
    factors = np.full(len(events), np.nan)
    for b in range(1, len(events)):
        (times, units), (new_times, new_units) = sample(events, b), sample(result, b)
        factors[b] = new_times[0] / times[0]
        stays = times * np.float32(factors[b]) < DURATION - 1e-4
        np.testing.assert_array_equal(new_units[: stays.sum()], units[stays])
    assert (factors[1:] > 1).any() and (factors[1:] < 1).any()


def test_time_shift_moves_a_whole_sample():
    events = batch_of(make_pool(times=lambda n: np.random.default_rng(n).uniform(0.3, 0.5, n)))
    result = TimeShift(0.2)(events, rng())
    np.testing.assert_array_equal(result.units, events.units)
    move = result.times - events.times
    for b in range(1, len(events)):
        part = move[events.offsets[b] : events.offsets[b + 1]]
        assert np.ptp(part) < 1e-6 and abs(part[0]) <= 0.2


def test_dropout_keeps_a_share_and_the_order():
    events = batch_of(make_pool(400))
    result = EventDropout(0.3)(events, rng())
    total = events.times.size
    assert abs(result.times.size - 0.7 * total) < 4 * np.sqrt(0.21 * total)
    kept = set(zip(result.times.tolist(), result.units.tolist(), strict=True))
    assert kept <= set(zip(events.times.tolist(), events.units.tolist(), strict=True))
    assert EventDropout(1.0)(events, rng()).times.size == 0


def test_time_jitter_has_its_standard_deviation_and_keeps_channels():
    pool = make_pool(times=lambda n: np.full(n, 0.5), events=500)
    events = batch_of(pool)
    result = TimeJitter(0.02)(events, rng())
    assert result.times.size == events.times.size
    assert abs(result.times.std() - 0.02) < 0.02 * 4 / np.sqrt(2 * result.times.size)
    assert abs(result.times.mean() - 0.5) < 0.02 * 4 / np.sqrt(result.times.size)
    for b in range(len(events)):
        assert sorted(sample(events, b)[1]) == sorted(sample(result, b)[1])


def test_channel_jitter_has_its_standard_deviation_and_keeps_times():
    events = batch_of(make_pool(units=lambda n: np.full(n, 50), events=500))
    result = ChannelJitter(5.0)(events, rng())
    np.testing.assert_array_equal(result.times, events.times)
    moves = result.units - 50
    # Rounding to whole channels adds a variance of 1/12.
    assert abs(moves.var() - (25 + 1 / 12)) < 4 * 25 * np.sqrt(2 / moves.size)


# ------------------------------------------------------------------------------- blend


def two_samples(first, second, more=()):
    """A pool of samples of one class, each [(time, unit), ...]."""
    samples = [first, second, *more]
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in samples])])
    pairs = [pair for s in samples for pair in s]
    packed = PackedSpikes(
        np.float32([t for t, _ in pairs]), np.uint16([u for _, u in pairs]), offsets,
        np.zeros(len(samples), np.int64), np.arange(len(samples)), ("a",),
    )
    return SamplePool(packed, np.arange(len(samples)))


def test_blend_centres_both_samples_on_their_mean():
    pool = two_samples([(0.2, 20)] * 400, [(0.4, 60)] * 400)
    result = Blend(1.0)(batch_of(pool), rng())
    assert set(result.units.tolist()) == {40}
    np.testing.assert_allclose(result.times, 0.3, rtol=1e-6)


def test_blend_takes_each_event_with_probability_one_half():
    # Centres agree, so events stay where they are and can be told apart.
    first = [(0.1 + 1e-3 * k, 40) for k in range(801)]
    second = [(0.1 + 1e-3 * k, 30 + 20 * (k % 2)) for k in range(800)] + [(0.9, 40)]
    pool = two_samples(first, second)
    result = Blend(1.0)(batch_of(pool, [0]), rng())
    from_first = np.isin(result.units, [40]).sum()
    from_second = np.isin(result.units, [30, 50]).sum()
    for taken in (from_first, from_second):
        assert abs(taken - 400) < 4 * np.sqrt(200)
    kept = {(round(float(t), 4), int(u)) for t, u in zip(result.times, result.units, strict=True)}
    assert kept <= {(round(t, 4), u) for t, u in first + second}


def test_blend_stays_within_the_class_and_the_split():
    # The class can be read off the channels, and whether a sample is of the split off the times.
    pool = make_pool(units=lambda n: np.full(n, 10))
    labels = pool.packed.labels
    pool.packed.units[:] = np.repeat(labels * 20, np.diff(pool.packed.offsets))
    split = SamplePool(pool.packed, np.arange(20))
    pool.packed.times[pool.packed.offsets[20] :] = 0.999
    events = split.packed.gather(split.indices, UNITS, DURATION, split)
    result = Blend(1.0)(events, rng())
    for b in range(len(result)):
        assert set(sample(result, b)[1].tolist()) <= {int(labels[b]) * 20}
    assert not np.isclose(result.times, 0.999, atol=1e-3).any()


def test_blend_leaves_lonely_and_silent_samples_alone():
    lonely = two_samples([(0.2, 20), (0.3, 30)], [])
    result = Blend(1.0)(batch_of(lonely), rng())
    assert result.times.tolist() == np.float32([0.2, 0.3]).tolist()
    assert result.units.tolist() == [20, 30]
    alone = two_samples([(0.2, 20), (0.3, 30)], [(0.2, 20)])
    alone = SamplePool(alone.packed, np.array([0]))
    result = Blend(1.0)(batch_of(alone), rng())
    assert result.units.tolist() == [20, 30]


def test_blend_happens_with_its_probability():
    pool = make_pool(2000, events=20)
    events = batch_of(pool)
    result = Blend(0.25)(events, rng())
    changed = sum(
        sample(events, b)[0].tolist() != sample(result, b)[0].tolist() for b in range(len(events))
    )
    assert abs(changed - 500) < 4 * np.sqrt(2000 * 0.25 * 0.75)


# ------------------------------------------------------------------------------- delay line


def test_delay_line_appends_delayed_copies():
    events = batch_of(make_pool())
    result = DelayLine(copies=3, delay=0.1)(events)
    assert result.num_units == 4 * UNITS
    for b in range(len(events)):
        times, units = sample(events, b)
        expected = sorted(
            (np.float32(float(t) + c * 0.1), int(u) + c * UNITS)
            for c in range(4) for t, u in zip(times, units, strict=True)
            if np.float32(float(t) + c * 0.1) < DURATION
        )
        got_times, got_units = sample(result, b)
        assert (np.diff(got_times) >= 0).all()
        assert sorted(zip(got_times, got_units.tolist(), strict=True)) == expected


# ------------------------------------------------------------------------------- kernels


def test_tidy_sorts_like_numpys_stable_sort():
    random = rng()
    for size in (0, 1, 2, 1000):
        times = np.round(random.uniform(0, 2, size), 2).astype(np.float32)  # many ties
        times[: size // 10] = random.choice(np.float32([0.0, -0.0, 1e-40]), size // 10)
        units = random.integers(0, 70_000, size)
        offsets = np.array([0, size // 3, size])
        got = event_kernels.tidy(times, units, offsets, 70_000, 5.0)
        for begin, end in ((0, size // 3), (size // 3, size)):
            order = np.argsort(times[begin:end], kind="stable")
            np.testing.assert_array_equal(got[0][begin:end], times[begin:end][order])
            np.testing.assert_array_equal(got[1][begin:end], units[begin:end][order])


def test_one_per_bin_keeps_the_first_event():
    times = np.float32([0.001, 0.0014, 0.0019, 0.002, 0.0025])
    units = np.array([3, 5, 3, 3, 5])
    got = event_kernels.one_per_bin(times, units, np.array([0, 5]), 10, 1e-3)
    assert got[0].tolist() == np.float32([0.001, 0.0014, 0.002, 0.0025]).tolist()
    assert got[1].tolist() == [3, 5, 3, 5] and got[2].tolist() == [0, 4]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ChannelShift(-1), "max_shift must be a finite number >= 0, got -1"),
        (lambda: Blend(2.0), r"probability must be a probability in \[0, 1\], got 2"),
        (lambda: TimeStretch(1.0), "max_stretch"),
        (lambda: TimeShift(float("nan")), "max_shift"),
        (lambda: EventDropout(-0.1), "probability"),
        (lambda: TimeJitter(-1.0), "std"),
        (lambda: ChannelJitter(float("inf")), "std"),
        (lambda: DelayLine(-1), "copies"),
        (lambda: DelayLine(2, -0.1), "delay"),
    ],
)
def test_bad_strengths_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
