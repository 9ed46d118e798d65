"""From what a source yields to pixels.

JPEG goes through simplejpeg; what it cannot read (CMYK, a PNG named .jpg, damaged
files) and other formats go through Pillow. A photograph is turned as its EXIF
orientation says, and crops are in the coordinates of the turned image, unless the
caller wants the pixels as they are stored, which is what TensorFlow's decoders give.
(TIFF files are always turned: Pillow does it.) Alpha is dropped, never blended.
"""

import functools
import io
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from vit_jax.data import exif, jpeg, levels
from vit_jax.data.levels import BadImage

# Pillow's own threshold for a decompression bomb: a quarter of a gigabyte in RGB.
MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3
# Of a JPEG of one pass, which never has to be in memory at full size: 358 megapixels.
MAX_JPEG_PIXELS = 4 * MAX_PIXELS
# What Pillow may open: the formats of `walking.EXTENSIONS`. Its others are for what no
# dataset holds, and some hand a stranger's file to a program (EPS to Ghostscript).
FORMATS = (
    *("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000"),
    "TGA",
)


class Image(Protocol):
    """An opened image: its size is known, its pixels may not be decoded yet."""

    height: int
    width: int

    def pixels(self, bottom: int, shrink: int) -> tuple[np.ndarray, int]:
        """Returns RGB uint8 down to row `bottom` at least, and its actual shrink.

        It is at most the one asked for, and larger only if there are more than
        `MAX_PIXELS` pixels.
        """
        ...


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
        """Returns the pixels; what libjpeg complains about is tried again in Pillow."""
        while self.height * self.width > MAX_PIXELS * shrink**2:
            shrink *= 2
        try:
            return (
                jpeg.decode(self._data, self._header, bottom=bottom, shrink=shrink),
                shrink,
            )
        except ValueError:
            read = functools.partial(_rgb, turn=False)
            pixels = _decode_with_pillow(self._data, read)
        if pixels.shape[:2] != (self.height, self.width):
            raise BadImage("its header and its contents disagree about its size")
        return pixels, 1


class TurnedImage:
    """An image whose stored pixels are to be turned."""

    def __init__(self, stored: Image, orientation: int):
        """Takes the image and its EXIF orientation, a key of `exif.TURNS`."""
        sides = stored.height, stored.width
        if orientation in exif.SIDEWAYS:
            sides = sides[::-1]
        self.height, self.width = sides
        self._stored, self._orientation = stored, orientation

    def pixels(self, bottom: int, shrink: int) -> tuple[np.ndarray, int]:
        """Decodes and turns."""
        stored = self._stored
        if self._orientation not in exif.SAME_ROWS:
            bottom = stored.height
        # A shrunk pixel that is cut off at the end would come to lie at the start.
        while stored.height % shrink or stored.width % shrink:
            shrink //= 2
        pixels, shrink = stored.pixels(bottom, shrink)
        return exif.TURNS[self._orientation](pixels), shrink


def open_image(image: Any, *, turn: bool = True) -> Image:
    """Opens encoded bytes, an array [h, w], [h, w, 1 | 3 | 4] or a Pillow image.

    A dict with "bytes" (an undecoded image of Hugging Face datasets) is opened too.
    Numbers that are not 0..255 are scaled by the rules of `levels`.

    Args:
        image: What to open.
        turn: As the EXIF orientation says; False: the pixels as they are stored.

    Raises:
        BadImage: it cannot be read, has more than `MAX_PIXELS` pixels, or numbers for
            which there is no rule.
    """
    data = _encoded(image)
    if data is not None:
        return _open_bytes(data, turn)
    if hasattr(image, "convert"):
        return PixelImage(_rgb(image, turn=turn))
    return PixelImage(levels.from_array(np.asarray(image)))


def check(image: Any) -> None:
    """Reads all of a JPEG file at an eighth of its size; other images pass.

    What is damaged in the middle still gives pixels, wrong ones from there on: libjpeg
    says so in a warning, which Pillow and TensorFlow leave aside. Of 1,500 photographs
    with 64 bytes of zeros in the middle it warns for 802, of 1,500 with one bit flipped
    for 227: the others decode to another picture without a fault.

    Raises:
        BadImage: libjpeg warns, or cannot decode it.
    """
    data = _encoded(image)
    if data is None or data[:2] != b"\xff\xd8":
        return
    header = jpeg.read_header(data)
    space = "CMYK" if header and header.components == 4 else "RGB"
    try:
        jpeg.read_all(data, space)
    except ValueError as error:
        raise BadImage(f"a damaged JPEG ({error})") from error


def _encoded(image: Any) -> bytes | None:
    """The file of an image, None where it is decoded already."""
    if isinstance(image, dict) and isinstance(image.get("bytes"), bytes):
        return image["bytes"]
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    return None


def whole(opened: Image) -> np.ndarray:
    """Returns all pixels of an image at full size.

    Raises:
        BadImage: they cannot be decoded, or are more than `MAX_PIXELS`.
    """
    _check_size(opened.height, opened.width, MAX_PIXELS)
    pixels, _ = opened.pixels(opened.height, 1)
    return pixels


def _open_bytes(data: bytes, turn: bool) -> Image:
    if data[:2] == b"\xff\xd8":
        header = jpeg.read_header(data)
        # Four components are CMYK: only Pillow knows Adobe's inverted ones. A height
        # of 0 is stated later in the file.
        if header and header.components in (1, 3) and header.height and header.width:
            limit = MAX_JPEG_PIXELS if header.one_pass else MAX_PIXELS
            _check_size(header.height, header.width, limit)
            stored = JpegImage(data, header)
            found = exif.UPRIGHT
            if turn and header.app1:
                found = exif.of_jpeg(data, header.app1)
            return stored if found == exif.UPRIGHT else TurnedImage(stored, found)
    read = functools.partial(_rgb, turn=turn)
    return PixelImage(_decode_with_pillow(data, read))


def _check_size(height: int, width: int, limit: int) -> None:
    if height * width > limit:
        raise BadImage(f"{height}x{width} pixels are more than the limit of {limit}")


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


def _rgb(image: Any, *, turn: bool) -> np.ndarray:
    """Returns uint8 [h, w, 3] of a Pillow image."""
    facts = levels.facts(image)  # gone once it is decoded
    return levels.from_pillow(_upright(image) if turn else image, facts)


def _decode_with_pillow(data: bytes, read: Callable[[Any], np.ndarray]) -> np.ndarray:
    from PIL import Image as pillow

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs: _check_size refuses them
            image = pillow.open(io.BytesIO(data), formats=FORMATS)
        _check_size(image.height, image.width, MAX_PIXELS)
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


def _upright(image: Any) -> Any:
    """Turns a Pillow image as its EXIF says; one that says nonsense stays."""
    from PIL import ImageOps

    image.load()  # TIFFs are turned by this, and some PNGs have their EXIF at the end
    try:
        found = image.getexif().get(0x0112)
    except Exception:  # whatever Pillow stumbles over in a damaged EXIF block
        return image
    return ImageOps.exif_transpose(image) if found in exif.TURNS else image
