"""How a photograph is to be turned: the EXIF orientation, 1 to 8."""

import re
import struct
from collections.abc import Callable

import cv2
import numpy as np

_ORIENTATION = 0x0112
_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
# TIFF's types that a whole number comes in: byte, short, long.
_TYPES = {1: "B", 3: "H", 4: "I"}
UPRIGHT = 1


def of_jpeg(data: bytes, segments: tuple[int, ...]) -> int:
    """Returns the orientation that a JPEG file states, in EXIF or else in XMP.

    Args:
        data: The file.
        segments: Where the contents of its APP1 segments start (`jpeg.Header.app1`).
    """
    for at in segments:
        if data[at : at + len(_EXIF)] == _EXIF:
            length = data[at - 2] << 8 | data[at - 1]
            found = _of_tiff(data[at + len(_EXIF) : at - 2 + length])
            if found is not None:
                return found
    for at in segments:
        if data[at : at + len(_XMP)] == _XMP:
            length = data[at - 2] << 8 | data[at - 1]
            match = _IN_XMP.search(data, at, at - 2 + length)
            if match:
                return int(match[1])
    return UPRIGHT


def _of_tiff(data: bytes) -> int | None:
    """The orientation in the first directory of a TIFF, as EXIF is one."""
    order = _ORDERS.get(data[:4])
    if order is None:
        return None
    try:
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(f"{order}HHI", data, entry)
            if tag == _ORIENTATION and kind in _TYPES and values == 1:
                value = struct.unpack_from(f"{order}{_TYPES[kind]}", data, entry + 8)[0]
                return value if value in TURNS else UPRIGHT
    except struct.error:
        return None
    return None


def _transverse(pixels: np.ndarray) -> np.ndarray:
    return cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180)


# From the pixels as stored to those that are shown.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: _transverse,
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
# Those that change height and width.
SIDEWAYS = frozenset({5, 6, 7, 8})
# Those that leave every row where it is.
SAME_ROWS = frozenset({2})
