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
import logging
import shutil
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
from vit_jax.learning import losses
from vit_jax.types import TrainState

FORMAT = 1
FOLDER = "checkpoints"
UNREADABLE = "unreadable-checkpoints"


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


def _items(state: TrainState) -> dict[str, Any]:
    """The trees on disk, by item name: nested dicts of arrays."""
    optimizer = {"step": state.step, "opt_state": state.opt_state}
    items = {"params": state.params, "optimizer": optimizer}
    if state.ema is not None:
        items["ema"] = state.ema
    return {
        name: tree.from_named(dict(tree.named_leaves(t))) for name, t in items.items()
    }


def _state(items: dict[str, Any], like: TrainState) -> TrainState:
    """Puts the leaves of `items` into the structure of `like`, by name."""

    def fill(item: str, target: Any) -> Any:
        leaves = dict(tree.named_leaves(items[item]))
        return tree.map_named(lambda name, _: leaves[name], target)

    optimizer = fill("optimizer", {"step": like.step, "opt_state": like.opt_state})
    ema = None if like.ema is None else fill("ema", like.ema)
    return TrainState(
        optimizer["step"], fill("params", like.params), optimizer["opt_state"], ema
    )


def _handler() -> ocp.PyTreeCheckpointHandler:
    return ocp.PyTreeCheckpointHandler(use_compression=False)


def _differences(folder: Path, item: str, target: Any) -> list[str]:
    """One line for each leaf whose name or shape on disk is not the target's."""
    metadata = _handler().metadata((folder / item).absolute()).tree
    stored = {
        name: tuple(leaf.shape)
        for name, leaf in tree.named_leaves(_plain_metadata(metadata))
    }
    wanted = {name: tuple(leaf.shape) for name, leaf in tree.named_leaves(target)}
    return [
        f"{item}/{name}: checkpoint {stored.get(name, 'has none')}, "
        f"this run {wanted.get(name, 'has none')}"
        for name in sorted(stored | wanted)
        if stored.get(name) != wanted.get(name)
    ]


def _plain_metadata(metadata: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), metadata
    )


def read_item(folder: Path, item: str, like: Any | None = None) -> Any:
    """Reads one tree: onto the shardings of `like`, or as numpy arrays."""
    path = (folder / item).absolute()
    if like is None:
        metadata = _handler().metadata(path).tree
        args = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata
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
    with ocp.Checkpointer(_handler()) as checkpointer:
        return checkpointer.restore(path, restore)


def _read_description(folder: Path) -> Description:
    path = folder / "description" / "metadata"
    return Description.from_dict(json.loads(path.read_text()))


def _reason(error: Exception) -> str:
    """The gist of an error of orbax or its backends, which can fill a page."""
    text = str(error).strip() or repr(error)
    if "os_error_code='28'" in text or "No space left" in text:
        return "no space left on device"
    return text.splitlines()[0][:300]


@contextmanager
def _clear_write_errors(directory: Path) -> Iterator[None]:
    """Turns a failed write into one error that says what is still good."""
    try:
        yield
    except Exception as error:  # orbax passes on whatever its backends raise
        good = available(directory)
        kept = f"step {good[-1]}" if good else "none"
        reason = _reason(error)
        free = shutil.disk_usage(directory).free / 2**20
        raise errors.UserError(
            f"a checkpoint could not be written to {directory} "
            f"({free:,.0f} MiB free there): {reason}\n"
            f"newest good checkpoint: {kept}; free some space or mend the folder, then "
            "run the same command again: it goes on from there"
        ) from error


def available(directory: Path) -> list[int]:
    """Steps under a `checkpoints` folder that were written to the end, ascending."""
    steps = [int(p.name) for p in directory.glob("*") if p.name.isdigit()]
    return sorted(
        step
        for step in steps
        if (directory / str(step) / "description" / "metadata").is_file()
    )


class Checkpoints:
    """Saves and restores the training state of one workdir.

    Saving is asynchronous: `save` returns when the arrays are copied to the host, and
    an error of a write shows at the next `save` or `close`.
    """

    def __init__(self, workdir: Path, *, keep: int = 2):
        self.workdir = workdir
        self.directory = (workdir / FOLDER).absolute()
        self._keep = keep
        self._manager: ocp.CheckpointManager | None = None

    def _open(self) -> ocp.CheckpointManager:
        """Opens the writer, only once there is something to write."""
        if self._manager is None:
            handlers = {item: _handler() for item in ("params", "ema", "optimizer")}
            self._manager = ocp.CheckpointManager(
                self.directory,
                item_handlers=handlers | {"description": ocp.JsonCheckpointHandler()},
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=self._keep,
                    cleanup_tmp_directories=True,
                    save_root_metadata=False,
                ),
            )
        return self._manager

    def save(self, state: TrainState, description: Description) -> None:
        """Starts writing `state` as the checkpoint of `description.step`.

        Raises:
            UserError: this or the previous write failed (no space left, read-only).
        """
        args = {name: ocp.args.PyTreeSave(item) for name, item in _items(state).items()}
        args["description"] = ocp.args.JsonSave(description.to_dict())
        with _clear_write_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            manager = self._open()
            manager.check_for_errors()
            saved = manager.save(
                description.step, args=ocp.args.Composite(**args), force=True
            )
        assert saved, f"step {description.step} was already there"

    def latest(self) -> int | None:
        """The newest step that was written to the end, or None."""
        steps = available(self.directory)
        return steps[-1] if steps else None

    def restore(self, like: TrainState) -> tuple[TrainState, int] | None:
        """Returns the newest state that can be read, and its step; None if none is.

        Args:
            like: abstract state; its shardings decide where the arrays go, so a run
                may continue on another mesh.

        A checkpoint that cannot be read is set aside, with a warning, and the one
        before it is taken.

        Raises:
            UserError: a checkpoint of another model or optimizer, or none is readable.
        """
        steps = available(self.directory)
        for step in reversed(steps):
            try:
                return self._restore(step, like), step
            except errors.UserError:
                raise
            except Exception as error:
                logging.warning("checkpoint %d is unreadable: %s", step, _reason(error))
        if steps:
            raise errors.UserError(
                f"no checkpoint under {self.directory} can be read (steps {steps}); "
                "restore the files from a copy, or start again in another --workdir"
            )
        return None

    def _restore(self, step: int, like: TrainState) -> TrainState:
        folder = self.directory / str(step)
        items = _items(like)
        lines = [
            line
            for item, target in items.items()
            for line in _differences(folder, item, target)
        ]
        if lines:
            raise errors.UserError(
                errors.listing(
                    f"{folder} holds another model or optimizer than this run:",
                    lines,
                    "use the config it was written with, another --workdir, or start "
                    f"from its weights: --config.init_from={folder}",
                )
            )
        return _state({i: read_item(folder, i, t) for i, t in items.items()}, like)

    def set_aside_after(self, step: int) -> None:
        """Moves what is newer than `step` (unreadable, half written) out of the way."""
        if jax.process_index() != 0 or not self.directory.is_dir():
            return
        for path in self.directory.iterdir():
            if path.name.isdigit() and int(path.name) > step:
                target = self.workdir / UNREADABLE / path.name
                shutil.rmtree(target, ignore_errors=True)
                target.parent.mkdir(exist_ok=True)
                path.rename(target)
                logging.warning("moved the unreadable %s to %s", path, target)

    def close(self) -> None:
        """Waits for the writes under way.

        Raises:
            UserError: one of them failed.
        """
        if self._manager is not None:
            with _clear_write_errors(self.directory):
                self._manager.wait_until_finished()
                self._manager.check_for_errors()
            self._manager.close()
            self._manager = None


def find(path: str | Path) -> Path | None:
    """The folder of one checkpoint: `path` itself, or the newest in a workdir."""
    path = Path(path)
    if (path / "description" / "metadata").is_file():
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
            metadata = _handler().metadata(self._item.absolute()).tree
            leaves = tree.named_leaves(_plain_metadata(metadata))
        self.shapes = {name: tuple(leaf.shape) for name, leaf in leaves}

    def read(self, name: str) -> np.ndarray:
        """Returns one leaf."""
        as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
        restore = ocp.args.PyTreeRestore(
            item=tree.from_named({name: jax.ShapeDtypeStruct((), np.float32)}),
            restore_args=tree.from_named({name: as_numpy}),
            partial_restore=True,
        )
        with self._readable(), ocp.Checkpointer(_handler()) as checkpointer:
            restored = checkpointer.restore(self._item.absolute(), restore)
        return dict(tree.named_leaves(restored))[name]

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise errors.UserError(
                f"the arrays of {self._item.parent} cannot be read, the checkpoint is "
                f"truncated or damaged: {_reason(error)}\n"
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
    handlers = {"params": _handler(), "description": ocp.JsonCheckpointHandler()}
    composite = ocp.CompositeCheckpointHandler(**handlers)
    try:
        with ocp.Checkpointer(composite) as checkpointer:
            checkpointer.save(path, args=args)
    except Exception as error:  # orbax passes on whatever its backends raise
        raise errors.UserError(
            f"{path} could not be written: {_reason(error)}"
        ) from error


def read_params(path: str | Path) -> tuple[dict[str, Any], Description]:
    """Reads all of `StoredParams` as nested dicts of numpy arrays; errors as there."""
    stored = StoredParams(path)
    leaves = {name: stored.read(name) for name in stored.shapes}
    return tree.from_named(leaves), stored.description
