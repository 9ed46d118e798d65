"""A terminal that somebody watches: bars and tables, drawn by rich."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from absl import logging as absl_logging
from rich import box, progress_bar
from rich import progress as rich_progress
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

STYLES = {"ok": "green", "warning": "yellow", "fails": "red", "failed": "red"}
BAR = 40  # columns
_bars: "Bars | None" = None


class Bars(rich_progress.Progress):
    """A bar for each thing under way, and below it what there is to say of it."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yields a line or two for each."""
        for task in self.tasks:
            bar = progress_bar.ProgressBar(task.total, task.completed, width=BAR)
            count = f"{task.completed:,.0f}/{task.total:,.0f}"
            grid = Table.grid(padding=(0, 1))
            grid.add_row(Text(task.description), bar, Text(count))
            yield grid
            if text := task.fields["text"] or _pace(task):
                yield Text(f"  {text}", style="dim")


def _pace(task: rich_progress.Task) -> str:
    """What is known of a task that says nothing itself."""
    left = task.time_remaining
    if task.speed is None or left is None:
        return ""
    return f"{task.speed:,.4g} a second | eta {left:.0f}s"


def console(stream: TextIO) -> Console:
    """Returns what draws on a stream; texts are shown as they are."""
    return Console(file=stream, highlight=False, markup=False, emoji=False)


@contextlib.contextmanager
def _drawn() -> Iterator[Bars]:
    """The bars of this process; lines of the log go above them."""
    global _bars
    handler, stream = absl_logging.get_absl_handler().python_handler, sys.stderr
    bars = Bars(
        console=console(stream), refresh_per_second=4, redirect_stdout=False
    )  # standard output has the figures, and may be a file
    with bars:
        # A process that is killed leaves the cursor as it is.
        bars.console.show_cursor(True)
        _bars, before = bars, handler.stream
        handler.stream = sys.stderr if before is stream else before
        try:
            yield bars
        finally:
            _bars, handler.stream = None, before


@contextlib.contextmanager
def progress(what: str, total: int, done: int) -> Iterator[Callable[..., None]]:
    """Draws a bar until the end; one inside another is taken away then.

    What it yields is a `cli.Tell`.
    """
    outer = contextlib.nullcontext(_bars) if _bars is not None else _drawn()
    with outer as bars:
        task = bars.add_task(what, total=total, completed=done, text="")

        def tell(done: int, text: str = "") -> None:
            fields: dict[str, Any] = {"text": text} if text else {}
            bars.update(task, completed=done, **fields)

        try:
            yield tell
        finally:
            if len(bars.tasks) > 1:
                bars.remove_task(task)


def _is_number(cell: str) -> bool:
    return cell in ("", "-") or cell.lstrip("-")[:1].isdigit()


def show(lines: Sequence[Sequence[str]], stream: TextIO, *, title: str = "") -> None:
    """Draws a table, its first line the headings; numbers stand to the right."""
    heads, *rows = lines
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left")
    for head, cells in zip(heads, zip(*rows), strict=True):
        table.add_column(Text(head), overflow="fold")
        if all(map(_is_number, cells)):
            table.columns[-1].justify = "right"
    for row in rows:
        table.add_row(*(Text(cell, STYLES.get(cell, "")) for cell in row))
    console(stream).print(table)
