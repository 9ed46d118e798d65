"""The kept index of TFRecord files: it is what a fresh one is, or it is made again."""

import logging
import os
import pickle
import shutil
import struct
import threading

import numpy as np
import pytest

from vit_jax.data import records, tfrecord
from vit_jax.host import kept

OLD = 10**18  # ns, 2001


def write(path, payloads, when=OLD):
    """Writes a TFRecord file, last changed then."""
    with open(path, "wb") as file:
        for payload in payloads:
            checksum = tfrecord.masked_crc32c(payload)
            file.write(tfrecord.header(len(payload)) + payload)
            file.write(struct.pack("<I", checksum))
    os.utime(path, ns=(when, when))


@pytest.fixture
def split(tmp_path, monkeypatch):
    """Two shards, and their records."""
    monkeypatch.setattr(tfrecord, "WORTH", 0.0)
    folder = tmp_path / "data"
    folder.mkdir()
    paths = [folder / f"x-train.tfrecord-{k:05d}-of-00002" for k in range(2)]
    payloads = [[b"a" * n for n in (3, 70, 0, 9)], [b"b" * n for n in (5, 1)]]
    for path, some in zip(paths, payloads, strict=True):
        write(path, some)
    return paths, payloads


def read(paths, payloads):
    """Reads all records, which have to be these, as a new process would."""
    files = records.RecordFiles("tfrecord", paths, list(map(len, payloads)))
    wanted = [one for some in payloads for one in some]
    assert [files.read(index) for index in range(len(files))] == wanted
    return files


def refuses(*args):
    raise AssertionError("indexed again")


def test_the_kept_index_is_that_of_the_files(split, monkeypatch, caplog):
    paths, payloads = split
    files = read(*split)
    assert (paths[0].parent / "x-train.tfrecord.index.npz").is_file()
    fresh = []
    for path in paths:
        with open(path, "rb") as file:
            fresh.append(tfrecord.index(file.fileno(), path))
    monkeypatch.setattr(tfrecord, "index", refuses)
    read(*split)
    again = tfrecord.Index(paths)
    for number, path in enumerate(paths):
        with open(path, "rb") as file:
            starts = again.starts(number, file.fileno())
        assert starts.dtype == fresh[number].dtype == np.uint32
        np.testing.assert_array_equal(starts, fresh[number])
    assert pickle.loads(pickle.dumps(files)).read(1) == payloads[0][1]  # noqa: S301
    assert not caplog.records


def test_offsets_beyond_four_gibibytes_are_kept_whole():
    starts = np.array([12, 2**31, 2**32 + 5], np.int64)
    shard = tfrecord.Shard((2**32 - 7, OLD), tfrecord._compact(starts), True)
    packed = tfrecord._packed({"a": shard})
    np.testing.assert_array_equal(tfrecord._unpacked(*packed)["a"].starts, starts)


@pytest.mark.parametrize("same_time", [False, True])
def test_a_shard_rewritten_with_the_same_size_is_noticed(split, same_time, caplog):
    """By its time, or else by the headers of its records."""
    paths, payloads = split
    read(*split)
    payloads[0] = [b"c" * n for n in (70, 3, 0, 9)]
    size = paths[0].stat().st_size
    write(paths[0], payloads[0], OLD if same_time else OLD + 1)
    assert paths[0].stat().st_size == size
    read(*split)
    assert same_time or sum("made again" in one.message for one in caplog.records) == 1


def test_a_record_that_another_one_has_become_is_not_read_for_it(split):
    """Its header is right where the old index says, so that only the time tells."""
    paths, payloads = split
    payloads[0] = [b"a" * n for n in (3, 70, 0, 40)]
    write(paths[0], payloads[0])
    read(*split)
    write(paths[0], [b"c" * n for n in (89, 0, 4, 20)], OLD + 1)
    files = records.RecordFiles("tfrecord", paths, [4, 2])
    assert files.read(2) == b"c" * 4


def test_a_shard_changed_while_it_is_read_from_is_read_as_it_is(split, monkeypatch):
    monkeypatch.setattr(records, "open_file_budget", lambda wanted: 1)
    paths, payloads = split
    files = read(*split)
    write(paths[0], [b"d" * n for n in (9, 0, 70, 3)], OLD + 1)
    assert [files.read(k) for k in range(2)] == [b"d" * 9, b""]


def test_a_shard_written_just_now_is_indexed_at_every_start(split):
    """A second change within the clock of a file system would have the same time."""
    paths, payloads = split
    write(paths[0], payloads[0], when=2 * 10**18)
    read(*split)
    told, _ = kept.load(paths[0].parent / "x-train.tfrecord.index.npz")
    assert told["names"] == [paths[1].name]


def damages(split):
    """Pairs of what is done to the index, and a way to do it."""
    paths, _ = split
    path = paths[0].parent / "x-train.tfrecord.index.npz"
    whole = path.read_bytes()
    for at in range(0, len(whole), 37):
        yield whole[:at]
        yield whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]
    yield b"PK\3\4" + bytes(100)


def test_an_index_of_other_records_of_the_same_file_is_made_again(split, caplog):
    paths, payloads = split
    read(*split)
    place = paths[0].parent / "x-train.tfrecord.index.npz"
    told, arrays = kept.load(place)
    arrays["counts"], whole = arrays["counts"].copy(), arrays["lengths"]
    first = int(whole[0] + whole[1]) + 16  # the first two records as one
    arrays["counts"][0] -= 1
    arrays["lengths"] = np.array([first, *whole[2:]], np.uint32)
    kept.save(place, told, arrays)
    read(*split)
    assert len(caplog.records) == 1 and "made again" in caplog.text


def test_an_index_that_is_a_pipe_is_not_waited_for(split):
    os.mkfifo(split[0][0].parent / "x-train.tfrecord.index.npz")
    read(*split)


def test_a_damaged_index_never_gives_wrong_records(split, caplog):
    paths, payloads = split
    read(*split)
    path = paths[0].parent / "x-train.tfrecord.index.npz"
    for content in damages(split):
        caplog.clear()
        path.write_bytes(content)
        read(*split)
        assert len(caplog.records) <= 1
    assert len(caplog.records) == 1 and "made again" in caplog.text


def test_an_index_of_other_files_is_made_again_with_one_line(split, tmp_path, caplog):
    paths, payloads = split
    read(*split)
    other = tmp_path / "other"
    other.mkdir()
    others = [other / path.name.replace("x-", "y-") for path in paths]
    for path, some in zip(others, reversed(payloads), strict=True):
        write(path, some)
    name = "{}-train.tfrecord.index.npz"
    shutil.copy(paths[0].parent / name.format("x"), other / name.format("y"))
    read(others, payloads[::-1])
    assert len(caplog.records) == 1 and "other files" in caplog.text
    caplog.clear()
    read(others, payloads[::-1])
    assert not caplog.records
    kept.save(other / name.format("y"), {"version": 0}, {"lengths": np.zeros(2)})
    read(others, payloads[::-1])
    assert len(caplog.records) == 1 and "no index of ours" in caplog.text


def test_read_only_data_have_their_index_in_the_cache(split, tmp_path, monkeypatch):
    monkeypatch.setenv("VIT_JAX_CACHE", str(tmp_path / "cache"))
    paths, _ = split
    folder = paths[0].parent
    folder.chmod(0o555)
    try:
        read(*split)
        assert sorted(folder.iterdir()) == sorted(paths)
        assert len(list((tmp_path / "cache" / "tfrecord").iterdir())) == 1
        monkeypatch.setattr(tfrecord, "index", refuses)
        read(*split)
    finally:
        folder.chmod(0o755)


def test_an_index_that_cannot_be_written_is_one_line(split, monkeypatch, caplog):
    monkeypatch.setattr(kept, "save", lambda *args: "a full disk")
    read(*split)
    assert [one.levelno for one in caplog.records] == [logging.WARNING]
    assert "a full disk" in caplog.text


def test_many_write_the_index_at_once(split, monkeypatch):
    """Threads here, as processes do: each with files of its own names, then renamed."""
    paths, payloads = split
    failed = []

    def reads():
        try:
            read(*split)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=reads) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    left = [path.name for path in paths[0].parent.iterdir()]
    assert sorted(left)[2:] == ["x-train.tfrecord.index.npz"]
    monkeypatch.setattr(tfrecord, "index", refuses)
    read(*split)
