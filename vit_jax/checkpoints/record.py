"""The record of a step: what its files must hold, bound together by one seal.

It is the JSON of `description/metadata`: what a reader needs to use the arrays, and of
each leaf its type, shape and digest, of parameters, optimizer state and average. The
seal is the SHA-256 of all of it, the format and the step included.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from vit_jax import errors
from vit_jax.checkpoints import disk
from vit_jax.host import files as host_files

FORMAT = 2
UNSEALED = 1  # as older versions wrote it: without leaves and seal
_LEAVES, _SEAL = "leaves", "seal"


class Damaged(errors.UserError):
    """A checkpoint that is not what was saved; an older one may be."""


class Newer(Damaged):
    """A checkpoint of a format that is to come; an older one may be of a known one."""


class Leaf(NamedTuple):
    """What a leaf must be.

    Attributes:
        dtype: Its name, "float32" for instance.
        shape: Of the whole array.
        digest: See `digest`.
    """

    dtype: str
    shape: tuple[int, ...]
    digest: str

    @classmethod
    def of(cls, array: Any, digest: str) -> Self:
        """Returns what an array is, given its digest."""
        return cls(np.dtype(array.dtype).name, tuple(array.shape), digest)


@dataclass(frozen=True)
class Record:
    """What is known of a step.

    Attributes:
        description: The JSON of `checkpoint.Description`.
        leaves: By name, with the item in front: "params/head/bias". None of a
            checkpoint whose format has no digests.
        seal: Two records are the same where their seals are.
    """

    description: Mapping[str, Any]
    leaves: Mapping[str, Leaf] | None
    seal: str

    def of(self, item: str) -> dict[str, Leaf]:
        """Returns the leaves of an item by their names in it; {} without digests."""
        start = f"{item}/"
        return {
            name.removeprefix(start): leaf
            for name, leaf in (self.leaves or {}).items()
            if name.startswith(start)
        }

    @classmethod
    def parse(cls, values: Any) -> Self:
        """Checks what `sealed` gave.

        Raises:
            Damaged: it is something else, or of a newer format.
        """
        if not isinstance(values, dict):
            raise Damaged("its description is no JSON object")
        _check_format(values)
        if values["format"] == UNSEALED:
            return cls(values, None, _seal(values))
        if _SEAL not in values or values[_SEAL] != (seal := _seal(values)):
            raise Damaged("its description was changed: it does not fit its seal")
        leaves = {
            name: Leaf(dtype, tuple(shape), digest)
            for name, (dtype, shape, digest) in values[_LEAVES].items()
        }
        rest = {k: v for k, v in values.items() if k not in (_LEAVES, _SEAL)}
        return cls(rest, leaves, seal)


def _check_format(values: Mapping[str, Any]) -> None:
    written = values.get("format")
    if isinstance(written, int) and written > FORMAT:
        raise Newer(
            f"the checkpoint has format {written!r}, this vit_jax reads {FORMAT}; "
            f"upgrade vit_jax to the version that wrote it: {values.get('versions')}"
        )
    if written not in (UNSEALED, FORMAT):
        raise Damaged(f"its description has the format {str(written)[:50]!r}")


def _seal(values: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in values.items() if key != _SEAL}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(
    description: Mapping[str, Any], leaves: Mapping[str, Leaf]
) -> dict[str, Any]:
    """Returns the JSON of a record.

    Args:
        description: As `checkpoint.Description` gives it.
        leaves: By name, with the item in front.
    """
    values = {**description, "format": FORMAT, _LEAVES: dict(leaves)}
    values = json.loads(json.dumps(values))  # what the reader will see
    return values | {_SEAL: _seal(values)}


def read(folder: Path) -> Record:
    """Reads the record of a checkpoint.

    Raises:
        Damaged: it cannot be read, is that of another step than the folder's, or is
            of a newer format.
    """
    from vit_jax.settings import documents  # which no new run needs

    path = folder / disk.METADATA
    try:
        text = host_files.read_whole(path, documents.MOST_BYTES)
        values = documents.parse(text)
    except (OSError, errors.UserError) as error:
        raise Damaged(f"its description cannot be read: {disk.reason(error)}") from None
    try:
        found = Record.parse(values)
    except Damaged:
        raise
    except errors.UserError as error:
        raise errors.UserError(f"{folder}: {error}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"its description cannot be read: {disk.reason(error)}") from None
    number, step = disk.step_of(folder), found.description.get("step")
    if folder.parent.name == disk.FOLDER and number is not None and step != number:
        raise Damaged(f"it is of step {str(step)[:50]}, its folder of step {number}")
    return found
