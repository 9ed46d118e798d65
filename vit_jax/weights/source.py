"""Named arrays that are read one at a time, wherever they are."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from vit_jax import errors
from vit_jax.host import files as host_files

Shape = tuple[int, ...]
COPY_AGAIN = (
    "It is damaged or was not copied to its end: compare its size and checksum with "
    "the source's and copy it again."
)


class Tensors(Mapping[str, np.ndarray]):
    """Arrays by name, of which the shapes are known and the values read when asked.

    A file of weights is one, and so are our leaves made from it: whoever takes them
    one by one never holds more than one. `tensors[name]` reads each time.

    Attributes:
        shapes: Shape of each, by name; the order is the cheapest to read in.
        label: What messages call them, e.g. the path of the file.
        config: Of the `config.json` beside the weights; None without one.
        objects: What lies among them and is no array, by name: what it is.
    """

    def __init__(
        self,
        shapes: Mapping[str, Shape],
        read: Callable[[str], np.ndarray],
        *,
        label: str = "",
        config: Mapping[str, Any] | None = None,
        objects: Mapping[str, str] | None = None,
        close: Callable[[], None] = lambda: None,
    ):
        self.shapes = dict(shapes)
        self.label = label
        self.config = config
        self.objects = dict(objects or {})
        self._read = read
        self._close = close

    @classmethod
    def of(cls, arrays: Mapping[str, Any], **options: Any) -> Self:
        """Returns those of arrays that are in memory."""
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        return cls(shapes, lambda name: np.asarray(arrays[name]), **options)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def read(self, name: str) -> np.ndarray:
        """Returns one array, as it is stored; not to be written to.

        Raises:
            errors.UserError: it is damaged or not what the file says of it.
        """
        array = self._read(name)
        assert array.shape == self.shapes[name], (name, array.shape, self.shapes[name])
        return array

    def close(self) -> None:
        """Closes the file behind; nothing can be read from then on."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def names(self) -> list[str]:
        """Their names, in the cheapest order to read."""
        return list(self.shapes)

    def largest_first(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (name, array), the largest first.

        Whoever moves each elsewhere before the next needs memory for all of them and
        at the end, when the most is held, only for one small one more.
        """
        for name in sorted(self.shapes, key=lambda n: -math.prod(self.shapes[n])):
            yield name, self.read(name)

    def renamed(self, names: Mapping[str, str]) -> Self:
        """Returns those that `names` maps new names to."""
        return self._derived(
            {new: self.shapes[old] for new, old in names.items()},
            lambda name: self.read(names[name]),
        )

    def changed(self, changes: Mapping[str, tuple[Shape, Callable]]) -> Self:
        """Returns them with some replaced by (shape, function that makes the array)."""
        return self._derived(
            self.shapes | {name: shape for name, (shape, _) in changes.items()},
            lambda name: changes[name][1]() if name in changes else self.read(name),
        )

    def configured(self, config: Mapping[str, Any]) -> Self:
        """Returns them with another `config`."""
        return type(self)(
            self.shapes, self.read, label=self.label, config=config, close=self.close
        )

    def _derived(self, shapes: Mapping[str, Shape], read: Callable) -> Self:
        return type(self)(
            shapes, read, label=self.label, config=self.config, close=self.close
        )


class OpenFile:
    """A file that is read at any place until it is closed.

    Attributes:
        descriptor: Of the file; -1 once it is closed.
    """

    def __init__(self, path: Path):
        """Opens a file."""
        self.descriptor = host_files.open_to_read(path)

    @property
    def size(self) -> int:
        """Its size."""
        return os.fstat(self.descriptor).st_size

    def at(self, start: int, count: int) -> bytes:
        """Returns so many bytes from a place on, fewer at its end."""
        return host_files.read_at(self.descriptor, count, start)

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    @contextlib.contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Closes the file where the body fails."""
        try:
            yield
        except BaseException:
            self.close()
            raise


def fill(buffer: Any, descriptor: int, start: int) -> None:
    """Reads exactly a buffer's length of an open file; one read gives 2 GB at most.

    Args:
        buffer: Of bytes, written to.
        descriptor: Of the file.
        start: The first byte.

    Raises:
        ValueError: the file ends before.
    """
    left = memoryview(buffer)
    while left:
        got = host_files.read_into(left, descriptor, start)
        if got == 0:
            raise ValueError("it ended while it was read")
        left, start = left[got:], start + got


def check_pointer(start: bytes) -> None:
    """Raises `UserError` if a file that starts so only says where its content is."""
    if start.startswith(b"version https://git-lfs"):
        raise errors.UserError(
            "is a pointer of Git LFS, not the file itself: run `git lfs pull` there, "
            "or download the file."
        )


@contextlib.contextmanager
def reading(label: str, kind: str) -> Iterator[None]:
    """Turns whatever goes wrong while a file is read into one clear `UserError`.

    Args:
        label: The file; put before the messages.
        kind: What it should be, with its article: "an .npz file".
    """
    try:
        yield
    except errors.UserError as error:
        text = str(error)
        raise errors.UserError(
            text if text.startswith(label) else f"{label}: {text}"
        ) from None
    except MemoryError:
        raise errors.UserError(
            f"{label} does not fit in this machine's memory."
        ) from None
    except Exception as error:  # zipfile, zlib, struct, json: a dozen kinds
        raise errors.UserError(
            f"{label} cannot be read as {kind}: {errors.reason(error)}\n{COPY_AGAIN}"
        ) from error
