"""What comes into a model: images of its shape, cut into patches."""

import jax
import jax.numpy as jnp

from vit_jax import errors
from vit_jax.models.architecture import Architecture
from vit_jax.types import Images


def check_images(images: Images, arch: Architecture) -> None:
    """Raises `UserError` unless images are float [b, *image_size, channels].

    Of an architecture for `any_size`, height and width may be others.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise errors.UserError(
            f"images are {images.dtype}; the model wants normalised floats, e.g. "
            "images / 127.5 - 1."
        )
    shape, channels = tuple(images.shape), arch.channels
    height, width = arch.image_size
    fits = len(shape) == 4 and shape[3] == channels
    any_size = arch.any_size and 0 not in shape[1:]
    if fits and (shape[1:3] == (height, width) or any_size):
        return
    wanted = "height, width" if arch.any_size else f"{height}, {width}"
    message = (
        f"images have shape {shape}; this {arch.name} wants "
        f"[batch, {wanted}, {channels}]."
    )
    if fits and not arch.any_size:
        size = tuple(shape[1:3])
        message += (
            f"\nResize them, or make a model for that size: create_model(..., "
            f"image_size={size})"
        )
        if arch.family == "vit":
            message += (
                f" or vit_jax.load(path, image_size={size}), which resamples the "
                "position embedding"
            )
        message += "."
    elif len(shape) == 3:
        message += "\nAdd a batch axis: images[None]."
    raise errors.UserError(message)


def patches(
    images: jax.Array, grid: tuple[int, int], patch: tuple[int, int]
) -> jax.Array:
    """Cuts [b, H, W, c] into patches [b, rows * columns, p, q, c], row by row.

    With a matrix product this is the patch convolution. What the grid leaves over at
    the bottom and right is not seen.
    """
    (rows, columns), (p, q) = grid, patch
    batch, _, _, channels = images.shape
    x = images[:, : rows * p, : columns * q]
    x = x.reshape(batch, rows, p, columns, q, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, p, q, channels)
