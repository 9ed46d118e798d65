"""`.npz` files of strangers: bounded, checked, without pickle; and writing them."""

import math
import os
import re
import struct
import zipfile
from pathlib import Path
from typing import IO

import ml_dtypes
import numpy as np

from vit_jax import errors
from vit_jax.host import files as host_files
from vit_jax.weights import source

# Deflate can pack 1,000 to 1. A checkpoint's weights hardly pack at all and its zeroed
# head does, so a whole file stays far below this.
MAX_UNPACKED = 50
# Ten times those of the largest model with its optimizer's state.
MAX_MEMBERS = 20_000
MAX_AXES = 8
CHUNK = 1 << 24
NAME = re.compile(r"[\w.+:~-]{1,200}(/[\w.+:~-]{1,200}){0,20}", re.ASCII)
KIND = "an .npz file"


def open(path: str | Path) -> source.Tensors:
    """Opens a file: checks names and sizes, reads the headers and no array.

    The sizes in the headers must be those of the file; the checksum of a member is
    verified when it is read; nothing is allocated that the file's own size does not
    bound. Two-byte void arrays are bfloat16 (numpy has no name for it when it writes).

    Raises:
        errors.UserError: here and by `read`: a damaged file, or one that is not what
            it says.
    """
    path = Path(path)
    with source.reading(str(path), KIND):
        archive = zipfile.ZipFile(path)
        try:
            _check_count(archive, path)
            members = _members(archive, path.stat().st_size)
            shapes = {name: _shape(archive, info) for name, info in members.items()}
        except BaseException:
            archive.close()
            raise

    def read(name: str) -> np.ndarray:
        with source.reading(str(path), KIND):
            return _array(archive, members[name])

    return source.Tensors(shapes, read, label=str(path), close=archive.close)


def write(tensors: source.Tensors, path: str | Path) -> None:
    """Writes arrays one by one; the file appears under its name when it is whole."""
    with (
        host_files.whole(Path(path)) as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name in tensors.names:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, tensors.read(name))


def _check_count(archive: zipfile.ZipFile, path: Path) -> None:
    """Compares the number of members with the one at the end of the file.

    A directory that is said to be shorter than it is has lost members otherwise.
    """
    with path.open("rb") as stream:
        stream.seek(-22 - len(archive.comment), os.SEEK_END)
        (said,) = struct.unpack_from("<H", stream.read(12), 10)
    found = len(archive.infolist())
    if said not in (found, 0xFFFF):
        raise errors.UserError(
            f"lists {found:,} members and counts {said:,}: it is damaged."
        )


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise errors.UserError(
            f"has {len(infos):,} members; no checkpoint has more than {MAX_MEMBERS:,}."
        )
    unpacked = sum(info.file_size for info in infos)
    if unpacked > MAX_UNPACKED * size:
        raise errors.UserError(
            f"its {size:,} bytes claim to unpack to {unpacked:,}: refused, more than "
            f"{MAX_UNPACKED} times as many are no weights."
        )
    members = {}
    for info in infos:
        name = info.filename.removesuffix(".npy")
        if name == info.filename or not NAME.fullmatch(name) or ".." in name:
            raise errors.UserError(
                f"has a member {info.filename[:100]!r}, which is no array's name."
            )
        if name in members:
            raise errors.UserError(f"has two arrays named {name!r}.")
        members[name] = info
    return members


def _header(
    member: IO[bytes], info: zipfile.ZipInfo
) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Reads a member up to its values: (shape, whether Fortran order, dtype)."""
    version = np.lib.format.read_magic(member)
    header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in header:
        raise errors.UserError(
            f"{info.filename!r} is of the unknown version {version}."
        )
    shape, fortran, dtype = header[version](member)
    void = dtype.kind == "V" and dtype.itemsize == 2 and not dtype.fields
    if not void and dtype.kind not in "biuf":
        raise errors.UserError(
            f"{info.filename!r} holds {dtype}, not numbers; pickled objects are not "
            "read."
        )
    claimed = math.prod(shape) * dtype.itemsize
    held = info.file_size - member.tell()
    if min(shape, default=0) < 0 or len(shape) > MAX_AXES or claimed != held:
        raise errors.UserError(
            f"{info.filename!r} claims shape {str(shape)[:100]} of {dtype}, {claimed:,}"
            f" bytes, and holds {held:,}."
        )
    return shape, fortran, dtype


def _shape(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[int, ...]:
    with archive.open(info) as member:
        return _header(member, info)[0]


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        shape, fortran, dtype = _header(member, info)
        flat = np.empty(math.prod(shape), dtype)
        data, at = memoryview(flat.view(np.uint8).data), 0
        while chunk := member.read(CHUNK):  # checks the checksum at the end
            data[at : at + len(chunk)] = chunk
            at += len(chunk)
        if at != len(data):
            raise errors.UserError(f"{info.filename!r} has not the size it says.")
    array = flat.reshape(shape, order="F" if fortran else "C")
    return array.view(ml_dtypes.bfloat16) if dtype.kind == "V" else array
