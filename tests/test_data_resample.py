import time

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import decode, render, resample, transforms


@pytest.fixture(scope="module")
def noise():
    """Black and white: what overshoots most."""
    return np.random.default_rng(0).integers(0, 2, (60, 90, 3)).astype(np.uint8) * 255


def window_of(name, image, resized, y, x, size):
    down, top, bottom = resample.span(name, len(image), resized[0], y, size[0])
    across, left, right = resample.span(name, image.shape[1], resized[1], x, size[1])
    first = resample.rows_first(image.shape[:2], resized)
    part = image[top:bottom, left:right]
    return resample.window(part, down, across, rows_first=first)


@pytest.mark.parametrize("scale", [0.11, 0.37, 0.5, 0.93, 1.0, 1.7, 4.3])
@pytest.mark.parametrize("name", render.PILLOW_FILTERS)
def test_windows_have_the_very_bits_of_pillows_whole(noise, name, scale):
    """On images no more than twice as tall as wide, which every Pillow does alike."""
    rng = np.random.default_rng(1)
    for height, width in ((60, 90), (17, 23), (60, 31), (1, 90), (5, 5)):
        image = noise[:height, :width]
        rows, columns = max(1, int(height * scale)), max(1, int(width * scale))
        wanted = Image.fromarray(image).resize(
            (columns, rows), render.PILLOW_FILTERS[name]
        )
        y, x = int(rng.integers(rows)), int(rng.integers(columns))
        got = window_of(name, image, (rows, columns), y, x, (rows - y, columns - x))
        np.testing.assert_array_equal(got, np.asarray(wanted)[y:, x:])


def excessive(monkeypatch):
    """Every window is sampled alone."""
    monkeypatch.setattr(render, "EXCESS", 0)


@pytest.mark.parametrize("filter", render.FILTERS)
@pytest.mark.parametrize("scale", [0.3, 0.8, 2.5])
def test_a_window_sampled_alone_is_a_part_of_the_whole(monkeypatch, filter, scale):
    y, x = np.mgrid[0:64, 0:96]
    scene = np.stack([x * 2.6, y * 3.9, (x * y) % 256], -1).astype(np.uint8)
    rows, columns = int(64 * scale), int(96 * scale)
    window = render.Window(0, 0, 64, 96, (rows, columns), rows // 3, columns // 4)
    opened = decode.open_image(scene)
    ordinary = np.empty((rows // 2, columns // 2, 3), np.uint8)
    render.render(opened, window, ordinary, filter=filter)
    excessive(monkeypatch)
    alone = np.empty_like(ordinary)
    render.render(opened, window, alone, filter=filter)
    difference = np.abs(alone.astype(int) - ordinary)
    # cv2's bilinear rounds its weights to 11 bits.
    assert difference.max() <= (0 if filter in render.PILLOW_FILTERS else 1)


@pytest.mark.parametrize(
    "resized", [(12, 18), (23, 40), (60, 90), (100, 150), (7, 200)]
)
def test_area_is_the_mean_over_what_a_pixel_covers(noise, resized):
    """By the definition: cumulative sums at the borders of the output pixels."""

    def means(values, count):
        edges = np.linspace(0, len(values), count + 1)
        sums = np.concatenate([np.zeros((1, *values.shape[1:])), values.cumsum(0)])
        low = np.minimum(np.floor(edges).astype(int), len(values) - 1)
        part = (edges - low)[:, None, None] * values[low]
        return np.diff(sums[low] + part, axis=0) * count / len(values)

    image = noise.astype(float)
    wanted = means(means(image, resized[0]).transpose(1, 0, 2), resized[1])
    wanted = wanted.transpose(1, 0, 2)
    got = np.empty((*resized, 3), np.uint8)
    window = render.Window(0, 0, 60, 90, resized)
    render.render(decode.open_image(noise), window, got, filter="area")
    # big_vision casts to uint8, which cuts off.
    assert (np.abs(got - np.floor(wanted + 1e-4)) <= (np.abs(wanted % 1) < 2e-3)).all()


THIN = {
    "wide": np.arange(8000, dtype=np.uint32)[None, :, None] % 251,
    "tall": np.arange(30000, dtype=np.uint32)[:, None, None] % 251,
}


@pytest.mark.parametrize("filter", ["", "area", "bicubic", "lanczos", "nearest"])
@pytest.mark.parametrize("shape", THIN)
def test_thin_images_cost_what_the_window_does(shape, filter):
    image = np.repeat(THIN[shape], 3, axis=2).astype(np.uint8)
    transform = transforms.make(
        "eval", "resize_small_crop", image_size=224, resize=256, filter=filter
    )
    start = time.process_time()
    out = transform(image)
    assert time.process_time() - start < 1  # 20 to 70 s where all of it is made
    # The window covers 224/256 of the one pixel on either side of the middle.
    middle = max(image.shape) // 2
    values = image.reshape(-1, 3)[middle - 2 : middle + 2, 0]
    assert values.min() - 8 <= out.min() and out.max() <= values.max() + 8
    straight = out if shape == "wide" else out.transpose(1, 0, 2)
    assert (straight == straight[:1]).all()


def test_thin_windows_have_the_pixels_of_a_shorter_image():
    """Far ends of a thin image do not matter to its centre."""
    ramp = (np.arange(4000) * 7 % 256).astype(np.uint8)
    line = np.repeat(ramp[None, :, None], 3, axis=2)
    short = line[:, 1990:2010]
    for filter in ("", "bicubic", "lanczos", "bilinear"):
        transform = transforms.make(
            "eval", "resize_small_crop", image_size=16, resize=16, filter=filter
        )
        difference = transform(line).astype(int) - transform(short)
        assert np.abs(difference).max() <= 1


def test_a_jpeg_beyond_the_limit_is_decoded_shrunk(monkeypatch):
    y, x = np.mgrid[0:160, 0:240]
    scene = np.stack([x, y, (x + y) // 2], -1).astype(np.uint8)
    import simplejpeg

    data = simplejpeg.encode_jpeg(scene, quality=98)
    transform = transforms.make("eval", "resize", image_size=20, filter="bicubic")
    whole = transform(data).astype(int)
    monkeypatch.setattr(decode, "MAX_PIXELS", 160 * 240 // 3)
    monkeypatch.setattr(decode, "MAX_JPEG_PIXELS", 4 * 160 * 240 // 3)
    assert np.abs(transform(data) - whole).max() <= 2
    with pytest.raises(decode.BadImage, match="160x240"):
        decode.whole(decode.open_image(data))
    monkeypatch.setattr(decode, "MAX_JPEG_PIXELS", 160 * 240 - 1)
    with pytest.raises(decode.BadImage, match="160x240"):
        decode.open_image(data)
