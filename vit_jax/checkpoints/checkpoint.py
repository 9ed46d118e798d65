"""Checkpoints: the training state, and beside it all that a reader needs to use it.

    workdir/checkpoints/STEP/
        params/        model parameters, nested dict of arrays
        ema/           their Polyak average, where the run keeps one
        optimizer/     {"step", "opt_state": ...}
        description/   JSON: architecture, preprocessing, label names, config, versions,
                       and the record: type, shape and digest of every leaf

Orbax writes the arrays, without compression (a ViT-B Adam state then takes a quarter
of the time for 8 % more bytes). Everything on disk is a nested dict under the leaf
names of `vit_jax.tree`, so no class of ours or of optax is needed to read it back.

Every reader of a workdir takes the newest checkpoint that verifies: see `find`.
"""

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from vit_jax import errors, models, tree
from vit_jax.checkpoints import digest, disk, record, verify
from vit_jax.data import preprocessing as preprocessing_lib
from vit_jax.host import files
from vit_jax.learning import losses

FOLDER = disk.FOLDER
_SMALL = 64 << 20  # bytes that any host has


@dataclass(frozen=True)
class Description:
    """What is stored beside the arrays of a checkpoint.

    Attributes:
        architecture: of the model.
        preprocessing: how images reach the model at evaluation.
        label_names: one a class, or None.
        config: the resolved configuration of the run, plain nested dict.
        step: updates done.
        versions: of this package and of those that wrote the arrays.
        problem: what the outputs are, a key of `losses.PROBLEMS`; "": what the loss
            in `config` trains, one label an image where that is empty.
        period: sums of the metrics since the run's last log line, see `recent`.
        label_ids: other names of the same classes, as `pretrained.Loaded` has them.
    """

    architecture: models.Architecture
    preprocessing: preprocessing_lib.Preprocessing
    label_names: tuple[str, ...] | None
    config: dict[str, Any]
    step: int
    versions: dict[str, str] = field(default_factory=dict)
    problem: str = ""
    period: dict[str, float] = field(default_factory=dict)
    label_ids: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        problem = self.problem
        if not problem:
            loss = self.config["loss"] if "loss" in self.config else "softmax"
            problem = losses.problem_of(loss)
        errors.lookup(losses.PROBLEMS, problem, "problem")
        object.__setattr__(self, "problem", problem)

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON-able dict; the inverse of `from_dict`."""
        return asdict(self) | {
            "format": record.UNSEALED,
            "architecture": self.architecture.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Description":
        """Builds a description from what `to_dict` gave.

        Raises:
            UserError: written by a newer vit_jax, or damaged.
        """
        return cls.of(record.Record.parse(values))

    @classmethod
    def of(cls, found: record.Record) -> "Description":
        """Returns what a record says beside its leaves.

        Raises:
            Damaged: that is no description.
        """
        try:
            return cls._built(dict(found.description))
        except record.Damaged:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise record.Damaged(
                f"its description is damaged: {errors.reason(error)}"
            ) from error

    @classmethod
    def _built(cls, values: dict[str, Any]) -> "Description":
        del values["format"]
        for key in ("label_names", "label_ids"):
            values[key] = None if (n := values.get(key)) is None else tuple(n)
        return cls(
            models.from_dict(values.pop("architecture")),
            preprocessing_lib.Preprocessing.from_dict(values.pop("preprocessing")),
            **values,
        )


def versions() -> dict[str, str]:
    """Versions of the packages that decide what a checkpoint means."""
    names = ("vit_jax", "jax", "flax", "optax", "orbax-checkpoint")
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    """Of a package; "unknown" where it is imported from a bare checkout."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def problem(folder: Path) -> str:
    """Returns what is wrong with a checkpoint, "" where it is what was saved."""
    if found := verify.problem(folder):
        return found
    try:
        Description.of(record.read(folder))
    except record.Damaged as error:
        return str(error)
    return ""


def newest(directory: Path) -> Path | None:
    """Returns the newest checkpoint in a `checkpoints` folder that verifies.

    A warning names those that do not, and what of them.

    Returns:
        Its folder; None where there is no checkpoint.

    Raises:
        UserError: none verifies.
    """
    bad: dict[int, str] = {}
    for step in reversed(disk.available(directory)):
        folder = directory / str(step)
        if not (why := problem(folder)):
            verify.say_taken(directory, bad, step)
            return folder
        bad[step] = why
    if bad:
        raise verify.none_is_good(directory, bad)
    return None


def folders(workdir: Path) -> list[Path]:
    """Returns the checkpoints of a workdir, the newest first, as far as they show."""
    directory = workdir / FOLDER
    return [directory / str(step) for step in reversed(disk.available(directory))]


def is_one(path: Path) -> bool:
    """Returns whether a path is the folder of a checkpoint, or has some in it."""
    folders = (path, path / FOLDER)
    return disk.is_whole(path) or any(map(disk.available, folders))


def find(path: str | Path) -> Path | None:
    """Returns a checkpoint's folder: `path` itself, or the newest in a workdir.

    Raises:
        UserError: a workdir whose checkpoints do not verify, see `newest`.
    """
    path = files.folder(path)
    if disk.is_whole(path):
        return path
    for directory in (path, path / FOLDER):
        if (found := newest(directory)) is not None:
            return found
    return None


def _found(path: str | Path) -> Path:
    folder = find(path)
    if folder is None:
        raise errors.UserError(
            f"{path} is no checkpoint of vit_jax: expected a workdir, or a folder in "
            f"its {FOLDER}/ with params/ and description/"
        )
    return folder


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Says of which checkpoint something is damaged."""
    try:
        yield
    except record.Newer as error:
        raise record.Newer(f"{folder}: {error}") from error
    except record.Damaged as error:
        raise record.Damaged(
            f"the checkpoint {folder} is truncated or damaged: {error}\n"
            "use an older checkpoint of the run, or a copy"
        ) from error


def describe(path: str | Path) -> Description:
    """Reads what is stored beside the arrays of a checkpoint.

    Args:
        path: a workdir (its newest checkpoint that verifies) or the folder of one
            checkpoint, whose arrays are not looked at.

    Raises:
        UserError: no checkpoint there, or a damaged or newer one.
    """
    folder = _found(path)
    with _named(folder):
        return Description.of(record.read(folder))


class StoredParams:
    """The parameters of a checkpoint by leaf name, read one at a time.

    Where the run kept a Polyak average, that is what is read: it is what the run
    evaluated.

    Attributes:
        description: what is stored beside the arrays.
        shapes: leaf name -> shape.

    Raises:
        UserError: no checkpoint there, truncated, or not of its own architecture.
    """

    def __init__(self, path: str | Path):
        self._folder = _found(path)
        with _named(self._folder):
            self._record = record.read(self._folder)
            self.description = Description.of(self._record)
            items = verify.items(self._folder, self._record)
            self._item = self._folder / ("ema" if "ema" in items else "params")
            for item in items:
                verify.check_shapes(self._folder, self._record, item)
            leaves = disk.shapes(self._folder, self._item.name)
        if self._record.leaves is None:
            verify.not_verified(self._folder)
        self.shapes = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves.values())
        self._at_once = bool(files.address(self._folder)) or size <= _SMALL
        self._kept: dict[str, np.ndarray] = {}

    def read(self, name: str) -> np.ndarray:
        """Returns one leaf, once it is known to be what was saved.

        Of a bucket, and of a small model, all are read with the first: a read is a
        dozen requests there, and takes longer than the bytes here.
        """
        if name in self._kept:
            return self._kept[name]
        names = self.shapes if self._at_once else [name]
        with _named(self._folder):
            read = verify.read(self._folder, self._record, self._item.name, names)
        if self._at_once:
            self._kept = read
        return read[name]


def write_params(
    path: str | Path, params: dict[str, Any], description: Description
) -> None:
    """Writes weights alone as a checkpoint that `StoredParams` reads.

    Raises:
        UserError: there is something at `path`, or it cannot be written.
    """
    path = Path(path).absolute()
    if path.exists():
        raise errors.UserError(f"{path} exists; want the name of a new folder.")
    leaves = {
        f"params/{name}": record.Leaf.of(leaf, digest.on_host(np.asarray(leaf)))
        for name, leaf in tree.named_leaves(params)
    }
    stored = record.sealed(description.to_dict(), leaves)
    args = ocp.args.Composite(
        params=ocp.args.PyTreeSave(params), description=ocp.args.JsonSave(stored)
    )
    handlers = {"params": disk.handler(), "description": ocp.JsonCheckpointHandler()}
    composite = ocp.CompositeCheckpointHandler(**handlers)
    try:
        with ocp.Checkpointer(composite) as checkpointer:
            checkpointer.save(path, args=args)
    except Exception as error:  # orbax passes on whatever its backends raise
        raise errors.UserError(
            f"{path} could not be written: {disk.reason(error)}"
        ) from error


def read_params(path: str | Path) -> tuple[dict[str, Any], Description]:
    """Reads all of `StoredParams` as nested dicts of numpy arrays; errors as there."""
    stored = StoredParams(path)
    leaves = {name: stored.read(name) for name in stored.shapes}
    return tree.from_named(leaves), stored.description
