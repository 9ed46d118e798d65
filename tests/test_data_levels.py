"""Numbers that are not 0..255: scaled by the stated rule, or refused; never black."""

import io
import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from test_data_example import bytes_feature, packed_floats, packed_ints
from test_data_tfds import prepare

from vit_jax import errors, models
from vit_jax.data import catalog, decode, loader, preprocessing, transforms
from vit_jax.weights import pretrained

CASE = Path(__file__).parent / "golden" / "cases" / "tfds_float32"
RAMP = np.linspace(0, 1, 48).reshape(6, 8)
GREY = np.rint(RAMP * 255).astype(np.uint8)
LABEL = {"classLabel": {"numClasses": "2"}}


def pixels_of(image):
    opened = decode.open_image(image)
    pixels, _ = opened.pixels(opened.height, 1)
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
    return pixels


def assert_ramp(image, tolerance=1):
    wanted = np.stack([GREY.astype(int)] * 3, -1)
    assert np.abs(pixels_of(image) - wanted).max() <= tolerance


@pytest.mark.parametrize(
    "array, tolerance",
    [
        (GREY, 0),
        (np.dstack([GREY] * 3 + [GREY * 0 + 9]), 0),
        (RAMP, 0),
        (RAMP.astype(np.float32)[..., None], 0),
        (np.dstack([RAMP] * 3).astype(np.float16), 1),
        (np.dstack([RAMP] * 3 + [RAMP + 5]), 0),  # alpha decides nothing
        (RAMP + 1e-3, 1),
        ((RAMP * 65535).astype(np.uint16), 1),
        ((RAMP * 65535).astype(">u2"), 1),
        (np.dstack([RAMP * 65535] * 3).astype(np.uint16), 1),
    ],
)
def test_arrays_are_scaled_by_their_kind(array, tolerance):
    assert_ramp(array, tolerance)


def test_eight_bits_as_floats_or_sixteen_bits_are_exact():
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for dtype in (np.float16, np.float32, np.float64):
        np.testing.assert_array_equal(
            pixels_of((every / 255).astype(dtype))[..., 0], every
        )
    np.testing.assert_array_equal(
        pixels_of(every.astype(np.uint16) * 257)[..., 0], every
    )
    np.testing.assert_array_equal(pixels_of(every > 99)[..., 1], (every > 99) * 255)
    np.testing.assert_array_equal(pixels_of(np.zeros((2, 2), np.uint16)), 0)


@pytest.mark.parametrize(
    "array, shown",
    [
        (RAMP * 255, "numbers 0 to 255; floats are read as 0..1"),
        (RAMP * 2 - 1, "numbers -1 to 1;"),
        (RAMP * np.nan, "nan"),
        (np.where(RAMP > 0.5, np.nan, RAMP), "nan"),
        (np.where(RAMP > 0.5, np.inf, RAMP), "inf"),
        (RAMP / 255, "so the image would be black"),
        (GREY.astype(np.int64), "int64 (6, 8, 1); wanted uint8"),
        (GREY.astype(np.int16) - 100, "wanted uint8"),
        (GREY.astype(np.int8), "wanted uint8"),
        (GREY.astype(np.uint32), "wanted uint8"),
        (GREY.astype(np.uint16), "values up to 255, of 65535"),
        ((RAMP * 4095).astype(np.uint16), "values up to 4095, of 65535"),
        ((RAMP * 16383).astype(np.uint16), "values up to 16383, of 65535"),
        (RAMP.astype(np.complex64), "wanted uint8"),
        (np.zeros((3, 6, 8), np.float32), "8 channels; wanted 1, 3 or 4"),
        (np.zeros((2, 6, 8, 3), np.float32), "wanted uint8"),
    ],
)
def test_arrays_without_a_rule_are_refused(array, shown):
    with pytest.raises(decode.BadImage) as error:
        decode.open_image(array)
    assert shown in str(error.value) and "\n" not in str(error.value)


def encoded(suffix, array):
    """OpenCV writes what Pillow does not: colours of 16 bits, floats."""
    if array.ndim == 3:
        array = array[..., [2, 1, 0, 3][: array.shape[2]]]
    done, data = cv2.imencode(suffix, array)
    assert done
    return data.tobytes()


def tiff(array, *, bits, kind, white_is_zero=False, data=None):
    """A grey TIFF of any sample format: 1 unsigned, 2 signed, 3 float."""
    height, width = array.shape
    data = array.tobytes() if data is None else data
    start = 8 + 2 + 12 * 10 + 4
    entries = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1)]
    entries += [(262, 3, 0 if white_is_zero else 1), (273, 4, start), (277, 3, 1)]
    entries += [(278, 4, height), (279, 4, len(data)), (339, 3, kind)]
    table = b"".join(
        struct.pack("<HHI", tag, form, 1)
        + (struct.pack("<HH", value, 0) if form == 3 else struct.pack("<I", value))
        for tag, form, value in entries
    )
    header = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return header + table + struct.pack("<I", 0) + data


def twelve(values):
    """Two numbers of twelve bits in three bytes."""
    packed = bytearray()
    for a, b in zip(values[::2].tolist(), values[1::2].tolist()):
        packed += bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
    return bytes(packed)


def saved(image, form):
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


WIDE = (RAMP * 65535).astype(np.uint16)
COLOURS = np.dstack([WIDE] * 3)
TWELVE = (RAMP * 4095).astype(np.uint16)
PGM = b"P5 8 6 4095\n" + TWELVE.astype(">u2").tobytes()
FILES = {
    "png grey 16": encoded(".png", WIDE),
    "png colour 16": encoded(".png", COLOURS),
    "png alpha 16": encoded(".png", np.dstack([COLOURS, WIDE[::-1]])),
    "tiff grey 16": encoded(".tiff", WIDE),
    "tiff colour 16": encoded(".tiff", COLOURS),
    "tiff 12": tiff(TWELVE, bits=12, kind=1, data=twelve(TWELVE.reshape(-1))),
    "tiff white is zero": tiff(65535 - WIDE, bits=16, kind=1, white_is_zero=True),
    "tiff float": tiff(RAMP.astype("<f4"), bits=32, kind=3),
    "tiff float white": tiff(
        (1 - RAMP).astype("<f4"), bits=32, kind=3, white_is_zero=True
    ),
    "pgm 16": encoded(".pgm", WIDE),
    "pgm 12": PGM,
    "png grey 8": encoded(".png", GREY),
    "png grey and alpha": saved(
        Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (8, 6), 3)]), "PNG"
    ),
    "gif palette": saved(Image.fromarray(GREY), "GIF"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_any_depth_are_the_same_picture(name):
    assert_ramp(FILES[name])


def test_a_transparent_palette_keeps_its_colours_without_a_warning(recwarn):
    image = Image.fromarray(GREY).convert("P")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes(range(256)))
    assert_ramp(buffer.getvalue(), 0)
    assert not recwarn.list


def test_one_bit_is_black_and_white():
    bits = Image.fromarray(GREY > 127)
    assert bits.mode == "1"
    for image in (bits, saved(bits, "PNG"), saved(bits, "TIFF")):
        np.testing.assert_array_equal(pixels_of(image)[..., 0], (GREY > 127) * 255)


DARK = {
    "png grey 12 in 16": encoded(".png", TWELVE),
    "png grey 8 in 16": encoded(".png", GREY.astype(np.uint16)),
    "png colour 12 in 16": encoded(".png", np.dstack([TWELVE] * 3)),
    "png colour 8 in 16": encoded(".png", np.dstack([GREY] * 3).astype(np.uint16)),
    "png alpha 12 in 16": encoded(".png", np.dstack([TWELVE] * 3 + [TWELVE * 15])),
    "tiff grey 12 in 16": encoded(".tiff", TWELVE),
    "tiff colour 12 in 16": encoded(".tiff", np.dstack([TWELVE] * 3)),
    "pgm 12 as 16": encoded(".pgm", TWELVE),
}
SIGNED = {
    "tiff int8": tiff(GREY.astype("i1"), bits=8, kind=2),
    "tiff int16": tiff(GREY.astype("<i2") - 100, bits=16, kind=2),
    "tiff int32": tiff(WIDE.astype("<i4"), bits=32, kind=2),
}
OTHER = {
    "tiff uint32": (tiff(WIDE.astype("<u4"), bits=32, kind=1), "32-bit integers"),
    "tiff float 255": (
        tiff((RAMP * 255).astype("<f4"), bits=32, kind=3),
        "floats are read as 0..1",
    ),
    "tiff float nan": (tiff((RAMP * np.nan).astype("<f4"), bits=32, kind=3), "nan"),
    "tiff float 64": (encoded(".tiff", RAMP), "no readable image"),
    "tiff float colour": (encoded(".tiff", np.dstack([RAMP] * 3)), "no readable"),
    "premultiplied": (Image.new("La", (8, 6)), "mode La, which Pillow cannot"),
    "negative": (
        Image.fromarray(GREY.astype(np.int32) - 100),
        "integers -100 to 155; wanted uint8",
    ),
}
REFUSED = {
    name: (data, "of 65535: the scale is another one") for name, data in DARK.items()
}
REFUSED |= {
    name: (data, "signed integers; wanted uint8") for name, data in SIGNED.items()
}
REFUSED |= OTHER


@pytest.mark.parametrize("name", REFUSED)
def test_files_without_a_rule_are_refused_and_not_black(name):
    image, shown = REFUSED[name]
    with pytest.raises(decode.BadImage) as error:
        decode.open_image(image)
    assert shown in str(error.value) and "\n" not in str(error.value)


def test_a_folder_of_twelve_bits_is_one_error_and_a_file_of_it_too(tmp_path):
    for k in range(3):
        (tmp_path / "cat").mkdir(exist_ok=True)
        (tmp_path / "cat" / f"{k}.png").write_bytes(DARK["png grey 12 in 16"])
    source = catalog.open_source(f"folder:{tmp_path}", "train")
    transform = transforms.make("eval", "resize", image_size=(6, 8))
    batches = loader.eval_loader(source, transform, batch_size=3, threads=1)
    with pytest.raises(errors.UserError, match="3 of 3 images cannot be read") as error:
        list(batches)
    assert "values up to 4095, of 65535" in str(error.value)


def test_images_of_a_checkpoint_take_floats_and_refuse_by_one_error():
    wanted = preprocessing.Preprocessing((6, 8))
    architecture = models.architecture("mu/2", num_classes=2, image_size=(6, 8))
    loaded = pretrained.Loaded(
        model=None,
        architecture=architecture,
        preprocessing=wanted,
        label_names=None,
        source="",
        dialect="vit_jax",
    )
    floats, ints = loaded.images([np.dstack([RAMP] * 3), np.dstack([GREY] * 3)])
    np.testing.assert_array_equal(floats, ints)
    with pytest.raises(errors.UserError, match="floats are read as 0..1"):
        loaded.images([np.dstack([RAMP] * 3) * 255])


def test_float_images_of_tfds_are_grey():
    """A PNG whose four channels are the bytes of a float: 0..1 is 0..255."""
    row = json.loads((CASE / "expected.json").read_text())["first_row"]
    source = catalog.open_source("toy", "train", data_dir=str(CASE))
    pixels = pixels_of(source[0]["image"])
    wanted = np.rint(255 * np.array(row))
    np.testing.assert_array_equal(pixels[0], np.stack([wanted] * 3, -1))
    assert source.image_shape == (8, 8, 1)


@pytest.mark.parametrize("form", ["tfrecord", "array_record"])
def test_the_cache_in_memory_holds_the_same_levels(form, tmp_path):
    directory = prepare_floats(tmp_path / "1.0.0", RAMP)
    if form == "array_record":
        to_array_record(directory)
    source = catalog.open_source(str(directory), "train")
    transform = transforms.make("train", "none", image_size=(6, 8))
    for cache in ("none", "ram"):
        batches = loader.train_loader(
            source, transform, batch_size=1, seed=0, threads=1, cache=cache
        )
        np.testing.assert_array_equal(
            batches.batch(0)["image"][0], np.stack([GREY] * 3, -1)
        )
        batches.close()


def to_array_record(directory):
    """The same records in the other format that TFDS writes."""
    writer = pytest.importorskip("array_record.python.array_record_module")
    old = directory / "toy-train.tfrecord-00000-of-00001"
    data = old.read_bytes()
    new = directory / "toy-train.array_record-00000-of-00001"
    out = writer.ArrayRecordWriter(str(new), "group_size:1")
    out.write(data[12 : 12 + struct.unpack("<Q", data[:8])[0]])
    out.close()
    old.unlink()
    path = directory / "dataset_info.json"
    path.write_text(path.read_text().replace("tfrecord", "array_record"))


def prepare_floats(directory, values):
    packed = np.ascontiguousarray(values.astype("<f4")).view(np.uint8)
    data = saved(Image.fromarray(packed.reshape(*values.shape, 4)), "PNG")
    shape = {"dimensions": [str(n) for n in (*values.shape, 1)]}
    image = {"image": {"dtype": "float32", "shape": shape, "encodingFormat": "png"}}
    record = {"image": bytes_feature(data), "label": packed_ints(1)}
    return prepare(directory, {"image": image, "label": LABEL}, {"train": [[record]]})


@pytest.mark.parametrize(
    "values, shown",
    [(RAMP * 80, "floats are read as 0..1"), (RAMP * np.nan, "nan")],
)
def test_depths_and_the_like_are_refused(values, shown, tmp_path):
    source = catalog.open_source(str(prepare_floats(tmp_path / "a", values)), "train")
    with pytest.raises(decode.BadImage, match=shown):
        decode.open_image(source[0]["image"])


def test_a_colour_image_declared_as_floats_is_refused(tmp_path):
    directory = prepare_floats(tmp_path / "a", RAMP)
    record = {
        "image": bytes_feature(encoded(".png", np.dstack([GREY] * 3))),
        "label": packed_ints(1),
    }
    features = json.loads((directory / "features.json").read_text())["featuresDict"]
    other = prepare(tmp_path / "b", features["features"], {"train": [[record]]})
    with pytest.raises(decode.BadImage, match="wanted the four bytes of a float32"):
        catalog.open_source(str(other), "train")[0]


TENSORS = {
    "float32 none": packed_floats(*RAMP.astype(np.float32).reshape(-1)),
    "uint8 none": packed_ints(*GREY.reshape(-1).tolist()),
    "uint16 none": packed_ints(*WIDE.reshape(-1).tolist()),
    "uint8 bytes": bytes_feature(GREY.tobytes()),
    "float32 bytes": bytes_feature(RAMP.astype("<f4").tobytes()),
    "uint16 zlib": bytes_feature(zlib.compress(WIDE.astype("<u2").tobytes())),
}


def open_tensor(directory, kind, feature, dimensions=("6", "8", "1")):
    dtype, encoding = kind.split()
    tensor = {"shape": {"dimensions": list(dimensions)}, "dtype": dtype}
    features = {"image": {"tensor": tensor | {"encoding": encoding}}, "label": LABEL}
    record = {"image": feature, "label": packed_ints(1)}
    prepare(directory, features, {"train": [[record]]})
    return catalog.open_source(str(directory), "train")


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("dimensions", [("6", "8", "1"), ("6", "8"), ("-1", "8", "1")])
def test_tensors_of_tfds_are_images(kind, dimensions, tmp_path):
    source = open_tensor(tmp_path / "a", kind, TENSORS[kind], dimensions)
    assert_ramp(source[0]["image"])
    assert source.image_shape == (None if "-1" in dimensions else (6, 8, 1))


def test_the_supervised_pair_may_name_a_tensor_beside_an_image(tmp_path):
    shape = {"dimensions": ["6", "8", "1"]}
    tensor = {"tensor": {"shape": shape, "dtype": "uint8", "encoding": "bytes"}}
    mask = {"image": {"shape": shape, "dtype": "uint8"}}
    record = {
        "image": TENSORS["uint8 bytes"],
        "mask": bytes_feature(encoded(".png", GREY * 0)),
        "label": packed_ints(1),
    }
    features = {"image": tensor, "mask": mask, "label": LABEL}
    prepare(tmp_path / "a", features, {"train": [[record]]})
    assert_ramp(catalog.open_source(str(tmp_path / "a"), "train")[0]["image"], 0)


@pytest.mark.parametrize(
    "kind, feature, shown",
    [
        ("float32 none", packed_floats(0.5, 0.5), "no float32 tensor of"),
        ("uint8 none", packed_ints(*[300] * 48), "no uint8 tensor of"),
        ("uint8 zlib", bytes_feature(b"junk"), "no uint8 tensor of"),
        ("uint8 zlib", bytes_feature(zlib.compress(bytes(1 << 20))), "no uint8 tensor"),
        ("int64 none", packed_ints(*[3] * 48), "wanted uint8"),
        ("float32 none", packed_floats(*[200.0] * 48), "floats are read as 0..1"),
    ],
)
def test_a_tensor_that_is_no_image_is_refused(kind, feature, shown, tmp_path):
    source = open_tensor(tmp_path / "a", kind, feature)
    with pytest.raises(decode.BadImage, match=shown):
        decode.open_image(source[0]["image"])


def test_an_unknown_dtype_is_refused_when_the_dataset_is_opened(tmp_path):
    directory = prepare_floats(tmp_path / "a", RAMP)
    path = directory / "features.json"
    path.write_text(path.read_text().replace("float32", "float64"))
    with pytest.raises(errors.UserError, match="dtype 'float64'; readable: uint8"):
        catalog.describe(str(directory))
