"""Spike files: what is read is what tonic reads, and a damaged file is named, never half-used."""

from __future__ import annotations

import gzip
import http.server
import os
import shutil
import threading
import warnings
import zipfile
from hashlib import md5

import numpy as np
import pytest
from support.shd_layout import CLASSES, random_samples, write_shd_file

pytest.importorskip("h5py")
tonic_datasets = pytest.importorskip("tonic.datasets")

from lightning_modules.data import cache  # noqa: E402
from lightning_modules.data.cache import load_packed  # noqa: E402
from lightning_modules.data.data_files import DataFileError, find_files  # noqa: E402
from lightning_modules.data.download import download  # noqa: E402
from lightning_modules.data.shd_files import read_shd_file  # noqa: E402


def same_content(one, other):
    assert one.class_names == other.class_names
    for name in ("times", "units", "offsets", "labels", "speakers"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.fixture
def sample_file(tmp_path):
    return write_shd_file(tmp_path / "shd_train.h5", random_samples(12))


@pytest.mark.parametrize("time_type", [np.float16, np.float32])
def test_packed_content_is_what_tonic_reads(tmp_path, time_type):
    samples = random_samples(12)
    path = write_shd_file(tmp_path / "SHD" / "shd_train.h5", samples, time_type=time_type)
    (path.parent / "shd_train.h5.zip").touch()
    theirs = tonic_datasets.SHD(str(tmp_path), train=True)
    ours = read_shd_file(path)
    assert ours.class_names == CLASSES
    np.testing.assert_array_equal(ours.speakers, theirs.speaker)
    assert len(ours) == len(theirs) == 12
    for index in range(12):
        events, label = theirs[index]
        part = slice(ours.offsets[index], ours.offsets[index + 1])
        # tonic rounds down to whole microseconds.
        np.testing.assert_allclose(ours.times[part] * 1e6, events["t"], rtol=1e-7, atol=1.0)
        np.testing.assert_array_equal(ours.units[part], events["x"])
        assert ours.labels[index] == label


def test_events_are_packed_unchanged(sample_file):
    packed = read_shd_file(sample_file)
    times, units = zip(*random_samples(12), strict=True)
    np.testing.assert_array_equal(packed.times, np.concatenate(times).astype(np.float32))
    np.testing.assert_array_equal(packed.units, np.concatenate(units))
    np.testing.assert_array_equal(np.diff(packed.offsets), [len(t) for t in times])
    assert packed.times.dtype == np.float32 and packed.units.dtype == np.uint16


def test_unsorted_samples_are_sorted_and_stay_apart(tmp_path):
    samples = [([0.3, 0.1, 0.2], [3, 1, 2]), ([0.05], [9]), ([0.2, 0.1], [8, 7])]
    packed = read_shd_file(write_shd_file(tmp_path / "train.h5", samples))
    assert packed.units.tolist() == [1, 2, 3, 9, 7, 8]
    assert packed.offsets.tolist() == [0, 3, 4, 6]


def test_gzipped_file_reads_like_the_plain_one(sample_file):
    zipped = sample_file.with_name("shd_train.h5.gz")
    zipped.write_bytes(gzip.compress(sample_file.read_bytes()))
    same_content(read_shd_file(zipped), read_shd_file(sample_file))


def test_more_samples_than_one_read_takes(tmp_path, monkeypatch):
    path = write_shd_file(tmp_path / "train.h5", random_samples(25))
    whole = read_shd_file(path)
    monkeypatch.setattr("lightning_modules.data.shd_files._CHUNK", 4)
    same_content(read_shd_file(path), whole)


# ------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".h5", ".h5.gz"])
def test_truncated_file_is_named_with_the_mend(sample_file, kept, suffix):
    whole = sample_file.read_bytes()
    if suffix == ".h5.gz":
        whole = gzip.compress(whole)
    cut = sample_file.with_name("cut_train" + suffix)
    cut.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataFileError, match=r"cut_train\.h5.*not a whole HDF5 file.*delete it"):
        read_shd_file(cut)


@pytest.mark.parametrize("name", ["spikes/times", "spikes/units", "labels"])
def test_missing_data_set_is_named(tmp_path, name):
    path = write_shd_file(tmp_path / "train.h5", random_samples(5), leave_out=(name,))
    with pytest.raises(DataFileError, match=f"train.h5: has no data set '{name}'"):
        read_shd_file(path)


def test_file_without_labels_can_be_read_for_prediction(tmp_path):
    path = write_shd_file(tmp_path / "new.h5", random_samples(5), leave_out=("labels",))
    assert read_shd_file(path, require_labels=False).labels.tolist() == [-1] * 5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.01])
def test_bad_times_are_named_with_their_sample(tmp_path, bad):
    samples = random_samples(5)
    samples[2][0][0] = bad
    path = write_shd_file(tmp_path / "train.h5", samples)
    with pytest.raises(DataFileError, match=r"train\.h5: sample 2 has the spike time"):
        read_shd_file(path)


@pytest.mark.parametrize(("bad", "kind"), [(700, np.uint16), (-1, np.int16)])
def test_units_out_of_range_are_named(tmp_path, bad, kind):
    samples = [(t, u.astype(kind)) for t, u in random_samples(5)]
    samples[4][1][0] = bad
    path = write_shd_file(tmp_path / "train.h5", samples, unit_type=kind)
    with pytest.raises(DataFileError, match=rf"sample 4 has unit {bad}.*0\.\.699"):
        read_shd_file(path)


def test_more_channels_are_allowed_on_request(tmp_path):
    path = write_shd_file(tmp_path / "train.h5", [([0.1], [900])])
    assert read_shd_file(path, channels=1000).units.tolist() == [900]


def test_units_reach_as_far_as_they_can_be_packed(tmp_path):
    path = write_shd_file(tmp_path / "train.h5", [([0.1], [65_535])])
    assert read_shd_file(path, channels=65_536).units.tolist() == [65_535]
    wide = write_shd_file(tmp_path / "wide.h5", [([0.1], [65_536])], unit_type=np.uint32)
    with pytest.raises(ValueError, match="channels must be at most 65536, got 65537"):
        read_shd_file(wide, channels=65_537)


def test_label_out_of_range_is_named(tmp_path):
    path = write_shd_file(tmp_path / "train.h5", random_samples(3), labels=[0, len(CLASSES), 1])
    with pytest.raises(DataFileError, match=r"label 4 of sample 1 is out of range 0\.\.3"):
        read_shd_file(path)


def test_numbers_of_times_and_units_must_agree(tmp_path):
    path = write_shd_file(tmp_path / "train.h5", [([0.1], [1]), ([0.1, 0.2], [1])])
    with pytest.raises(DataFileError, match="sample 1 has different numbers"):
        read_shd_file(path)


# ------------------------------------------------------------------------------- finding


def test_files_are_found_in_a_folder_and_by_the_beginning_of_their_names(tmp_path):
    for name in ("a_train.h5", "a_test.h5", "b_train.h5.gz", "b_test.h5", "b_valid.h5", "notes"):
        (tmp_path / name).touch()
    assert {k: f.name for k, f in find_files(tmp_path / "b").items()} == {
        "train": "b_train.h5.gz", "test": "b_test.h5", "valid": "b_valid.h5"
    }
    with pytest.raises(DataFileError, match=r"a_train\.h5, b_train\.h5\.gz.*such as .*a_"):
        find_files(tmp_path)


def test_plain_file_is_preferred_to_its_gzipped_copy(tmp_path):
    for name in ("train.h5", "train.h5.gz", "test.h5"):
        (tmp_path / name).touch()
    assert find_files(tmp_path)["train"].name == "train.h5"


def test_empty_or_missing_folder_is_named(tmp_path):
    with pytest.raises(DataFileError, match=r"no file for the train split.*no \.h5 files"):
        find_files(tmp_path)
    with pytest.raises(DataFileError, match="no such folder"):
        find_files(tmp_path / "nowhere" / "x")
    (tmp_path / "my_train.h5").touch()
    with pytest.raises(DataFileError, match=r"no file for the test split.*found my_train\.h5"):
        find_files(tmp_path)


# ------------------------------------------------------------------------------- cache


def test_second_reading_comes_from_the_cache(sample_file, tmp_path, monkeypatch):
    first = load_packed(sample_file, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(cache, "read_shd_file", None)
    same_content(load_packed(sample_file, cache_dir=tmp_path / "cache"), first)


def test_changed_file_is_packed_again(sample_file, tmp_path):
    load_packed(sample_file, cache_dir=tmp_path / "cache")
    write_shd_file(sample_file, random_samples(7, seed=1))
    os.utime(sample_file, ns=(1, 1))
    assert len(load_packed(sample_file, cache_dir=tmp_path / "cache")) == 7


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
def test_damaged_cache_is_built_again(sample_file, tmp_path, damage):
    first = load_packed(sample_file, cache_dir=tmp_path / "cache")
    (cached,) = (tmp_path / "cache").iterdir()
    whole = bytearray(cached.read_bytes())
    if damage == "cut":
        whole = whole[: len(whole) // 2]
    elif damage == "emptied":
        whole = bytearray()
    else:
        whole[first.times.nbytes // 2] ^= 0xFF  # in the first array's numbers
    cached.write_bytes(whole)
    with pytest.warns(UserWarning, match="damaged"):
        same_content(load_packed(sample_file, cache_dir=tmp_path / "cache"), first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same_content(load_packed(sample_file, cache_dir=tmp_path / "cache"), first)


def test_unwritable_cache_folder_warns_and_goes_on(sample_file, tmp_path):
    blocked = tmp_path / "a file, not a folder"
    blocked.touch()
    with pytest.warns(UserWarning, match=r"cannot keep packed data there.*--data\.cache_dir"):
        packed = load_packed(sample_file, cache_dir=blocked)
    same_content(packed, read_shd_file(sample_file))


def test_interrupted_packing_leaves_nothing_behind(sample_file, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "savez", full)
    with pytest.warns(UserWarning, match="No space left"):
        load_packed(sample_file, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


# ------------------------------------------------------------------------------- download


class _Server(http.server.BaseHTTPRequestHandler):
    files: dict[str, tuple[bytes, int]] = {}  # noqa: RUF012

    def do_GET(self):
        content, sent = self.files[self.path.strip("/")]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:sent])

    def log_message(self, *args):
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A web server with zipped SHD files, where tonic now looks; returns how to cut a file."""
    files = {}
    for split in ("train", "test"):
        source = write_shd_file(tmp_path / "site" / f"shd_{split}.h5", random_samples(8))
        with zipfile.ZipFile(source.with_suffix(".h5.zip"), "w") as archive:
            archive.write(source, source.name)
        content = source.with_suffix(".h5.zip").read_bytes()
        files[f"shd_{split}.h5.zip"] = (content, len(content))
        monkeypatch.setattr(tonic_datasets.SHD, f"{split}_md5", md5(content).hexdigest())
    monkeypatch.setattr(_Server, "files", files)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(
        tonic_datasets.SHD, "base_url", f"http://127.0.0.1:{server.server_port}/"
    )
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def cut(split, bytes_sent):
        name = f"shd_{split}.h5.zip"
        files[name] = (files[name][0], bytes_sent)

    yield cut
    server.shutdown()
    server.server_close()
    thread.join()


def test_download_puts_whole_files_where_tonic_looks(site, tmp_path):
    files = download("shd", tmp_path / "data")
    assert files["test"] == tmp_path / "data" / "SHD" / "shd_test.h5"
    assert len(read_shd_file(files["train"])) == 8
    assert len(tonic_datasets.SHD(str(tmp_path / "data"), train=False)) == 8
    assert not list((tmp_path / "data" / "SHD").glob(".partial*"))


def test_cut_download_is_named_and_the_next_run_mends_it(site, tmp_path):
    size = _Server.files["shd_test.h5.zip"][1]
    site("test", size // 2)
    with pytest.raises(DataFileError, match=r"shd_test\.h5: the download .* was thrown away"):
        download("shd", tmp_path / "data")
    assert not (tmp_path / "data" / "SHD" / "shd_test.h5").exists()
    assert not list((tmp_path / "data" / "SHD").glob(".partial*"))
    site("test", size)
    assert len(read_shd_file(download("shd", tmp_path / "data")["test"])) == 8


def test_without_network_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(tonic_datasets.SHD, "base_url", "http://127.0.0.1:9/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(DataFileError, match=r"cannot be downloaded.*fetch http.*embedded set"):
        download("shd", tmp_path)


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataFileError, match=r"file.SHD: cannot write there.*--data\.root"):
        download("shd", tmp_path / "file")


def test_archive_put_there_by_hand_is_used(site, tmp_path, monkeypatch):
    folder = tmp_path / "data" / "SHD"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        shutil.copy(tmp_path / "site" / f"shd_{split}.h5.zip", folder)
    monkeypatch.setattr(tonic_datasets.SHD, "base_url", "http://127.0.0.1:9/")
    assert len(read_shd_file(download("shd", tmp_path / "data")["train"])) == 8


def test_leftover_of_a_cut_download_is_replaced(site, tmp_path):
    folder = tmp_path / "data" / "SHD"
    folder.mkdir(parents=True)
    (folder / "shd_train.h5.zip").write_bytes(b"PK half of it")
    assert len(read_shd_file(download("shd", tmp_path / "data")["train"])) == 8


def test_broken_archive_is_named(site, tmp_path):
    folder = tmp_path / "data" / "SHD"
    folder.mkdir(parents=True)
    content = bytearray((tmp_path / "site" / "shd_train.h5.zip").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (folder / "shd_train.h5.zip").write_bytes(content)
    with pytest.raises(DataFileError, match=r"shd_train\.h5\.zip: broken archive.*delete it"):
        download("shd", tmp_path / "data")
    assert not (folder / "shd_train.h5").exists()
