"""Depths, feature maps and costs of ResNets: numbers alone."""

import math
from collections.abc import Callable
from typing import Any

from vit_jax import errors

GROUPS = 32  # of every GroupNorm
MOST_STAGES = 10  # each doubles the channels

# The paper's and big_vision's: depth -> units a stage.
UNITS: dict[str, tuple[int, ...]] = {
    "26": (2, 2, 2, 2),
    "50": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
    "200": (3, 24, 36, 3),
}


def check_hybrid(units: Any, width: int) -> None:
    """Raises `UserError` unless a hybrid's ResNet can be built.

    Args:
        units: Of each stage.
        width: Of its root.
    """
    whole = isinstance(units, tuple) and all(type(n) is int for n in units)
    if not whole or len(units) > 8 or min(units, default=1) < 1:
        raise errors.UserError(
            f"resnet={str(units)[:60]}; want units a stage, as in (3, 4, 9)."
        )
    if width % GROUPS:
        raise errors.UserError(
            f"resnet_width={width} must be a multiple of {GROUPS}, the groups of "
            "its GroupNorm."
        )


def check_units(units: tuple[int, ...], root_width: float) -> None:
    """Raises `UserError` unless they make a ResNet that GroupNorm can work on."""
    if not 1 <= len(units) <= MOST_STAGES or min(units) < 1:
        raise errors.UserError(
            f"units={units} must be 1 to {MOST_STAGES} positive numbers: the units of "
            "each stage."
        )
    if root_width < GROUPS or root_width % GROUPS:
        raise errors.UserError(
            f"a root of {root_width:g} channels does not split into the {GROUPS} "
            "groups of its GroupNorm: width must be a multiple of 0.5."
        )


def stride(units: tuple[int, ...] | None) -> int:
    """Returns a ResNet's downsampling: 4 by its root, 2 by later stages; 1 of none."""
    return 1 if units is None else 4 * 2 ** max(len(units) - 1, 0)


def stage_sizes(
    units: tuple[int, ...], image_size: tuple[int, int]
) -> list[tuple[int, int]]:
    """Returns (height, width) of the feature maps of the root and of every stage."""
    strides = [stride(units[:stages]) for stages in range(len(units) + 1)]
    return [(-(-image_size[0] // s), -(-image_size[1] // s)) for s in strides]


def _conv_macs(before: tuple[int, int], after: tuple[int, int], width: int) -> int:
    return math.prod(after) * 9 * width * width


def trunk_macs(
    units: tuple[int, ...],
    width: int,
    image_size: tuple[int, int],
    *,
    middle_macs: Callable[..., int] = _conv_macs,
    channels: int = 3,
) -> int:
    """Multiply-adds of root and stages on one image.

    Args:
        units: Of each stage.
        width: Of the root.
        image_size: (height, width).
        middle_macs: Of a unit's middle layer, from the sizes before and after it and
            its width.
        channels: Of the image.
    """
    height, columns = (-(-size // 2) for size in image_size)
    total = height * columns * 7 * 7 * channels * width
    sizes = stage_sizes(units, image_size)
    inputs = width
    for i, count in enumerate(units):
        inner, outputs = width * 2**i, 4 * width * 2**i
        for j in range(count):
            before, after = sizes[i] if j == 0 else sizes[i + 1], sizes[i + 1]
            total += math.prod(before) * inputs * inner
            total += middle_macs(before, after, inner)
            total += math.prod(after) * inner * outputs
            if j == 0:
                total += math.prod(after) * inputs * outputs
            inputs = outputs
    return total
