"""Weights of a first layer for other channels, or for patches of another size."""

from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.models import flexible
from vit_jax.models.architecture import Architecture, pair
from vit_jax.models.vit_architecture import VitArchitecture
from vit_jax.weights import posemb
from vit_jax.weights.source import Tensors

# The first of these that a model has meets the images.
_KERNELS = ("resnet/root/conv/kernel", "root/conv/kernel", "patch_embed/kernel")


def changed(
    leaves: Tensors,
    arch: Architecture,
    channels: int | None,
    patch: Any,
    image_size: Any,
) -> tuple[Tensors, Architecture]:
    """Returns what `with_channels` and `with_patch` do; None of an option: nothing."""
    if channels is not None:
        leaves, arch = with_channels(leaves, arch, channels)
    if patch is None:
        return leaves, arch
    size = arch.image_size if image_size is None else pair(image_size)
    return with_patch(leaves, arch, patch, size)


def with_channels(
    leaves: Tensors, arch: Architecture, channels: int
) -> tuple[Tensors, Architecture]:
    """Returns leaves and architecture for images of another number of channels.

    The rule is timm's `adapt_input_conv`: to one channel the kernels of all three are
    added up, which on grey images is the same function; to more they are repeated in
    their order and scaled by 3 / channels. One channel is repeated and scaled in the
    same way: a color image is then seen as the mean of its channels.

    Raises:
        errors.UserError: a model for neither three channels nor one, or no number.
    """
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise errors.UserError(f"channels={channels!r}; want a whole number from 1.")
    if channels == arch.channels:
        return leaves, arch
    if arch.channels not in (1, 3):
        raise errors.UserError(
            f"channels={channels}: the model is for images of {arch.channels} channels "
            "and nothing says which to leave out or to repeat. Only models for 3 "
            "channels or for 1 can be changed."
        )
    target = arch.replace(channels=channels)
    name = next(name for name in _KERNELS if name in leaves.shapes)
    height, width, _, outputs = leaves.shapes[name]

    def kernel() -> np.ndarray:
        old = leaves.read(name)
        if channels == 1:
            return old.sum(axis=2, keepdims=True)
        repeats = -(-channels // arch.channels)
        new = np.tile(old, (1, 1, repeats, 1))[:, :, :channels]
        return new * np.float32(arch.channels / channels)

    shape = (height, width, channels, outputs)
    return leaves.changed({name: (shape, kernel)}), target


def with_patch(
    leaves: Tensors, arch: Architecture, patch: Any, image_size: tuple[int, int]
) -> tuple[Tensors, Architecture]:
    """Returns leaves and architecture for patches of another size.

    The kernel is resized as FlexiViT does it, see `models.flexible`, and positions are
    resampled for the new grid, as for images of another size.

    Args:
        leaves: Of `arch`, by name.
        arch: Their architecture.
        patch: Pixels, one number or (height, width).
        image_size: (height, width) of the images that are cut into them.

    Raises:
        errors.UserError: no such size, one that does not divide the images, or a model
            whose patches are not of pixels.
    """
    sides = tuple(patch) if isinstance(patch, tuple | list) else (patch, patch)
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in sides)
    if len(sides) != 2 or not whole or min(sides) < 1:
        raise errors.UserError(
            f"patch={patch!r}; want pixels as in 16, or (height, width)."
        )
    if not isinstance(arch, VitArchitecture) or arch.resnet is not None:
        raise errors.UserError(
            f"patch={patch}: {arch.name} has no patches of pixels that could be "
            "resized; want a plain ViT."
        )
    if sides == arch.patch:
        return posemb.at_size(leaves, arch, image_size)
    name = "patch_embed/kernel"
    rows, columns = flexible.kernel_matrices(arch.patch, sides)

    def kernel() -> np.ndarray:
        old = leaves.read(name)
        new = np.einsum("ap,bq,pqcd->abcd", rows, columns, old, optimize=True)
        return new.astype(old.dtype)

    shape = (*sides, *leaves.shapes[name][2:])
    resized = leaves.changed({name: (shape, kernel)})
    # The same grid, on images that fit it; then these images.
    (height, width), (p, q) = arch.grid, sides
    middle = arch.replace(patch=sides, image_size=(height * p, width * q))
    return posemb.at_size(resized, middle, image_size)
