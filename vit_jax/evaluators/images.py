"""How an evaluation prepares its images, where that is not as its run does."""

import dataclasses
from typing import Any

from vit_jax import errors
from vit_jax.data import inputs, transforms
from vit_jax.data.preprocessing import Preprocessing

# Where no `resize` is said: of the scaled image to one side of its centre, 256 to 224.
SHARE = 8 / 7
SHARED = ("resize_crop", "resize_small_crop")


def prepared(
    run: Preprocessing,
    *,
    image_size: tuple[int, ...] = (),
    transform: str = "",
    resize: int = 0,
    filter: str = "",
) -> Preprocessing:
    """Returns how an evaluation prepares its images; what is empty is as in its run.

    A transform that is said comes with its own `resize`, 8/7 of the image where that is
    0, and with the filter of the run where that is empty. At another size alone a crop
    keeps its share of the image.

    Args:
        run: Of the run.
        image_size: (height, width) that the model sees; one number is both.
        transform: Key of `transforms.EVAL`.
        resize: Pixels of what is scaled before its centre is taken.
        filter: Of `render.FILTERS`; `inputs.OURS` is "", bilinear between neighbours.

    Raises:
        errors.UserError: values that cannot work.
    """
    sides = tuple(image_size) or run.image_size
    size = transforms.check_image_size(sides * 2 if len(sides) == 1 else sides)
    changes: dict[str, Any] = {"resize": resize} if resize else {}
    if filter:
        changes["filter"] = "" if filter == inputs.OURS else filter
    if not transform:
        return dataclasses.replace(run.at(size), **changes)
    errors.lookup(transforms.EVAL, transform, "eval transform")
    if transform in SHARED and not resize:
        height, width = (round(side * SHARE) for side in size)
        square = transform == "resize_crop"
        changes["resize"] = (height, width) if square else max(height, width)
    said = {"mean": run.mean, "std": run.std, "exif": run.exif}
    if "filter" in transforms.takes("eval", transform):
        said["filter"] = run.filter
    return Preprocessing(image_size=size, transform=transform, **(said | changes))
