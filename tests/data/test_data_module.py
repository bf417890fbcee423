"""The data module: splits, batches, reproducibility, workers, resuming, bad arguments.

The file is long because everything is shown on the same two small files of spikes.
"""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from support.shd_layout import CLASSES, SPEAKERS, random_samples, write_shd_file

pytest.importorskip("lightning")
pytest.importorskip("tonic")

import tonic
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_modules.data import embedded
from lightning_modules.data.augment import EventDropout
from lightning_modules.data.loader import EventLoader, EventSampler
from lightning_modules.data.module import Batch, DataFileError, SpokenDigits
from snn_eventprop.events import SpikeEvents


@pytest.fixture
def folder(tmp_path):
    """Training file: 48 samples of voices 0-5; test file: 20 samples of voices 4-7."""
    write_shd_file(
        tmp_path / "files" / "my_train.h5", random_samples(48), speakers=np.arange(48) // 4 % 6
    )
    write_shd_file(
        tmp_path / "files" / "my_test.h5", random_samples(20, seed=1),
        speakers=4 + np.arange(20) % 4,
    )
    return tmp_path / "files"


@pytest.fixture
def make(folder, tmp_path):
    def build(**options):
        options = {"root": str(folder), "cache_dir": str(tmp_path / "cache"), **options}
        return SpokenDigits(**options)

    return build


def content(batches):
    """Plain numbers of a run of batches, to compare runs."""
    return [
        [x.tolist() for x in (b.events.times, b.events.units, b.events.offsets, b.labels)]
        for b in batches
    ]


# ------------------------------------------------------------------------------- embedded set


def test_embedded_set_is_complete_and_valid():
    data = SpokenDigits(eval_batch_size=60)
    assert (data.num_classes, data.num_units) == (20, 700)
    assert data.class_names[:2] == ("zero", "one") and data.class_names[15] == "fünf"
    assert data.test_seen_speakers == (0, 1, 2, 3, 6, 7, 8, 9, 10, 11)
    assert data.test_unseen_speakers == (4, 5)
    train, test = embedded.load_twin("train"), embedded.load_twin("test")
    assert (len(train), train.times.size) == (600, 4_010_446)
    assert (len(test), test.times.size) == (360, 2_402_715)
    assert np.bincount(test.labels).tolist() == [18] * 20
    batch = next(iter(data.test_dataloader()))
    batch.events._validate()
    steps = batch.events.times.double() * 1e3
    assert (steps - steps.round()).abs().max() < 1e-4  # on the grid of 1 ms


def test_embedded_files_are_small_and_say_where_they_come_from():
    here = Path(embedded.__file__).parent
    assert sum(f.stat().st_size for f in here.iterdir() if f.is_file()) < 6_000_000
    assert "espeak-ng" in (here / "PROVENANCE.md").read_text()


def test_embedding_keeps_every_event_in_its_millisecond():
    from lightning_modules.data.embedded.build import encode
    from lightning_modules.data.spike_arrays import PackedSpikes

    samples = [(np.sort(np.float32(t)), u) for t, u in random_samples(9, last=2.0)]
    samples[5] = (np.float32([1.5, 1.5]), np.uint16([699, 699]))  # a long silence, then twins
    counts = [len(t) for t, _ in samples]
    packed = PackedSpikes(
        np.concatenate([t for t, _ in samples]), np.concatenate([u for _, u in samples]),
        np.concatenate([[0], np.cumsum(counts)]), np.arange(9) % 4, np.arange(9) % 3, CLASSES,
    )
    again = embedded.decode(encode(packed))
    np.testing.assert_array_equal(again.offsets, packed.offsets)
    np.testing.assert_array_equal(again.labels, packed.labels)
    assert again.class_names == CLASSES
    for begin, end in zip(packed.offsets[:-1], packed.offsets[1:], strict=True):
        def events(data, part=slice(begin, end)):
            step = np.floor(data.times[part].astype(np.float64) * 1e3 + 0.01).astype(int)
            return sorted(zip(step.tolist(), data.units[part].tolist(), strict=True))
        assert events(again) == events(packed)


# ------------------------------------------------------------------------------- splits


def test_validation_voices_are_not_trained_on(make):
    data = make(val_fraction=0.34)
    assert len(data.val_speakers) == 2
    assert set(data.train_speakers).isdisjoint(data.val_speakers)
    assert set(data.train_speakers) | set(data.val_speakers) == set(range(6))
    assert data.test_seen_speakers == (4, 5) and data.test_unseen_speakers == (6, 7)


def test_some_voice_is_held_out_by_default(make):
    data = make()
    assert len(data.val_speakers) == 1 and len(data.train_speakers) == 5


def test_split_does_not_depend_on_the_seed_of_training(make):
    assert make(seed=0).val_speakers == make(seed=1).val_speakers
    choices = {make(split_seed=s).val_speakers for s in range(20)}
    assert len(choices) > 1


def test_folds_hold_out_each_voice_once(make):
    assert [make(fold=k).val_speakers for k in range(6)] == [(k,) for k in range(6)]
    with pytest.raises(ValueError, match=r"fold must be in 0\.\.5.*got 6"):
        make(fold=6).setup()


def test_named_voices_are_held_out(make):
    assert make(val_speakers=[1, 3]).val_speakers == (1, 3)
    with pytest.raises(ValueError, match=r"val_speakers \[7\] are not in the training file"):
        make(val_speakers=[1, 7]).setup()
    with pytest.raises(ValueError, match="no training samples are left"):
        make(val_speakers=list(range(6))).setup()


def test_split_by_sample_is_disjoint_and_even(make):
    data = make(val_by="sample", val_fraction=0.25)
    train, val = data.pools["train"].indices, data.pools["val"].indices
    assert sorted([*train, *val]) == list(range(48))
    speakers = data.pools["val"].packed.speakers[val]
    assert np.bincount(speakers).tolist() == [2] * SPEAKERS


def test_no_validation_on_request(make):
    data = make(val_fraction=0)
    assert data.pools["train"].indices.size == 48
    assert data.val_dataloader() == []


def test_a_validation_file_is_used_where_there_is_one(make, folder):
    write_shd_file(folder / "my_valid.h5", random_samples(7, seed=2))
    data = make()
    assert data.pools["val"].indices.size == 7 and data.pools["train"].indices.size == 48


def test_limit_keeps_few_samples_of_each_split(make):
    data = make(limit_samples=5)
    assert [data.pools[s].indices.size for s in ("train", "val", "test")] == [5, 5, 5]


# ------------------------------------------------------------------------------- batches


def test_an_epoch_sees_every_training_sample_once(make):
    data = make(batch_size=7, val_fraction=0)
    batches = list(data.train_dataloader())
    assert [len(b.labels) for b in batches] == [7] * 6 + [6]
    assert len(data.train_dataloader()) == 7
    seen = sorted(tuple(b.events[i].times.tolist()) for b in batches for i in range(len(b.labels)))
    packed = data.pools["train"].packed
    bounds = zip(packed.offsets[:-1], packed.offsets[1:], strict=True)
    assert seen == sorted(tuple(packed.times[a:b].tolist()) for a, b in bounds)


def test_batches_are_valid_events_with_labels_and_speakers(make):
    data = make(batch_size=4, duration=0.5)
    for batch in data.train_dataloader():
        assert isinstance(batch, Batch) and isinstance(batch.events, SpikeEvents)
        batch.events._validate()
        assert batch.events.num_units == 700 and batch.events.duration == 0.5
        assert batch.events.times.dtype == torch.float32
        assert batch.events.units.dtype == batch.labels.dtype == batch.speakers.dtype == torch.int64
        assert len(batch.events) == batch.labels.numel() == batch.speakers.numel()
        assert set(batch.speakers.tolist()) <= set(data.train_speakers)


@pytest.mark.parametrize("delay_copies", [0, 2])
def test_samples_of_their_own_length_end_after_their_last_event(make, delay_copies):
    options = {"delay_copies": delay_copies, "delay_step": 0.03}
    data = make(duration="own", **options)
    whole = make(duration=100.0, **options).batch("test", list(range(20))).events
    found = data.batch("test", list(range(20))).events
    assert torch.equal(found.times, whole.times) and torch.equal(found.offsets, whole.offsets)
    for b in range(20):
        times = whole[b].times
        last = times[-1].item() if times.numel() else 0.0
        assert found.durations[b].item() == last + 1e-3
        alone = data.batch("test", [b]).events
        assert alone.duration == found[b].duration
    assert found.duration == found.durations.max()
    moved = make(duration="own", time_stretch=0.5, batch_size=4)
    for batch in moved.train_dataloader():
        batch.events._validate()
        SpikeEvents(batch.events.times, batch.events.units, batch.events.offsets,
                    batch.events.num_units, batch.events.durations)  # fmt: skip
    with pytest.raises(ValueError, match="positive time in s or 'own', got 'longest'"):
        make(duration="longest")


def test_crop_drops_exactly_the_late_events(make):
    data = make(duration=0.5)
    whole = make(duration=2.0)
    kept = data.batch("test", list(range(20))).events
    everything = whole.batch("test", list(range(20))).events
    early = everything.times < 0.5
    assert torch.equal(kept.times, everything.times[early])
    assert torch.equal(kept.units, everything.units[early])


def test_at_most_one_event_per_channel_and_bin(make):
    dt = 0.05
    data, whole = make(unique_dt=dt), make()
    some = list(range(20))
    kept = data.batch("test", some).events.to_dense(dt)
    assert torch.equal(kept, whole.batch("test", some).events.to_dense(dt).clamp(max=1))
    augmented = make(unique_dt=dt, channel_shift=40, time_jitter=0.01)
    assert max(b.events.to_dense(dt).max() for b in augmented.train_dataloader()) == 1


def test_pooled_channels_are_one_unit_after_augmentation(make):
    dt, some = 0.05, list(range(20))
    whole = make().batch("test", some).events.to_dense(dt)
    sums = torch.nn.functional.pad(whole, (0, 2)).unflatten(-1, (234, 3)).sum(-1)
    data = make(pool_channels=3)
    assert data.num_units == 234  # 700 channels: the last unit has one
    assert torch.equal(data.batch("test", some).events.to_dense(dt), sums)
    capped = make(pool_channels=3, unique_dt=dt).batch("test", some).events.to_dense(dt)
    assert torch.equal(capped, sums.clamp(max=1))

    options = dict(channel_shift=40, blend=0.5, unique_dt=dt, delay_copies=2, delay_step=dt)
    fine, pooled = make(**options), make(pool_channels=3, **options)
    assert pooled.num_units == 3 * 234
    for one, other in zip(fine.train_dataloader(), pooled.train_dataloader(), strict=True):
        # The same random shifts and blends, in channels; bins of the copies line up.
        dense = one.events.to_dense(dt)[..., :700]
        dense = torch.nn.functional.pad(dense, (0, 2)).unflatten(-1, (234, 3)).amax(-1)
        assert torch.equal(other.events.to_dense(dt)[..., :234], dense)


def test_order_changes_with_the_epoch_and_comes_back_with_the_seed(make):
    def epoch(number, **options):
        loader = make(batch_size=8, channel_shift=40, blend=0.5, **options).train_dataloader()
        loader.sampler.set_epoch(number)
        return content(loader)

    assert epoch(0) == epoch(0)
    assert epoch(0) != epoch(1)
    assert epoch(0) != epoch(0, seed=1)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_workers_make_the_same_batches(make, kind):
    transform = tonic.transforms.TimeJitter(std=100) if kind == "processes" else None
    options = dict(
        batch_size=8, channel_shift=40, blend=0.5, event_dropout=0.1, time_jitter=1e-3,
        delay_copies=2, transform=transform,
    )
    alone = make(**options).train_dataloader()
    helped = make(num_workers=2, **options).train_dataloader()
    assert (helped.threads, helped.num_workers) == ((2, 0) if kind == "threads" else (0, 2))
    for epoch in range(2):
        alone.sampler.set_epoch(epoch)
        helped.sampler.set_epoch(epoch)
        assert content(alone) == content(helped)


def test_a_loop_over_batches_may_be_left(make):
    loader = make(num_workers=2, batch_size=4).train_dataloader()
    running = threading.active_count()
    for _ in range(3):
        for batch in loader:
            assert len(batch.labels) == 4
            break
    assert threading.active_count() <= running


def test_delay_line_is_part_of_every_split(make):
    data = make(delay_copies=3, delay_step=0.03)
    assert data.num_units == 2800
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = next(iter(loader))
        batch.events._validate()
        assert batch.events.num_units == 2800


def test_only_training_batches_are_augmented(make):
    plain, augmented = make(), make(augment=[EventDropout(1.0)])
    assert content(plain.test_dataloader()) == content(augmented.test_dataloader())
    assert content(plain.val_dataloader()) == content(augmented.val_dataloader())
    assert all(b.events.times.numel() == 0 for b in augmented.train_dataloader())


def test_tonic_transforms_apply_to_events(make):
    from tonic import transforms

    some = list(range(20))
    plain = make().batch("test", some).events
    flipped = make(transform=transforms.DropEventByTime(0.0)).batch("test", some).events
    assert torch.equal(plain.units, flipped.units)
    torch.testing.assert_close(plain.times, flipped.times, rtol=0, atol=1e-6)
    jitter = transforms.Compose([transforms.TimeJitter(std=5000, clip_negative=True)])
    one = make(transform=jitter).batch("test", some).events
    two = make(transform=jitter).batch("test", some).events
    one._validate()
    assert torch.equal(one.times, two.times)  # reproducible
    assert one.times.numel() <= plain.times.numel() and not torch.equal(one.times, plain.times)
    with pytest.raises(ValueError, match="must return events"):
        make(transform=transforms.ToFrame((700, 1, 1), n_time_bins=5)).batch("test", [0])


def test_numpys_own_random_numbers_are_left_alone(make):
    from tonic import transforms

    np.random.seed(3)  # noqa: NPY002
    expected = np.random.random(4).tolist()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    make(transform=transforms.TimeJitter(std=10)).batch("test", [0, 1])
    assert np.random.random(4).tolist() == expected  # noqa: NPY002


def test_silent_samples_and_silent_batches_pass(make, folder):
    write_shd_file(folder / "my_train.h5", [([], [])] * 12)
    options = dict(channel_shift=9, blend=1.0, time_jitter=1e-3, unique_dt=1e-3, delay_copies=2)
    for batch in make(**options).train_dataloader():
        batch.events._validate()
        assert batch.events.times.numel() == 0


# ------------------------------------------------------------------------------- processes


@pytest.mark.parametrize("size", [1, 2, 7, 16, 48])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_processes_share_an_epoch(size, world):
    class Sized:
        def __len__(self):
            return size

    def share(rank, shuffle):
        sampler = EventSampler(
            Sized(), 4, shuffle=shuffle, seed=1, rank=rank, world_size=world
        )
        keys = list(sampler)
        assert len(keys) == len(sampler)
        return keys

    train = [share(rank, True) for rank in range(world)]
    assert len({len(keys) for keys in train}) == 1  # equally many batches
    seen = np.concatenate([k.indices for keys in train for k in keys])
    assert set(seen) == set(range(size)) and seen.size - size < world
    numbers = [k.number for keys in train for k in keys]
    assert len(set(numbers)) == len(numbers)  # random streams of their own
    test = [k.indices for rank in range(world) for k in share(rank, False)]
    assert sorted(np.concatenate(test)) == list(range(size))


def test_loader_goes_on_in_the_middle_of_an_epoch(make):
    def loader():
        result = make(batch_size=8, channel_shift=40).train_dataloader()
        result.sampler.set_epoch(3)
        return result

    whole, first, second = content(loader()), loader(), loader()
    running = iter(first)
    head = [next(running), next(running)]
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    assert content(head) + content(second) == whole
    assert content(second) == whole  # the pass after that is a whole one


class _Recorder(LightningModule):
    """Notes the batches it is given; crashes after ``crash_after`` of them."""

    def __init__(self, crash_after=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.crash_after = crash_after
        self.seen = []

    def training_step(self, batch, index):
        if self.crash_after == len(self.seen):
            raise RuntimeError("power cut")
        self.seen += content([batch])
        return self.weight**2

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


# 5 batches an epoch. A checkpoint after step 8 is in the middle of the second epoch, after step 5
# at the end of the first, after step 1 at the beginning.
@pytest.mark.parametrize(("saved", "workers"), [(8, 0), (8, 2), (5, 0), (5, 2), (1, 0)])
def test_interrupted_training_sees_the_batches_it_would_have_seen(make, tmp_path, saved, workers):
    def fit(model, ckpt_path=None):
        keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = Trainer(
            accelerator="cpu", devices=1, logger=False, callbacks=[keep], max_epochs=3,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )
        data = make(batch_size=8, channel_shift=40, num_workers=workers)
        trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=False)

    first, second, whole = _Recorder(crash_after=saved + 1), _Recorder(), _Recorder()
    with pytest.raises(RuntimeError, match="power cut"):
        fit(first)
    fit(second, ckpt_path=tmp_path / f"step={saved}.ckpt")
    fit(whole)
    assert len(whole.seen) == 15
    assert first.seen[:saved] + second.seen == whole.seen


def test_every_option_can_be_given_in_yaml(folder):
    from lightning.pytorch.cli import LightningArgumentParser

    parser = LightningArgumentParser()
    parser.add_lightning_class_args(SpokenDigits, "data")
    options = {
        "root": str(folder),
        "channel_shift": 40,
        "time_shift": 0.02,
        "augment": [{"class_path": "lightning_modules.data.augment.TimeShift",
                     "init_args": {"max_shift": 0.1}}],
        "transform": {"class_path": "tonic.transforms.TimeJitter", "init_args": {"std": 100}},
    }
    data = parser.instantiate_classes(parser.parse_object({"data": options})).data
    assert [repr(a) for a in data.augmentations] == [
        "ChannelShift(max_shift=40)", "TimeShift(max_shift=0.02)", "TimeShift(max_shift=0.1)"
    ]
    assert data.transform.std == 100


def test_batches_move_to_a_device(make):
    data = make()
    batch = next(iter(data.test_dataloader()))
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert isinstance(moved, Batch)
    assert {moved.events.device.type, moved.labels.device.type, moved.speakers.device.type} == {
        "meta"
    }


def test_arguments_rebuild_the_module_from_a_checkpoint(make):
    data = make(batch_size=3, val_speakers=[2])
    again = SpokenDigits(**data.hparams)
    assert content(data.train_dataloader()) == content(again.train_dataloader())


# ------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(batch_size=0), "batch_size must be at least 1, got 0"),
        (dict(duration=-1.0), r"duration must be a positive time in s, got -1\.0"),
        (dict(duration=float("nan")), "duration must be a positive"),
        (dict(unique_dt=0.0), "unique_dt must be a positive"),
        (dict(pool_channels=0), "pool_channels must be at least 1, got 0"),
        (dict(val_fraction=1.0), r"val_fraction must be in \[0, 1\)"),
        (dict(val_by="digit"), "val_by must be 'speaker' or 'sample'"),
        (dict(dataset="mnist"), "dataset must be one of twin, folder, shd, ssc, got 'mnist'"),
        (dict(dataset="twin", root="x"), "embedded and has no root"),
        (dict(dataset="folder"), "needs root"),
        (dict(fold=1, val_speakers=[1]), "give one"),
        (dict(num_workers=-1), "num_workers"),
        (dict(limit_samples=0), "limit_samples"),
        (dict(blend=1.5), "probability"),
        (dict(time_stretch=1.0), "max_stretch"),
        (dict(time_shift=-0.1), "max_shift must be a finite number >= 0, got -0.1"),
        (dict(channel_shift=-4), "max_shift must be a finite number >= 0, got -4"),
    ],
)
def test_bad_arguments_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        SpokenDigits(**options)


def test_damaged_file_stops_before_training(make, folder):
    path = folder / "my_train.h5"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataFileError, match=r"my_train\.h5"):
        make().prepare_data()


def test_times_in_milliseconds_are_noticed(make, folder):
    samples = [(1000 * times.astype(np.float32), units) for times, units in random_samples(24)]
    write_shd_file(folder / "my_train.h5", samples, time_type=np.float32)
    with pytest.raises(DataFileError, match=r"events lie before duration=.* times in seconds"):
        make().setup()


def test_files_of_different_classes_are_refused(make, folder):
    import h5py

    with h5py.File(folder / "my_test.h5", "a") as file:
        del file["extra/keys"]
        file["extra/keys"] = np.array([b"a", b"b", b"c", b"d"])
    with pytest.raises(DataFileError, match="name different classes"):
        make().setup()


def test_files_without_class_names_may_lack_the_highest_label_for_tests_only(tmp_path):
    root = tmp_path / "unnamed"
    for split, classes in (("train", 4), ("test", 3)):
        write_shd_file(
            root / f"my_{split}.h5", random_samples(24), labels=np.arange(24) % classes,
            leave_out=("extra/keys",),
        )
    data = SpokenDigits(root=str(root), cache_dir=str(tmp_path / "cache"))
    assert data.class_names == ("0", "1", "2", "3")
    (root / "my_train.h5").rename(root / "other")
    (root / "my_test.h5").rename(root / "my_train.h5")
    (root / "other").rename(root / "my_test.h5")
    with pytest.raises(DataFileError, match="have labels that training has not"):
        SpokenDigits(root=str(root), cache_dir=str(tmp_path / "cache")).setup()


def test_one_voice_cannot_be_held_out(make, folder):
    write_shd_file(folder / "my_train.h5", random_samples(6), speakers=[0] * 6)
    with pytest.raises(ValueError, match=r"none to spare.*val_by='sample'"):
        make().setup()


def test_loader_is_one_that_lightning_can_resume():
    assert hasattr(EventLoader, "state_dict") and hasattr(EventLoader, "load_state_dict")
