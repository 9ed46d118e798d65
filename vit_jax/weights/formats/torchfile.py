"""PyTorch's `.pth`, `.pt` and `.bin` files, read without running their pickles.

`torch.save` writes a zip archive: `data.pkl`, a pickle of the structure in which a
tensor is a call of `_rebuild_tensor_v2` on a storage, and the storages as members
`data/0`, `data/1` ..., never compressed. Before PyTorch 1.6, and in many files of timm
since, it is four pickles one after the other (a magic number, a version, the machine's
sizes, the structure), a fifth with the order of the storages, and the storages. Both
as in PyTorch's `torch/serialization.py` with `weights_only=True`, except that what is
unknown is set aside and not refused: the arguments of a training program
(`argparse.Namespace`), its optimizer, numpy's scalars.
"""

import collections
import logging
import math
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.weights import source
from vit_jax.weights.formats import (
    npz,
    safetensors,
    shards,
    sidecars,
    torchpickle,
    torchstorages,
    unpickle,
)

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
FILE = "pytorch_model.bin"
INDEX = f"{FILE}.index.json"
KIND = "a file of torch.save"

MAX_DEPTH = 32
MAX_ENTRIES = 200_000


def open(path: str | Path) -> source.Tensors:
    """Opens weights: reads the structure, checks names and sizes, and reads no value.

    What lies in dicts of dicts is named by their keys with slashes between:
    "model/blocks.0.norm1.weight".

    Args:
        path: A file, the `.index.json` of several, or a folder with
            `pytorch_model.bin` or its index; `config.json` and
            `preprocessor_config.json` beside them are read as by `safetensors.open`.

    Raises:
        errors.UserError: here and by `read`: a damaged file, one that is not what it
            says, or of a kind that cannot be read without running it.
    """
    path = _find(Path(path))
    if path.suffix == ".json":
        return shards.open(path, ".bin", _open_file)
    return _open_file(path)


def is_one(path: str | Path) -> bool:
    """Returns whether `open` opens what is at a path: by name, or first bytes."""
    path = Path(path)
    if path.is_dir():
        return any((path / name).is_file() for name in (FILE, INDEX))
    if path.name.endswith(".bin.index.json"):
        return True
    return path.is_file() and (path.name.endswith(SUFFIXES) or _is_torch(path))


def _is_torch(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            start = stream.read(512)
    except OSError:  # whoever opens it says so
        return False
    if start.startswith(torchstorages.ZIP):  # the first member is the structure
        length = struct.unpack_from("<H", start, 26)[0] if len(start) >= 30 else 0
        return start[30 : 30 + length].endswith(b"/data.pkl")
    return torchstorages.LEGACY.match(start) is not None


def _find(path: Path) -> Path:
    if not path.is_dir():
        return path
    return next(path / name for name in (FILE, INDEX) if (path / name).is_file())


def _open_file(path: Path) -> source.Tensors:
    config = sidecars.read_config(path.parent)
    label = str(path)
    with source.reading(label, KIND):
        file = torchstorages.Storages(path)
        try:
            tensors, objects = _named(file.root)
            _check_size(tensors, file.size)
        except BaseException:
            file.close()
            raise
    _log_rest(
        label, objects, len(file.storages - {t.storage.key for t in tensors.values()})
    )

    def read(name: str) -> np.ndarray:
        with source.reading(label, KIND):
            return file.read(tensors[name])

    return source.Tensors(
        {name: tensor.shape for name, tensor in tensors.items()},
        read,
        label=label,
        config=config,
        objects=objects,
        close=file.close,
    )


def _log_rest(label: str, objects: Mapping[str, str], storages: int) -> None:
    if objects:
        lines = [f"{name} ({what})" for name, what in objects.items()]
        logging.info(
            "%s: %d objects are no tensors and are not made: %s",
            *(label, len(objects), ", ".join(lines[:5])[:300]),
        )
    if storages:
        logging.info(
            "%s: %d storages are of no tensor that has a name and is read: of those in "
            "lists and objects, or of other dtypes",
            *(label, storages),
        )


def _named(root: Any) -> tuple[dict[str, torchpickle.Tensor], dict[str, str]]:
    """The tensors in dicts of dicts by name, and the unknown objects there.

    Raises:
        errors.UserError: there are none, or names that no model has.
    """
    if not isinstance(root, dict):
        what = root.name if isinstance(root, unpickle.Unknown) else type(root).__name__
        raise errors.UserError(
            f"holds an object {what.removeprefix('_')}, not a dict of tensors.\n"
            f"{torchstorages.CONVERT}"
        )
    tensors: dict[str, torchpickle.Tensor] = {}
    objects: dict[str, str] = {}
    for name, value in _entries(root):
        if isinstance(value, unpickle.Unknown):
            objects[re.sub(r"[^\x20-\x7e]", "?", name)[:100]] = value.name
            continue
        if not safetensors.NAME.fullmatch(name) or ".." in name or name[0] == "/":
            raise errors.UserError(f"has {name[:100]!r}, which is no tensor's name.")
        if name in tensors:
            raise errors.UserError(f"has two tensors named {name[:100]!r}.")
        tensors[name] = value
    if len(tensors) > npz.MAX_MEMBERS:
        raise errors.UserError(
            f"has {len(tensors):,} tensors; no checkpoint has more than "
            f"{npz.MAX_MEMBERS:,}."
        )
    if not tensors:
        lines = [f"{name[:80]}: {what}" for name, what in objects.items()]
        raise errors.UserError(
            errors.listing(
                "holds no tensors by name:", lines[:3], torchstorages.CONVERT
            )
        )
    return tensors, objects


def _entries(root: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yields the tensors and unknown objects in dicts of dicts, by name."""
    todo, seen = collections.deque([("", root, 0)]), 0
    while todo:
        start, table, depth = todo.popleft()
        for key, value in table.items():
            seen += 1
            if seen > MAX_ENTRIES or depth > MAX_DEPTH:
                raise errors.UserError("its dicts are too many, or nested too deep.")
            name = start + (key.text if isinstance(key, unpickle.Key) else key)
            if isinstance(value, dict):
                todo.append((f"{name}/", value, depth + 1))
            elif isinstance(value, torchpickle.Tensor | unpickle.Unknown):
                yield name, value


def _check_size(tensors: Mapping[str, torchpickle.Tensor], size: int) -> None:
    """Raises `UserError` if views of one another claim far more than there is."""
    claimed = sum(math.prod(t.shape) * t.dtype.itemsize for t in tensors.values())
    if claimed > npz.MAX_UNPACKED * size:
        raise errors.UserError(
            f"its {size:,} bytes claim to be {claimed:,} of tensors: refused, more "
            f"than {npz.MAX_UNPACKED} times as many are no weights."
        )
