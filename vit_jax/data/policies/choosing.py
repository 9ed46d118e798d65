"""From the keys of `data.train` to what is done to the pixels of a crop."""

import re
from collections.abc import Sequence

from vit_jax import errors
from vit_jax.data.policies import big_vision, erasing, jitter, timm
from vit_jax.data.policies.steps import Step

_WANTED = (
    "randaug(2,15), as big_vision, rand-m9-mstd0.5-inc1, as timm, or 3a (DeiT III)"
)
_BIG_VISION = re.compile(r"randaug\((\d{1,2}),\s*(\d{1,2}\.?\d{0,6})\)")
# Filters of crops that the operations that move pixels take, too; else bilinear.
_ALSO_OF_MOVES = {"bicubic": "bicubic", "random": "random"}


def steps(
    *,
    auto_augment: str,
    color_jitter: Sequence[float],
    erase: float,
    erase_mode: str,
    erase_count: int,
    filter: str,
    mean: Sequence[float],
    std: Sequence[float],
) -> list[Step]:
    """Returns what is done to crops, in the order in which timm does it.

    Args:
        auto_augment: As `data.train.auto_augment`.
        color_jitter: As `data.train.color_jitter`.
        erase: As `data.train.erase`.
        erase_mode: As `data.train.erase_mode`.
        erase_count: As `data.train.erase_count`.
        filter: As `data.train.filter`.
        mean: Of the images, in units of 0..255: what timm fills with.
        std: The same, for noise.

    Raises:
        errors.UserError: a value that cannot work.
    """
    found: list[Step] = []
    if auto_augment:
        fill = tuple(min(255, round(channel)) for channel in mean)
        interpolation = _ALSO_OF_MOVES.get(filter) or "bilinear"
        look = timm.Look(interpolation, (fill[0], fill[1], fill[2]))
        found.append(_policy(auto_augment, look))
    if any(color_jitter):
        found.append(jitter.color_jitter(_spreads(color_jitter)))
    if erase:
        errors.lookup(erasing.MODES, erase_mode, "data.train.erase_mode")
        if not 0 <= erase <= 1 or not 1 <= erase_count <= 64:
            raise errors.UserError(
                f"data.train.erase={erase!r}, erase_count={erase_count!r}; wanted a "
                "probability, and 1 to 64 boxes"
            )
        found.append(
            erasing.random_erasing(erase, erase_mode, erase_count, mean=mean, std=std)
        )
    return found


def _spreads(values: Sequence[float]) -> tuple[float, float, float, float]:
    """Of brightness, contrast, saturation and hue."""
    numbers = all(isinstance(value, int | float) for value in values)
    spread = [*values] * 3 if len(values) == 1 else [*values]
    spread += [0] * (len(spread) == 3)
    if not numbers or len(spread) != 4 or not all(0 <= v <= 1e3 for v in spread):
        raise errors.UserError(
            f"data.train.color_jitter={values!r}; wanted one number for brightness, "
            "contrast and saturation, one for each, or with the hue as the fourth"
        )
    if spread[3] > 0.5:
        raise errors.UserError(
            f"data.train.color_jitter={values!r}; wanted a hue of at most 0.5"
        )
    brightness, contrast, saturation, hue = map(float, spread)
    return brightness, contrast, saturation, hue


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
