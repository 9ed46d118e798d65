"""Where the figures of a run go: metrics.jsonl always, and `WRITERS` by name.

A row is functions that import the writer's file, so that a run loads what it writes
to alone. Writers of files end the run when they fail, since what is full or gone takes
its checkpoints next, or have their lines wait, see `storage`; those of services never
do, see `service`.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax

from vit_jax import errors
from vit_jax.host import files
from vit_jax.runs import metrics

if TYPE_CHECKING:
    from vit_jax.runs.writers import copied


class Writer(Protocol):
    """Takes the figures of a run."""

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Takes figures by name, numbers or scalar arrays; steps never go down."""

    def close(self) -> None:
        """Ends the writing."""


@dataclass(frozen=True)
class Target:
    """What a writer is opened for.

    Attributes:
        workdir: The folder of the run; metrics.jsonl there holds what was written up
            to `start_step` already.
        start_step: Updates done before. What was written after them comes again.
        config: The run's configuration, a record.
    """

    workdir: Path
    start_step: int
    config: Mapping[str, Any]


class Row(NamedTuple):
    """A row of `WRITERS`.

    Attributes:
        open: Starts the writer, on the first process.
        check: Raises `UserError` where it cannot work, before anything expensive.
        check_place: Raises `UserError` where it wants a workdir that lasts on this
            machine, which one in a bucket does not.
        rereads: A new one has the lines of metrics.jsonl at once.
    """

    open: Callable[[Target], Writer]
    check: Callable[[], None] = lambda: None
    check_place: Callable[[], None] = lambda: None
    rereads: bool = False


def _jsonl(target: Target) -> Writer:
    from vit_jax.runs.writers import jsonl

    return jsonl.Jsonl(target.workdir, start_step=target.start_step)


def _tensorboard(target: Target) -> Writer:
    from vit_jax.runs.writers import events

    return events.Events(target.workdir, start_step=target.start_step)


def _csv(target: Target) -> Writer:
    from vit_jax.runs.writers import csv_file

    return csv_file.Csv(target.workdir)


def _wandb(target: Target) -> Writer:
    from vit_jax.runs.writers import wandb_run

    return wandb_run.writer(target.workdir, target.config)


def _check_wandb() -> None:
    from vit_jax.runs.writers import wandb_run

    wandb_run.check()


def _check_wandb_place() -> None:
    from vit_jax.runs.writers import wandb_run

    wandb_run.check_place()


def _mlflow(target: Target) -> Writer:
    from vit_jax.runs.writers import mlflow_run

    return mlflow_run.writer(target.workdir, target.config)


def _check_mlflow() -> None:
    from vit_jax.runs.writers import mlflow_run

    mlflow_run.package()


def _check_mlflow_place() -> None:
    from vit_jax.runs.writers import mlflow_run

    mlflow_run.check_place()


_JSONL = Row(_jsonl)
WRITERS = {
    "tensorboard": Row(_tensorboard),
    "csv": Row(_csv, rereads=True),
    "wandb": Row(_wandb, _check_wandb, _check_wandb_place),
    "mlflow": Row(_mlflow, _check_mlflow, _check_mlflow_place),
}


def check(names: Sequence[str], workdir: str | os.PathLike = "") -> None:
    """Raises `UserError` unless each name is a writer's that can work here.

    Args:
        names: Keys of `WRITERS`.
        workdir: Of the run.
    """
    for name in names:
        row = errors.lookup(WRITERS, name, "log.writers")
        if jax.process_index() == 0:
            row.check()
            if files.address(workdir):
                row.check_place()


def failed(path: Path, error: OSError) -> errors.StorageError:
    """Returns the error that metrics.jsonl, or what goes with it, cannot be written."""
    from vit_jax.checkpoints import failing

    good = failing.good(path.parent / failing.FOLDER)
    return errors.StorageError(
        f"cannot write {path}: {error.strerror or error}\n"
        f"newest good checkpoint: {good}; free space or make the folder writable, then "
        "start the same command again: it continues from what is there. Or choose "
        "another workdir"
    )


class Writers:
    """Hands figures to metrics.jsonl, then to all that a run asks for."""

    def __init__(
        self,
        workdir: str | os.PathLike,
        names: Sequence[str],
        *,
        start_step: int,
        config: Mapping[str, Any],
        enabled: bool = True,
    ):
        """Opens them; figures of steps after `start_step` are removed from files.

        Args:
            workdir: The run's folder, made where it is missing.
            names: Keys of `WRITERS`.
            start_step: Updates done in the checkpoint that the run continues; 0 starts
                the files anew.
            config: The run's configuration, for services that show it.
            enabled: False on every process but the first: nothing is written.

        Raises:
            UserError: A file cannot be written.
        """
        folder = files.folder(workdir)
        self._path = folder / metrics.FILE_NAME
        self._writers: list[Writer] = []
        self._copied: copied.Copied | None = None
        if enabled:
            with self._explained():
                if files.address(workdir):
                    folder = self._copying(folder, names)
                target = Target(folder, start_step, config)
                for row in (_JSONL, *(WRITERS[name] for name in names)):
                    self._writers.append(self._opened(row, target))

    def _opened(self, row: Row, target: Target) -> Writer:
        return row.open(target)

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Writes figures by name, numbers or scalar arrays.

        Raises:
            UserError: The disk is full or cannot be written.
        """
        with self._explained():
            for writer in self._writers:
                writer.write(int(step), figures)
            if self._copied is not None:
                self._copied.now_and_then()

    def keep(self) -> None:
        """Returns when what was written outlasts this process.

        Raises:
            UserError: It cannot be written.
        """
        if self._copied is not None:
            with self._explained():
                self._copied.now()

    def close(self) -> None:
        """Closes all; a second call does nothing."""
        writers, self._writers = self._writers, []
        last, self._copied = self._copied, None
        with self._explained():
            for writer in reversed(writers):  # metrics.jsonl is needed to the last
                writer.close()
            if last is not None:
                last.close()

    def _copying(self, workdir: Path, names: Sequence[str]) -> Path:
        """Returns a folder of this machine to write to, copied to that in a bucket."""
        from vit_jax.runs.writers import copied

        read = [metrics.FILE_NAME, *(f"{name}.json" for name in names)]
        self._copied = copied.Copied(workdir, read)
        return self._copied.folder

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writers = []
            raise failed(self._path, error) from error
