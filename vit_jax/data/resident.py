"""Small datasets decoded once: batches are gathered from host memory.

Images that all have one size are kept as one uint8 array, padded if the transform pads,
so that a batch is one indexing operation. What a row holds is the same, bit for bit, as
when it is decoded anew.
"""

import concurrent.futures
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from vit_jax import errors, host
from vit_jax.data import decode, reader, sources, transforms

# "auto" puts up to this many bytes of decoded images on every device.
DEVICE_BYTES = 256 << 20
CACHES = ("auto", "none", "ram", "device")


def choose(
    cache: str,
    source: Any,
    transform: transforms.Transform,
    sharding: Any,
    process_count: int,
) -> str:
    """Returns "none", "ram" or "device".

    Raises:
        errors.UserError: the cache that was asked for cannot work.
    """
    errors.lookup(dict.fromkeys(CACHES), cache, "cache")
    if cache == "auto":
        return _choose_auto(source, transform, sharding, process_count)
    if cache == "device" and sharding is None:
        raise errors.UserError('cache="device" needs the sharding of the batch')
    if cache == "device" and process_count > 1:
        raise errors.UserError(
            f'cache="device" works in one process, here are {process_count}; '
            'use cache="ram" or "auto"'
        )
    return cache


def _choose_auto(
    source: Any,
    transform: transforms.Transform,
    sharding: Any,
    process_count: int,
) -> str:
    shape = getattr(source, "image_shape", None)
    if shape is None:
        return "none"
    size = len(source) * math.prod((*_padded_size(shape[:2], transform), 3))
    slices = as_slices(transform, shape[:2]) is not None
    if slices and sharding is not None and process_count == 1 and size <= DEVICE_BYTES:
        return "device"
    return "ram" if size <= _memory() // 4 else "none"


def _memory() -> int:
    return host.total_memory()


def _padded_size(
    size: tuple[int, int], transform: transforms.Transform
) -> tuple[int, int]:
    pad = transform.pad if isinstance(transform, transforms.PadCrop) else 0
    return size[0] + 2 * pad, size[1] + 2 * pad


def as_slices(
    transform: transforms.Transform, size: tuple[int, int]
) -> transforms.PadCrop | None:
    """Returns the transform as windows of padded images, None if it resamples.

    A "resize" of images that have the right size already leaves them alone. What is
    augmented differs each time, and has no windows that could be kept.
    """
    if transform.augments:
        return None
    if isinstance(transform, transforms.PadCrop):
        return transform
    if transform.name == "resize" and tuple(size) == transform.image_size:
        # The train transform "none".
        return transforms.PadCrop(
            "none", transform.image_size, 0, 0, "constant", turn=transform.turn
        )
    return None


class _Original:
    """Stands in for a transform while the cache is filled: nothing but decoding."""

    def __init__(self, turn: bool):
        self._turn = turn

    def __call__(self, image: Any, uniforms: list[float], out: np.ndarray) -> None:
        opened = decode.open_image(image, turn=self._turn)
        if (opened.height, opened.width) != out.shape[:2]:
            raise errors.UserError(
                f"a cache wants images of one size: got {opened.height}x{opened.width} "
                f'beside {out.shape[0]}x{out.shape[1]}; use cache="none"'
            )
        out[...] = decode.whole(opened)


def decode_all(
    source: Any,
    corrupt: reader.CorruptLog,
    pool: concurrent.futures.ThreadPoolExecutor,
    *,
    turn: bool = True,
    border: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images, uint8 [n, h + 2 border, w + 2 border, 3], and their labels.

    They are turned as their EXIF says if `turn`. The border is not written. An
    unreadable image is replaced by its neighbour.

    Raises:
        errors.UserError: images of different sizes, more than a quarter of the memory,
            a label out of range or too many unreadable images.
    """
    height, width = common_size(source, turn)
    shape = (len(source), height + 2 * border, width + 2 * border, 3)
    if math.prod(shape) > _memory() // 4:
        raise errors.UserError(
            f"the decoded images need {math.prod(shape) / 2**30:.1f} GiB, more than a "
            f"quarter of this machine's {_memory() / 2**30:.1f} GiB; "
            'use cache="none"'
        )
    images = np.empty(shape, np.uint8)
    inner = images[:, border : border + height, border : border + width]
    labels: list[Any] = [None] * len(source)
    read = reader.Reader(source, _Original(turn), corrupt)

    def fill(rows: range) -> None:
        for row in rows:
            labels[row] = read.read(row, [], inner[row])

    step = max(1, len(source) // 256)
    tasks = [
        pool.submit(fill, range(start, min(start + step, len(source))))
        for start in range(0, len(source), step)
    ]
    for task in tasks:
        task.result()
    return images, reader.stack_labels(labels)


def common_size(source: Any, turn: bool = True) -> tuple[int, int]:
    """Returns the size that the source states, or that of its first readable image."""
    shape = getattr(source, "image_shape", None)
    if shape is not None:
        return shape[0], shape[1]
    for index in range(len(source)):
        try:
            opened = decode.open_image(source[index]["image"], turn=turn)
        except (decode.BadImage, OSError):
            continue
        return opened.height, opened.width
    name = sources.describe_example(source, 0)
    raise errors.UserError(f"none of {len(source)} images can be read, nor {name}")


def for_devices(
    source: Any, transform: transforms.Transform
) -> tuple[transforms.PadCrop, tuple[int, int]]:
    """Returns the windows that a transform is on images of the size there is.

    Raises:
        errors.UserError: it changes pixels, which happens on the host alone.
    """
    size = common_size(source, transform.turn)
    if transform.augments:
        raise errors.UserError(
            'cache="device" keeps images as they are, and cannot serve what the '
            f"host draws anew each time (data.train.{transform.augments}); use "
            'cache="ram", which keeps the decoded images, or "auto"'
        )
    slices = as_slices(transform, size)
    if slices is None:
        raise errors.UserError(
            f'cache="device" cannot resample images ({transform.name!r} of '
            f'{size[0]}x{size[1]} images); use cache="ram" or "auto"'
        )
    return slices, size


class HostRows:
    """Batches gathered from decoded, padded images in host memory."""

    def __init__(
        self,
        source: Any,
        slices: transforms.PadCrop,
        corrupt: reader.CorruptLog,
        pool: concurrent.futures.ThreadPoolExecutor,
    ):
        """Decodes everything; `slices` is what `as_slices` returned."""
        self._slices = slices
        self._size = common_size(source, slices.turn)
        self._pool = pool
        self._images, self._labels = load_padded(
            source, slices, self._size, corrupt, pool
        )

    def start(
        self, examples: np.ndarray, uniforms: np.ndarray
    ) -> Callable[[], dict[str, np.ndarray]]:
        """Starts a batch; call what it returns for the finished one."""
        return self._pool.submit(self._gather, examples, uniforms).result

    def _gather(
        self, examples: np.ndarray, uniforms: np.ndarray
    ) -> dict[str, np.ndarray]:
        offsets = self._slices.offsets(uniforms, *self._size)
        images = cut(self._images, self._slices.image_size, examples, offsets)
        return {"image": images, "label": self._labels[examples]}


def load_padded(
    source: Any,
    slices: transforms.PadCrop,
    size: tuple[int, int],
    corrupt: reader.CorruptLog,
    pool: concurrent.futures.ThreadPoolExecutor,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the padded images and the labels."""
    slices.check(*size)
    pad = slices.pad
    images, labels = decode_all(source, corrupt, pool, turn=slices.turn, border=pad)
    if pad:
        # In blocks: padding the whole at once would hold it in memory twice.
        for start in range(0, len(images), 1024):
            block = images[start : start + 1024]
            inner = block[:, pad : pad + size[0], pad : pad + size[1]]
            block[...] = slices.padded(inner)
    return images, labels


def cut(
    images: np.ndarray,
    size: tuple[int, int],
    examples: np.ndarray,
    offsets: np.ndarray,
) -> np.ndarray:
    """Returns windows of images: uint8 [b, *size, 3].

    Args:
        images: uint8 [n, h, w, 3], contiguous.
        size: Of the windows.
        examples: int [b], which images.
        offsets: int [b, 2], (y, x) of the windows.
    """
    if images.shape[1:3] == size:
        return images[examples]
    count, height, width, channels = images.shape
    rows, columns = height - size[0] + 1, width - size[1] + 1
    image, line, pixel, byte = images.strides
    # Every window of every image as a view whose innermost axis is a whole line of a
    # window: indexing then copies lines, several times faster than pixels.
    windows = np.lib.stride_tricks.as_strided(
        images,
        (count, rows, columns, size[0], size[1] * channels),
        (image, line, pixel, line, byte),
        writeable=False,
    )
    chosen = windows[examples, offsets[:, 0], offsets[:, 1]]
    return chosen.reshape(len(examples), *size, channels)
