"""TensorBoard's files, in `tensorboard/` of the workdir."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The synchronous half of tensorboardX: its SummaryWriter writes in a thread, which dies
# of a full disk and leaves the training loop waiting for ever.
from tensorboardX import event_file_writer
from tensorboardX.proto import event_pb2, summary_pb2

from vit_jax.runs import metrics

FOLDER = "tensorboard"


class Events:
    """Writes scalars, each at once."""

    def __init__(self, workdir: str | os.PathLike, *, start_step: int):
        """Opens a new file.

        Args:
            workdir: Its folder `tensorboard` is made where it is missing.
            start_step: TensorBoard forgets what earlier files hold after it.
        """
        folder = Path(workdir) / FOLDER
        folder.mkdir(exist_ok=True)
        suffix = f".{os.getpid()}.{time.time_ns()}"
        self._events = event_file_writer.EventsWriter(str(folder / "events"), suffix)
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        step = start_step + 1 if start_step else 0
        self._events.write_event(
            event_pb2.Event(wall_time=time.time(), step=step, session_log=start)
        )

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Writes one event with all figures."""
        scalars = [
            summary_pb2.Summary.Value(tag=name, simple_value=float(value))
            for name, value in figures.items()
            if name != metrics.WALL_TIME  # an event has its own, no 32 bits hold it
        ]
        self._events.write_event(
            event_pb2.Event(
                wall_time=time.time(),
                step=step,
                summary=summary_pb2.Summary(value=scalars),
            )
        )
        self._events.flush()

    def close(self) -> None:
        """Closes the file."""
        self._events.close()
