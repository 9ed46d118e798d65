import pickle
import struct

import numpy as np
import pytest

from vit_jax import errors
from vit_jax.data import records, tfrecord

SHARD = "tfrecord_samples-train.tfrecord-00001-of-00003"
ARRAYS = "imagenet_samples-train.array_record-00000-of-00001"


def write_tfrecord(path, payloads):
    with open(path, "wb") as file:
        for payload in payloads:
            length = struct.pack("<Q", len(payload))
            for part in (length, payload):
                file.write(part + struct.pack("<I", tfrecord.masked_crc32c(part)))


@pytest.fixture
def shard(shared_data):
    return shared_data / "tfrecord_samples" / "1.0.0" / SHARD


def test_checksum_is_crc32c():
    """The check value of CRC-32C, masked as TFRecord does."""
    plain = 0xE3069283
    masked = ((plain >> 15 | plain << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert tfrecord.masked_crc32c(b"123456789") == masked


def test_records_come_back_in_any_order(tmp_path):
    rng = np.random.default_rng(0)
    payloads = [rng.bytes(n) for n in (0, 1, 70000, 13, 500)]
    paths = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    write_tfrecord(paths[0], payloads[:2])
    write_tfrecord(paths[1], [])
    write_tfrecord(paths[2], payloads[2:])
    files = records.RecordFiles("tfrecord", paths, [2, 0, 3])
    assert len(files) == 5
    for index in (4, 0, 2, 3, 1, 4):
        assert files.read(index) == payloads[index]
    assert files.name(3) == "c:1"
    again = pickle.loads(pickle.dumps(files))  # noqa: S301
    assert again.read(3) == payloads[3]


def test_truncated_shard_is_one_error_that_names_the_file(shard, tmp_path):
    size = shard.stat().st_size
    for cut in (size - 1, size - 30000, 5):
        path = tmp_path / shard.name
        path.write_bytes(shard.read_bytes()[:cut])
        with pytest.raises(errors.UserError, match="truncated or damaged") as error:
            records.RecordFiles("tfrecord", [path], [16]).read(0)
        assert str(path) in str(error.value)


def test_damaged_header_is_told_from_truncation(shard, tmp_path):
    data = bytearray(shard.read_bytes())
    data[3] ^= 0x40
    path = tmp_path / shard.name
    path.write_bytes(data)
    with pytest.raises(errors.UserError, match="record 0 has a wrong checksum"):
        records.RecordFiles("tfrecord", [path], [16]).check()


def test_no_flipped_bit_is_read(tmp_path):
    """Of every bit of a shard: the record it lies in is refused, the others are not."""
    payloads = [b"abc", b"", b"0123456789" * 2]
    path = tmp_path / "a"
    write_tfrecord(path, payloads)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        refused = 0
        for index, payload in enumerate(payloads):
            try:
                files = records.RecordFiles("tfrecord", [path], [3])
                assert files.read(index) == payload
            except records.DamagedRecord:
                refused += 1
            except errors.UserError as error:
                assert "header of record" in str(error)
                refused = 1
        assert refused == 1, bit


def test_a_record_larger_than_any_example_is_refused(tmp_path):
    length = struct.pack("<Q", 2**31)
    header = length + struct.pack("<I", tfrecord.masked_crc32c(length))
    (tmp_path / "a").write_bytes(header)
    with pytest.raises(errors.UserError, match="no Example is larger"):
        records.RecordFiles("tfrecord", [tmp_path / "a"], [1]).check()


@pytest.mark.parametrize("kind", ["tfrecord", "array_record"])
def test_another_number_of_records_is_an_error(kind, shared_data, shard):
    path = shard
    if kind == "array_record":
        path = shared_data / "imagenet_samples" / "1.0.0" / ARRAYS
    with pytest.raises(errors.UserError, match="wanted 17") as error:
        records.RecordFiles(kind, [path], [17]).read(0)
    assert str(path) in str(error.value)


def test_truncated_array_record_is_one_error(shared_data, tmp_path):
    source = shared_data / "imagenet_samples" / "1.0.0" / ARRAYS
    path = tmp_path / ARRAYS
    path.write_bytes(source.read_bytes()[:-100000])
    with pytest.raises(errors.UserError, match="truncated or damaged") as error:
        records.RecordFiles("array_record", [path], [250]).read(0)
    assert str(path) in str(error.value)
    assert str(error.value).count("\n") == 0


def test_missing_shard_is_found_when_opening(shard, tmp_path):
    missing = tmp_path / "another"
    with pytest.raises(errors.UserError, match="is missing"):
        records.RecordFiles("tfrecord", [shard, missing], [16, 16])


def test_more_shards_than_may_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "open_file_budget", lambda wanted: 2)
    paths = [tmp_path / f"s{k}" for k in range(5)]
    for k, path in enumerate(paths):
        write_tfrecord(path, [bytes([k]), bytes([k, k])])
    files = records.RecordFiles("tfrecord", paths, [2] * 5)
    for index in [0, 9, 3, 5, 0, 7, 2, 9, 1, 8]:
        assert files.read(index) == bytes([index // 2]) * (index % 2 + 1)
