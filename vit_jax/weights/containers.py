"""The formats of files of named tensors, and which one lies at a path."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from vit_jax import errors
from vit_jax.weights import source
from vit_jax.weights.formats import (
    digests,
    npz,
    safetensors,
    tensorstore,
    torchfile,
)
from vit_jax.weights.source import Tensors


class Container(NamedTuple):
    """A file format: a suffix, how it is opened, and written if it is."""

    suffix: str
    open: Callable[[Path], Tensors]
    write: Callable[[Tensors, Path], None] | None


CONTAINERS: dict[str, Container] = {
    "npz": Container(".npz", npz.open, npz.write),
    "safetensors": Container(safetensors.SUFFIX, safetensors.open, safetensors.write),
    "tensorstore": Container(".bv", tensorstore.open, tensorstore.write),
    "torch": Container(".pth", torchfile.open, None),
}


def open(path: str | Path) -> tuple[Tensors, str]:
    """Opens a file or folder of tensors; also returns the subtree its path asks for.

    Raises:
        errors.UserError: nothing there, or not what its name says.
    """
    path, subtree = locate(path)
    container = _container_of(path)
    if container is None:
        if path.is_dir():
            raise errors.UserError(f"{path} is a folder without weights.{inside(path)}")
        raise errors.UserError(f"{path} is no file.")
    if container == "npz":
        _check_zip(path)
    return digests.checked(CONTAINERS[container].open(path)), subtree


def locate(path: str | Path) -> tuple[Path, str]:
    """Returns the file or folder of a path and what is asked for after a colon."""
    path = Path(path)
    text = str(path)
    if not path.exists():
        for colon in re.finditer("(?<=.):", text):
            if Path(text[: colon.start()]).exists():
                return Path(text[: colon.start()]), text[colon.end() :]
    return path, ""


def inside(folder: Path) -> str:
    """Returns which of a folder's files hold weights, to end a message; or ""."""
    names = sorted(path.name for path in itertools.islice(folder.iterdir(), 1000))
    suffixes = (".npz", safetensors.SUFFIX, *torchfile.SUFFIXES)
    found = [name for name in names if name.endswith(suffixes)]
    if not found:
        return ""
    return f" To read one of its files, name the file: {', '.join(found[:5])[:300]}."


def _check_zip(path: Path) -> None:
    """Raises `UserError` for a file that is none of ours by name nor by content."""
    with source.reading(str(path), npz.KIND):
        with path.open("rb") as stream:
            start = stream.read(64)
        source.check_pointer(start)
        if path.suffix != ".npz" and not start.startswith(b"PK"):
            known = ", ".join([safetensors.SUFFIX, *torchfile.SUFFIXES])
            raise errors.UserError(
                f"{path} cannot be read as an .npz file, nor as another format that we "
                f"know: {known}, and folders of tensorstore, transformers, timm and "
                "ours."
            )


def is_weights(path: str | Path) -> bool:
    """Returns whether there are another code's weights, as far as file names tell."""
    return _container_of(Path(path)) is not None


def _container_of(path: Path) -> str | None:
    if tensorstore.find(path) is not None:
        return "tensorstore"
    if safetensors.is_one(path):
        return "safetensors"
    if torchfile.is_one(path):
        return "torch"
    return "npz" if path.is_file() else None
