"""Numbers of any kind as grey levels 0..255: one rule each, and no guesses.

| numbers | level |
|---|---|
| uint8 | as it is |
| boolean, one bit | 0 or 255 |
| 16 bits without sign | the high byte, as OpenCV and TensorFlow read it |
| 12 bits, where the file says so | the high eight of them |
| floats 0..1 | 255 x, rounded |
| anything else | refused: signed and wide integers, NaN, floats outside 0..1 |

Files of 8 to 14 bits in 16 are common (microscopes, X-rays) and would be nearly black:
16-bit images whose values are all below 2**14 are refused, unless all are zero, and so
are floats that are all below 1.5 levels. Alpha is dropped and decides nothing.
"""

from typing import Any, NamedTuple

import numpy as np

# With fewer bits in use than this, numbers of 16 bits have a scale of their own.
_LEAST_BITS = 15
_WANTED = "wanted uint8 [height, width, 1 or 3], uint16, or floats in 0..1"
# Tags of TIFF files.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2


class BadImage(ValueError):
    """An image that cannot be read: damaged, no image at all, or far too large."""


def from_array(array: np.ndarray) -> np.ndarray:
    """Returns uint8 [h, w, 3] of [h, w] or [h, w, 1 | 3 | 4] of any kind of numbers.

    Raises:
        BadImage: another shape, or numbers without a rule.
    """
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise BadImage(f"{array.dtype} {array.shape}; {_WANTED}")
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        raise BadImage(f"{array.shape[2]} channels; wanted 1, 3 or 4")
    array = array[..., None] if array.ndim == 2 else array[..., :3]
    if array.dtype != np.uint8:
        array = _to_uint8(array)
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array


def _to_uint8(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.bool_:
        return array * np.uint8(255)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return _high_byte(array, 16)
    if array.dtype.kind == "f":
        return _from_floats(array)
    raise BadImage(f"{array.dtype} {array.shape}; {_WANTED}")


def _high_byte(array: np.ndarray, bits: int) -> np.ndarray:
    highest = int(array.max())
    if bits == 16 and 0 < highest < 2 ** (_LEAST_BITS - 1):
        raise _dark(f"values up to {highest}")
    return (array >> (bits - 8)).astype(np.uint8)


def _dark(values: str) -> BadImage:
    return BadImage(
        f"16-bit numbers with {values}, of 65535: the scale is another one (12 bits?) "
        "and the image would be black; convert it to 8 bits"
    )


def _from_floats(array: np.ndarray) -> np.ndarray:
    levels = array.astype(np.promote_types(array.dtype, np.float32)) * 255
    lowest, highest = float(levels.min()), float(levels.max())
    # Half a level below 0 and above 1 is rounding. NaN is neither.
    if not (-0.5 <= lowest and highest < 255.5):
        raise BadImage(
            f"{array.dtype} numbers {lowest / 255:g} to {highest / 255:g}; floats are "
            "read as 0..1: scale them, or give uint8"
        )
    if 0 < highest < 1.5:
        raise BadImage(
            f"{array.dtype} numbers up to {highest / 255:g}; floats are read as 0..1, "
            "so the image would be black: scale them, or give uint8"
        )
    return np.rint(levels).astype(np.uint8)


class Facts(NamedTuple):
    """How a file lays out its numbers."""

    sixteen: bool = False  # of whose channels Pillow may keep the high bytes alone
    signed: bool = False
    bits: int = 16  # of a TIFF
    white_is_zero: bool = False


def facts(image: Any) -> Facts:
    """Returns what a Pillow image says of its file, before it is decoded.

    Decoding, turning or copying the image loses it.
    """
    tile = getattr(image, "tile", None)
    tags = getattr(image, "tag_v2", {})
    return Facts(
        sixteen=bool(tile) and ";16" in str(tile),
        signed=_SIGNED in tags.get(_SAMPLE_FORMAT, ()),
        bits=max(tags.get(_BITS, (16,))),
        white_is_zero=tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO,
    )


def from_pillow(image: Any, file: Facts) -> np.ndarray:
    """Returns uint8 [h, w, 3] of a Pillow image in any mode that has a rule.

    Args:
        image: Decoded or not.
        file: Its `facts`, taken before it was decoded.

    Raises:
        BadImage: numbers without a rule, or a mode that Pillow cannot convert.
    """
    mode = image.mode
    if file.signed:
        raise BadImage(f"signed integers; {_WANTED}")
    if mode == "I" and file.bits > 16:
        raise BadImage(f"32-bit integers; {_WANTED}")
    if mode == "I" or mode.startswith("I;16"):
        return from_array(_grey(image, file))
    if mode == "F":
        array = np.asarray(image)
        return from_array(1 - array if file.white_is_zero else array)
    if file.sixteen:
        array = np.asarray(image)
        highest = int((array[..., :3] if mode == "RGBA" else array).max())
        if highest < 2 ** (_LEAST_BITS - 9):
            raise _dark(f"high bytes up to {highest}")
    try:
        if mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # as Pillow wants it, with a warning
        return np.asarray(image.convert("RGB"))
    except ValueError as error:
        raise BadImage(f"mode {mode}, which Pillow cannot convert: {error}") from error


def _grey(image: Any, file: Facts) -> np.ndarray:
    """One channel of 12 or 16 bits; Pillow's mode "I" holds those, too."""
    array = np.asarray(image)
    if array.min() < 0 or array.max() > 65535:
        raise BadImage(f"integers {array.min()} to {array.max()}; {_WANTED}")
    array = array.astype(np.uint16)
    if file.white_is_zero:
        array = np.uint16(2**file.bits - 1) - array
    return array if file.bits == 16 else _high_byte(array, file.bits)
