"""Writers whose lines wait in memory while they cannot be written."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vit_jax.runs import writers as writers_lib
from vit_jax.runs.writers import jsonl


class Patient:
    """A writer that may fail and come back, and the lines that it has not written.

    Args:
        open_: Opens it, given the step of the last line that it has written.
        start: That step, at first.
        rereads: A new one takes the lines of this one, metrics.jsonl, by itself.
    """

    def __init__(
        self,
        open_: Callable[[int], writers_lib.Writer],
        start: int,
        rereads: "Patient | None" = None,
    ):
        self._open, self._rereads, self._last = open_, rereads, start
        self.writer: writers_lib.Writer | None = open_(start)
        self.waiting: list[tuple[int, Mapping[str, Any]]] = []

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Writes a line, after those that wait.

        Raises:
            OSError: It cannot, and the line waits.
        """
        self.waiting.append((step, figures))
        self.again()

    def again(self) -> None:
        """Writes what waits; raises `OSError` where it cannot."""
        if self._rereads is not None and self._rereads.waiting:
            return
        try:
            if self._rereads is not None and len(self.waiting) > 1:
                self._leave()  # the lines that it missed are in metrics.jsonl by now
            if self.writer is None:
                self.writer = self._open(self._last)
                if self._rereads is not None:
                    self.waiting = []
            while self.waiting:
                self.writer.write(*self.waiting[0])
                self._last = self.waiting.pop(0)[0]
        except OSError:
            if not isinstance(self.writer, jsonl.Jsonl):  # that has written nothing
                self._leave()
            raise

    def make_again(self) -> None:
        """Begins anew in a folder that is: metrics.jsonl with all that it had."""
        if isinstance(self.writer, jsonl.Jsonl):
            self.writer.make_again()
        else:
            self._leave()

    def _leave(self) -> None:
        left, self.writer = self.writer, None
        if left is not None:
            with contextlib.suppress(OSError):
                left.close()

    def close(self) -> None:
        """Ends the writing."""
        if self.writer is not None:
            self.writer.close()


class Writers(writers_lib.Writers):
    """Writers whose lines wait where they cannot be written.

    Attributes:
        trouble: What went wrong with the last line; None: all is written.
    """

    trouble: OSError | None = None

    def _opened(
        self, row: writers_lib.Row, target: writers_lib.Target
    ) -> writers_lib.Writer:
        def opened(step: int) -> writers_lib.Writer:
            return row.open(dataclasses.replace(target, start_step=step))

        lines = self._patient()[0] if row.rereads else None
        return Patient(opened, target.start_step, lines)

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Writes figures by name, or has them wait."""
        self.trouble = None
        for writer in self._writers:
            with self._remembered():
                writer.write(int(step), dict(figures))
        if self._copied is not None:
            with self._remembered():
                self._copied.now_and_then()

    def keep(self) -> None:
        """Writes what waits, if it can, and has it outlast this process."""
        self.trouble = None
        for writer in self._patient():
            with self._remembered():
                writer.again()
        if self._copied is not None:
            with self._remembered():
                self._copied.now()

    def waiting(self) -> int:
        """Returns how many lines are not written."""
        return max((len(one.waiting) for one in self._patient()), default=0)

    def make_again(self) -> None:
        """Begins anew in a workdir that was gone, with the lines of metrics.jsonl."""
        for one in self._patient():
            one.make_again()

    def close(self) -> None:
        """Writes what waits and closes all.

        Raises:
            StorageError: It cannot be written.
        """
        self.keep()
        if self.trouble is not None:
            raise writers_lib.failed(self._path, self.trouble) from self.trouble
        super().close()

    def _patient(self) -> list[Patient]:
        return [one for one in self._writers if isinstance(one, Patient)]

    @contextlib.contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.trouble = error
