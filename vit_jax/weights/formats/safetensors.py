"""`.safetensors` files of strangers: bounded, checked, read and written by the tensor.

A file is the length of its header (8 bytes, little endian), the header (JSON: name ->
dtype, shape and place) and the values. `shards` are several of them, `sidecars` the
JSON files beside them.
"""

import json
import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vit_jax import errors
from vit_jax.host import files as host_files
from vit_jax.settings import documents
from vit_jax.weights import source
from vit_jax.weights.formats import shards, sidecars

SUFFIX = ".safetensors"
FILE = f"model{SUFFIX}"
INDEX = f"{FILE}.index.json"
KIND = f"a {SUFFIX} file"

# ViT-e, 56 blocks of 16 tensors, has a header of 100 kB.
MAX_HEADER = 1 << 24
MAX_AXES = 8
NAME = re.compile(r"[\w.+:/~-]{1,300}", re.ASCII)
DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


def open(path: str | Path) -> source.Tensors:
    """Opens weights: checks headers, names and sizes, and reads no value.

    Args:
        path: A `.safetensors` file, the `.index.json` of several, or a folder with
            `model.safetensors` or its index. A `config.json` beside them becomes the
            `config` of what is returned, and a `preprocessor_config.json` the value of
            "preprocessor_config" in it, as does the "image_processor" of a
            `processor_config.json`.

    Raises:
        errors.UserError: here and by `read`: nothing to read there, a damaged file, or
            one that is not what it says.
    """
    path = _find(Path(path))
    if path.suffix == ".json":
        return shards.open(path, SUFFIX, _open_file)
    return _open_file(path)


def _open_file(path: Path) -> source.Tensors:
    config = sidecars.read_config(path.parent)
    file = _File(path)
    return source.Tensors(
        {name: shape for name, (_, shape, _) in file.places.items()},
        file.read,
        label=str(path),
        config=config,
        close=file.close,
    )


def is_one(path: str | Path) -> bool:
    """Returns whether `open` would find something at a path."""
    path = Path(path)
    if path.is_dir():
        return any((path / name).is_file() for name in (FILE, INDEX))
    return path.name.endswith((SUFFIX, f"{SUFFIX}.index.json"))


def _find(path: Path) -> Path:
    if not path.is_dir():
        if not path.is_file():
            raise errors.UserError(f"{path} is no file.")
        return path
    for name in (FILE, INDEX):
        if (path / name).is_file():
            return path / name
    raise errors.UserError(
        f"{path} has neither {FILE} nor {INDEX}; name the {SUFFIX} file itself."
    )


def read_metadata(path: Path) -> dict[str, str]:
    """Returns the texts in the header of a file, by name.

    Raises:
        errors.UserError: as `open`; or they are no texts.
    """
    file = _File(path)
    file.close()
    said = file.metadata
    if not isinstance(said, dict) or not all(isinstance(v, str) for v in said.values()):
        raise errors.UserError(f"{path}: its __metadata__ is not texts by name.")
    return said


def mapped(path: Path, name: str) -> np.ndarray:
    """Returns an array as it lies in the file: read only where it is looked at.

    Raises:
        errors.UserError: as `open`; or there is no such tensor.
    """
    file = _File(path)
    file.close()
    dtype, shape, start = errors.lookup(file.places, name, f"tensor of {path}")
    return np.memmap(path, dtype, "r", start, shape)


class _File(source.OpenFile):
    """One open file: `places` maps a name to (dtype, shape, first byte).

    `metadata` is what a stranger has written.
    """

    def __init__(self, path: Path):
        self.path = path
        with source.reading(str(path), KIND):
            super().__init__(path)
            with self.closed_on_error():
                self.places = self._places(self.size)

    def read(self, name: str) -> np.ndarray:
        dtype, shape, start = self.places[name]
        with source.reading(str(self.path), KIND):
            array = np.empty(shape, dtype)
            source.fill(array.reshape(-1).view(np.uint8), self.descriptor, start)
        return array

    def _places(self, size: int) -> dict[str, tuple[np.dtype, tuple[int, ...], int]]:
        if size < 8:
            raise errors.UserError(f"has {size} bytes, not even a header's length.")
        start = self.at(0, 64)
        source.check_pointer(start)
        (length,) = struct.unpack_from("<Q", start)
        if length > min(size - 8, MAX_HEADER):
            raise errors.UserError(
                f"claims a header of {length:,} bytes in {size:,}; headers have "
                f"{MAX_HEADER:,} at most. It is truncated, damaged or no {SUFFIX} file."
            )
        text = bytearray(length)
        source.fill(text, self.descriptor, 8)
        try:
            header = documents.parse(bytes(text))
        except errors.UserError as error:
            raise errors.UserError(f"its header {error}\n{source.COPY_AGAIN}") from None
        if not isinstance(header, dict):
            raise errors.UserError("its header's JSON is no object.")
        self.metadata = header.pop("__metadata__", {})
        entries = {name: _entry(name, value) for name, value in header.items()}
        entries = dict(sorted(entries.items(), key=lambda item: item[1][2:]))
        _check_cover(entries, size - 8 - length)
        first = 8 + length
        return {
            name: (dtype, shape, first + start)
            for name, (dtype, shape, start, _) in entries.items()
        }


_Entry = tuple[np.dtype, tuple[int, ...], int, int]


def _entry(name: str, value: Any) -> _Entry:
    """Returns (dtype, shape, start, end) of a tensor, checked one by one."""
    if not NAME.fullmatch(name) or ".." in name or name.startswith("/"):
        raise errors.UserError(f"has {name[:100]!r}, which is no tensor's name.")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise errors.UserError(f"says no dtype, shape and data_offsets of {name!r}.")
    dtype = value["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise errors.UserError(
            f"{name!r} is of dtype {str(dtype)[:50]!r}; known: {', '.join(DTYPES)}."
        )
    shape, offsets = value["shape"], value["data_offsets"]
    if not _is_whole(shape) or not _is_whole(offsets) or len(shape) > MAX_AXES:
        raise errors.UserError(
            f"{name!r} has shape {str(shape)[:60]} and offsets {str(offsets)[:60]}, "
            "which are no whole numbers of a tensor."
        )
    claimed = math.prod(shape) * DTYPES[dtype].itemsize
    if len(offsets) != 2 or offsets[1] - offsets[0] != claimed:
        raise errors.UserError(
            f"{name!r} of {str(shape)[:60]} {dtype} needs {claimed:,} bytes; its "
            f"offsets are {str(offsets)[:60]}."
        )
    return DTYPES[dtype], tuple(shape), offsets[0], offsets[1]


def _is_whole(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 1 << 48
        for v in values
    )


def _check_cover(entries: Mapping[str, _Entry], size: int) -> None:
    """Raises `UserError` unless the tensors, in order, fill `size` bytes exactly."""
    at = 0
    for name, (_, _, start, end) in entries.items():
        if start != at:
            raise errors.UserError(
                f"{name!r} starts at byte {start:,} of the data and what is before it "
                f"ends at {at:,}: no hole and no overlap is allowed."
            )
        at = end
    if at != size:
        raise errors.UserError(
            f"its tensors take {at:,} bytes and it holds {size:,}: it was not copied "
            "to its end, or is damaged. Copy it again."
        )


def write(
    tensors: source.Tensors,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes tensors one by one, as float32, and their `config` beside them.

    Each file appears under its name when it is whole.

    Args:
        tensors: Of any dtype that float32 can hold.
        path: The file; without the suffix a folder, made if need be, for
            `model.safetensors` and what its readers look for beside it.
        metadata: Texts for the header.

    Raises:
        errors.UserError: there is a `config.json` of another model beside the file.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        path.mkdir(parents=True, exist_ok=True)
        path = path / FILE
    described = sidecars.described(tensors.config)
    if path.name != FILE:
        sidecars.check_alone(path, described)
    # PyTorch's readers want to know the format.
    texts = {"format": "pt", **(metadata or {})}
    header: dict[str, dict[str, Any]] = {"__metadata__": texts}
    at = 0
    for name in tensors.names:
        end = at + 4 * math.prod(tensors.shapes[name])
        header[name] = {
            "dtype": "F32",
            "shape": list(tensors.shapes[name]),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that every tensor is aligned
    with host_files.whole(path) as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in tensors.names:
            flat = tensors.read(name).astype("<f4", copy=False).ravel()
            stream.write(flat.data)
    for name, content in described.items():
        host_files.write_whole(path.parent / name, content)
