import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from vit_jax.data import decode, exif, jpeg, render, transforms

FORMS = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
}


@pytest.fixture(scope="module")
def scene():
    y, x = np.mgrid[0:48, 0:80]
    channels = [x * 3, y * 5, (x + y) * 2]
    return np.stack(channels, axis=-1).astype(np.uint8)


def tagged(pixels, orientation, form="JPEG", **options):
    tags = Image.Exif()
    tags[0x0112] = orientation
    buffer = io.BytesIO()
    options = FORMS[form] | options
    Image.fromarray(pixels).save(buffer, form, exif=tags.tobytes(), **options)
    return buffer.getvalue()


def pillows(data):
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))


def whole(data, **options):
    return decode.whole(decode.open_image(data, **options)).copy()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_pillow_turns_them(scene, form, orientation):
    data = tagged(scene, orientation, form)
    opened = decode.open_image(data)
    wanted = pillows(data)
    assert (opened.height, opened.width) == wanted.shape[:2]
    np.testing.assert_array_equal(whole(data), wanted)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_stored_pixels_are_those_of_the_untagged_file(scene, form):
    upright = whole(tagged(scene, 1, form))
    np.testing.assert_array_equal(whole(tagged(scene, 6, form), turn=False), upright)


def test_pillow_images_are_turned_once(scene):
    data = tagged(scene, 6)
    opened = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(whole(opened), pillows(data))
    np.testing.assert_array_equal(whole(ImageOps.exif_transpose(opened)), pillows(data))


@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_shrunk_and_partial_decoding_turn_too(scene, shrink, orientation):
    """48x80 is a multiple of 8: shrinking and turning commute."""
    data = tagged(scene, orientation)
    opened = decode.open_image(data)
    pixels, got = opened.pixels(opened.height // 2, shrink)
    stored, _ = decode.open_image(data, turn=False).pixels(48, shrink)
    rows = opened.height // 2 // shrink
    turned = exif.TURNS[orientation](stored)
    assert got == shrink
    np.testing.assert_array_equal(pixels[:rows], turned[:rows])


def test_what_a_shrink_would_cut_off_unevenly_is_shrunk_less(scene):
    opened = decode.open_image(tagged(scene[:44, :76], 3))  # 44 = 4 * 11, 76 = 4 * 19
    assert opened.pixels(44, 8)[1] == 4
    assert decode.open_image(tagged(scene[:43], 3)).pixels(43, 8)[1] == 1


def test_a_transform_sees_the_turned_image_unless_told(scene):
    data = tagged(scene, 6)
    for name in ("resize", "resize_small_crop"):
        params = {"resize": 40} if "crop" in name else {}
        turn = transforms.make("eval", name, image_size=32, **params)
        wanted = turn(pillows(data))
        difference = turn(data).astype(int) - wanted
        assert np.abs(difference).max() <= 1
        stored = transforms.make("eval", name, image_size=32, exif="stored", **params)
        np.testing.assert_array_equal(stored(data), turn(whole(data, turn=False)))


def with_segment(data, content):
    """A JPEG with another APP1 segment at its start."""
    length = (len(content) + 2).to_bytes(2, "big")
    return data[:2] + b"\xff\xe1" + length + content + data[2:]


def test_orientation_of_xmp_counts_where_exif_has_none(scene):
    buffer = io.BytesIO()
    Image.fromarray(scene).save(buffer, "JPEG")
    xmp = b'http://ns.adobe.com/xap/1.0/\0<rdf tiff:Orientation="8"/>'
    data = with_segment(buffer.getvalue(), xmp)
    assert pillows(data).shape == (80, 48, 3)
    assert whole(data).shape == (80, 48, 3)
    data = with_segment(tagged(scene, 3), xmp)
    np.testing.assert_array_equal(whole(data), pillows(data))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientations_turn_nothing(scene, orientation):
    assert whole(tagged(scene, orientation)).shape == scene.shape


def test_damaged_exif_turns_nothing_and_is_no_error(scene):
    rng = np.random.default_rng(0)
    clean = tagged(scene, 6)
    start = jpeg.read_header(clean).app1[0] + 6
    for size in range(19):  # the value lies at 18
        short = with_segment(
            tagged(scene, 1), b"Exif\0\0" + clean[start : start + size]
        )
        assert whole(short).shape == scene.shape
    for _ in range(200):
        damaged = bytearray(clean)
        for at in rng.integers(start, start + 26, 3):
            damaged[at] = rng.integers(256)
        assert whole(bytes(damaged)).shape in {scene.shape, (80, 48, 3)}


def test_windows_are_in_turned_coordinates(scene):
    data = tagged(scene, 8)
    window = render.Window(10, 5, 40, 30, (40, 30))
    out = np.empty((40, 30, 3), np.uint8)
    render.render(decode.open_image(data), window, out)
    np.testing.assert_array_equal(out, pillows(data)[10:50, 5:35])
