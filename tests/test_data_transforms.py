import numpy as np
import pytest

from vit_jax import errors
from vit_jax.data import catalog, draws, transforms


@pytest.fixture(scope="module")
def source(shared_data):
    return catalog.open_source("imagenet_samples", "train", data_dir=str(shared_data))


def uniforms(count, transform, seed=0):
    return draws.uniforms(seed, np.arange(count), transform.draws).tolist()


def ramp(height, width):
    """An image whose first channels tell where a pixel came from."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y, x, np.full_like(y, 200)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (1, 7)])
@pytest.mark.parametrize(
    "kind, name, params",
    [
        ("train", "inception_crop", {}),
        ("train", "inception_crop", {"antialias": True}),
        ("train", "resize", {}),
        ("train", "resize_crop", {"resize": 96}),
        ("train", "resize_small_crop", {"resize": 96}),
        ("eval", "resize", {}),
        ("eval", "resize_small_crop", {"resize": 80}),
    ],
)
def test_every_transform_gives_uint8_of_its_size(source, kind, name, params, size):
    transform = transforms.make(kind, name, image_size=size, **params)
    images = [source[1]["image"], ramp(50, 33), ramp(3, 200), ramp(1, 1)[..., :1]]
    for image, numbers in zip(images, uniforms(4, transform)):
        out = transform(image, numbers)
        assert out.shape == (*size, 3) and out.dtype == np.uint8
        into = np.zeros((2, *size, 3), np.uint8)
        assert transform(image, numbers, into[1]) is not None
        np.testing.assert_array_equal(into[1], out)
        assert (into[0] == 0).all()


def test_inception_crops_keep_area_and_aspect():
    transform = transforms.make("train", "inception_crop", image_size=8)
    windows = [transform.plan(400, 500, u) for u in uniforms(4000, transform)]
    area = np.array([w.height * w.width for w in windows]) / (400 * 500)
    aspect = np.array([w.width / w.height for w in windows])
    assert area.min() >= 0.05 and area.max() <= 1
    assert 0.74 < aspect.min() < 0.76 and 1.31 < aspect.max() < 1.35
    for w in windows:
        assert 0 <= w.top <= w.top + w.height <= 400
        assert 0 <= w.left <= w.left + w.width <= 500
    # Every margin is reached: crops touch all four sides now and then.
    assert min(w.top for w in windows) == 0 and min(w.left for w in windows) == 0
    assert max(w.top + w.height for w in windows) == 400
    assert max(w.left + w.width for w in windows) == 500


def test_inception_crops_are_distributed_as_tensorflows():
    """Aspect uniform; given it, the height uniform: mean of the middle of its range."""
    transform = transforms.make("train", "inception_crop", image_size=8)
    windows = [transform.plan(400, 400, u) for u in uniforms(20000, transform, seed=3)]
    aspect = np.array([w.width / w.height for w in windows])
    height = np.array([w.height for w in windows])
    low = np.sqrt(0.05 * 160000 / aspect)
    high = np.minimum(400, 400 / aspect)
    relative = (height - low) / (high - low)
    assert abs(aspect.mean() - (3 / 4 + 4 / 3) / 2) < 0.01
    assert abs(relative.mean() - 0.5) < 0.01
    assert abs(relative.std() - 12**-0.5) < 0.01


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (20, 600), (2000, 9), (3, 3)])
def test_inception_crops_of_odd_images_stay_inside(shape):
    transform = transforms.make("train", "inception_crop", image_size=8)
    for u in uniforms(500, transform):
        w = transform.plan(*shape, u)
        assert 0 <= w.top and 0 < w.height and w.top + w.height <= shape[0]
        assert 0 <= w.left and 0 < w.width and w.left + w.width <= shape[1]


def test_extreme_uniforms_stay_inside():
    nearly_one = np.nextafter(1.0, 0.0)
    for name, params in (
        ("inception_crop", {}),
        ("resize_crop", {"resize": 40}),
        ("resize_small_crop", {"resize": 40}),
        ("random_crop_pad", {}),
    ):
        transform = transforms.make("train", name, image_size=32, **params)
        for value in (0.0, nearly_one):
            out = transform(ramp(32, 45), [value] * transform.draws)
            assert out.shape == (32, 32, 3)


def test_resize_crop_is_the_bit_recipe(source):
    """Square resize, then every offset of the crop is equally likely."""
    whole = transforms.make("eval", "resize", image_size=96)(source[0]["image"])
    transform = transforms.make("train", "resize_crop", image_size=64, resize=96)
    for u in [(0.0, 0.0), (0.5, 0.99), (0.999, 0.2)]:
        y, x = int(u[0] * 33), int(u[1] * 33)
        out = transform(source[0]["image"], u)
        np.testing.assert_array_equal(out, whole[y : y + 64, x : x + 64])


def test_short_side_and_centre(source):
    image = ramp(100, 200)
    transform = transforms.make("eval", "resize_small_crop", image_size=50, resize=100)
    np.testing.assert_array_equal(transform(image), image[25:75, 75:125])
    params = {"image_size": (4, 9), "resize": 9}
    transform = transforms.make("eval", "resize_small_crop", **params)
    assert transform.plan(100, 201, ()).resized == (9, 18)
    assert transform.plan(201, 100, ()).resized == (18, 9)
    assert transform.plan(201, 100, ())[-2:] == (7, 0)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_padded_crops_equal_numpys(mode):
    image = ramp(32, 32)
    transform = transforms.make("train", "random_crop_pad", image_size=32, mode=mode)
    kind = {"zeros": "constant", "reflect": "reflect"}[mode]
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode=kind)
    seen = set()
    for u in uniforms(2000, transform):
        y, x = int(u[0] * 9), int(u[1] * 9)
        seen.add((y, x))
        out = transform(image, u)
        np.testing.assert_array_equal(out, padded[y : y + 32, x : x + 32])
    assert len(seen) == 81


def test_none_leaves_images_alone():
    for kind in ("train", "eval"):
        transform = transforms.make(kind, "none", image_size=(5, 6))
        np.testing.assert_array_equal(transform(ramp(5, 6)), ramp(5, 6))
        with pytest.raises(errors.UserError, match="got 6x5, wanted 5x6"):
            transform(ramp(6, 5))


@pytest.mark.parametrize(
    "kind, name, size, params, shown",
    [
        ("test", "resize", 8, {}, "known: eval, train"),
        ("eval", "inception_crop", 8, {}, "known: crop, none, resize"),
        ("train", "inception", 8, {}, 'Did you mean "inception_crop"?'),
        ("train", "resize", 8, {"area": 1}, "takes: antialias"),
        ("train", "none", 8, {"pad": 1}, "takes: nothing"),
        ("train", "inception_crop", 8, {"area": (0.5, 0.1)}, "area"),
        ("train", "inception_crop", 8, {"area": (0, 1)}, "area"),
        ("train", "inception_crop", 8, {"area": 0.3}, "area"),
        ("train", "inception_crop", 8, {"aspect": (float("nan"), 2)}, "aspect"),
        ("train", "resize_crop", 64, {"resize": 63}, "64..16384"),
        ("eval", "resize_small_crop", (20, 64), {"resize": 20}, "64..16384"),
        ("train", "random_crop_pad", 8, {"pad": -1}, "pad=-1"),
        ("train", "random_crop_pad", 8, {"mode": "edge"}, "known: reflect, zeros"),
        ("train", "resize", 0, {}, "image_size=(0, 0)"),
        ("train", "resize", (8, 8, 3), {}, "image_size=(8, 8, 3)"),
        ("train", "resize", "big", {}, "image_size='big'"),
        ("train", "resize", 8.0, {}, "image_size=8.0"),
        ("train", "resize", True, {}, "image_size=(True, True)"),
    ],
)
def test_wrong_choices_are_clear_errors(kind, name, size, params, shown):
    with pytest.raises(errors.UserError) as error:
        transforms.make(kind, name, image_size=size, **params)
    assert shown in str(error.value)


def test_images_that_do_not_fit_are_clear_errors():
    transform = transforms.make("train", "random_crop_pad", image_size=32, pad=4)
    with pytest.raises(errors.UserError, match="20x40 padded by 4"):
        transform(ramp(20, 40), (0, 0))
    transform = transforms.make(
        "train", "random_crop_pad", image_size=4, pad=4, mode="reflect"
    )
    with pytest.raises(errors.UserError, match="reflected"):
        transform(ramp(4, 4), (0, 0))
