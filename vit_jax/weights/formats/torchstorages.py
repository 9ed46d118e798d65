"""Where the storages of a file of `torch.save` lie, checked and read.

Both of its formats, which `torchfile` describes; a storage is a flat array that tensors
are views of.
"""

import functools
import io
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vit_jax import errors
from vit_jax.weights import source
from vit_jax.weights.formats import npz, torchpickle

MAX_PICKLE = 1 << 26  # a training state of ViT-e has 3 MB
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


class _Place(NamedTuple):
    """Where in the file a storage is; its checksum in the format that has them."""

    start: int
    size: int
    checksum: int | None


class Storages(source.OpenFile):
    """One open file: the structure is `root`, its `storages` are at `places`."""

    def __init__(self, path: Path):
        """Opens a file and reads its structure.

        Raises:
            errors.UserError: it is not what `torch.save` writes, or not whole.
        """
        super().__init__(path)
        self._good: set[str] = set()
        self.swapped = False
        with self.closed_on_error():
            storages: dict[str, torchpickle.Storage] = {}
            start = self.at(0, 512)
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
            header = self.at(info.header_offset, 30)
        name, extra = struct.unpack_from("<HH", header, 26)
        start = info.header_offset + 30 + name + extra
        return _Place(start, info.file_size, info.CRC)

    def _legacy(
        self, storages: dict[str, torchpickle.Storage]
    ) -> tuple[Any, dict[str, _Place]]:
        stream = io.BytesIO(self.at(0, MAX_PICKLE))
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
            length = self.at(at, 8)
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
        """Returns the array that a tensor of the structure is.

        Raises:
            ValueError: the file ends before, or has another checksum.
        """
        place, item = self.places[tensor.storage.key], tensor.dtype.itemsize
        flat = np.empty(tensor.span * item, np.uint8)
        source.fill(flat, self.descriptor, place.start + tensor.offset * item)
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
            found = zlib.crc32(read.data)
        else:
            chunk = np.empty(min(size, CHUNK), np.uint8)
            for at in range(0, size, CHUNK):
                part = memoryview(chunk[: min(CHUNK, size - at)].data)
                source.fill(part, self.descriptor, start + at)
                found = zlib.crc32(part, found)
        if found != checksum:
            raise ValueError(f"the checksum of its storage {key!r} is another")
        self._good.add(key)


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
