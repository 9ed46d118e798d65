"""Where an evaluated image ends up: how large it is made, and which part is its centre.

Codes agree on the steps and differ in their rounding, which moves an image by a pixel:

| `rounding`          | long side, aspect ratio kept | offset of the centre      |
|---------------------|------------------------------|---------------------------|
| "google"            | to the nearest               | down                      |
| "torchvision"       | down                         | to the nearest, half even |
| "transformers"      | down                         | down                      |
| "transformers_fast" | down                         | down                      |
| "timm"              | to the nearest               | to the nearest, half even |

"google" is big_vision's and google-research/vision_transformer's, "torchvision" that of
`transforms.Resize` and `CenterCrop` (timm's square images too), "transformers" and
"transformers_fast" that of its image processors on Pillow and on tensors, "timm" that
of its `ResizeKeepRatio` before a `CenterCrop`. Where the scaled image is smaller than
what is wanted of it, all that can pad (google cannot) put the larger half of the border
at the bottom and right, transformers on Pillow at the top and left.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from vit_jax import errors

MAX_SIDE = 16384
Size = tuple[int, int]


class Rounding(NamedTuple):
    """How a code gets from real numbers to pixels."""

    side: Callable[[float], int]
    offset: Callable[[int], int]  # from the pixels that are cut off, at least 0
    border: Callable[[int], int]  # the same where they are missing, below 0


def _down(room: int) -> int:
    return room // 2


def _half_even(room: int) -> int:
    return round(room / 2)


def _up(room: int) -> int:
    return -(-room // 2)


ROUNDINGS = {
    "google": Rounding(round, _down, _up),
    "torchvision": Rounding(int, _half_even, _up),
    "transformers": Rounding(int, _down, _down),
    "transformers_fast": Rounding(int, _down, _up),
    "timm": Rounding(round, _half_even, _up),
}


def centre(resized: Size, wanted: Size, rule: Rounding) -> Size:
    """Returns (y, x) of the centre in the scaled image; negative where it is small."""
    rooms = (have - want for have, want in zip(resized, wanted))
    y, x = (rule.offset(room) if room > 0 else rule.border(room) for room in rooms)
    return y, x


def small(height: int, width: int, resize: int, rule: Rounding) -> Size:
    """Makes the short side `resize`."""
    short, long = min(height, width), max(height, width)
    if rule.side is int:
        longer = int(resize * long / short)  # in this order: the quotient is exact
    else:
        longer = round(long * (resize / short))
    longer = max(longer, resize)
    return (resize, longer) if height <= width else (longer, resize)


def _exactly(height: int, width: int, resize: Size, rule: Rounding) -> Size:
    """The whole image, its aspect ratio ignored."""
    return resize


def _between(height: int, width: int, resize: Size, rule: Rounding) -> Size:
    """The short side becomes the first of `resize`, the long one the second at most."""
    short, longest = resize
    low, high = min(height, width), max(height, width)
    exact = float(short)
    if high / low * short > longest:
        exact = longest * low / high
        short = round(exact)
    longer = rule.side(exact * high / low)
    if short == low:
        longer = high
    return (short, longer) if height <= width else (longer, short)


def _ratios(height: int, width: int, resize: Size) -> list[float]:
    return [height / resize[0], width / resize[1]]


def _covering(height: int, width: int, resize: Size, rule: Rounding) -> Size:
    """As small as covers `resize`, its aspect ratio kept."""
    ratio = min(_ratios(height, width, resize))
    return _at_least_one(rule.side(height / ratio), rule.side(width / ratio))


def _inside(height: int, width: int, resize: Size, rule: Rounding) -> Size:
    """As large as fits into `resize`, its aspect ratio kept."""
    if rule.side is int:  # transformers multiplies by the inverse
        scale = min(resize[0] / height, resize[1] / width)
        return _at_least_one(int(height * scale), int(width * scale))
    ratio = max(_ratios(height, width, resize))
    return _at_least_one(round(height / ratio), round(width / ratio))


def _at_least_one(height: int, width: int) -> Size:
    return max(height, 1), max(width, 1)


def _stored(height: int, width: int, resize: int, rule: Rounding) -> Size:
    """As it is."""
    return height, width


def check_side(value: Any) -> int:
    """Returns a number of pixels, or raises a `UserError`."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or not 1 <= value <= MAX_SIDE
    ):
        raise errors.UserError(
            f"resize={value!r}; wanted a whole number of pixels in 1..{MAX_SIDE}"
        )
    return value


def check_sides(value: Any) -> Size:
    """Returns two numbers of pixels (one stands for both), or raises a `UserError`."""
    sides = value if isinstance(value, tuple | list) else (value, value)
    if len(sides) != 2:
        raise errors.UserError(f"resize={value!r}; wanted (height, width) in pixels")
    return check_side(sides[0]), check_side(sides[1])


def check_colour(value: Any) -> tuple[int, int, int]:
    """Returns (red, green, blue) in 0..255, or raises a `UserError`."""
    levels = list(value) if isinstance(value, tuple | list) else []
    good = [isinstance(v, int) and not isinstance(v, bool) for v in levels]
    if len(good) != 3 or not all(good) or not all(0 <= v <= 255 for v in levels):
        raise errors.UserError(f"fill={value!r}; wanted three whole numbers in 0..255")
    red, green, blue = levels
    return red, green, blue


class Fit(NamedTuple):
    """How an image is scaled before its centre is taken.

    Attributes:
        scaled: (height, width, resize, rounding) -> (height, width) of all of it.
        check: Of `resize`; None: there is none.
        crops: Whether the centre is taken; else the scaled image must have the size.
    """

    scaled: Callable[[int, int, Any, Rounding], Size]
    check: Callable[[Any], Any] | None
    crops: bool = True


# Evaluation transforms by name; the size of the result is the model's.
FITS = {
    "resize_small_crop": Fit(small, check_side),
    "resize_crop": Fit(_exactly, check_sides),
    "resize_cover_crop": Fit(_covering, check_sides),
    "resize_inside_crop": Fit(_inside, check_sides),
    "resize_between_crop": Fit(_between, check_sides),
    "resize_small": Fit(small, check_side, crops=False),
    "crop": Fit(_stored, None),
}
