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


# What asks for work on a crop's pixels, and what says more of it.
_AUGMENTS = ("auto_augment", "color_jitter", "erase")
_BESIDE = ("erase_mode", "erase_count", "filter")


def train_transform(
    image_size: tuple[int, int],
    *,
    transform: str,
    exif: str,
    mean: tuple[float, float, float] = _HALF,
    std: tuple[float, float, float] = _HALF,
    **options: Any,
) -> transforms.Transform:
    """Returns the host part of the training preprocessing.

    Args:
        image_size: (height, width) of the run, pixels.
        transform: as `data.train.transform`.
        exif: as `data.exif`.
        mean: of the run's images, in units of 0..255.
        std: the same.
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
    if not any(options[name] for name in _AUGMENTS):
        return crop
    from vit_jax.data.policies import choosing, steps  # which few runs need

    chosen = choosing.steps(
        mean=mean, std=std, **{name: options[name] for name in (*_AUGMENTS, *_BESIDE)}
    )
    return steps.augmented(crop, chosen)
