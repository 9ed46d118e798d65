"""The hybrids' ResNet against direct readings of its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vit_jax import models
from vit_jax.models import resnet


def test_standardised_convolution_ignores_scale_and_offset_of_its_kernel():
    conv = resnet.StdConv(8, 16, size=3, stride=2, style=resnet.POST, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 9, 10, 8))
    before = conv(x)
    assert before.shape == (2, 5, 5, 16)
    conv.kernel[...] = 30.0 * conv.kernel[...] + 4.0
    np.testing.assert_allclose(conv(x), before, rtol=1e-2, atol=1e-3)


def test_group_norm_is_that_of_flax():
    ours = resnet.GroupNorm(64, epsilon=1e-6)
    flax = nnx.GroupNorm(64, num_groups=32, epsilon=1e-6, rngs=nnx.Rngs(0))
    x = 5 + 3 * jax.random.normal(jax.random.key(1), (2, 5, 4, 64))
    np.testing.assert_allclose(ours(x), flax(x), atol=1e-4)


def test_a_new_unit_is_its_projection():
    unit = resnet.Unit(32, 32, stride=2, style=resnet.POST, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 6, 6, 32))
    expected = jax.nn.relu(unit.norm_proj(unit.conv_proj(x)))
    assert jnp.array_equal(unit(x), expected)


@pytest.mark.parametrize("units", [(), (2,), (1, 1, 1)])
@pytest.mark.parametrize("size", [(64, 64), (50, 75)])
def test_the_architecture_knows_the_shape_of_the_features(units, size):
    arch = models.architecture(
        "mu/1",
        num_classes=3,
        image_size=size,
        resnet=units,
        resnet_width=32,
    )
    graphdef, params = models.abstract(arch)
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)

    def features(params, images):
        return models.merge(graphdef, params).resnet(images)

    def logits(params, images):
        return models.merge(graphdef, params)(images)

    expected = (1, *arch.feature_size, arch.feature_channels)
    assert jax.eval_shape(features, params, images).shape == expected
    assert jax.eval_shape(logits, params, images).shape == (1, 3)
