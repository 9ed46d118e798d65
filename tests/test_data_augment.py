import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vit_jax.data import augment


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (64, 6, 5, 3), np.uint8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_normalize_is_mean_and_deviation_a_channel(images, dtype):
    mean, std = (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)
    got = augment.normalize(jnp.asarray(images), mean=mean, std=std, dtype=dtype)
    assert got.dtype == dtype
    wanted = (images.astype(np.float32) - np.float32(mean)) / np.float32(std)
    np.testing.assert_allclose(got.astype(np.float32), wanted, atol=1e-5, rtol=8e-3)


def test_default_range_is_minus_one_to_one():
    half = (127.5,) * 3
    ends = jnp.array([0, 255], jnp.uint8).reshape(2, 1, 1, 1) * jnp.ones((1, 1, 1, 3))
    got = augment.normalize(ends, mean=half, std=half, dtype="float32")
    np.testing.assert_array_equal(got[:, 0, 0], [[-1] * 3, [1] * 3])


def test_flip_mirrors_about_half_of_the_batch(images):
    got = np.asarray(augment.flip(jnp.asarray(images), jax.random.key(0)))
    mirrored = (got == images[:, :, ::-1]).all(axis=(1, 2, 3))
    kept = (got == images).all(axis=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 20 <= mirrored.sum() <= 44
    other = np.asarray(augment.flip(jnp.asarray(images), jax.random.key(1)))
    assert (other != got).any()


@pytest.mark.parametrize("shape", [(8, 1), (2, 4)])
def test_flip_does_not_depend_on_the_sharding(images, shape):
    mesh = jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    key = jax.random.key(5)
    single = jax.jit(augment.flip)(jnp.asarray(images), key)
    many = jax.jit(augment.flip)(jax.device_put(images, sharding), key)
    np.testing.assert_array_equal(np.asarray(many), np.asarray(single))
