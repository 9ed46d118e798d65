"""Saves the states of a run, and finds the newest that can be read."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from vit_jax import errors, tree
from vit_jax.checkpoints import checkpoint
from vit_jax.host import files
from vit_jax.types import TrainState

UNREADABLE = "unreadable-checkpoints"


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


def _differences(folder: Path, item: str, target: Any) -> list[str]:
    """One line for each leaf whose name or shape on disk is not the target's."""
    stored = {
        name: tuple(leaf.shape)
        for name, leaf in tree.named_leaves(checkpoint.plain_metadata(folder / item))
    }
    wanted = {name: tuple(leaf.shape) for name, leaf in tree.named_leaves(target)}
    return [
        f"{item}/{name}: checkpoint {stored.get(name, 'has none')}, "
        f"this run {wanted.get(name, 'has none')}"
        for name in sorted(stored | wanted)
        if stored.get(name) != wanted.get(name)
    ]


def _free(directory: Path) -> str:
    if files.address(directory):
        return ""
    return f" ({shutil.disk_usage(directory).free / 2**20:,.0f} MiB free there)"


@contextmanager
def _clear_write_errors(directory: Path) -> Iterator[None]:
    """Turns a failed write into one error that says what is still good."""
    try:
        yield
    except Exception as error:  # orbax passes on whatever its backends raise
        good = checkpoint.available(directory)
        kept = f"step {good[-1]}" if good else "none"
        reason = checkpoint.reason(error)
        raise errors.UserError(
            f"a checkpoint could not be written to {directory}{_free(directory)}: "
            f"{reason}\n"
            f"newest good checkpoint: {kept}; free some space or mend the folder, then "
            "run the same command again: it goes on from there"
        ) from error


class Checkpoints:
    """Saves and restores the training state of one workdir.

    Saving is asynchronous: `save` returns when the arrays are copied to the host, and
    an error of a write shows at the next `save` or `close`.
    """

    def __init__(self, workdir: Path, *, keep: int = 2):
        self.workdir = workdir
        self.directory = files.absolute(workdir / checkpoint.FOLDER)
        self._keep = keep
        self._manager: ocp.CheckpointManager | None = None

    def _open(self) -> ocp.CheckpointManager:
        """Opens the writer, only once there is something to write."""
        if self._manager is None:
            handlers = {
                item: checkpoint.handler() for item in ("params", "ema", "optimizer")
            }
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

    def save(self, state: TrainState, description: checkpoint.Description) -> None:
        """Starts writing `state` as the checkpoint of `description.step`.

        Raises:
            UserError: this or the previous write failed (no space left, read-only).
        """
        args: dict[str, Any] = {
            name: ocp.args.PyTreeSave(item) for name, item in _items(state).items()
        }
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
        """Returns the newest step that was written to the end, or None."""
        steps = checkpoint.available(self.directory)
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
        steps = checkpoint.available(self.directory)
        for step in reversed(steps):
            try:
                return self._restore(step, like), step
            except errors.UserError:
                raise
            except Exception as error:
                logging.warning(
                    "checkpoint %d is unreadable: %s", step, checkpoint.reason(error)
                )
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
        return _state(
            {i: checkpoint.read_item(folder, i, t) for i, t in items.items()}, like
        )

    def set_aside_after(self, step: int) -> None:
        """Moves what is newer than `step` (unreadable, half written) out of the way."""
        if jax.process_index() != 0 or not self.directory.is_dir():
            return
        for path in self.directory.iterdir():
            if path.name.isdigit() and int(path.name) > step:
                if files.address(path) and not checkpoint.is_whole(path):
                    continue  # the rest of a save that orbax removes before the next
                target = self.workdir / UNREADABLE / path.name
                files.move_over(path, target)
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
