import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms

from vit_jax.data import catalog, decode, jpeg, render, walking


@pytest.fixture(scope="module")
def photographs(shared_data):
    source = catalog.open_source("imagenet_samples", "train", data_dir=str(shared_data))
    return [source[index]["image"] for index in range(0, 250, 5)]


def encoded(pixels, form, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def pixels_of(data):
    opened = decode.open_image(data)
    pixels, shrink = opened.pixels(opened.height, 1)
    assert shrink == 1 and pixels.shape == (opened.height, opened.width, 3)
    return pixels.copy()


@pytest.fixture(scope="module")
def scene():
    y, x = np.mgrid[0:61, 0:83]
    channels = [x * 3, y * 4, (x + y) * 2 % 256]
    return np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)


def test_photographs_equal_pillow_within_two_grey_levels(photographs):
    """Both decode with libjpeg-turbo; the versions may differ in rounding."""
    for data in photographs:
        theirs = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        difference = np.abs(pixels_of(data).astype(int) - theirs)
        assert difference.mean() < 0.2


def variants(data):
    """The photograph in every subsampling, progressive, and with restart markers."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    yield data
    for subsampling in (0, 1, 2):
        for options in (
            {},
            {"progressive": True},
            {"restart_marker_blocks": 3},
            {"restart_marker_rows": 1},
        ):
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", subsampling=subsampling, **options)
            yield buffer.getvalue()


@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
def test_rows_above_the_crops_bottom_are_bit_equal(photographs, shrink):
    rng = np.random.default_rng(0)
    partial = 0
    for data in [v for photo in photographs[:3] for v in variants(photo)] + photographs:
        header = jpeg.read_header(data)
        whole = simplejpeg.decode_jpeg(
            data,
            "RGB",
            min_factor=shrink,
            min_height=-(-header.height // shrink),
            min_width=-(-header.width // shrink),
        )
        for bottom in rng.integers(1, header.height + 1, 3):
            part = jpeg.decode(data, header, bottom=int(bottom), shrink=shrink)
            rows = -(-int(bottom) // shrink) + (shrink > 1)
            np.testing.assert_array_equal(part[:rows], whole[:rows])
            partial += len(part) < len(whole)
    assert partial > 100


def test_headers_are_those_of_pillow(photographs):
    for data in [v for photo in photographs[:2] for v in variants(photo)] + photographs:
        image = Image.open(io.BytesIO(data))
        header = jpeg.read_header(data)
        assert (header.width, header.height) == image.size
        assert header.components == len(image.getbands())
        assert header.one_pass == ("progressive" not in image.info)


def test_truncated_photograph_is_refused_wherever_it_breaks_off(photographs):
    for data in photographs[:10]:
        for size in (2, 3, 20, 200, len(data) // 2, len(data) - 500, len(data) - 9):
            with pytest.raises(decode.BadImage):
                opened = decode.open_image(data[:size])
                opened.pixels(opened.height // 2, 1)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"not an image", b"\0" * 1000, b"<html></html>"]
)
def test_garbage_is_refused(data):
    with pytest.raises(decode.BadImage, match=f"{len(data)} bytes"):
        decode.open_image(data)


def test_random_damage_never_crashes(photographs):
    rng = np.random.default_rng(0)
    for data in photographs[:20]:
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 30):
            damaged[at] = rng.integers(256)
        try:
            opened = decode.open_image(bytes(damaged))
            opened.pixels(opened.height, 1)
        except decode.BadImage:
            pass


def test_every_extension_of_a_folder_is_opened_and_no_other_format(scene):
    """EPS would be handed to Ghostscript, PCX and SGI are in no dataset."""
    image = Image.fromarray(scene)
    known = Image.registered_extensions()
    for extension in walking.EXTENSIONS:
        assert known[extension] in decode.FORMATS
        got = decode.open_image(encoded(scene, known[extension]))
        assert (got.height, got.width) == scene.shape[:2]
    for form in ("EPS", "PCX", "SGI", "ICO", "PDF"):
        stream = io.BytesIO()
        image.save(stream, form)
        with pytest.raises(decode.BadImage, match="no readable image"):
            decode.open_image(stream.getvalue())


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_other_formats_are_exact_whatever_their_name(scene, form):
    data = encoded(scene, form, **({"lossless": True} if form == "WEBP" else {}))
    np.testing.assert_array_equal(pixels_of(data), scene)


def test_grey_becomes_three_equal_channels(scene):
    grey = scene[..., 0]
    for data in (encoded(grey, "PNG"), encoded(grey, "JPEG", quality=100)):
        pixels = pixels_of(data)
        assert (pixels == pixels[..., :1]).all()
        assert np.abs(pixels[..., 0].astype(int) - grey).max() <= 3
    for array in (grey, grey[..., None]):
        np.testing.assert_array_equal(pixels_of(array), np.stack([grey] * 3, -1))


def test_alpha_is_dropped(scene):
    alpha = np.full((*scene.shape[:2], 1), 7, np.uint8)
    rgba = np.concatenate([scene, alpha], axis=-1)
    np.testing.assert_array_equal(pixels_of(encoded(rgba, "PNG")), scene)
    np.testing.assert_array_equal(pixels_of(rgba), scene)


def test_palette_is_looked_up(scene):
    few = scene // 64 * 64
    image = Image.fromarray(few).convert("P", palette=Image.ADAPTIVE, colors=256)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert np.abs(pixels_of(buffer.getvalue()).astype(int) - few).mean() < 8


def test_sixteen_bit_grey_keeps_its_high_byte(scene):
    wide = scene[..., 1].astype(np.uint16) * 256 + 200
    pixels = pixels_of(encoded(wide, "PNG"))
    np.testing.assert_array_equal(pixels, np.stack([scene[..., 1]] * 3, -1))


def test_cmyk_jpeg_goes_through_pillow(scene):
    buffer = io.BytesIO()
    Image.fromarray(scene).convert("CMYK").save(buffer, "JPEG", quality=100)
    assert np.abs(pixels_of(buffer.getvalue()).astype(int) - scene).mean() < 6


def test_colour_profiles_are_left_alone(scene):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(scene, "PNG", icc_profile=profile)
    np.testing.assert_array_equal(pixels_of(data), scene)


def test_decompression_bombs_are_refused(scene):
    data = bytearray(encoded(scene, "JPEG"))
    header = jpeg.read_header(data)
    data[header.rows_at : header.rows_at + 4] = (65000).to_bytes(2, "big") * 2
    with pytest.raises(decode.BadImage, match="65000x65000"):
        decode.open_image(bytes(data))
    side = 12000
    bomb = encoded(np.zeros((side, side), np.uint8), "PNG", compress_level=1)
    assert len(bomb) < side * side / 50
    with pytest.raises(decode.BadImage, match=f"{side}x{side}"):
        decode.open_image(bomb)


def test_pillow_images_and_undecoded_dicts_are_opened(scene):
    np.testing.assert_array_equal(pixels_of(Image.fromarray(scene)), scene)
    holder = {"bytes": encoded(scene, "PNG"), "path": None}
    np.testing.assert_array_equal(pixels_of(holder), scene)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 3), int), np.zeros(5, np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(decode.BadImage, match="wanted uint8"):
        decode.open_image(array)


def rendered(image, window, size, **options):
    out = np.full((*size, 3), 99, np.uint8)
    render.render(decode.open_image(image), window, out, **options)
    return out


def bilinear(pixels, window):
    """Bilinear sampling with half-integer pixel centres, edges of the box repeated."""
    h, w = window.resized
    box = pixels[window.top :, window.left :][: window.height, : window.width]
    y = (np.arange(h) + 0.5) * window.height / h - 0.5
    x = (np.arange(w) + 0.5) * window.width / w - 0.5
    y, x = y.clip(0, window.height - 1), x.clip(0, window.width - 1)
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    y1 = np.minimum(y0 + 1, window.height - 1)
    x1 = np.minimum(x0 + 1, window.width - 1)
    fy, fx = (y - y0)[:, None, None], (x - x0)[None, :, None]
    box = box.astype(float)
    above = box[y0][:, x0] * (1 - fx) + box[y0][:, x1] * fx
    below = box[y1][:, x0] * (1 - fx) + box[y1][:, x1] * fx
    return above * (1 - fy) + below * fy


@pytest.mark.parametrize("size", [(20, 33), (70, 90), (61, 40)])
def test_resampling_is_bilinear(scene, size):
    window = render.Window(11, 7, 37, 50, size)
    difference = rendered(scene, window, size) - bilinear(scene, window)
    assert np.abs(difference).max() < 1.5


def test_a_box_of_the_right_size_is_copied(scene):
    window = render.Window(3, 5, 20, 30, (20, 30))
    np.testing.assert_array_equal(rendered(scene, window, (20, 30)), scene[3:23, 5:35])
    window = render.Window(3, 5, 20, 30, (20, 30), y=4, x=6)
    np.testing.assert_array_equal(rendered(scene, window, (10, 9)), scene[7:17, 11:20])


def test_a_window_is_cut_from_the_scaled_box(scene):
    whole = render.Window(0, 0, 61, 83, (90, 120))
    part = whole._replace(y=13, x=40)
    scaled = rendered(scene, whole, (90, 120))
    np.testing.assert_array_equal(
        rendered(scene, part, (50, 60)), scaled[13:63, 40:100]
    )


def test_antialiasing_averages_areas(scene):
    window = render.Window(0, 0, 60, 80, (15, 20))
    areas = scene[:60, :80].reshape(15, 4, 20, 4, 3).mean(axis=(1, 3))
    got = rendered(scene, window, (15, 20), antialias=True)
    assert np.abs(got - areas).max() <= 1


def test_shrunk_decoding_stays_aligned(photographs):
    """Against averaged areas: as near as full decoding is, in every position."""
    rng = np.random.default_rng(0)
    for data in photographs[:10]:
        image = Image.open(io.BytesIO(data)).convert("RGB").resize((1200, 900))
        large = encoded(np.asarray(image), "JPEG", quality=95)
        h, w = 448 + int(rng.integers(200)), 448 + int(rng.integers(300))
        top, left = int(rng.integers(900 - h)), int(rng.integers(1200 - w))
        window = render.Window(top, left, h, w, (224, 224))
        reference = rendered(image, window, (224, 224), antialias=True).astype(int)
        full = np.abs(rendered(image, window, (224, 224)) - reference).mean()
        shrunk = np.abs(rendered(large, window, (224, 224)) - reference).mean()
        moved = window._replace(left=left + 1 if left + w < 1200 else left - 1)
        shifted = np.abs(rendered(large, moved, (224, 224)) - reference).mean()
        assert shrunk < full + 0.5
        assert shrunk < shifted


def test_extreme_shapes_can_be_resized():
    long = np.zeros((2, 40000, 3), np.uint8)
    window = render.Window(0, 0, 2, 40000, (16, 16))
    assert rendered(long, window, (16, 16)).shape == (16, 16, 3)
    data = simplejpeg.encode_jpeg(np.full((3, 60000, 3), 128, np.uint8))
    window = render.Window(0, 0, 3, 60000, (1, 1))
    assert np.abs(rendered(data, window, (1, 1)).astype(int) - 128).max() <= 2
