"""`wds:SHARDS`: tar files of samples, as WebDataset writes them, by index.

A sample is the files of one name up to its first dot: `n01/0001.jpg` and
`n01/0001.cls`. The image is told by its extension, the label is the text of `.cls` or
a key of `.json`. Where everything lies in a shard is read once and kept in the cache.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from vit_jax import errors, host
from vit_jax.data.forms import files, labelling, picking, table, tar
from vit_jax.host import files as host_files
from vit_jax.host import kept
from vit_jax.settings import documents, naming

IMAGES = ("jpg", "jpeg", "png", "webp")
_VERSION = 1  # of what is kept
_AHEAD = 1 << 16  # bytes of a remote file that are asked for at once


class Shard:
    """The samples of one tar file.

    Attributes:
        images: int64 [samples, 2], offset and length of each image.
        labels: Of each sample, as stated.
        keys: The name of each sample.
    """

    def __init__(self, images: np.ndarray, labels: list[Any], keys: list[str]):
        """Takes as many of each."""
        self.images, self.labels, self.keys = images, labels, keys


class TarImages:
    """The images of one split."""

    def __init__(self, paths: Sequence[str], shards: Sequence[Shard]):
        """Takes the shards of the split, in order."""
        self._bytes = files.Bytes(paths)
        counts = [len(shard.keys) for shard in shards]
        self._shard = np.repeat(np.arange(len(shards)), counts)
        self._where = np.concatenate([shard.images for shard in shards])
        self._keys = [key for shard in shards for key in shard.keys]

    def __len__(self) -> int:
        return len(self._keys)

    def read(self, index: int) -> bytes:
        """Returns the bytes of an image; see `table.Images`."""
        offset, length = self._where[index].tolist()
        return self._bytes.read(int(self._shard[index]), offset, length)

    def name(self, index: int) -> str:
        """Returns "shard:key"."""
        path = self._bytes.paths[self._shard[index]]
        return f"{os.path.basename(path)}:{self._keys[index]}"


def open_table(spec: str, columns: naming.Columns, dataset: str) -> table.Table:
    """Opens tar shards.

    Args:
        spec: Behind "wds:".
        columns: "image" is an extension; "label" is `cls`, or a key of `.json`.
        dataset: The name, for messages.

    Raises:
        errors.UserError: no shard, a damaged one, a sample without image or label.
    """
    if columns.numeric:
        raise errors.UserError(
            f"{dataset}: labels that are numbers are read from csv:, parquet:, hf:, "
            "py: and TFDS"
        )
    paths = files.expand(spec, dataset, ".tar")
    marks = {path: files.fingerprint(path) for path in paths}
    splits = files.by_split(paths, dataset)
    shards = {path: _shard(path, marks[path], columns) for path in paths}
    images = {
        split: TarImages(part, [shards[path] for path in part])
        for split, part in splits.items()
    }
    raws = {
        split: labelling.raw(
            [label for path in part for label in shards[path].labels],
            images[split].name,
        )
        for split, part in splits.items()
    }
    labels = labelling.Labelling(
        raws,
        dataset=dataset,
        name=lambda split, index: images[split].name(index),
        names_file=columns.names,
    )

    def holds() -> bool:
        try:
            return {path: files.fingerprint(path) for path in paths} == marks
        except errors.UserError:
            return False

    return table.Table(dataset, images, labels, holds=holds)


def _shard(path: str, mark: str, columns: naming.Columns) -> Shard:
    """The index of a shard, from the cache where it is of the file as it is now."""
    what = [_VERSION, os.path.abspath(path) if not files.is_url(path) else path]
    what += [mark, columns.image, columns.label]
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]
    place = host.cache_folder() / "tar" / f"{digest}.npz"
    if (found := kept.load(place)) is not None:
        told, arrays = found
        with contextlib.suppress(KeyError, TypeError):  # what others wrote there
            return Shard(arrays["images"], told["labels"], told["keys"])
    shard = index(path, columns)
    told = {"labels": shard.labels, "keys": shard.keys}
    if problem := kept.save(place, told, {"images": shard.images}):
        logging.warning("the index of a tar file is not kept: %s", problem)
    return shard


def index(path: str, columns: naming.Columns) -> Shard:
    """Reads the headers of a shard, and its labels.

    Raises:
        errors.UserError: a damaged file, no sample in it, or one without its parts.
    """
    contents = files.Bytes([path])
    images, labels, keys = [], [], []
    with _reader(path) as (size, read):
        for key, parts in _samples(tar.members(read, size, path), path):
            image = _image(parts, columns, f"{path}:{key}")
            images.append((image.offset, image.size))
            labels.append(_label(parts, columns, contents, f"{path}:{key}"))
            keys.append(key)
    if not keys:
        raise errors.UserError(
            f"{path} holds no sample; wanted files like 0001.jpg and 0001.cls"
        )
    return Shard(np.array(images, np.int64), labels, keys)


@contextlib.contextmanager
def _reader(path: str) -> Iterator[tuple[int, Callable[[int, int], bytes]]]:
    """The size of a file, and a function that reads parts of it in order."""
    if not files.is_url(path):
        with open(path, "rb", buffering=0) as file:
            number = file.fileno()
            size = os.fstat(number).st_size
            yield size, lambda start, n: host_files.read_at(number, n, start)
        return
    system, place = files.remote(path)
    with system.open(place, "rb", block_size=_AHEAD) as opened:

        def read(start: int, length: int) -> bytes:
            opened.seek(start)
            return opened.read(length)

        yield system.size(place), read


def _samples(
    found: Iterator[tar.Member], path: str
) -> Iterator[tuple[str, dict[str, tar.Member]]]:
    """Groups neighbouring members by their name up to the first dot."""
    key = ""
    parts: dict[str, tar.Member] = {}
    for member in found:
        folder, _, base = member.name.rpartition("/")
        stem, _, extension = base.partition(".")
        if not stem:  # hidden, as macOS's "._0001.jpg"
            continue
        here = f"{folder}/{stem}" if folder else stem
        if here != key:
            if parts:
                yield key, parts
            key, parts = here, {}
        if extension.lower() in parts:
            raise errors.UserError(f"{path}: {member.name} is there twice in a row")
        parts[extension.lower()] = member
    if parts:
        yield key, parts


def _image(
    parts: dict[str, tar.Member], columns: naming.Columns, name: str
) -> tar.Member:
    wanted = [columns.image.lower()] if columns.image else list(IMAGES)
    found = [
        extension
        for extension in parts
        if extension in wanted or extension.split(".")[-1] in wanted
    ]
    found = [one for one in found if one in wanted] or found
    if len(found) != 1:
        raise errors.UserError(
            f"{name} has {len(found)} images by extension ({', '.join(wanted)}) among "
            f"{', '.join(sorted(parts))}; --config.data.image_column=EXTENSION says "
            "which"
        )
    return parts[found[0]]


def _label(
    parts: dict[str, tar.Member],
    columns: naming.Columns,
    contents: files.Bytes,
    name: str,
) -> Any:
    if "cls" in parts and columns.label in ("", "cls"):
        member = parts["cls"]
        text = contents.read(0, member.offset, member.size)
        return _parsed(text.decode("utf-8", "replace").strip())
    if "json" not in parts:
        wanted = f"{columns.label} (in .json)" if columns.label else ".cls or .json"
        raise errors.UserError(
            f"{name} has no label: wanted {wanted}, it has {', '.join(sorted(parts))}"
        )
    member = parts["json"]
    try:
        told = documents.parse(contents.read(0, member.offset, member.size))
    except errors.UserError as error:
        raise errors.UserError(f"{name}.json cannot be read: {error}") from error
    told = told if isinstance(told, dict) else {}
    kinds = {key: "label" if _can_be(told[key]) else "other" for key in told}
    columns = naming.Columns(label=columns.label, image="image")
    _, label = picking.choose(kinds | {"image": "image"}, columns, f"{name}.json")
    return told[label]


def _can_be(value: Any) -> bool:
    return isinstance(value, int | str | list) and not isinstance(value, bool)


def _parsed(text: str) -> int | str:
    """A class by number or by name."""
    return int(text) if labelling.is_whole(text) else text
