"""Whether a checkpoint is what was saved, read and compared on this host."""

import contextlib
import functools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from vit_jax import errors
from vit_jax.checkpoints import digest, disk, record
from vit_jax.host import files

_AT_A_TIME = 1 << 28  # bytes


def _is_news(entry: logging.LogRecord) -> bool:
    return "tensorstore_spec" not in entry.getMessage()


@contextlib.contextmanager
def readable(item: str) -> Iterator[None]:
    """Turns whatever orbax raises while it reads an item into `Damaged`."""
    try:
        yield
    except Exception as error:  # it passes on whatever its backends raise
        # asyncio tells of each leaf that failed beside the first, a page for each.
        logging.getLogger("asyncio").addFilter(_is_news)
        raise record.Damaged(f"{item}/ cannot be read: {disk.reason(error)}") from error


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Returns the names of `wanted` and what is found in the place of each."""
    return [
        f"{name} {found[name] if name in found else 'is gone'}"
        if name in wanted
        else f"{name} is not in its record"
        for name in sorted({*found, *wanted})
        if found.get(name) != wanted.get(name)
    ]


def damaged(lines: list[str]) -> record.Damaged:
    """Returns the error that names leaves, the first few of them."""
    more = f" and {len(lines) - 3} more leaves" if len(lines) > 3 else ""
    return record.Damaged("; ".join(lines[:3]) + more)


def check_shapes(folder: Path, found: record.Record, item: str) -> None:
    """Compares the names, shapes and types of an item's leaves with the record.

    Raises:
        Damaged: they are others, or cannot be read.
    """
    there = _shapes(folder, item)
    if found.leaves is None:
        # Runs have always kept their parameters in float32.
        others = [n for n, text in there.items() if not text.startswith("is float32")]
        if others and item != "optimizer":
            raise damaged([f"{item}/{n} {there[n]}, want float32" for n in others])
        return
    wanted = {name: _said(leaf) for name, leaf in found.of(item).items()}
    if lines := differences(there, wanted):
        raise damaged([f"{item}/{line}" for line in lines])


def _said(leaf: record.Leaf) -> str:
    return f"is {leaf.dtype} {leaf.shape}"


def _shapes(folder: Path, item: str) -> dict[str, str]:
    if not (folder / item).is_dir():
        raise record.Damaged(f"{item}/ is gone")
    with readable(item):
        found = disk.shapes(folder, item)
    return {
        name: f"is {np.dtype(leaf.dtype).name} {tuple(leaf.shape)}"
        for name, leaf in found.items()
    }


def items(folder: Path, found: record.Record) -> list[str]:
    """Returns the items that a checkpoint must have.

    Without digests those of a run by its configuration, and what else is there.
    """
    if found.leaves is not None:
        return [item for item in disk.ITEMS if found.of(item)]
    config = found.description.get("config") or {}
    wanted = {"params"} | ({"ema", "optimizer"} if config.get("ema") else set())
    wanted |= {"optimizer"} if config else set()
    return [i for i in disk.ITEMS if i in wanted or (folder / i).is_dir()]


def _groups(leaves: Mapping[str, record.Leaf]) -> Iterator[list[str]]:
    """Names of leaves that are read together: few enough for any host's memory."""
    group: list[str] = []
    size = 0
    for name, leaf in leaves.items():
        group.append(name)
        size += math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
        if size >= _AT_A_TIME:
            yield group
            group, size = [], 0
    if group:
        yield group


def check_arrays(folder: Path, found: record.Record, item: str) -> None:
    """Reads all arrays of an item, and compares their digests with the record.

    Raises:
        Damaged: one is another, or cannot be read.
    """
    leaves = found.of(item) or {
        name: record.Leaf(np.dtype(leaf.dtype).name, tuple(leaf.shape), "")
        for name, leaf in disk.shapes(folder, item).items()
    }
    for names in _groups(leaves):
        read(folder, found, item, names)


def read(
    folder: Path, found: record.Record, item: str, names: Iterable[str]
) -> dict[str, np.ndarray]:
    """Reads some leaves of an item, and compares their digests with the record.

    Raises:
        Damaged: one is another, or cannot be read.
    """
    try:
        with readable(item):
            arrays = disk.read_leaves(folder, item, names)
    except record.Damaged as error:
        raise _unreadable(folder, item, names) or error from error
    if wanted := found.of(item):
        digests = {name: digest.on_host(array) for name, array in arrays.items()}
        check_digests(digests, {n: wanted[n].digest for n in arrays}, item)
    return arrays


def _unreadable(folder: Path, item: str, names: Iterable[str]) -> record.Damaged | None:
    """The error that names the leaves of an item that cannot be read."""
    lines = []
    for name in names:
        try:
            with readable(item):
                disk.read_leaves(folder, item, [name])
        except record.Damaged:
            lines.append(f"{item}/{name} cannot be read")
    return damaged(lines) if lines else None


def check_digests(
    found: Mapping[str, str], wanted: Mapping[str, str], item: str
) -> None:
    """Raises `Damaged` with the names of the leaves whose digests differ."""
    wrong = [f"{item}/{name}" for name in wanted if found[name] != wanted[name]]
    if wrong:
        raise changed(wrong)


def changed(names: list[str]) -> record.Damaged:
    """Returns the error that the digests of these leaves differ."""
    return damaged([f"{name} is not what was saved" for name in names])


def check(folder: Path) -> record.Record:
    """Reads all of a checkpoint and returns its record.

    Raises:
        Damaged: it is not what was saved, or of a newer format.
    """
    found = record.read(folder)
    for item in items(folder, found):
        check_shapes(folder, found, item)
    for item in items(folder, found):
        check_arrays(folder, found, item)
    return found


def problem(folder: Path) -> str:
    """Returns what is wrong with a checkpoint, "" where it is what was saved.

    It is read again only where one of its files has changed.
    """
    stamps = []
    # In a bucket a step is written once, and to ask for each object takes long.
    for path in [] if files.address(folder) else sorted(folder.rglob("*")):
        stat = path.lstat()
        stamps.append((str(path), stat.st_size, stat.st_mtime_ns))
    return _problem(folder, tuple(stamps))


@functools.lru_cache(maxsize=32)
def _problem(folder: Path, stamps: tuple) -> str:
    del stamps
    try:
        found = check(folder)
    except record.Damaged as error:
        return str(error)
    if found.leaves is None:
        not_verified(folder)
    return ""


def not_verified(folder: Path) -> None:
    """Says that a checkpoint has no digests."""
    _warn(f"{folder} is not verified: it was written before checkpoints had digests")


@functools.cache
def _warn(text: str) -> None:
    """Says something once in a process."""
    logging.warning("%s", text)


def say_taken(directory: Path, bad: Mapping[int, str], step: int) -> None:
    """Says, once, which steps do not verify, why, and which one is taken instead."""
    for number, why in bad.items():
        _warn(
            f"{directory / str(number)} does not verify: {why}; step {step} is "
            "taken instead"
        )


def none_is_good(directory: Path, bad: Mapping[int, str]) -> errors.UserError:
    """Returns the error that there are checkpoints, and none verifies."""
    return errors.UserError(
        errors.listing(
            f"no checkpoint under {directory} can be read:",
            [f"step {number}: {why}" for number, why in bad.items()],
            "restore the files from a copy, or start again in another --workdir",
        )
    )
