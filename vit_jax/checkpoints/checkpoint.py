"""Checkpoints: the training state, and beside it all that a reader needs to use it.

    workdir/checkpoints/STEP/
        params/        model parameters, nested dict of arrays
        ema/           their Polyak average, where the run keeps one
        optimizer/     {"step", "opt_state": ...}
        description/   JSON: architecture, preprocessing, label names, config, versions

Orbax writes the arrays, without compression (a ViT-B Adam state then takes a quarter
of the time for 8 % more bytes). Everything on disk is a nested dict under the leaf
names of `vit_jax.tree`, so no class of ours or of optax is needed to read it back.
"""

import importlib.metadata
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from vit_jax import errors, models, tree
from vit_jax.data import preprocessing as preprocessing_lib
from vit_jax.host import files
from vit_jax.learning import losses

FORMAT = 1
FOLDER = "checkpoints"
COMMITTED = "commit_success.txt"  # orbax's, in a bucket


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
            "format": FORMAT,
            "architecture": self.architecture.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Description":
        """Builds a description from what `to_dict` gave.

        Raises:
            UserError: written by a newer vit_jax, or damaged.
        """
        values = dict(values)
        if (written := values.pop("format", None)) != FORMAT:
            raise errors.UserError(
                f"the checkpoint has format {written!r}, this vit_jax reads {FORMAT}; "
                "upgrade vit_jax to the version that wrote it: "
                f"{values.get('versions')}"
            )
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
    return {name: importlib.metadata.version(name) for name in names}


def handler() -> ocp.PyTreeCheckpointHandler:
    """Returns what reads and writes a tree of arrays, without compression."""
    return ocp.PyTreeCheckpointHandler(use_compression=False)


def metadata(path: Path) -> Any:
    """Returns what orbax says of a tree on disk."""
    # It says that it wants a Path of etils.
    path = files.absolute(path)
    return handler().metadata(path).tree  # pyright: ignore[reportArgumentType]


def plain_metadata(path: Path) -> Any:
    """Returns the shapes and types of a tree on disk."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), metadata(path)
    )


def read_item(folder: Path, item: str, like: Any | None = None) -> Any:
    """Reads one tree: onto the shardings of `like`, or as numpy arrays."""
    path = files.absolute(folder / item)
    if like is None:
        args = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata(path)
        )
        restore = ocp.args.PyTreeRestore(restore_args=args)
    else:
        args = jax.tree.map(
            lambda leaf: ocp.ArrayRestoreArgs(
                sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype
            ),
            like,
        )
        restore = ocp.args.PyTreeRestore(item=like, restore_args=args)
    with ocp.Checkpointer(handler()) as checkpointer:
        return checkpointer.restore(path, restore)


def _read_description(folder: Path) -> Description:
    path = folder / "description" / "metadata"
    return Description.from_dict(json.loads(path.read_text()))


def reason(error: Exception) -> str:
    """Returns the gist of an error of orbax or its backends, which can fill a page."""
    text = str(error).strip() or repr(error)
    if "os_error_code='28'" in text or "No space left" in text:
        return "no space left on device"
    return text.splitlines()[0][:300]


def is_whole(folder: Path) -> bool:
    """Returns whether a checkpoint is at a path that was written to the end.

    On a file system its folder gets its name then, in a bucket a file says it.
    """
    if files.address(folder) and not (folder / COMMITTED).exists():
        return False
    return (folder / "description" / "metadata").is_file()


def available(directory: Path) -> list[int]:
    """Steps under a `checkpoints` folder that were written to the end, ascending."""
    steps = [int(p.name) for p in directory.glob("*") if p.name.isdigit()]
    return sorted(step for step in steps if is_whole(directory / str(step)))


def find(path: str | Path) -> Path | None:
    """Returns a checkpoint's folder: `path` itself, or the newest in a workdir."""
    path = files.folder(path)
    if is_whole(path):
        return path
    for directory in (path, path / FOLDER):
        if directory.is_dir() and (steps := available(directory)):
            return directory / str(steps[-1])
    return None


def _found(path: str | Path) -> Path:
    folder = find(path)
    if folder is None:
        raise errors.UserError(
            f"{path} is no checkpoint of vit_jax: expected a workdir, or a folder in "
            f"its {FOLDER}/ with params/ and description/"
        )
    return folder


def describe(path: str | Path) -> Description:
    """Reads what is stored beside the arrays of a checkpoint.

    Args:
        path: a workdir (its newest checkpoint) or the folder of one checkpoint.

    Raises:
        UserError: no checkpoint there, or a damaged or newer one.
    """
    folder = _found(path)
    try:
        return _read_description(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, errors.UserError):
            raise
        raise errors.UserError(
            f"the description of {folder} is damaged: {error}; use another checkpoint"
        ) from error


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
        folder = _found(path)
        self.description = describe(folder)
        self._item = folder / ("ema" if (folder / "ema").is_dir() else "params")
        with self._readable():
            leaves = tree.named_leaves(plain_metadata(self._item))
        self.shapes = {name: tuple(leaf.shape) for name, leaf in leaves}

    def read(self, name: str) -> np.ndarray:
        """Returns one leaf."""
        as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
        restore = ocp.args.PyTreeRestore(
            item=tree.from_named({name: jax.ShapeDtypeStruct((), np.float32)}),
            restore_args=tree.from_named({name: as_numpy}),
            partial_restore=True,
        )
        with self._readable(), ocp.Checkpointer(handler()) as checkpointer:
            restored = checkpointer.restore(files.absolute(self._item), restore)
        return dict(tree.named_leaves(restored))[name]

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise errors.UserError(
                f"the arrays of {self._item.parent} cannot be read, the checkpoint is "
                f"truncated or damaged: {reason(error)}\n"
                "use an older checkpoint of the run, or a copy"
            ) from error


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
    args = ocp.args.Composite(
        params=ocp.args.PyTreeSave(params),
        description=ocp.args.JsonSave(description.to_dict()),
    )
    handlers = {"params": handler(), "description": ocp.JsonCheckpointHandler()}
    composite = ocp.CompositeCheckpointHandler(**handlers)
    try:
        with ocp.Checkpointer(composite) as checkpointer:
            checkpointer.save(path, args=args)
    except Exception as error:  # orbax passes on whatever its backends raise
        raise errors.UserError(
            f"{path} could not be written: {reason(error)}"
        ) from error


def read_params(path: str | Path) -> tuple[dict[str, Any], Description]:
    """Reads all of `StoredParams` as nested dicts of numpy arrays; errors as there."""
    stored = StoredParams(path)
    leaves = {name: stored.read(name) for name in stored.shapes}
    return tree.from_named(leaves), stored.description
