"""A service that shows figures: a thread hands them over, so that no run waits for it.

What a service has is a copy of metrics.jsonl up to a mark, which lies in the workdir
with the service's name of the run. A run that goes on begins behind the mark: what the
service missed is sent, and what it has is not sent again.
"""

import json
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from vit_jax import errors
from vit_jax.host import files as host_files
from vit_jax.runs import metrics
from vit_jax.settings import documents

CLOSING = 60.0  # seconds that the end of a run waits for a service


class Client(Protocol):
    """A run at a service, opened.

    Attributes:
        run_id: What the service calls the run.
    """

    run_id: str

    def send(
        self, step: int, figures: Mapping[str, float], when: Mapping[str, float]
    ) -> None:
        """Hands over finite numbers by name; `when`: the wall time, and the epoch."""

    def close(self) -> None:
        """Hands over what is left, and ends the run there."""


class Mark:
    """Up to where a service has the figures of a run, in a file of the workdir."""

    def __init__(self, path: Path):
        """Reads the file, where there is one."""
        self._path = path
        kinds: documents.Kinds = {
            "run_id": (str, type(None)),
            "step": int,
            "names": list,
        }
        known = documents.checked(documents.read(path), kinds) if path.exists() else {}
        self.run_id: str | None = known["run_id"] if known else None
        self._step: int = known["step"] if known else -1
        self._names: list[str] = known["names"] if known else []

    def unseen(self, step: int, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the figures that the service does not have yet."""
        if step < self._step:
            return {}
        seen = self._names if step == self._step else ()
        return {name: value for name, value in figures.items() if name not in seen}

    def move(self, run_id: str, step: int, names: list[str]) -> None:
        """Notes that the service has these figures of a step."""
        before = self._names if step == self._step else []
        self.run_id, self._step, self._names = run_id, step, [*before, *names]
        known = {"run_id": run_id, "step": step, "names": self._names}
        host_files.write_whole(self._path, json.dumps(known))


class Service:
    """Writes to a service; whatever fails there is one warning, and the run goes on."""

    def __init__(
        self,
        name: str,
        workdir: Path,
        connect: Callable[[str | None], Client],
    ):
        """Starts with what metrics.jsonl holds that the service does not.

        Args:
            name: Of the service, and of its file in the workdir.
            workdir: The folder of the run.
            connect: Opens the run of this name, a new one for None; in the thread.
        """
        self._name, self._connect = name, connect
        self._path = workdir / f"{name}.json"
        self._failed = False
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        for line in metrics.lines(workdir):
            self._lines.put(line)
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Leaves figures to the thread."""
        if not self._failed:
            numbers = {k: metrics.json_number(v) for k, v in figures.items()}
            self._lines.put({"step": step, **numbers})

    def close(self) -> None:
        """Waits for the thread, `CLOSING` seconds at most; a second call is none."""
        self._lines.put(None)
        self._thread.join(CLOSING)
        if self._thread.is_alive() and not self._failed:
            self._failed = True
            logging.warning(
                "%s has not taken all figures in %.0f s; they are in metrics.jsonl, "
                "and follow when this run goes on",
                *(self._name, CLOSING),
            )

    def _work(self) -> None:
        try:
            self._send_all()
        except Exception as error:  # of another's code: it may be anything
            self._failed = True
            logging.warning(
                "%s gets no more figures of this run: %s: %s. They are in "
                "metrics.jsonl, and follow when this run goes on",
                *(self._name, type(error).__name__, errors.reason(error)),
            )

    def _send_all(self) -> None:
        mark = Mark(self._path)
        client = self._connect(mark.run_id)
        for line in iter(self._lines.get, None):
            step, when = line.pop("step"), {metrics.WALL_TIME: time.time()}
            when |= {name: line.pop(name) for name in metrics.WHEN if name in line}
            new = mark.unseen(step, line)
            numbers = {
                name: float(value)
                for name, value in new.items()
                if value is not None and math.isfinite(value)
            }
            if numbers:
                client.send(step, numbers, when)
            if new:
                mark.move(client.run_id, step, list(new))
        client.close()
