import struct

import numpy as np

from vit_jax.data import example


def varint(value):
    value &= (1 << 64) - 1
    data = b""
    while value > 127:
        data += bytes([value & 127 | 128])
        value >>= 7
    return data + bytes([value])


def field(tag, payload):
    return bytes([tag]) + varint(len(payload)) + payload


def encode(features):
    """A serialized tf.train.Example of {name: encoded Feature}."""
    entries = b"".join(
        field(10, field(10, name.encode()) + field(18, value))
        for name, value in features.items()
    )
    return field(10, entries)


def bytes_feature(*values):
    return field(10, b"".join(field(10, value) for value in values))


def packed_ints(*values):
    return field(26, field(10, b"".join(map(varint, values))))


def unpacked_ints(*values):
    return field(26, b"".join(b"\x08" + varint(value) for value in values))


def packed_floats(*values):
    return field(18, field(10, struct.pack(f"<{len(values)}f", *values)))


def unpacked_floats(*values):
    return field(18, b"".join(b"\x0d" + struct.pack("<f", v) for v in values))


RECORD = {
    "image": bytes_feature(b"\xff\xd8" + bytes(range(256)) * 3),
    "label": packed_ints(7),
    "labels": packed_ints(0, 300, -1, 2**62),
    "loose": unpacked_ints(5, 1000, -3),
    "box": packed_floats(0.5, -2.0),
    "loose_box": unpacked_floats(1.5, 2.5),
    "texts": bytes_feature(b"a", b"", b"longer than one"),
    "empty": b"",
}


def test_every_kind_of_list_is_read():
    found = example.parse(encode(RECORD), frozenset(RECORD))
    assert found["image"] == [b"\xff\xd8" + bytes(range(256)) * 3]
    assert found["label"] == [7]
    assert found["labels"] == [0, 300, -1, 2**62]
    assert found["loose"] == [5, 1000, -3]
    assert found["texts"] == [b"a", b"", b"longer than one"]
    np.testing.assert_array_equal(found["box"], np.float32([0.5, -2.0]))
    np.testing.assert_array_equal(found["loose_box"], np.float32([1.5, 2.5]))
    assert "empty" not in found


def test_only_wanted_features_are_returned():
    assert example.parse(encode(RECORD), frozenset({"label"})) == {"label": [7]}


def test_a_record_that_breaks_off_is_an_error_or_incomplete_never_a_crash():
    record = encode(RECORD)
    for length in range(len(record)):
        try:
            found = example.parse(record[:length], frozenset(RECORD))
        except example.MalformedExample:
            continue
        assert found == {} and length == 0


def test_noise_is_no_example():
    rng = np.random.default_rng(0)
    for _ in range(300):
        noise = rng.integers(0, 256, 60, np.uint8).tobytes()
        try:
            found = example.parse(noise, frozenset({"image"}))
        except example.MalformedExample:
            continue
        assert found == {}
