"""metrics.csv: the lines of metrics.jsonl as a table, for spreadsheets."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_jax.runs import metrics

FILE_NAME = "metrics.csv"


class Csv:
    """Keeps a row for each line of metrics.jsonl, and a column for each name there.

    A figure that a line does not have, or that is not finite, is an empty field.
    """

    def __init__(self, workdir: str | os.PathLike):
        """Makes the table of what metrics.jsonl holds already."""
        self._workdir = Path(workdir)
        self._make()

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Appends a row; a new name makes the table again with its column."""
        if not figures.keys() <= self._columns.keys():
            self._file.close()
            self._make()  # of metrics.jsonl, which has this line by now
            return
        numbers = {name: metrics.json_number(value) for name, value in figures.items()}
        self._rows.writerow({"step": step, **numbers})
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _make(self) -> None:
        lines = metrics.lines(self._workdir)
        self._columns = {"step": None} | {name: None for line in lines for name in line}
        path = self._workdir / FILE_NAME
        partial = path.with_suffix(".partial")
        self._file = open(partial, "w", newline="")
        self._rows = csv.DictWriter(self._file, self._columns, lineterminator="\n")
        self._rows.writeheader()
        self._rows.writerows(lines)
        self._file.flush()
        os.replace(partial, path)  # the file stays open under its new name
