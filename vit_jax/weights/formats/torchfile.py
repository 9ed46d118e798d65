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
import functools
import io
import logging
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vit_jax import errors
from vit_jax.weights import source
from vit_jax.weights.formats import npz, safetensors, torchpickle, unpickle

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
FILE = "pytorch_model.bin"
INDEX = f"{FILE}.index.json"
KIND = "a file of torch.save"

MAX_PICKLE = 1 << 26  # a training state of ViT-e has 3 MB
MAX_DEPTH = 32
MAX_ENTRIES = 200_000
CHUNK = 1 << 24

ZIP = b"PK\x03\x04"
# The pickle of the first format's magic number, by any protocol that torch writes.
LEGACY = re.compile(
    rb"\x80[\x02-\x05](\x95.{8})?\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19", re.S
)
CONVERT = (
    "Where it may be trusted, convert it with PyTorch; loading it runs its code:\n"
    "  model = torch.load(PATH, weights_only=False)\n"
    '  torch.save(model.state_dict(), "weights.pth")'
)


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
        return safetensors.open_shards(path, ".bin", _open_file)
    return _open_file(path)


def is_one(path: str | Path) -> bool:
    """Whether `open` opens what is at a path: by its name, or its first bytes."""
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
    if start.startswith(ZIP):  # the first member is the structure
        length = struct.unpack_from("<H", start, 26)[0] if len(start) >= 30 else 0
        return start[30 : 30 + length].endswith(b"/data.pkl")
    return LEGACY.match(start) is not None


def _find(path: Path) -> Path:
    if not path.is_dir():
        return path
    return next(path / name for name in (FILE, INDEX) if (path / name).is_file())


def _open_file(path: Path) -> source.Tensors:
    config = safetensors.read_config(path.parent)
    label = str(path)
    with source.reading(label, KIND):
        file = _File(path)
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


class _Place(NamedTuple):
    """Where in the file a storage is; its checksum in the format that has them."""

    start: int
    size: int
    checksum: int | None


class _File:
    """One open file: the structure is `root`, its `storages` are at `places`."""

    def __init__(self, path: Path):
        self._fd = os.open(path, os.O_RDONLY)
        self._good: set[str] = set()
        self.swapped = False
        try:
            self.size = os.fstat(self._fd).st_size
            storages: dict[str, torchpickle.Storage] = {}
            start = os.pread(self._fd, 512, 0)
            source.check_pointer(start)
            if start.startswith(ZIP):
                self.root, self.places = self._archive(path, storages)
            elif LEGACY.match(start):
                self.root, self.places = self._legacy(storages)
            else:
                raise errors.UserError(_what(start))
            for storage in storages.values():
                self._check(storage)
            self.storages = set(storages)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _archive(
        self, path: Path, storages: dict[str, torchpickle.Storage]
    ) -> tuple[Any, dict[str, _Place]]:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive)
            if "data.pkl" not in members:
                raise errors.UserError("is a zip archive without a data.pkl.")
            places = {
                name.removeprefix("data/"): self._place(archive, info)
                for name, info in members.items()
                if name.startswith("data/")
            }
            info = members["data.pkl"]
            if info.file_size > MAX_PICKLE:
                raise errors.UserError(
                    f"its structure has {info.file_size:,} bytes; no checkpoint has "
                    f"more than {MAX_PICKLE:,}."
                )
            if "byteorder" in members:
                self.swapped = archive.read(members["byteorder"]) == b"big"
            stream = io.BytesIO(archive.read(info))
        return torchpickle.load(stream, storages), places

    def _place(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Place:
        with archive.open(info):  # compares the two headers
            header = os.pread(self._fd, 30, info.header_offset)
        name, extra = struct.unpack_from("<HH", header, 26)
        start = info.header_offset + 30 + name + extra
        return _Place(start, info.file_size, info.CRC)

    def _legacy(
        self, storages: dict[str, torchpickle.Storage]
    ) -> tuple[Any, dict[str, _Place]]:
        stream = io.BytesIO(os.pread(self._fd, MAX_PICKLE, 0))
        load = functools.partial(torchpickle.load, stream, storages)
        _, version, _ = load(), load(), load()
        if version != 1001:
            raise errors.UserError(f"is of the unknown version {str(version)[:20]}.")
        root, order = load(), load()
        places, at = {}, stream.tell()
        if not isinstance(order, list):
            raise errors.UserError("does not say the order of its storages.")
        for key in order:
            storage = storages.get(key) if isinstance(key, str) else None
            if storage is None or key in places:
                raise errors.UserError(f"lists a storage {str(key)[:50]!r} of nothing.")
            length = os.pread(self._fd, 8, at)
            item = torchpickle.item_size(storage)
            if len(length) < 8 or struct.unpack("<q", length)[0] * item != storage.size:
                raise errors.UserError(
                    f"its storage {key!r} has not the size that its tensors say: it "
                    "was not copied to its end, or is damaged. Copy it again."
                )
            places[key] = _Place(at + 8, storage.size, None)
            at += 8 + storage.size
        return root, places

    def _check(self, storage: torchpickle.Storage) -> None:
        """Raises `UserError` unless a storage is where it should be, and whole."""
        if storage.key not in self.places:
            raise errors.UserError(
                f"its storage {storage.key!r} is missing: it was not copied to its "
                "end, or is damaged. Copy it again."
            )
        start, size, _ = self.places[storage.key]
        if size != storage.size or start + size > self.size:
            raise errors.UserError(
                f"its storage {storage.key!r} has {size:,} bytes at {start:,} of "
                f"{self.size:,}; its tensors say {storage.size:,}. It is damaged: copy "
                "it again."
            )

    def read(self, tensor: torchpickle.Tensor) -> np.ndarray:
        place, item = self.places[tensor.storage.key], tensor.dtype.itemsize
        flat = np.empty(tensor.span * item, np.uint8)
        self._fill(memoryview(flat), place.start + tensor.offset * item)
        self._check_sum(tensor.storage.key, flat)
        if self.swapped and item > 1:
            flat = flat.view(f">u{item}").astype(f"<u{item}").view(np.uint8)
        if not flat.size:
            return np.zeros(tensor.shape, tensor.dtype)
        strides = [stride * item for stride in tensor.strides]
        view = np.lib.stride_tricks.as_strided(
            flat.view(tensor.dtype), tensor.shape, strides, writeable=False
        )
        return np.ascontiguousarray(view).reshape(tensor.shape)

    def _check_sum(self, key: str, read: np.ndarray) -> None:
        """Compares a storage's checksum the first time that some of it is read."""
        start, size, checksum = self.places[key]
        if checksum is None or key in self._good:
            return
        found = 0
        if len(read) == size:
            found = zlib.crc32(read)
        else:
            chunk = np.empty(min(size, CHUNK), np.uint8)
            for at in range(0, size, CHUNK):
                part = memoryview(chunk[: min(CHUNK, size - at)])
                self._fill(part, start + at)
                found = zlib.crc32(part, found)
        if found != checksum:
            raise ValueError(f"the checksum of its storage {key!r} is another")
        self._good.add(key)

    def _fill(self, buffer: memoryview, start: int) -> None:
        """Reads exactly the buffer's length; a read gives 2 GB at most."""
        done = 0
        while done < len(buffer):
            got = os.preadv(self._fd, [buffer[done:]], start + done)
            if got == 0:
                raise ValueError("it ended while it was read")
            done += got


def _what(start: bytes) -> str:
    """What a file is that is none of torch.save's."""
    if not start:
        return "is empty."
    if start[257:262] == b"ustar":
        return f"is of a PyTorch before 0.2, a tar archive.\n{CONVERT}"
    if re.match(rb"\x80[\x02-\x05]", start):
        return f"is a pickle, but not one of torch.save's.\n{CONVERT}"
    return (
        "is no file of torch.save: it starts with "
        f"{start[:16].decode('ascii', 'replace')!r}. Compare its size and checksum "
        "with the source's."
    )


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members of an archive without the folder that all of them are in."""
    infos = archive.infolist()
    if len(infos) > npz.MAX_MEMBERS:
        raise errors.UserError(
            f"has {len(infos):,} members; no checkpoint has more than "
            f"{npz.MAX_MEMBERS:,}."
        )
    if any(re.match(r"[^/]+/(code/|constants\.pkl)", i.filename) for i in infos):
        raise errors.UserError(
            "is a TorchScript program, not weights. In PyTorch:\n"
            "  model = torch.jit.load(PATH)\n"
            '  torch.save(model.state_dict(), "weights.pth")'
        )
    folder = infos[0].filename.partition("/")[0] if infos else ""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        first, _, name = info.filename.partition("/")
        plain = re.fullmatch(r"[^\x00-\x1f\\]{1,500}", info.filename)
        parts = info.filename.split("/")
        if not plain or first != folder or {"", ".", ".."} & set(parts):
            raise errors.UserError(
                f"has a member {info.filename[:100]!r}, which torch.save does not "
                "write."
            )
        if name in members:
            raise errors.UserError(f"has two members named {name[:100]!r}.")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise errors.UserError(
                f"its member {name[:100]!r} is compressed or encrypted, which "
                "torch.save's are not: save it again with PyTorch."
            )
        members[name] = info
    return members


def _named(root: Any) -> tuple[dict[str, torchpickle.Tensor], dict[str, str]]:
    """The tensors in dicts of dicts by name, and the unknown objects there.

    Raises:
        errors.UserError: there are none, or names that no model has.
    """
    if not isinstance(root, dict):
        what = root.name if isinstance(root, unpickle.Unknown) else type(root).__name__
        raise errors.UserError(
            f"holds an object {what.removeprefix('_')}, not a dict of tensors.\n"
            f"{CONVERT}"
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
            errors.listing("holds no tensors by name:", lines[:3], CONVERT)
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
