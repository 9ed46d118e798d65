"""What a run does where its files cannot be written: it ends, or goes on.

With --on_storage_error=continue lines of metrics wait until they can be written, see
`writers.patient`. A checkpoint that could not be written is left out, and the next one
is tried at its step. Every log line says what is not on disk, and the run ends with an
error where that is its end.
"""

import contextlib
import errno
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from vit_jax import errors
from vit_jax.checkpoints import agreement, disk, failing, manager
from vit_jax.host import files
from vit_jax.runs import workdir as workdir_lib
from vit_jax.runs import writers as writers_lib
from vit_jax.runs.writers import patient


def _why(error: BaseException | None) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return errors.reason(error)


class Storage:
    """The files of a run, whose errors end it.

    Attributes:
        writer: Of its metrics.

    Args:
        workdir: Of the run.
        config: Of the run, a record.
        checkpoints: Of the workdir.
        writer: Of its metrics.
    """

    def __init__(
        self,
        workdir: Path,
        config: Mapping[str, Any],
        checkpoints: manager.Checkpoints,
        writer: writers_lib.Writers,
    ):
        self.writer = writer
        self._workdir, self._config = workdir, config
        self._checkpoints = checkpoints

    def look(self, saved: int, following: int) -> None:
        """Looks, with each log line, whether a write has failed meanwhile.

        Args:
            saved: The step whose write was the last to begin.
            following: The step that is saved next.

        Raises:
            StorageError: It has.
        """
        del saved, following
        self._checkpoints.check()

    def saves(self, step: int, before: int, begin: Callable[[], None]) -> bool:
        """Saves, and returns whether the write has begun.

        Args:
            step: What is saved.
            before: The step that was saved before, whose write ends first.
            begin: Begins the write.

        Raises:
            StorageError: This write, or the one before, has failed.
        """
        del step, before
        begin()
        return True

    def check(self) -> None:
        """Raises `StorageError` where the last checkpoint that was due is missing."""


class Lasting(Storage):
    """The files of a run that goes on without those that cannot be written."""

    writer: patient.Writers

    def __init__(self, *args: Any):
        super().__init__(*args)
        away = files.address(self._workdir)
        self._device = 0 if away else os.stat(self._workdir).st_dev
        self._trouble: errors.StorageError | None = None
        self._missed = 0  # the last step that was not saved

    def _failed(self, step: int, error: errors.StorageError) -> None:
        self._trouble, self._missed = error, step
        if jax.process_index() == 0:
            logging.warning("step %d is not saved: %s", step, error)

    def saves(self, step: int, before: int, begin: Callable[[], None]) -> bool:
        """Saves, and returns whether the write has begun."""
        try:
            self._checkpoints.wait()
        except errors.StorageError as error:
            self._failed(before, error)
        try:
            self._prepare()
            begin()
        except errors.StorageError as error:
            self._failed(step, error)
            return False
        return True

    def _prepare(self) -> None:
        """Has a folder that all processes can write to, or none of them writes."""
        why = (0, "")
        try:
            if jax.process_index() == 0 and not files.address(self._workdir):
                self._make_workdir()
            if jax.process_count() > 1:
                # What one of them finds out while it writes, the others wait for.
                self._try_to_write()
        except OSError as error:
            why = (error.errno or errno.EIO, (error.strerror or str(error))[:300])
        for index, (number, found) in enumerate(agreement.gathered(why)):
            if found:
                process = f"process {index}: " if jax.process_count() > 1 else ""
                told = OSError(number, f"{process}{found}")
                where = self._checkpoints.directory
                raise failing.not_written(where, told) from told

    def _make_workdir(self) -> None:
        """Makes a workdir that is gone, on the file system where it was."""
        if self._workdir.is_dir():
            return
        above = next(path for path in self._workdir.parents if path.exists())
        if os.stat(above).st_dev != self._device:
            raise OSError(errno.ENOENT, f"{self._workdir} is gone, with what it was on")
        self._workdir.mkdir(parents=True)
        text = json.dumps(self._config, indent=2)
        files.write_whole(self._workdir / workdir_lib.CONFIG, text)
        self.writer.make_again()
        logging.warning("%s was gone, and is made again", self._workdir)

    def _try_to_write(self) -> None:
        if files.address(self._workdir):
            return
        mine = self._workdir / f".storage-{jax.process_index()}"
        files.write_whole(mine, bytes(1 << 16))
        mine.unlink()

    def look(self, saved: int, following: int) -> None:
        """Says what is not on disk."""
        try:
            self._checkpoints.check()
        except errors.StorageError as error:
            self._failed(saved, error)
        if jax.process_index() == 0 and (said := self._said(following)):
            logging.warning("%s", said)

    def _said(self, following: int) -> str:
        parts = []
        if (trouble := self._stands()) is not None:
            parts = [f"step {self._missed} ({_why(trouble.__cause__ or trouble)})"]
        if waiting := self.writer.waiting():
            why = _why(self.writer.trouble or trouble)
            parts.append(f"the last {waiting} lines of metrics ({why})")
        if not parts:
            return ""
        good = failing.good(self._checkpoints.directory)
        return (
            f"NOT SAVED: {' and '.join(parts)}; newest good checkpoint: {good}; tried "
            f"again at step {following}"
        )

    def check(self) -> None:
        """Raises what happened to a checkpoint, unless one since then is there."""
        if (trouble := self._stands()) is not None:
            raise trouble

    def _stands(self) -> errors.StorageError | None:
        if self._trouble is not None:
            with contextlib.suppress(OSError):
                newest = [-1, *disk.available(self._checkpoints.directory)][-1]
                if newest >= self._missed:
                    self._trouble = None
        return self._trouble


def of_run(
    workdir: Path,
    config: Mapping[str, Any],
    checkpoints: manager.Checkpoints,
    names: Sequence[str],
    start: int,
    *,
    policy: str,
) -> Storage:
    """Opens the files of a run.

    Args:
        workdir: Of the run.
        config: Of the run, a record.
        checkpoints: Of the workdir.
        names: Of its writers.
        start: Updates done in the checkpoint that it continues.
        policy: A key of `POLICIES`.

    Raises:
        UserError: A file cannot be written.
    """
    kind, made = POLICIES[policy]
    first = jax.process_index() == 0
    writer = made(workdir, names, start_step=start, config=config, enabled=first)
    return kind(workdir, config, checkpoints, writer)


# By the value of --on_storage_error.
POLICIES = {
    "stop": (Storage, writers_lib.Writers),
    "continue": (Lasting, patient.Writers),
}
