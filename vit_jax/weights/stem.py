"""Weights of a first layer for images of another number of channels."""

import numpy as np

from vit_jax import errors
from vit_jax.models.architecture import Architecture
from vit_jax.weights.source import Tensors

# The first of these that a model has meets the images.
_KERNELS = ("resnet/root/conv/kernel", "root/conv/kernel", "patch_embed/kernel")


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
