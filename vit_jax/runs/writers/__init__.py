"""Where the figures of a run go: metrics.jsonl always, and `WRITERS` by name.

A row is functions that import the writer's file, so that a run loads what it writes
to alone. Writers of files end the run when they fail, since what is full or gone takes
its checkpoints next; those of services never do, see `service`.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax

from vit_jax import errors
from vit_jax.runs import metrics


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
    """

    open: Callable[[Target], Writer]
    check: Callable[[], None] = lambda: None


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


def _mlflow(target: Target) -> Writer:
    from vit_jax.runs.writers import mlflow_run

    return mlflow_run.writer(target.workdir, target.config)


def _check_mlflow() -> None:
    from vit_jax.runs.writers import mlflow_run

    mlflow_run.package()


WRITERS = {
    "tensorboard": Row(_tensorboard),
    "csv": Row(_csv),
    "wandb": Row(_wandb, _check_wandb),
    "mlflow": Row(_mlflow, _check_mlflow),
}


def check(names: Sequence[str]) -> None:
    """Raises `UserError` unless each name is a writer's that can work here."""
    for name in names:
        row = errors.lookup(WRITERS, name, "log.writers")
        if jax.process_index() == 0:
            row.check()


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
            workdir: A local or mounted folder, made where it is missing.
            names: Keys of `WRITERS`.
            start_step: Updates done in the checkpoint that the run continues; 0 starts
                the files anew.
            config: The run's configuration, for services that show it.
            enabled: False on every process but the first: nothing is written.

        Raises:
            UserError: A file cannot be written.
        """
        self._path = Path(workdir) / metrics.FILE_NAME
        self._writers: list[Writer] = []
        if enabled:
            target = Target(Path(workdir), start_step, config)
            with self._explained():
                self._writers.append(metrics.Jsonl(workdir, start_step=start_step))
                for name in names:
                    self._writers.append(WRITERS[name].open(target))

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Writes figures by name, numbers or scalar arrays.

        Raises:
            UserError: The disk is full or cannot be written.
        """
        with self._explained():
            for writer in self._writers:
                writer.write(int(step), figures)

    def close(self) -> None:
        """Closes all; a second call does nothing."""
        writers, self._writers = self._writers, []
        with self._explained():
            for writer in reversed(writers):  # metrics.jsonl is needed to the last
                writer.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writers = []
            raise errors.UserError(
                f"cannot write {self._path}: {error.strerror or error}. Free space or "
                "make the folder writable, then start the same command again: it "
                "continues from the last checkpoint. Or choose another workdir"
            ) from error
