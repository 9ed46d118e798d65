"""Millions of file names in a few arrays, in an order that depends on nothing else.

A name in a list takes more than 200 bytes with its object, here its own bytes and 8 or
12 more: folders are named once.
"""

import bisect
import hashlib
import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

FEW = 5  # names that a message shows


class Branch(NamedTuple):
    """What lies directly in one folder.

    Attributes:
        prefix: The folder, relative to where it is seen from: "" or "a/b/".
        folders: Below it, sorted; nothing of those that are left out.
        images: Their names, each with a slash behind it; `bytes` are a tenth of `str`.
        size: How many those are.
        left_out: The first few of what is left out, from where it is seen.
        left: How many that are.
    """

    prefix: str
    folders: list[str]
    images: bytes
    size: int
    left_out: list[str]
    left: int

    def names(self) -> list[str]:
        """Returns the names of its images."""
        text = self.images.decode("utf-8", "surrogateescape")
        return text.split("/")[:-1]

    def within(self, folder: str) -> "Branch":
        """Returns the same as it is seen from a folder above it, "a/"."""
        return self._replace(prefix=self.prefix.removeprefix(folder))

    def few(self) -> list[str]:
        """Returns the first few of its images."""
        return [self.prefix + name for name in heapq.nsmallest(FEW, self.names())]


def packed(names: Sequence[str]) -> bytes:
    """Returns what `Branch.images` is."""
    return "".join(f"{name}/" for name in names).encode("utf-8", "surrogateescape")


def _digest(name: str) -> bytes:
    data = name.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(data, digest_size=8).digest()


class Names:
    """Names of images, "CLASS/.../IMAGE", in the order of their hashes."""

    def __init__(
        self, prefixes: Sequence[str], counts: np.ndarray, blob: np.ndarray
    ) -> None:
        """Takes folders, how many images each has, and all their `Branch.images`."""
        self.prefixes, self.counts, self.blob = list(prefixes), counts, blob
        self._firsts = [0, *itertools.accumulate(counts.tolist())]
        ends = np.flatnonzero(blob == ord("/"))
        self._ends = ends.astype(np.uint32 if len(blob) < 2**32 else np.uint64)
        self.order = np.zeros(0, np.uint32)

    @classmethod
    def of(cls, branches: Sequence[Branch]) -> "Names":
        """Returns the names of the images of branches."""
        own = [branch for branch in branches if branch.size]
        blob = np.frombuffer(b"".join(branch.images for branch in own), np.uint8)
        counts = np.array([branch.size for branch in own], np.int64)
        names = cls([branch.prefix for branch in own], counts, blob)
        digests = b"".join(
            b"".join([_digest(branch.prefix + name) for name in branch.names()])
            for branch in own
        )
        keys = np.frombuffer(digests, ">u8").astype(np.uint64)
        order = np.argsort(keys, kind="stable")
        if (np.diff(keys[order]) == 0).any():  # by their names then; 5e-6 of 14 million
            order = np.array(sorted(order, key=lambda k: (keys[k], names.stored(k))))
        names.order = order.astype(np.uint32 if len(order) < 2**32 else np.uint64)
        return names

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what `read` takes, beside the prefixes."""
        return {"counts": self.counts, "blob": self.blob, "order": self.order}

    @classmethod
    def read(cls, prefixes: Sequence[str], arrays: dict[str, Any]) -> "Names":
        """Returns what was taken apart by `arrays`.

        Raises:
            ValueError: they do not belong together.
        """
        names = cls(prefixes, arrays["counts"], arrays["blob"])
        names.order = arrays["order"]
        total = names._firsts[-1]
        if not total == len(names._ends) == len(names.order):
            raise ValueError(f"{total} names")
        return names

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> str:
        return self.stored(int(self.order[index]))

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def stored(self, number: int) -> str:
        """Returns a name by its place among the branches."""
        prefix = self.prefixes[bisect.bisect_right(self._firsts, number) - 1]
        start = int(self._ends[number - 1]) + 1 if number else 0
        name = self.blob[start : int(self._ends[number])].tobytes()
        return prefix + name.decode("utf-8", "surrogateescape")
