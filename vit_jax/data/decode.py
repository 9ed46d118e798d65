"""From what a source yields to pixels, and from pixels to a resampled window.

JPEG goes through simplejpeg; what it cannot read (CMYK, a PNG named .jpg, damaged
files) and other formats go through Pillow. EXIF orientation is ignored everywhere, as
the reference pipelines do: crops are in the coordinates of the stored pixels.
"""

import io
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from vit_jax.data import jpeg, levels
from vit_jax.data.levels import BadImage

# Pillow's own threshold for a decompression bomb: a quarter of a gigabyte in RGB.
MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3

# The loaders have threads of their own.
cv2.setNumThreads(0)


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


class Image(Protocol):
    """An opened image: its size is known, its pixels may not be decoded yet."""

    height: int
    width: int

    def pixels(self, bottom: int, shrink: int) -> tuple[np.ndarray, int]:
        """Returns RGB uint8 down to row `bottom` at least, and its actual shrink."""


class PixelImage:
    """An image that is decoded already: uint8 [h, w, 3]."""

    def __init__(self, pixels: np.ndarray):
        """Takes RGB pixels."""
        self.height, self.width = pixels.shape[:2]
        self._pixels = pixels

    def pixels(self, bottom: int, shrink: int) -> tuple[np.ndarray, int]:
        """Returns all pixels in full size."""
        del bottom, shrink
        return self._pixels, 1


class JpegImage:
    """A JPEG file whose header has been read."""

    def __init__(self, data: bytes, header: jpeg.Header):
        """Takes the file and its header."""
        self.height, self.width = header.height, header.width
        self._data, self._header = data, header

    def pixels(self, bottom: int, shrink: int) -> tuple[np.ndarray, int]:
        """Decodes; what libjpeg complains about gets a second chance in Pillow."""
        try:
            return (
                jpeg.decode(self._data, self._header, bottom=bottom, shrink=shrink),
                shrink,
            )
        except ValueError:
            pixels = _decode_with_pillow(self._data)
        if pixels.shape[:2] != (self.height, self.width):
            raise BadImage("its header and its contents disagree about its size")
        return pixels, 1


def open_image(image: Any) -> Image:
    """Opens encoded bytes, an array [h, w], [h, w, 1 | 3 | 4] or a Pillow image.

    A dict with "bytes" (an undecoded image of Hugging Face datasets) is opened too.
    Numbers that are not 0..255 are scaled by the rules of `levels`.

    Raises:
      BadImage: it cannot be read, has more than `MAX_PIXELS` pixels, or numbers for
        which there is no rule.
    """
    if isinstance(image, dict) and isinstance(image.get("bytes"), bytes):
        image = image["bytes"]
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _open_bytes(bytes(image))
    if hasattr(image, "convert"):
        return PixelImage(_rgb(image))
    return PixelImage(levels.from_array(np.asarray(image)))


def _open_bytes(data: bytes) -> Image:
    if data[:2] == b"\xff\xd8":
        header = jpeg.read_header(data)
        # Four components are CMYK: only Pillow knows Adobe's inverted ones. A height
        # of 0 is stated later in the file.
        if header and header.components in (1, 3) and header.height and header.width:
            _check_size(header.height, header.width)
            return JpegImage(data, header)
    return PixelImage(_decode_with_pillow(data))


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise BadImage(
            f"{height}x{width} pixels are more than the limit of {MAX_PIXELS}"
        )


def decode_packed_floats(data: bytes) -> np.ndarray:
    """Returns float32 [h, w] of a PNG whose four channels are the bytes of a float.

    So TFDS stores images of dtype float32, lowest byte first.

    Raises:
      BadImage: it cannot be read, or is another kind of image.
    """
    return _decode_with_pillow(data, _packed_floats)


def _packed_floats(image: Any) -> np.ndarray:
    if image.mode != "RGBA" or ";16" in str(image.tile):
        raise BadImage(
            f"a {image.format} of mode {image.mode}; wanted the four bytes of a "
            "float32 as RGBA, as the dataset's features.json states"
        )
    return np.ascontiguousarray(image).view("<f4")[..., 0]


def _rgb(image: Any) -> np.ndarray:
    return levels.from_pillow(image, levels.facts(image))


def _decode_with_pillow(
    data: bytes, read: Callable[[Any], np.ndarray] = _rgb
) -> np.ndarray:
    from PIL import Image as pillow

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs: _check_size refuses them
            image = pillow.open(io.BytesIO(data))
        _check_size(image.height, image.width)
        return read(image)
    except BadImage:
        raise
    except Exception as error:
        # Pillow's decoders raise whatever they stumble over: OSError, SyntaxError,
        # struct.error, ValueError, its own DecompressionBombError.
        reason = str(error).replace(repr(error), "").split("<")[0].strip()
        raise BadImage(
            f"{len(data)} bytes that are no readable image ({reason})"
        ) from error


# Pillow's filters by name, smooth where an image shrinks: what PyTorch's codes use.
PILLOW_FILTERS = {"bilinear": 2, "bicubic": 3}


def render(
    image: Image, window: Window, out: np.ndarray, *, antialias: bool, filter: str = ""
) -> None:
    """Writes the window of the image into `out`, uint8 [h, w, 3].

    Bilinear with pixel centres at half integers, as `tf.image.resize`; with
    `antialias`, areas are averaged where the box shrinks. Without it a box at least
    twice as large as wanted is decoded at 1/2, 1/4 or 1/8 (which averages areas, too).
    With a `filter` of `PILLOW_FILTERS` the values are Pillow's.

    Raises:
      BadImage: the pixels cannot be decoded.
    """
    if filter:
        _render_with_pillow(image, window, out, PILLOW_FILTERS[filter])
        return
    box = window.height, window.width
    shrink = 1 if antialias else _power_of_two(box, window.resized)
    pixels, shrink = image.pixels(window.top + window.height, shrink)
    whole = window.resized == out.shape[:2]
    target = out if whole else np.empty((*window.resized, 3), np.uint8)
    if shrink > 1:
        _warp(pixels, window, shrink, target)
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
        height, width = out.shape[:2]
        out[...] = target[window.y : window.y + height, window.x : window.x + width]


def _render_with_pillow(
    image: Image, window: Window, out: np.ndarray, resample: int
) -> None:
    from PIL import Image as pillow

    pixels, _ = image.pixels(window.top + window.height, 1)
    left, top = window.left, window.top
    box = (left, top, left + window.width, top + window.height)
    resized = pillow.fromarray(pixels).resize(
        window.resized[::-1], pillow.Resampling(resample), box=box
    )
    height, width = out.shape[:2]
    out[...] = np.asarray(resized)[
        window.y : window.y + height, window.x : window.x + width
    ]


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
    scale_y = window.height / height / shrink
    scale_x = window.width / width / shrink
    first_y = window.top / shrink + 0.5 * scale_y - 0.5
    first_x = window.left / shrink + 0.5 * scale_x - 0.5
    cv2.warpAffine(
        pixels,
        np.array([[scale_x, 0, first_x], [0, scale_y, first_y]]),
        (width, height),
        dst=out,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
