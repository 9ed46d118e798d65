"""big_vision's folders of one zarr array a tensor, `checkpoint.bv-000012345`.

`a/b` is the folder `a~b`: a `.zarray` of JSON and one file a chunk. The path may be
without the step: a file `checkpoint.bv-LAST` beside it says which is the last.
"""

import itertools
import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.settings import documents
from vit_jax.weights import source
from vit_jax.weights.formats import npz

KIND = "a folder of zarr arrays"
HEADER = ".zarray"
MAX_HEADER = 1 << 16
MAX_CHUNKS = 100_000
DTYPES = ("<f2", "<f4", "<f8", "bfloat16", "<i4", "<i8", "<u4", "|u1", "|i1", "|b1")
COMPRESSORS = (None, "zstd", "gzip", "zlib", "blosc", "bz2")


def find(path: str | Path) -> Path | None:
    """Returns the folder that a path means, None if it is none of this kind.

    It is the folder itself, a checkpoint's name without its step, or a workdir.

    Raises:
        errors.UserError: the file that says which is the last says something else.
    """
    path = Path(path)
    if path.is_dir() and any(path.glob(f"*/{HEADER}")):
        return path
    for start in (path, path / "checkpoint.bv"):
        if not start.name:  # the root, or this folder
            continue
        last = start.with_name(f"{start.name}-LAST")
        if not last.is_file():
            continue
        step = last.read_bytes()[:100].decode("ascii", "replace").strip()
        if not re.fullmatch(r"\d{1,12}(-tmp)?", step):
            raise errors.UserError(f"{last} holds {step!r}, which is no step.")
        return start.with_name(f"{start.name}-{step}")
    return None


def open(path: str | Path) -> source.Tensors:
    """Opens a folder: checks names and sizes, reads the headers and no array.

    Every chunk must be there: the format takes a missing one for zeros. It has no
    checksums, so a flipped bit is seen only if the compression stumbles over it.

    Args:
        path: As `find` takes it.

    Raises:
        errors.UserError: here and by `read`: no such folder, a damaged one, or one
            that is not what it says.
    """
    folder = find(path)
    if folder is None or not folder.is_dir():
        raise errors.UserError(f"{folder or path} holds no weights: wanted {KIND}.")
    label = str(folder)
    with source.reading(label, KIND):
        headers = {_name(entry): _header(entry) for entry in _arrays(folder)}
        _check_size(folder, headers)

    def read(name: str) -> np.ndarray:
        with source.reading(label, KIND):
            return _read(folder / name.replace("/", "~"), headers[name])

    shapes = {name: tuple(header["shape"]) for name, header in headers.items()}
    return source.Tensors(shapes, read, label=label)


def write(tensors: source.Tensors, path: str | Path) -> None:
    """Writes arrays one by one; the folder appears under its name when it is whole.

    Raises:
        errors.UserError: there is something of that name.
    """
    path = Path(path)
    if path.exists():
        raise errors.UserError(f"{path} exists: give another name, or remove it.")
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name in tensors.names:
            _write(tensors.read(name), partial / name.replace("/", "~"))
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(array: np.ndarray, folder: Path) -> None:
    metadata = {
        "shape": array.shape,
        "chunks": array.shape,
        "dtype": array.dtype.str,
        "compressor": {"id": "zstd", "level": 1},
    }
    spec = _spec(folder) | {"metadata": metadata, "create": True}
    _open(spec).write(array).result()


def _spec(folder: Path) -> dict[str, Any]:
    kvstore = {"driver": "file", "path": f"{folder.resolve()}/"}
    return {"driver": "zarr", "kvstore": kvstore}


def _open(spec: dict[str, Any]) -> Any:
    import tensorstore  # heavy, and only here

    return tensorstore.open(spec).result()


def _arrays(folder: Path) -> list[Path]:
    entries = sorted(itertools.islice(folder.iterdir(), npz.MAX_MEMBERS + 1))
    if len(entries) > npz.MAX_MEMBERS:
        raise errors.UserError(
            f"has more than {npz.MAX_MEMBERS:,} entries: no checkpoint has."
        )
    for entry in entries:
        if entry.is_symlink() or not (entry / HEADER).is_file():
            raise errors.UserError(
                f"has an entry {entry.name[:100]!r}, which is no array's folder."
            )
    return entries


def _name(entry: Path) -> str:
    name = entry.name.replace("~", "/")
    if not npz.NAME.fullmatch(name) or ".." in name:
        raise errors.UserError(
            f"has an entry {entry.name[:100]!r}, which is no array's name."
        )
    return name


def _header(entry: Path) -> dict[str, Any]:
    """The checked `.zarray` of one array, whose chunks are all there."""
    path = entry / HEADER
    if path.is_symlink() or path.stat().st_size > MAX_HEADER:
        raise errors.UserError(f"{entry.name}/{HEADER} is no header.")
    header = documents.read_object(path)
    compressor = header["compressor"]
    shape, chunks = header["shape"], header["chunks"]
    numbers = all(type(n) is int and 0 <= n < 2**40 for n in [*shape, *chunks])
    known = (
        header["zarr_format"] == 2,
        header["dtype"] in DTYPES,
        header["filters"] is None,
        (compressor and compressor["id"]) in COMPRESSORS,
        len(shape) == len(chunks) <= npz.MAX_AXES,
        numbers and min(chunks, default=1) > 0,
    )
    if not all(known):
        raise errors.UserError(
            f"{entry.name}/{HEADER} describes no array of numbers that we read: "
            f"{json.dumps(header)[:200]}"
        )
    separator = (
        header["dimension_separator"] if "dimension_separator" in header else "."
    )
    counts = [-(-size // chunk) for size, chunk in zip(shape, chunks)]
    if separator != "." or math.prod(counts) > MAX_CHUNKS:
        raise errors.UserError(f"{entry.name} has {math.prod(counts):,} chunks.")
    for index in itertools.product(*map(range, counts)):
        chunk = entry / (".".join(map(str, index)) or "0")
        if chunk.is_symlink() or not chunk.is_file():
            raise errors.UserError(
                f"{entry.name} lacks its chunk {chunk.name}: it was not copied to its "
                "end. Copy it again."
            )
    return header


def _check_size(folder: Path, headers: dict[str, dict[str, Any]]) -> None:
    size = sum(file.stat().st_size for file in folder.glob("*/*"))
    unpacked = sum(_bytes(h["shape"]) + _bytes(h["chunks"]) for h in headers.values())
    if unpacked > 2 * npz.MAX_UNPACKED * size:
        raise errors.UserError(
            f"its {size:,} bytes claim to unpack to {unpacked:,}: refused, more than "
            f"{2 * npz.MAX_UNPACKED} times as many are no weights."
        )


def _bytes(shape: list[int]) -> int:
    return 8 * math.prod(shape)


def _read(entry: Path, header: dict[str, Any]) -> np.ndarray:
    array = _open(_spec(entry) | {"open": True}).read().result()
    if array.shape != tuple(header["shape"]):
        raise errors.UserError(f"{entry.name} changed while it was read.")
    return array
