"""From the pixels of an image to a resampled window of it."""

from typing import Literal, NamedTuple

import cv2
import numpy as np

from vit_jax.data import decode, resample

# A scaled image this many times as large as the window wanted of it is not made.
EXCESS = 16
# The loaders have threads of their own.
cv2.setNumThreads(0)


Padding = Literal["constant", "reflect"]  # what lies around an image


class Window(NamedTuple):
    """A box of the image, scaled to `resized`, of which a window is wanted.

    All in pixels; `y` and `x` place the window in the scaled box.
    """

    top: int
    left: int
    height: int
    width: int
    resized: tuple[int, int]
    y: int = 0
    x: int = 0


# Pillow's filters by name, smooth where an image shrinks: what PyTorch's codes use.
PILLOW_FILTERS = {
    "nearest": 0,
    "lanczos": 1,
    "bilinear": 2,
    "bicubic": 3,
    "box": 4,
    "hamming": 5,
}
# The same as PyTorch has them for uint8 tensors, what transformers' fast processors
# take: a level from Pillow's here and there, many where Pillow scales columns first.
TENSOR_FILTERS = {
    f"tensor_{name}": name for name in ("nearest", "lanczos", "bilinear", "bicubic")
}
# An image that shrinks this much is made by Pillow, along its rows first: its weights
# are then too small for their last bits to move a level.
_SHRINKS = 3
# Beside them "", bilinear between neighbours, and "area", the mean over what a pixel of
# the result covers: `tf.image.resize`'s default, and what big_vision evaluates with.
FILTERS = ("", "area", *PILLOW_FILTERS, *TENSOR_FILTERS)
BLACK = (0, 0, 0)


def render(
    image: decode.Image,
    window: Window,
    out: np.ndarray,
    *,
    antialias: bool = False,
    filter: str = "",
    fill: tuple[int, int, int] = BLACK,
) -> None:
    """Writes the window of the image into `out`, uint8 [h, w, 3].

    Bilinear with pixel centres at half integers, as `tf.image.resize`; with
    `antialias`, areas are averaged where the box shrinks. Without it a box at least
    twice as large as wanted is decoded at 1/2, 1/4 or 1/8 (which averages areas, too).
    With another of `FILTERS` the values are those of Pillow, PyTorch or big_vision.
    Where the window reaches beyond the scaled box it gets the colour `fill`.

    The scaled box is made whole and cut, unless that is `EXCESS` times the work: then
    the window alone is sampled, with the same pixels within a grey level.

    Raises:
        decode.BadImage: the pixels cannot be decoded.
    """
    height, width = out.shape[:2]
    (rows, columns), y, x = window.resized, window.y, window.x
    if y < 0 or x < 0 or y + height > rows or x + width > columns:
        _render_with_border(image, window, out, antialias, filter, fill)
    elif filter:
        _render_filtered(image, window, out, filter)
    elif rows * columns > EXCESS * height * width:
        smaller = window.height >= rows and window.width >= columns
        name = "area" if antialias and smaller else "linear"
        _render_window(image, window, out, name, 0.5)
    else:
        _render_bilinear(image, window, out, antialias)


def _render_bilinear(
    image: decode.Image, window: Window, out: np.ndarray, antialias: bool
) -> None:
    box = window.height, window.width
    shrink = 1 if antialias else _power_of_two(box, window.resized)
    pixels, shrink = image.pixels(window.top + window.height, shrink)
    whole = window.resized == out.shape[:2]
    target = out if whole else np.empty((*window.resized, 3), np.uint8)
    if shrink > 1:
        _warp(pixels, window._replace(y=0, x=0), shrink, target)
    else:
        bottom, right = window.top + window.height, window.left + window.width
        pixels = pixels[window.top : bottom, window.left : right]
        if box == window.resized:
            target = pixels
        else:
            smaller = (
                antialias and box[0] >= target.shape[0] and box[1] >= target.shape[1]
            )
            kind = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
            cv2.resize(pixels, window.resized[::-1], dst=target, interpolation=kind)
    if target is not out:
        out[...] = _cut(target, window, out)


def _cut(scaled: np.ndarray, window: Window, out: np.ndarray) -> np.ndarray:
    height, width = out.shape[:2]
    return scaled[window.y : window.y + height, window.x : window.x + width]


def _render_with_border(
    image: decode.Image,
    window: Window,
    out: np.ndarray,
    antialias: bool,
    filter: str,
    fill: tuple[int, int, int],
) -> None:
    out[...] = fill
    (rows, columns), (height, width) = window.resized, out.shape[:2]
    top, left = max(-window.y, 0), max(-window.x, 0)
    bottom, right = min(rows - window.y, height), min(columns - window.x, width)
    inner = np.empty((bottom - top, right - left, 3), np.uint8)
    window = window._replace(y=max(window.y, 0), x=max(window.x, 0))
    render(image, window, inner, antialias=antialias, filter=filter)
    out[top:bottom, left:right] = inner


def _render_filtered(
    image: decode.Image, window: Window, out: np.ndarray, filter: str
) -> None:
    sides, resized = (window.height, window.width), window.resized
    smaller = sides[0] >= resized[0] and sides[1] >= resized[1]
    excess = resized[0] * resized[1] > EXCESS * out.shape[0] * out.shape[1]
    tensor = filter in TENSOR_FILTERS
    if tensor and min(s / r for s, r in zip(sides, resized)) >= _SHRINKS:
        tensor = filter == "tensor_nearest"
    if excess or tensor or (filter == "area" and not smaller):
        # The sums' own rounding must not cost a level where the fraction is cut off.
        _render_window(image, window, out, filter, 1e-6 if filter == "area" else 0.0)
        return
    pixels, shrink = image.pixels(window.top + window.height, 1)
    window = _shrunk(window, shrink)
    box = window.left, window.top, window.width, window.height
    if filter == "area":
        scaled = _areas(pixels, box, resized)
    elif filter in TENSOR_FILTERS:
        left, top, width, height = box
        rows = _with_pillow(pixels, box, (height, resized[1]), TENSOR_FILTERS[filter])
        whole = 0, 0, resized[1], height
        scaled = _with_pillow(rows, whole, resized, TENSOR_FILTERS[filter])
    else:
        scaled = _with_pillow(pixels, box, resized, filter)
    out[...] = _cut(scaled, window, out)


def _areas(
    pixels: np.ndarray, box: tuple[int, int, int, int], resized: tuple[int, int]
) -> np.ndarray:
    """Means over areas, cut to whole levels as big_vision's cast to uint8 does."""
    left, top, width, height = box
    boxed = pixels[top : top + height, left : left + width].astype(np.float32)
    means = cv2.resize(boxed, resized[::-1], interpolation=cv2.INTER_AREA)
    # 1e-3: float32 must not make 199.9999 of an even 200.
    return (means + np.float32(1e-3)).astype(np.uint8)


def _with_pillow(
    pixels: np.ndarray,
    box: tuple[int, int, int, int],
    resized: tuple[int, int],
    filter: str,
) -> np.ndarray:
    from PIL import Image as pillow

    left, top, width, height = box
    # What lies around the box is not looked at, as by torchvision's `resized_crop`.
    boxed = np.ascontiguousarray(pixels[top : top + height, left : left + width])
    return np.asarray(
        pillow.fromarray(boxed).resize(
            (resized[1], resized[0]), pillow.Resampling(PILLOW_FILTERS[filter])
        )
    )


def _render_window(
    image: decode.Image, window: Window, out: np.ndarray, filter: str, half: float
) -> None:
    """Samples the window from those pixels of the box alone that it depends on."""
    box, resized = (window.height, window.width), window.resized
    shrink = _power_of_two(box, resized) if filter == "linear" else 1
    down, _, bottom = resample.span(filter, box[0], resized[0], window.y, len(out))
    pixels, shrink = image.pixels(window.top + bottom, shrink)
    if shrink > 1 and filter == "linear":
        _warp(pixels, window, shrink, out)
        return
    window = _shrunk(window, shrink)
    box = window.height, window.width
    down, top, bottom = resample.span(filter, box[0], resized[0], window.y, len(out))
    across, left, right = resample.span(
        filter, box[1], resized[1], window.x, out.shape[1]
    )
    pixels = pixels[window.top + top : window.top + bottom]
    pixels = pixels[:, window.left + left : window.left + right]
    rows_first = filter in TENSOR_FILTERS or resample.rows_first(box, resized)
    sampled = resample.window(pixels, down, across, rows_first=rows_first)
    if sampled.dtype != np.uint8:
        sampled = (sampled + half).clip(0, 255).astype(np.uint8)
    out[...] = sampled


def _shrunk(window: Window, shrink: int) -> Window:
    """The window of an image that was too large to be decoded at full size."""
    if shrink == 1:
        return window
    top, left, height, width = (-(-side // shrink) for side in window[:4])
    return window._replace(top=top, left=left, height=height, width=width)


def _power_of_two(box: tuple[int, int], resized: tuple[int, int]) -> int:
    """Returns the largest of 8, 4, 2, 1 by which the box may shrink."""
    for shrink in (8, 4, 2):
        if box[0] >= shrink * resized[0] and box[1] >= shrink * resized[1]:
            return shrink
    return 1


def _warp(pixels: np.ndarray, window: Window, shrink: int, out: np.ndarray) -> None:
    """Samples the box, given in full-size coordinates, from the shrunk pixels.

    Full-size coordinate x lies at (x + 0.5) / shrink - 0.5; rounding the box to whole
    shrunk pixels instead would cost about one grey level.
    """
    height, width = out.shape[:2]
    scale_y = window.height / window.resized[0] / shrink
    scale_x = window.width / window.resized[1] / shrink
    first_y = window.top / shrink + (window.y + 0.5) * scale_y - 0.5
    first_x = window.left / shrink + (window.x + 0.5) * scale_x - 0.5
    cv2.warpAffine(
        pixels,
        np.array([[scale_x, 0, first_x], [0, scale_y, first_y]]),
        (width, height),
        dst=out,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
