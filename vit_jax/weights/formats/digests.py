"""The SHA-256 of weights, in a file beside them as `sha256sum` writes it.

Of a folder of arrays it has a line for each file below.
"""

import functools
import hashlib
import re
from pathlib import Path

import numpy as np

from vit_jax import errors
from vit_jax.host import files as host_files
from vit_jax.weights.source import Tensors

SUFFIX = ".sha256"
MAX_BYTES = 16 << 20


def beside(path: Path) -> Path:
    """Returns where the digest of a file or folder is."""
    return path.with_name(path.name + SUFFIX)


def write(path: Path) -> None:
    """Writes the digest of a file or folder beside it, for `sha256sum -c` as well."""
    files = _files(path)
    lines = [f"{_digest(files[name])}  {name}\n" for name in files]
    host_files.write_whole(beside(path), "".join(lines))


def _files(path: Path) -> dict[str, Path]:
    """A file, or those in a folder, as `sha256sum` names them from the folder above."""
    if path.is_file():
        return {path.name: path}
    below = sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path.parent).as_posix(): file for file in below}


def checked(tensors: Tensors) -> Tensors:
    """Returns tensors whose files are compared with their digests before one is read.

    Where there is no digest they are as they were; names and shapes need no check.

    Args:
        tensors: With the path of the file or folder as their label.
    """
    path = Path(tensors.label)
    if not beside(path).is_file():
        return tensors

    @functools.cache
    def check() -> None:
        said, files = _said(beside(path)), _files(path)
        if path.is_file():  # whatever it was called when that was written
            said = {path.name: next(iter(said.values()))}
        for name, wanted in said.items():
            got = _digest(files[name]) if name in files else "none: it is gone"
            if got == wanted:
                continue
            raise errors.UserError(
                f"{path.parent / name} is not what {beside(path).name} says; it was "
                f"changed or is damaged.\n  wanted sha256 {wanted}\n  got    sha256 "
                f"{got}\n"
                "Copy it again; if the change is meant, remove the file of the digest."
            )

    def read(name: str) -> np.ndarray:
        check()
        return tensors.read(name)

    return Tensors(
        tensors.shapes,
        read,
        label=tensors.label,
        config=tensors.config,
        objects=tensors.objects,
        close=tensors.close,
    )


def _said(path: Path) -> dict[str, str]:
    """Digests by the names of their files."""
    with path.open("rb") as stream:
        text = stream.read(MAX_BYTES).decode(errors="replace")
    found = re.findall(r"\b([0-9a-fA-F]{64})\b(?: [ *](.*))?", text)
    if not found:
        raise errors.UserError(
            f"{path} holds no SHA-256, which has 64 digits; remove it."
        )
    return {name: digest.lower() for digest, name in found}


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
