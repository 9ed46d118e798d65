"""Labels that are computed from other features of a record: a table of rules.

A rule is named in a label's place: `clevr#label=rule:clevr_count`, or as
`data.label_column`. The table has those of VTAB (arXiv 1910.04867), with the bins of
its authors' code. A bin's number is that of the last edge below the value.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vit_jax import errors
from vit_jax.data import decode, example
from vit_jax.settings import naming

CLEVR_EDGES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
KITTI_EDGES = (-100.0, 8.0, 20.0, 999.0)
KITTI_VEHICLES = 3  # the types below it are cars, vans and trucks
NO_VEHICLE = 1000.0  # metres


class Rule(NamedTuple):
    """A row of `RULES`.

    Attributes:
        features: What it reads, and how many numbers of each belong together: 1 for
            numbers, 3 for points.
        classes: How many there are.
        of: From these features, [n] of numbers and [n, 3] of points, to the class.
        brightest: The value of a white pixel.
    """

    features: dict[str, int]
    classes: int
    of: Callable[..., Any]
    brightest: int = 255


def place(value: float, edges: Sequence[float]) -> int:
    """Returns the number of the last edge below a value, -1 where none is."""
    return int(np.searchsorted(np.array(edges, np.float32), np.float32(value))) - 1


def _count(sizes: np.ndarray) -> int:
    return len(sizes) - 3  # CLEVR's scenes have three to ten objects


def _nearest_object(coordinates: np.ndarray) -> int:
    return place(coordinates[:, 2].min(), CLEVR_EDGES)


def _nearest_vehicle(types: np.ndarray, locations: np.ndarray) -> int:
    distances = locations[types < KITTI_VEHICLES, 2]
    return place(min([*distances, NO_VEHICLE]), KITTI_EDGES)


def _binned(width: float, values: np.ndarray) -> int:
    (value,) = values
    return int(value / width)


RULES = {
    "clevr_count": Rule({"objects/size": 1}, 8, _count),
    "clevr_distance": Rule({"objects/pixel_coords": 3}, 6, _nearest_object),
    "dsprites_location": Rule(
        {"label_x_position": 1}, 16, functools.partial(_binned, 2.0), brightest=1
    ),
    "dsprites_orientation": Rule(
        {"label_orientation": 1}, 16, functools.partial(_binned, 2.5), brightest=1
    ),
    "kitti_distance": Rule(
        {"objects/type": 1, "objects/location": 3}, 4, _nearest_vehicle
    ),
    "smallnorb_azimuth": Rule(
        {"label_azimuth": 1}, 18, functools.partial(_binned, 1.0)
    ),
    "smallnorb_elevation": Rule(
        {"label_elevation": 1}, 9, functools.partial(_binned, 1.0)
    ),
}


def named(column: str) -> Rule:
    """Returns the rule of "rule:NAME".

    Raises:
        errors.UserError: there is none of that name.
    """
    return errors.lookup(RULES, column.removeprefix(naming.RULE), "rule of labels")


def check(column: str, features: Mapping[str, Any], path: Path) -> None:
    """Raises `UserError` unless features.json has what a rule reads."""
    for name in named(column).features:
        level: Any = features
        for step in name.split("/"):
            if isinstance(level, dict) and "sequence" in level:
                level = level["sequence"]["feature"]["featuresDict"]["features"]
            if not isinstance(level, dict) or step not in level:
                raise errors.UserError(
                    f"{path}: {column} reads {name!r}, and the dataset has "
                    f"{', '.join(sorted(features))}; want the dataset that the rule "
                    "is named after"
                )
            level = level[step]


def label(rule: Rule, values: Mapping[str, example.Value], name: str) -> int:
    """Returns the class of a record.

    Args:
        rule: From `RULES`.
        values: Its features as `example.parse` found them; an empty list may be
            missing.
        name: Of the example, for messages.

    Raises:
        errors.UserError: values that the rule has no class for.
    """
    found = []
    for feature, width in rule.features.items():
        array = np.asarray(values[feature] if feature in values else [])
        found.append(array.reshape(-1, width) if width > 1 else array)
    try:
        number = rule.of(*found)
    except (ValueError, IndexError) as error:
        raise errors.UserError(
            f"{name}: no class follows from its {', '.join(rule.features)} ({error})"
        ) from error
    if not 0 <= number < rule.classes:
        raise errors.UserError(
            f"{name}: class {number} follows from its {', '.join(rule.features)}; "
            f"wanted one in 0..{rule.classes - 1}"
        )
    return number


def bright(image: bytes | np.ndarray, brightest: int) -> np.ndarray:
    """Returns an image of pixels 0..brightest as uint8 [h, w, 3] of 0..255.

    Raises:
        decode.BadImage: it cannot be read, or is brighter.
    """
    pixels = decode.whole(decode.open_image(image))
    if pixels.max(initial=0) > brightest:
        raise decode.BadImage(f"pixels up to {pixels.max()}; wanted 0..{brightest}")
    return pixels * np.uint8(255 // brightest)
