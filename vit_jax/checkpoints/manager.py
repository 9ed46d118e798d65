"""Saves the states of a run, and restores the newest that verifies."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from vit_jax import errors, tree
from vit_jax.checkpoints import agreement, checkpoint, digest, disk, record, verify
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


def _leaves(items: dict[str, Any]) -> dict[str, Any]:
    """All leaves by name, with the item in front."""
    return {
        f"{item}/{name}": leaf
        for item, nested in items.items()
        for name, leaf in tree.named_leaves(nested)
    }


def _none_written() -> futures.Future[None]:
    ended: futures.Future[None] = futures.Future()
    ended.set_result(None)
    return ended


def _await(manager: ocp.CheckpointManager, ended: futures.Future[None]) -> None:
    """Waits for a write: orbax raises its error once, in whichever thread asks."""
    try:
        manager.wait_until_finished()
        manager.check_for_errors()
        ended.set_result(None)
    except Exception as error:
        ended.set_exception(error)


def _agreed(step: int, answers: list[list[str]]) -> str:
    """Why no process may take a step, "" where all have read the same.

    Args:
        step: Which.
        answers: Of each process: "seal", "damaged" or "refused", and the seal or why.

    Raises:
        UserError: one refuses it, or they have read different ones.
    """
    whys = {}
    for index, (kind, said) in enumerate(answers):
        if kind == "refused":
            raise errors.UserError(said)
        if kind == "damaged":
            whys[index] = said
    if whys:
        index, why = next(iter(whys.items()))
        who = "" if len(whys) == len(answers) else f"process {index} says that "
        return who + why
    if len({seal for _, seal in answers}) > 1:
        raise errors.UserError(
            f"the processes read different checkpoints of step {step}; want one folder "
            "that all of them see: --workdir=PATH"
        )
    return ""


class Checkpoints:
    """Saves and restores the training state of one workdir.

    Saving is asynchronous: `save` returns when the arrays are copied to the host, and
    an error of a write shows at the next `check`, `save` or `close`.

    Attributes:
        workdir: The run's.
        directory: Where its steps are.
        pruning: Which of them orbax removes once another is written.
    """

    def __init__(self, workdir: Path, *, keep: int = 2):
        self.workdir = workdir
        self.directory = files.absolute(workdir / checkpoint.FOLDER)
        self.pruning: dict[str, Any] = {"max_to_keep": keep}
        self._manager: ocp.CheckpointManager | None = None
        self._preparing: threading.Thread | None = None
        self._written = _none_written()  # done when the last write has ended

    def prepare(self, like: TrainState) -> None:
        """Has what a save of such a state runs compiled beside the first steps."""
        leaves = _leaves(_items(like)).values()
        self._preparing = threading.Thread(target=digest.prepare, args=(leaves,))
        self._preparing.start()

    def _open(self) -> ocp.CheckpointManager:
        """Opens the writer, only once there is something to write."""
        if self._manager is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            handlers = {item: disk.handler() for item in ("params", "ema", "optimizer")}
            self._manager = ocp.CheckpointManager(
                self.directory,
                item_handlers=handlers | {"description": ocp.JsonCheckpointHandler()},
                options=ocp.CheckpointManagerOptions(
                    **self.pruning,
                    cleanup_tmp_directories=True,
                    save_root_metadata=False,
                ),
            )
        return self._manager

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns a failed write into one error; what comes next opens a new writer."""
        try:
            yield
        except jax.errors.JaxRuntimeError:
            raise  # a process is lost, which is no matter of the folder
        except Exception as error:  # orbax passes on whatever its backends raise
            from vit_jax.checkpoints import failing  # which few runs need

            failed, self._manager = self._manager, None
            self._written = _none_written()
            failing.leave(failed)
            raise failing.not_written(self.directory, error) from error

    def check(self) -> None:
        """Raises `StorageError` where a write that has ended failed; waits for none."""
        if self._written.done():
            self.wait()

    def wait(self) -> None:
        """Waits for the write under way; raises `StorageError` where it failed."""
        with self._writing():
            self._written.result()

    def save(self, state: TrainState, description: checkpoint.Description) -> None:
        """Starts writing `state` as the checkpoint of `description.step`.

        Raises:
            StorageError: this or the previous write failed (no space, read-only).
            NonFiniteError: a leaf is not finite; nothing is written.
        """
        items = _items(state)
        leaves = _leaves(items)
        sums = digest.on_device(leaves)
        if bad := [name for name, one in sums.items() if not one.finite]:
            from vit_jax.checkpoints import failing  # which few runs need

            raise failing.not_finite(self.directory, description.step, bad)
        known = {n: record.Leaf.of(leaves[n], one.digest) for n, one in sums.items()}
        args: dict[str, Any] = {
            name: ocp.args.PyTreeSave(item) for name, item in items.items()
        }
        args["description"] = ocp.args.JsonSave(
            record.sealed(description.to_dict(), known)
        )
        with self._writing():
            manager = self._open()
            self.directory.mkdir(exist_ok=True)  # in a workdir that must be there
            self._written.result()
            saved = manager.save(
                description.step, args=ocp.args.Composite(**args), force=True
            )
        assert saved, f"step {description.step} was already there"
        self._written = futures.Future()
        threading.Thread(
            target=_await, args=(manager, self._written), daemon=True
        ).start()

    def latest(self) -> int | None:
        """Returns the newest step that was committed, or None; process 0 says which.

        Its arrays are not looked at.
        """
        steps = disk.available(self.directory)
        return agreement.told(steps[-1] if steps else None)

    def verifies(self, step: int) -> bool:
        """Returns whether a step is what was saved; process 0 says so."""
        why = ""
        if jax.process_index() == 0:
            why = checkpoint.problem(self.directory / str(step))
        return not agreement.told(why)

    def restore(self, like: TrainState) -> tuple[TrainState, int] | None:
        """Returns the newest state that verifies, and its step; None if there is none.

        Process 0 chooses the step, and all take it or none does.

        Args:
            like: abstract state; its shardings decide where the arrays go, so a run
                may continue on another mesh.

        A warning names each checkpoint that does not verify, and why.

        Raises:
            UserError: a checkpoint of another model, optimizer or format, or none
                verifies.
        """
        bad: dict[int, str] = {}
        while (step := self._before(bad)) is not None:
            state, why = self._attempt(step, like)
            if state is not None:
                verify.say_taken(self.directory, bad, step)
                return state, step
            bad[step] = why
        if bad:
            raise verify.none_is_good(self.directory, bad)
        return None

    def _before(self, bad: dict[int, str]) -> int | None:
        """The newest step that was not tried; process 0 says which."""
        steps = [s for s in disk.available(self.directory) if s not in bad]
        return agreement.told(steps[-1] if steps else None)

    def _attempt(self, step: int, like: TrainState) -> tuple[TrainState | None, str]:
        """The state of a step, or what is wrong with it; the same on all processes."""
        folder, items, found = self.directory / str(step), None, None
        kind, said = "seal", ""
        try:
            items, found = self._read(folder, like)
            said = found.seal
        except record.Damaged as error:
            kind, said = "damaged", str(error)
        except errors.UserError as error:
            kind, said = "refused", str(error)
        why = _agreed(step, agreement.gathered([kind, said[:1500]]))
        if why or items is None or found is None:
            return None, why
        if found.leaves is None:
            verify.not_verified(folder)
            return _state(items, like), ""
        sums = {n: one.digest for n, one in digest.on_device(_leaves(items)).items()}
        wrong = [name for name, one in sums.items() if one != found.leaves[name].digest]
        if wrong:
            return None, str(verify.changed(wrong))
        return _state(items, like), ""

    def _read(
        self, folder: Path, like: TrainState
    ) -> tuple[dict[str, Any], record.Record]:
        """The items of a checkpoint on the devices, and its record.

        Raises:
            Damaged: it cannot be read, or is not what was saved as far as this shows.
            UserError: it is of another model, optimizer or format.
        """
        found = record.read(folder)
        checkpoint.Description.of(found)
        items = _items(like)
        there = verify.items(folder, found)
        for item in there:
            verify.check_shapes(folder, found, item)
        from vit_jax.checkpoints import differing  # which no new run needs

        if lines := differing.lines(folder, _leaves(items), there):
            raise errors.UserError(
                errors.listing(
                    f"{folder} holds another model or optimizer than this run:",
                    lines,
                    "use the config it was written with, another --workdir, or start "
                    f"from its weights: --config.init_from={folder}",
                )
            )
        for item in set(there) - set(items):  # what the run leaves behind
            verify.check_arrays(folder, found, item)
        for item, target in items.items():
            try:
                with verify.readable(item):
                    items[item] = disk.read_item(folder, item, target)
            except record.Damaged:
                verify.check_arrays(folder, found, item)  # it names the leaves
                raise
        return items, found

    def set_aside_after(self, step: int) -> None:
        """Moves what is newer than `step` (unreadable, half written) out of the way."""
        if jax.process_index() != 0 or not self.directory.is_dir():
            return
        for path in self.directory.iterdir():
            if (disk.step_of(path) or 0) > step:
                if files.address(path) and not disk.is_whole(path):
                    continue  # the rest of a save that orbax removes before the next
                target = self.workdir / UNREADABLE / path.name
                files.move_over(path, target)
                logging.warning("moved the unreadable %s to %s", path, target)

    def close(self) -> None:
        """Waits for the writes under way.

        Raises:
            StorageError: one of them failed.
        """
        if self._preparing is not None:
            self._preparing.join()
        self.wait()
        if self._manager is not None:
            self._manager.close()
            self._manager = None


def shared(workdir: Path, *, keep: int) -> Checkpoints:
    """Returns the checkpoints of a workdir that is the same folder for all processes.

    Raises:
        UserError: some process does not see what process 0 writes there.
    """
    agreement.check_shared(workdir)
    return Checkpoints(workdir, keep=keep)
