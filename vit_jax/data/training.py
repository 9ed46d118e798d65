"""How training images are prepared: a crop, and what is done to its pixels."""

from typing import Any

from vit_jax import errors
from vit_jax.data import transforms

_HALF = (127.5, 127.5, 127.5)

# The parameters of `data.train` that each training transform takes.
TRANSFORM_PARAMETERS = {
    "inception_crop": ("area", "aspect", "filter"),
    "resize": ("filter",),
    "resize_crop": ("resize", "filter"),
    "resize_small_crop": ("resize", "filter"),
    "random_crop_pad": ("pad",),
    "none": (),
}


def train_transform(
    image_size: tuple[int, int],
    *,
    transform: str,
    exif: str,
    mean: tuple[float, float, float] = _HALF,
    auto_augment: str = "",
    **options: Any,
) -> transforms.Transform:
    """Returns the host part of the training preprocessing.

    Args:
        image_size: (height, width) of the run, pixels.
        transform: as `data.train.transform`.
        exif: as `data.exif`.
        mean: of the run's images, in units of 0..255.
        auto_augment: as `data.train.auto_augment`.
        **options: the rest of `data.train`, of which the transform takes its own.

    Raises:
        errors.UserError: unknown transform or augmentation.
    """
    names = errors.lookup(TRANSFORM_PARAMETERS, transform, "data.train.transform")
    crop = transforms.make(
        *("train", transform),
        image_size=image_size,
        exif=exif,
        **{name: options[name] for name in names},
    )
    if not auto_augment:
        return crop
    from vit_jax.data.policies import choosing, steps  # which few runs need

    chosen = choosing.steps(
        auto_augment=auto_augment, filter=options["filter"], mean=mean
    )
    return steps.augmented(crop, chosen)
