"""From the keys of `data.train` to what is done to the pixels of a crop."""

import re
from collections.abc import Sequence

from vit_jax import errors
from vit_jax.data.policies import big_vision, timm
from vit_jax.data.policies.steps import Step

_WANTED = (
    "randaug(2,15), as big_vision, rand-m9-mstd0.5-inc1, as timm, or 3a (DeiT III)"
)
_BIG_VISION = re.compile(r"randaug\((\d{1,2}),\s*(\d{1,2}\.?\d{0,6})\)")
# Filters of crops that the operations that move pixels take, too; else bilinear.
_ALSO_OF_MOVES = {"bicubic": "bicubic", "random": "random"}


def steps(*, auto_augment: str, filter: str, mean: Sequence[float]) -> list[Step]:
    """Returns what is done to crops, in the order in which it is done.

    Args:
        auto_augment: As `data.train.auto_augment`.
        filter: As `data.train.filter`.
        mean: Of the images, in units of 0..255: what timm fills with.

    Raises:
        errors.UserError: a value that cannot work.
    """
    found = []
    if auto_augment:
        fill = tuple(min(255, round(channel)) for channel in mean)
        interpolation = _ALSO_OF_MOVES.get(filter) or "bilinear"
        look = timm.Look(interpolation, (fill[0], fill[1], fill[2]))
        found.append(_policy(auto_augment, look))
    return found


def _policy(name: str, look: timm.Look) -> Step:
    said = f"auto_augment={name!r}"
    if name.split("-")[0] == "rand":
        return timm.parse(name, look)
    if name == "3a":
        return timm.three_augment(said, look)
    match = _BIG_VISION.fullmatch(name)
    if match is None:
        raise errors.UserError(f"data.train.{said}; wanted {_WANTED}")
    layers, level = int(match[1]), float(match[2])
    if not 1 <= layers <= 16 or level > big_vision.HIGHEST:
        raise errors.UserError(
            f"data.train.{said}; wanted 1 to 16 operations at a level of at most "
            f"{big_vision.HIGHEST}"
        )
    return big_vision.randaugment(said, layers, level)
