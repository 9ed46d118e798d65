"""The SHA-256 of a file of weights, in a file beside it as `sha256sum` writes it."""

import functools
import hashlib
import re
from pathlib import Path

import numpy as np

from vit_jax import errors
from vit_jax.host import files as host_files
from vit_jax.weights.source import Tensors

SUFFIX = ".sha256"
MAX_BYTES = 10_000


def beside(path: Path) -> Path:
    """Returns where the digest of a file is."""
    return path.with_name(path.name + SUFFIX)


def write(path: Path) -> None:
    """Writes a file's digest beside it, for `sha256sum -c` as well."""
    host_files.write_whole(beside(path), f"{_digest(path)}  {path.name}\n")


def checked(tensors: Tensors) -> Tensors:
    """Returns tensors whose file is compared with its digest before the first is read.

    Where there is no digest they are as they were; names and shapes need no check.

    Args:
        tensors: With the file's path as their label.
    """
    path = Path(tensors.label)
    if not beside(path).is_file():
        return tensors

    @functools.cache
    def check() -> None:
        wanted, got = _said(beside(path)), _digest(path)
        if got != wanted:
            raise errors.UserError(
                f"{path} is not what {beside(path).name} says; it was changed or is "
                f"damaged.\n  wanted sha256 {wanted}\n  got    sha256 {got}\n"
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


def _said(path: Path) -> str:
    with path.open("rb") as stream:
        text = stream.read(MAX_BYTES).decode(errors="replace")
    found = re.search(r"\b[0-9a-fA-F]{64}\b", text)
    if not found:
        raise errors.UserError(
            f"{path} holds no SHA-256, which has 64 digits; remove it."
        )
    return found[0].lower()


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
