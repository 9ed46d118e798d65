"""ResNets of standardised convolutions and GroupNorm.

Three published families share them and differ in `Style`: the one in front of a
hybrid's Transformer (the paper's section 4.1, as released in
google-research/vision_transformer), the BiT ResNets (`bit.py`) and the axial ResNet
(`axial_resnet.py`). Shapes: [b, h, w, channels].
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax.models import layers
from vit_jax.models.placement import NOWHERE, Placement
from vit_jax.models.resnet_sizes import GROUPS

MakeUnit = Callable[..., nnx.Module]


@dataclasses.dataclass(frozen=True)
class Style:
    """The arithmetic in which the published ResNets differ.

    Attributes:
        norm_epsilon: Of GroupNorm.
        standardize: Key of `STANDARDIZE`, the divisor of a kernel.
        padding: "same": TF's, of convolutions and pooling, more at the end than at
            the start where the two differ; "fixed": as much on every side.
        pool: With fixed padding, what the root's max pooling sees around its input:
            "zero", or "lowest", which never is the maximum.
    """

    norm_epsilon: float
    standardize: str
    padding: str
    pool: str = "lowest"


POST = Style(norm_epsilon=1e-6, standardize="deviation", padding="same")
# Of the ResNet in a hybrid: Google's, and timm's arithmetic on the same weights.
STYLES: dict[str, Style] = {
    "google": POST,
    "timm": Style(norm_epsilon=1e-5, standardize="variance_1e-8", padding="same"),
}


def _variance(kernel: jax.Array) -> jax.Array:
    return jnp.square(kernel).mean(axis=(0, 1, 2), keepdims=True)


# From a kernel of mean 0 to what it is divided by.
STANDARDIZE: dict[str, Callable[[jax.Array], jax.Array]] = {
    "deviation": lambda kernel: jnp.sqrt(_variance(kernel)) + 1e-5,
    "variance": lambda kernel: jnp.sqrt(_variance(kernel) + 1e-10),
    "variance_1e-8": lambda kernel: jnp.sqrt(_variance(kernel) + 1e-8),
}


class StdConv(nnx.Module):
    """Convolution with a standardised kernel and no bias."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int,
        stride: int,
        style: Style,
        rngs: nnx.Rngs,
    ):
        shape = (size, size, inputs, outputs)
        self.kernel = nnx.Param(layers.lecun_normal(rngs.params(), shape, jnp.float32))
        self.stride = stride
        self.style = style

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [b, h, w, i] to [b, h / stride, w / stride, o], rounded up."""
        kernel = self.kernel[...]
        kernel = kernel - kernel.mean(axis=(0, 1, 2), keepdims=True)
        kernel = kernel / STANDARDIZE[self.style.standardize](kernel)
        around = kernel.shape[0] // 2
        return jax.lax.conv_general_dilated(
            x,
            kernel.astype(x.dtype),
            (self.stride, self.stride),
            "SAME" if self.style.padding == "same" else [(around, around)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class GroupNorm(nnx.Module):
    """Group normalisation with 32 groups, statistics in float32."""

    def __init__(self, channels: int, *, epsilon: float, scale: float = 1.0):
        self.scale = nnx.Param(jnp.full(channels, scale, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [b, ..., c] to the same shape and dtype."""
        b, c = x.shape[0], x.shape[-1]
        y = x.astype(jnp.float32).reshape(b, -1, GROUPS, c // GROUPS)
        mean = y.mean(axis=(1, 3), keepdims=True)
        variance = y.var(axis=(1, 3), keepdims=True)
        y = ((y - mean) * jax.lax.rsqrt(variance + self.epsilon)).reshape(b, -1, c)
        y = y * self.scale[...].reshape(1, 1, c) + self.bias[...].reshape(1, 1, c)
        return y.reshape(x.shape).astype(x.dtype)


class Root(nnx.Module):
    """7x7 convolution and 3x3 max pooling, each of stride 2."""

    def __init__(
        self,
        width: int,
        *,
        norm: bool,
        style: Style,
        channels: int = 3,
        rngs: nnx.Rngs,
    ):
        self.conv = StdConv(channels, width, size=7, stride=2, style=style, rngs=rngs)
        self.norm = GroupNorm(width, epsilon=style.norm_epsilon) if norm else None
        self.style = style

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps [b, H, W, channels] to [b, H / 4, W / 4, width], sizes rounded up."""
        x = self.conv(images)
        if self.norm is not None:
            x = jax.nn.relu(self.norm(x))
        # flax says nothing of its types, its default is a str.
        padding: Any = "SAME" if self.style.padding == "same" else ((1, 1), (1, 1))
        if self.style.padding == "fixed" and self.style.pool == "zero":
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            padding = "VALID"
        return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=padding)


class Unit(nnx.Module):
    """Bottleneck with the activation after the sum."""

    def __init__(
        self, inputs: int, width: int, *, stride: int, style: Style, rngs: nnx.Rngs
    ):
        outputs, epsilon = 4 * width, style.norm_epsilon
        conv: dict[str, Any] = {"style": style, "rngs": rngs}
        projects = stride != 1 or inputs != outputs
        if projects:
            self.conv_proj = StdConv(inputs, outputs, size=1, stride=stride, **conv)
            self.norm_proj = GroupNorm(outputs, epsilon=epsilon)
        self.conv1 = StdConv(inputs, width, size=1, stride=1, **conv)
        self.norm1 = GroupNorm(width, epsilon=epsilon)
        self.conv2 = StdConv(width, width, size=3, stride=stride, **conv)
        self.norm2 = GroupNorm(width, epsilon=epsilon)
        self.conv3 = StdConv(width, outputs, size=1, stride=1, **conv)
        self.norm3 = GroupNorm(outputs, epsilon=epsilon, scale=0.0)
        self.projects = projects

    def __call__(
        self, x: jax.Array, taps: dict[str, jax.Array] | None = None
    ) -> jax.Array:
        """Maps [b, h, w, inputs] to [b, h / stride, w / stride, 4 * width]."""
        del taps  # no attention in it
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = jax.nn.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        if self.projects:
            x = self.norm_proj(self.conv_proj(x))
        return jax.nn.relu(x + y)


class PreUnit(nnx.Module):
    """Bottleneck with norm and activation before each convolution (ResNet-v2)."""

    def __init__(
        self, inputs: int, width: int, *, stride: int, style: Style, rngs: nnx.Rngs
    ):
        outputs, epsilon = 4 * width, style.norm_epsilon
        conv: dict[str, Any] = {"style": style, "rngs": rngs}
        projects = stride != 1 or inputs != outputs
        if projects:
            self.conv_proj = StdConv(inputs, outputs, size=1, stride=stride, **conv)
        self.norm1 = GroupNorm(inputs, epsilon=epsilon)
        self.conv1 = StdConv(inputs, width, size=1, stride=1, **conv)
        self.norm2 = GroupNorm(width, epsilon=epsilon)
        self.conv2 = StdConv(width, width, size=3, stride=stride, **conv)
        self.norm3 = GroupNorm(width, epsilon=epsilon)
        self.conv3 = StdConv(width, outputs, size=1, stride=1, **conv)
        self.projects = projects

    def __call__(
        self, x: jax.Array, taps: dict[str, jax.Array] | None = None
    ) -> jax.Array:
        """Maps [b, h, w, inputs] to [b, h / stride, w / stride, 4 * width]."""
        del taps  # no attention in it
        y = jax.nn.relu(self.norm1(x))
        if self.projects:
            x = self.conv_proj(y)
        y = jax.nn.relu(self.norm2(self.conv1(y)))
        y = jax.nn.relu(self.norm3(self.conv2(y)))
        return x + self.conv3(y)


class Stage(nnx.Module):
    """Units `unit1`, `unit2`, ...; the first may halve the resolution."""

    def __init__(self, units: list[nnx.Module], *, remat: bool):
        self.units = len(units)
        self.remat = remat
        for i, unit in enumerate(units):
            setattr(self, f"unit{i + 1}", unit)

    def __call__(
        self, x: jax.Array, taps: dict[str, jax.Array] | None = None
    ) -> jax.Array:
        """Maps [b, h, w, inputs] to [b, h / stride, w / stride, 4 * width].

        `taps` gets the attention probabilities of units that have attention.
        """
        for i in range(self.units):
            unit = getattr(self, f"unit{i + 1}")
            if taps is not None:
                inside: dict[str, jax.Array] = {}
                x = unit(x, inside)
                taps |= {f"{i}/{k}": leaf for k, leaf in inside.items()}
                continue
            # A new function each time: checkpoint caches by identity what it traced,
            # parameters included.
            run = jax.checkpoint(lambda x, unit=unit: unit(x)) if self.remat else unit
            x = run(x)
        return x


class Trunk(nnx.Module):
    """The root and stages `stage1`, `stage2`, ... of doubling width.

    Args of the constructor:
        units: How many a stage.
        width: Channels of the root.
        make: Called as `make(stage, inputs, width, stride=stride, rngs=rngs)` for each
            unit, stages from 0.
        root_norm: Whether the root normalises and activates.
        remat: Whether the backward pass computes the inside of units again.
        channels: Of the images.
    """

    def __init__(
        self,
        units: tuple[int, ...],
        width: int,
        *,
        make: MakeUnit,
        root_norm: bool,
        style: Style,
        remat: bool,
        channels: int = 3,
        rngs: nnx.Rngs,
    ):
        self.root = Root(
            width, norm=root_norm, style=style, channels=channels, rngs=rngs
        )
        self.stages = len(units)
        inputs = width
        for i, count in enumerate(units):
            inner, made = width * 2**i, []
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                made.append(make(i, inputs, inner, stride=stride, rngs=rngs))
                inputs = 4 * inner
            setattr(self, f"stage{i + 1}", Stage(made, remat=remat))

    def cells(
        self,
        images: jax.Array,
        *,
        placement: Placement = NOWHERE,
        taps: dict[str, jax.Array] | None = None,
    ) -> jax.Array:
        """Maps images to the last stage's feature map [b, h, w, channels].

        `placement` pins the feature maps after the root and every stage; `taps` gets
        those of the stages as "stages/0", ..., and what is inside their units.
        """
        x = placement.pin(self.root(images))
        for i in range(self.stages):
            inside: dict[str, jax.Array] | None = None if taps is None else {}
            x = placement.pin(getattr(self, f"stage{i + 1}")(x, inside))
            if taps is not None and inside is not None:
                taps[f"stages/{i}"] = x
                taps |= {f"attention/{i}/{k}": leaf for k, leaf in inside.items()}
        return x


def units_of(kind: type[Unit] | type[PreUnit], style: Style) -> MakeUnit:
    """Returns the `make` of `Trunk` for units that are the same in all stages."""

    def make(stage: int, inputs: int, width: int, **options: Any) -> nnx.Module:
        return kind(inputs, width, style=style, **options)

    return make


class ResNet(Trunk):
    """The ResNet in front of a hybrid's Transformer."""

    def __init__(
        self,
        units: tuple[int, ...],
        width: int,
        *,
        channels: int = 3,
        style: Style = POST,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            units,
            width,
            make=units_of(Unit, style),
            root_norm=True,
            style=style,
            remat=False,
            channels=channels,
            rngs=rngs,
        )

    def __call__(
        self, images: jax.Array, taps: dict[str, jax.Array] | None = None
    ) -> jax.Array:
        """Maps images to `Architecture.feature_size` cells of `feature_channels`."""
        return self.cells(images, taps=taps)
