"""Reading `.npz` files of strangers: bounded, checked, without pickle."""

import io
import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np

from vit_jax import errors

# Deflate can pack 1,000 to 1. A checkpoint's weights hardly pack at all and its zeroed
# head does, so a whole file stays far below this.
MAX_UNPACKED = 50
MAX_MEMBERS = 100_000
NAME = re.compile(r"[\w.+:~-]+(/[\w.+:~-]+)*")


def read(
    path: str | Path, keep: Callable[[str], bool] = lambda name: True
) -> dict[str, np.ndarray]:
    """Returns the arrays of a file by name, as they are stored.

    Checks the names, that the sizes in the headers are those of the file, and the
    checksum of every member before its array is used; allocates nothing that the
    file's own size does not bound. Two-byte void arrays are bfloat16 (numpy has no
    name for it when it writes).

    Args:
        path: A `.npz` file.
        keep: Members to read, by name.

    Raises:
        errors.UserError: a damaged file, or one that is not what it says.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path.stat().st_size)
            return {
                name: _array(archive, info)
                for name, info in members.items()
                if keep(name)
            }
    except errors.UserError as error:
        raise errors.UserError(f"{path}: {error}") from None
    except MemoryError:
        raise errors.UserError(
            f"{path} does not fit in this machine's memory."
        ) from None
    except Exception as error:  # zipfile, zlib and struct raise a dozen kinds
        reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
        raise errors.UserError(
            f"{path} cannot be read as an .npz file: {reason}\n"
            "It is damaged or was not copied to its end: compare its size and checksum "
            "with the source's and copy it again."
        ) from error


def names(path: str | Path) -> list[str]:
    """Returns the names of the arrays in a file; errors as `read`."""
    found = []
    read(path, lambda name: bool(found.append(name)))
    return found


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise errors.UserError(f"has {len(infos)} members: no checkpoint.")
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


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        data = member.read(info.file_size)
        if member.read(1) or len(data) != info.file_size:
            raise errors.UserError(f"{info.filename!r} has not the size it says.")
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, fortran, dtype = header[version](stream)
    if dtype.hasobject or dtype.fields or (dtype.kind == "V" and dtype.itemsize != 2):
        raise errors.UserError(
            f"{info.filename!r} holds {dtype}, not numbers; pickled objects are not "
            "read."
        )
    claimed, held = math.prod(shape) * dtype.itemsize, len(data) - stream.tell()
    if min(shape, default=0) < 0 or claimed != held:
        raise errors.UserError(
            f"{info.filename!r} claims shape {shape} of {dtype}, {claimed:,} bytes, "
            f"and holds {held:,}."
        )
    flat = np.frombuffer(data, dtype, offset=stream.tell())
    array = flat.reshape(shape, order="F" if fortran else "C")
    return array.view(ml_dtypes.bfloat16) if dtype.kind == "V" else array
