"""The ResNet in front of a hybrid's Transformer (the paper's section 4.1).

Standardised convolutions and GroupNorm as in BiT, but post-activation units, TF 'SAME'
padding and an epsilon of 1e-6: what google-research/vision_transformer released.
Shapes: [b, h, w, channels].
"""

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax.models import layers, variants

GROUPS = 32


class StdConv(nnx.Module):
    """Convolution with a standardised kernel, 'SAME' padding and no bias."""

    def __init__(
        self, inputs: int, outputs: int, *, size: int, stride: int, rngs: nnx.Rngs
    ):
        shape = (size, size, inputs, outputs)
        self.kernel = nnx.Param(layers.lecun_normal(rngs.params(), shape, jnp.float32))
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [b, h, w, i] to [b, h / stride, w / stride, o], rounded up."""
        kernel = self.kernel[...]
        kernel = kernel - kernel.mean(axis=(0, 1, 2), keepdims=True)
        kernel = kernel / (kernel.std(axis=(0, 1, 2), keepdims=True) + 1e-5)
        return jax.lax.conv_general_dilated(
            x,
            kernel.astype(x.dtype),
            (self.stride, self.stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class GroupNorm(nnx.Module):
    """Group normalisation with 32 groups, statistics in float32."""

    def __init__(self, channels: int, *, scale: float = 1.0):
        self.scale = nnx.Param(jnp.full(channels, scale, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [b, h, w, c] to the same shape and dtype."""
        b, h, w, c = x.shape
        y = x.astype(jnp.float32).reshape(b, h, w, GROUPS, c // GROUPS)
        mean = y.mean(axis=(1, 2, 4), keepdims=True)
        variance = y.var(axis=(1, 2, 4), keepdims=True)
        y = ((y - mean) * jax.lax.rsqrt(variance + 1e-6)).reshape(b, h, w, c)
        y = y * self.scale[...].reshape(1, 1, 1, c) + self.bias[...].reshape(1, 1, 1, c)
        return y.astype(x.dtype)


class Root(nnx.Module):
    """7x7 convolution and 3x3 max pooling, each of stride 2."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.conv = StdConv(3, width, size=7, stride=2, rngs=rngs)
        self.norm = GroupNorm(width)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps [b, H, W, 3] to [b, H / 4, W / 4, width], sizes rounded up."""
        x = jax.nn.relu(self.norm(self.conv(images)))
        return nnx.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")


class Unit(nnx.Module):
    """Bottleneck with the activation after the sum."""

    def __init__(self, inputs: int, width: int, *, stride: int, rngs: nnx.Rngs):
        outputs = 4 * width
        projects = stride != 1 or inputs != outputs
        if projects:
            self.conv_proj = StdConv(inputs, outputs, size=1, stride=stride, rngs=rngs)
            self.norm_proj = GroupNorm(outputs)
        self.conv1 = StdConv(inputs, width, size=1, stride=1, rngs=rngs)
        self.norm1 = GroupNorm(width)
        self.conv2 = StdConv(width, width, size=3, stride=stride, rngs=rngs)
        self.norm2 = GroupNorm(width)
        self.conv3 = StdConv(width, outputs, size=1, stride=1, rngs=rngs)
        self.norm3 = GroupNorm(outputs, scale=0.0)
        self.projects = projects

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [b, h, w, inputs] to [b, h / stride, w / stride, 4 * width]."""
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = jax.nn.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        if self.projects:
            x = self.norm_proj(self.conv_proj(x))
        return jax.nn.relu(x + y)


class Stage(nnx.Module):
    """Units `unit1`, `unit2`, ...; the first may halve the resolution."""

    def __init__(
        self, inputs: int, width: int, units: int, *, stride: int, rngs: nnx.Rngs
    ):
        self.units = units
        for i in range(units):
            first = i == 0
            unit = Unit(
                inputs if first else 4 * width,
                width,
                stride=stride if first else 1,
                rngs=rngs,
            )
            setattr(self, f"unit{i + 1}", unit)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [b, h, w, inputs] to [b, h / stride, w / stride, 4 * width]."""
        for i in range(self.units):
            x = getattr(self, f"unit{i + 1}")(x)
        return x


class ResNet(nnx.Module):
    """The root and stages `stage1`, `stage2`, ... of doubling width."""

    def __init__(self, units: tuple[int, ...], width: int, *, rngs: nnx.Rngs):
        self.root = Root(width, rngs=rngs)
        self.stages = len(units)
        inputs = width
        for i, count in enumerate(units):
            stride = 1 if i == 0 else 2
            stage = Stage(inputs, width * 2**i, count, stride=stride, rngs=rngs)
            setattr(self, f"stage{i + 1}", stage)
            inputs = 4 * width * 2**i

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images to `Architecture.feature_size` cells of `feature_channels`."""
        x = self.root(images)
        for i in range(self.stages):
            x = getattr(self, f"stage{i + 1}")(x)
        return x


def macs(arch: variants.VitArchitecture) -> int:
    """Multiply-adds of the convolutions on one image; 0 without a ResNet."""
    if arch.resnet is None:
        return 0
    height, width = (-(-size // 2) for size in arch.image_size)
    total = height * width * 7 * 7 * 3 * arch.resnet_width
    height, width = -(-height // 2), -(-width // 2)
    inputs = arch.resnet_width
    for i, units in enumerate(arch.resnet):
        inner = arch.resnet_width * 2**i
        for j in range(units):
            total += height * width * inputs * inner
            if i > 0 and j == 0:
                height, width = -(-height // 2), -(-width // 2)
            total += height * width * (9 * inner * inner + inner * 4 * inner)
            if j == 0:
                total += height * width * inputs * 4 * inner
            inputs = 4 * inner
    return total
