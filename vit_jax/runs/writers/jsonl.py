"""metrics.jsonl: what a run has measured, and what a run that goes on reads."""

import contextlib
import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_jax.host import files as host_files
from vit_jax.runs import metrics


class Jsonl:
    """Writes figures of the run to metrics.jsonl, each line at once.

    The file holds one object a line: "step", then names and values; a value that is
    not finite is null. It is what a run that goes on reads.
    """

    def __init__(self, workdir: str | os.PathLike, *, start_step: int):
        """Opens the file and removes what was written after `start_step`.

        Args:
            workdir: folder, made where it is missing.
            start_step: updates done in the checkpoint that the run continues; lines
                with a later step go, so that nothing is there twice. 0 starts anew.
        """
        path = Path(workdir) / metrics.FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            found = metrics.lines(workdir) if start_step else []
            kept = [x for x in found if x["step"] <= start_step]
            text = "".join(json.dumps(x) + "\n" for x in kept)
            host_files.write_whole(path, text)
        self._path = path
        self._file = open(path, "ab+", buffering=0)

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Appends one line, or nothing of it; figures are numbers or scalar arrays.

        Raises:
            OSError: it cannot be written, or the file is gone.
        """
        numbers = {name: metrics.json_number(value) for name, value in figures.items()}
        line = (json.dumps({"step": int(step), **numbers}) + "\n").encode()
        self._find()
        end = os.fstat(self._file.fileno()).st_size
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise

    def _find(self) -> None:
        """Looks that the file is still at its place: an open one outlives its name."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            gone = "it is gone, removed or moved while the run had it open"
            raise FileNotFoundError(errno.ENOENT, gone) from None
        if not os.path.samestat(there, os.fstat(self._file.fileno())):
            self._file.close()  # somebody has written it anew
            self._file = open(self._path, "ab+", buffering=0)

    def make_again(self) -> None:
        """Writes the file anew where it is gone, from the open one; else nothing."""
        if not self._path.exists():
            size = os.fstat(self._file.fileno()).st_size
            written = host_files.read_at(self._file.fileno(), size, 0)
            host_files.write_whole(self._path, written)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
