"""`.safetensors` files of strangers: bounded, checked, read and written by the tensor.

A file is the length of its header (8 bytes, little endian), the header (JSON: name ->
dtype, shape and place) and the values. Large models come as several files and an index
that says which holds what. Beside them lie JSON files about the model.
"""

import collections
import contextlib
import itertools
import json
import math
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vit_jax import errors
from vit_jax.weights import source

SUFFIX = ".safetensors"
FILE = f"model{SUFFIX}"
INDEX = f"{FILE}.index.json"
CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config"
PROCESSOR = "processor_config.json"
KIND = f"a {SUFFIX} file"

# ViT-e, 56 blocks of 16 tensors, has a header of 100 kB.
MAX_HEADER = 1 << 24
MAX_JSON = 1 << 25  # a config.json of 21,843 classes has 2 MB
MAX_FILES = 1000
MAX_AXES = 8
NAME = re.compile(r"[\w.+:/~-]{1,300}", re.ASCII)
FILE_NAME = r"[\w.+~-]{1,200}"
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
        return open_shards(path, SUFFIX, _open_file)
    return _open_file(path)


def _open_file(path: Path) -> source.Tensors:
    config = read_config(path.parent)
    file = _File(path)
    return source.Tensors(
        {name: shape for name, (_, shape, _) in file.places.items()},
        file.read,
        label=str(path),
        config=config,
        close=file.close,
    )


def read_config(folder: Path) -> dict[str, Any] | None:
    """What the JSON files in a folder say of the weights there; None without them.

    Raises:
        errors.UserError: as `read_json`.
    """
    config = read_json(folder / CONFIG)
    preprocessor = read_json(folder / f"{PREPROCESSOR}.json")
    # transformers 5 writes it there for models with text too, and looks there first.
    nested = read_json(folder / PROCESSOR) or {}
    if isinstance(nested.get("image_processor"), dict):
        preprocessor = nested["image_processor"]
    if preprocessor is None:
        return config
    return (config or {}) | {PREPROCESSOR: preprocessor}


def is_one(path: str | Path) -> bool:
    """Whether `open` would find something at a path."""
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


def open_shards(
    path: Path, suffix: str, open_file: Callable[[Path], source.Tensors]
) -> source.Tensors:
    """Opens the files of an index, which must hold what it says and nothing else.

    Args:
        path: The index: JSON with a `weight_map` of tensors' names to files.
        suffix: Of the files in it.
        open_file: Opens one.

    Raises:
        errors.UserError: a damaged index, or files that are not those it says.
    """
    index = read_json(path)
    weight_map = index["weight_map"] if "weight_map" in index else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise errors.UserError(f'{path} has no "weight_map" of names to files.')
    for name in weight_map.values():
        named = re.fullmatch(FILE_NAME, str(name), re.ASCII)
        if not named or not isinstance(name, str) or not name.endswith(suffix):
            raise errors.UserError(
                f"{path} names {str(name)[:100]!r}, which is no {suffix} file beside "
                "it."
            )
    shards = sorted(set(weight_map.values()))
    if len(shards) > MAX_FILES:
        raise errors.UserError(f"{path} names {len(shards):,} files: no checkpoint.")
    with contextlib.ExitStack() as stack:
        files: dict[str, source.Tensors] = {}
        for name in shards:
            if not (path.parent / name).is_file():
                raise errors.UserError(
                    f"{path} names {name}, which is not there: copy it beside it."
                )
            files[name] = stack.enter_context(open_file(path.parent / name))
        held = {(name, file) for file, tensors in files.items() for name in tensors}
        differ = sorted(held ^ set(weight_map.items()))
        if differ:
            lines = [f"{name[:80]} in {file}" for name, file in differ]
            raise errors.UserError(
                errors.listing(
                    f"{path} and its files do not agree about:",
                    lines,
                    "They are not of one download: copy all of them again.",
                )
            )
        close = stack.pop_all().close
    return source.Tensors(
        {name: files[weight_map[name]].shapes[name] for name in _in_files(files)},
        lambda name: files[weight_map[name]].read(name),
        label=str(path),
        config=files[shards[0]].config,
        objects={k: v for file in files.values() for k, v in file.objects.items()},
        close=close,
    )


def _in_files(files: Mapping[str, source.Tensors]) -> Iterator[str]:
    """The names of all tensors, file by file, each in the cheapest order to read."""
    return itertools.chain.from_iterable(file.names for file in files.values())


class _File:
    """One open file: `places` maps a name to (dtype, shape, first byte)."""

    def __init__(self, path: Path):
        self.path = path
        with source.reading(str(path), KIND):
            self._fd = os.open(path, os.O_RDONLY)
            try:
                self.places = self._places(os.fstat(self._fd).st_size)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self, name: str) -> np.ndarray:
        dtype, shape, start = self.places[name]
        with source.reading(str(self.path), KIND):
            array = np.empty(shape, dtype)
            self._fill(memoryview(array.reshape(-1).view(np.uint8)), start)
        return array

    def _fill(self, buffer: memoryview, start: int) -> None:
        """Reads exactly the buffer's length; a read gives 2 GB at most."""
        done = 0
        while done < len(buffer):
            got = os.preadv(self._fd, [buffer[done:]], start + done)
            if got == 0:
                raise ValueError("it ended while it was read")
            done += got

    def _places(self, size: int) -> dict[str, tuple[np.dtype, tuple[int, ...], int]]:
        if size < 8:
            raise errors.UserError(f"has {size} bytes, not even a header's length.")
        start = os.pread(self._fd, 64, 0)
        source.check_pointer(start)
        (length,) = struct.unpack_from("<Q", start)
        if length > min(size - 8, MAX_HEADER):
            raise errors.UserError(
                f"claims a header of {length:,} bytes in {size:,}; headers have "
                f"{MAX_HEADER:,} at most. It is truncated, damaged or no {SUFFIX} file."
            )
        text = bytearray(length)
        self._fill(memoryview(text), 8)
        header = _parse(bytes(text))
        header.pop("__metadata__", None)
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


def _parse(text: bytes) -> dict[str, Any]:
    """Parses JSON of a stranger: an object, no name twice in one."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            ((twice, _),) = collections.Counter(n for n, _ in pairs).most_common(1)
            raise errors.UserError(f"says {twice[:100]!r} twice.")
        return values

    try:
        values = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except RecursionError:
        raise errors.UserError("its JSON is nested too deep.") from None
    if not isinstance(values, dict):
        raise errors.UserError("its JSON is no object.")
    return values


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns the object in a JSON file; None where there is no file.

    Raises:
        errors.UserError: it is too large, or not the JSON of an object.
    """
    if not path.is_file():
        return None
    with source.reading(str(path), "JSON"):
        size = path.stat().st_size
        if size > MAX_JSON:
            raise errors.UserError(
                f"has {size:,} bytes; more than {MAX_JSON:,} are no description."
            )
        return _parse(path.read_bytes())


def write(tensors: source.Tensors, path: str | Path) -> None:
    """Writes tensors one by one, as float32, and their `config` beside them.

    Each file appears under its name when it is whole.

    Args:
        tensors: Of any dtype that float32 can hold.
        path: The file; without the suffix a folder, made if need be, for
            `model.safetensors` and what its readers look for beside it.

    Raises:
        errors.UserError: there is a `config.json` of another model beside the file.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        path.mkdir(parents=True, exist_ok=True)
        path = path / FILE
    described = _described(tensors.config)
    if path.name != FILE:
        _check_alone(path, described)
    # PyTorch's readers want to know the format.
    header, at = {"__metadata__": {"format": "pt"}}, 0
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
    arrays = (tensors.read(name) for name in tensors.names)
    flat = (array.astype("<f4", copy=False).ravel() for array in arrays)
    _write_whole(path, itertools.chain([struct.pack("<Q", len(text)), text], flat))
    for name, content in described.items():
        _write_whole(path.parent / name, [content])


def _described(config: Mapping[str, Any] | None) -> dict[str, bytes]:
    """The files that say what `config` says, by name; undoes `read_config`."""
    if config is None:
        return {}
    model = {key: value for key, value in config.items() if key != PREPROCESSOR}
    files = {CONFIG: model}
    if PREPROCESSOR in config:
        files[f"{PREPROCESSOR}.json"] = config[PREPROCESSOR]
    return {
        name: (json.dumps(content, indent=2) + "\n").encode()
        for name, content in files.items()
    }


def _check_alone(path: Path, described: Mapping[str, bytes]) -> None:
    for name, content in described.items():
        beside = path.parent / name
        if beside.exists() and beside.read_bytes() != content:
            raise errors.UserError(
                f"{path} needs a {name} beside it, and the one there is of another "
                "model: write into a folder of its own."
            )


def _write_whole(path: Path, chunks: Iterable[Any]) -> None:
    """Writes buffers, each made when it is its turn, into a file that appears whole."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as stream:
            for chunk in chunks:
                stream.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
