"""Changes of images inside the step do what they are called, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image, ImageEnhance, ImageOps

from vit_jax.data import device_changes
from vit_jax.parallel import mesh as mesh_lib

# Smooth, so that neighbours differ by little and half a level of rounding by none.
Y, X = np.mgrid[:16, :20]
SMOOTH = np.stack([9 * Y + 3 * X + 5, 200 - 6 * X - Y, 3 * X * Y // 4], axis=-1)
IMAGE = SMOOTH.astype(np.uint8)
NOISE = np.random.default_rng(0).integers(-30, 30, SMOOTH.shape)
TEXTURE = np.clip(SMOOTH + NOISE, 0, 255).astype(np.uint8)
PICTURE = Image.fromarray(TEXTURE)
changed = jax.jit(device_changes.changed)


def one(name, amount, image=IMAGE):
    """One change of one image, in a batch of all, so that there is one program."""
    count = len(device_changes.NAMES)
    images = np.broadcast_to(image, (count, *image.shape))
    names = jnp.full(count, device_changes.NAMES.index(name))
    return np.asarray(changed(images, names, jnp.full(count, float(amount))))[0]


def enhanced(kind, factor):
    return np.asarray(kind(PICTURE).enhance(factor))


PILLOW = {
    "brightness": lambda a: enhanced(ImageEnhance.Brightness, 1 + 0.9 * a),
    "color": lambda a: enhanced(ImageEnhance.Color, 1 + 0.9 * a),
    "contrast": lambda a: enhanced(ImageEnhance.Contrast, 1 + 0.9 * a),
    "sharpness": lambda a: enhanced(ImageEnhance.Sharpness, 1 + 0.9 * a),
    "posterize": lambda a: np.asarray(
        ImageOps.posterize(PICTURE, 8 - round(4 * abs(a)))
    ),
    "solarize": lambda a: np.asarray(ImageOps.solarize(PICTURE, 256 * (1 - abs(a)))),
    "autocontrast": lambda a: np.asarray(ImageOps.autocontrast(PICTURE)),
    "nothing": lambda a: TEXTURE,
}


@pytest.mark.parametrize("name", PILLOW)
def test_colours_are_pillows(name):
    """Within its rounding, once and twice: Pillow cuts off where we round."""
    for amount in (-0.9, -0.5, 0.25, 1.0):
        apart = one(name, amount, TEXTURE).astype(int) - PILLOW[name](amount)
        assert abs(apart).max() <= (0 if name in ("posterize", "solarize") else 2)
    assert name == "nothing" or (one(name, 1.0, TEXTURE) != TEXTURE).any()


GEOMETRY = {
    # The output at (y, x) is the input there, by Pillow's coefficients.
    "shear_x": lambda a: (1, 0.3 * a, -0.3 * a * 7.5, 0, 1, 0),
    "shear_y": lambda a: (1, 0, 0, 0.3 * a, 1, -0.3 * a * 9.5),
    "shift_x": lambda a: (1, 0, 0.3 * 20 * a, 0, 1, 0),
    "shift_y": lambda a: (1, 0, 0, 0, 1, 0.3 * 16 * a),
}


@pytest.mark.parametrize("name", [*GEOMETRY, "turn"])
@pytest.mark.parametrize("amount", [-1.0, 0.5])
def test_moves_are_pillows(name, amount):
    """Where the input reaches; its border is another matter of half a pixel."""
    if name == "turn":
        cos, sin = np.cos(np.pi / 6 * amount), np.sin(np.pi / 6 * amount)
        a, b, d, e = cos, sin, -sin, cos
    else:
        a, b, _, d, e, _ = GEOMETRY[name](amount)
    c = 9.5 - a * 9.5 - b * 7.5 + (0.3 * 20 * amount if name == "shift_x" else 0)
    f = 7.5 - d * 9.5 - e * 7.5 + (0.3 * 16 * amount if name == "shift_y" else 0)
    if name in GEOMETRY:
        np.testing.assert_allclose((a, b, c, d, e, f), GEOMETRY[name](amount))
    # Pillow counts from the edges of pixels, we from their middles.
    shifted = (a, b, c + 0.5 - 0.5 * (a + b), d, e, f + 0.5 - 0.5 * (d + e))
    wanted = Image.fromarray(IMAGE).transform(
        (20, 16), Image.Transform.AFFINE, shifted, Image.Resampling.BILINEAR
    )
    from_x, from_y = a * X + b * Y + c, d * X + e * Y + f
    inside = (from_x >= 0) & (from_x <= 19) & (from_y >= 0) & (from_y <= 15)
    got = one(name, amount)
    assert abs(got[inside].astype(int) - np.asarray(wanted)[inside]).max() <= 1
    beyond = (from_x < -1) | (from_x > 20) | (from_y < -1) | (from_y > 16)
    assert (got[beyond] == device_changes.FILL).all()
    assert inside.mean() > 0.4 and beyond.any()


def test_changes_are_all_as_likely_and_as_strong_as_asked_for():
    images = np.broadcast_to(TEXTURE, (520, *TEXTURE.shape))
    batch = {"image": jnp.asarray(images), "label": jnp.arange(520)}
    out = jax.jit(device_changes.trivial(1.0))(batch, jax.random.key(0))
    same = (np.asarray(out["image"]) == images).all(axis=(1, 2, 3))
    assert 20 < same.sum() < 90  # one in thirteen, and those of next to no amount
    weak = jax.jit(device_changes.trivial(1e-4))(batch, jax.random.key(0))
    apart = abs(np.asarray(weak["image"]).astype(int) - images).max(axis=(1, 2, 3))
    assert (apart <= 1).mean() > 11 / 13 - 0.04  # autocontrast has no amount
    np.testing.assert_array_equal(out["label"], batch["label"])


def test_a_rectangle_of_a_share_is_erased():
    images = np.zeros((400, 24, 24, 3), np.uint8)
    erase = jax.jit(device_changes.erase(0.5))
    out = erase({"image": images}, jax.random.key(0))["image"]
    noisy = (np.asarray(out) != 0).any(axis=3)
    hit = noisy.any(axis=(1, 2))
    assert 160 < hit.sum() < 240
    for rows in noisy[hit][:50]:
        height, width = (np.flatnonzero(rows.any(axis=a)) for a in (1, 0))
        box = (np.ptp(height) + 1) * (np.ptp(width) + 1)
        assert rows.sum() >= 0.98 * box and 0.015 < box / 24**2 < 0.36
    values = np.asarray(out)[noisy]
    assert 120 < values.mean() < 135  # uniform bytes


@pytest.mark.parametrize("name", device_changes.CHANGES)
def test_devices_change_no_bit(name):
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (16, 12, 12, 3), np.uint8)}
    function = jax.jit(device_changes.CHANGES[name](0.9))
    key = jax.random.key(4)
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:4])
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    four = function(jax.device_put(batch, sharding), key)["image"]
    np.testing.assert_array_equal(np.asarray(function(batch, key)["image"]), four)
    assert (np.asarray(four) != batch["image"]).any()
