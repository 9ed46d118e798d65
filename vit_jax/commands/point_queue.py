"""Runs of points, one after another, by as many processes as share a folder.

A point is done once: what is known of each stands in one file of the folder, whose
writers take turns, and the log of a point is locked while it runs. Locks are the
kernel's (`flock`), so nothing is left of a process that is gone; a file system that
has none takes one process at a time.
"""

import abc
import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

from vit_jax import cli, errors
from vit_jax.commands import sweep_table
from vit_jax.host import files as host_files
from vit_jax.host import turns

PROGRAM = (sys.executable, "-m", "vit_jax.main")
# A run must not outlive us: the next call would start it a second time.
IN_CHILD = cli.end_with_parent if sys.platform == "linux" else None
LONGEST_ERROR = 300
LONGEST_NAME = 120  # of a folder
POLL = 1.0  # seconds between looks at what other processes run
NEW = {
    **{"status": "waiting", "exit_code": None, "error": ""},
    **{"seconds": 0.0, "cpu_seconds": 0.0},
}


class Point(NamedTuple):
    """One run.

    Attributes:
        name: Of its folder.
        values: What sets it apart, for tables.
        arguments: Of the command that trains, without its workdir.
        module: That is run in the place of that command; "": none.
    """

    name: str
    values: dict[str, str]
    arguments: list[str]
    module: str = ""


def folder_name(text: str) -> str:
    """Returns a text as the name of a folder, cut where it is long."""
    name = re.sub(r"[^A-Za-z0-9_.=+-]+", "-", text)
    if len(name) > LONGEST_NAME:
        return f"{name[:100]}-{hashlib.sha1(name.encode()).hexdigest()[:12]}"
    return name


def command(point: Point, workdir: Path, program: Sequence[str] = PROGRAM) -> list[str]:
    """Returns the words that train a point."""
    if point.module:
        program = (sys.executable, "-m", point.module)
    return [*program, *point.arguments, f"--workdir={workdir / point.name}"]


def show(points: Sequence[Point], workdir: Path) -> None:
    """Prints the commands that train points, one a line."""
    for point in points:
        print(shlex.join(command(point, workdir)))


def make(workdir: Path) -> None:
    """Makes the folder of a queue where it is not there, or raises `UserError`."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.UserError(f"--workdir={workdir}: {error.strerror}") from error


class Queue(abc.ABC):
    """The points of a folder and what is known of each; subclasses say which.

    Attributes:
        FILE: The file of the folder that has it.
        rows: What is known of each point, by its name.
    """

    FILE: ClassVar[str]

    def __init__(
        self, workdir: Path, *, retries: int, program: Sequence[str] = PROGRAM
    ):
        """Reads what is known.

        Args:
            workdir: The folder, which is there when `run` is called.
            retries: Starts after the first, of a point that ends with 42 or is killed.
            program: What trains.

        Raises:
            UserError: The folder is another queue's.
        """
        self._workdir, self._program, self._retries = workdir, program, retries
        self._child: subprocess.Popen | None = None
        self._stopped = False
        self._tried: set[str] = set()  # by us
        self._awaited: set[str] = set()  # of others, while we waited
        self._told: set[str] = set()
        self.rows: dict[str, dict[str, Any]] = {}
        self._refresh()

    @abc.abstractmethod
    def plan(self) -> Sequence[Point]:
        """Returns the points to run, as far as `rows` tells which these are."""

    @abc.abstractmethod
    def total(self) -> int:
        """Returns how many there will be."""

    @abc.abstractmethod
    def record(self) -> dict[str, Any]:
        """Returns what stands in the file beside the points."""

    @abc.abstractmethod
    def pages(self) -> dict[str, str]:
        """Returns other files of the folder, by name: tables for people."""

    def run(self) -> int:
        """Runs what is not done; returns 0, or the code of the first that failed.

        It ends early where a second run finds the same mistake and none is done.
        """
        codes = []
        with self._passing_on(), cli.progress("points", self.total()) as tell:
            while (found := self._next()) is not None:
                point, log = found
                names = [one.name for one in self.plan()]
                number, row = names.index(point.name) + 1, self.rows[point.name]
                if tell is not None:
                    tell(number - 1, point.name)
                where = f"{number} of {self.total()}: {point.name}"
                logging.info("%s, log in %s", where, log.name)
                self._tried.add(point.name)
                with log:
                    if code := self._run(point, row, log):
                        codes.append(code)
                    self._write(point.name)
                logging.info("%s %s", where, sweep_table.told(row))
                if self._is_hopeless(row):
                    logging.error(
                        "two runs found the same mistake and none is done: the others "
                        "wait; the same command runs them when it is mended"
                    )
                    break
            self._write()
        if self._stopped:
            return errors.EXIT_RETRY
        return codes[0] if codes else errors.EXIT_DONE

    def _next(self) -> tuple[Point, IO[str]] | None:
        """A point that nobody runs and its locked log; None: all are settled."""
        while not self._stopped:
            self._refresh()
            left = [point for point in self.plan() if not self._settled(point)]
            if not left:
                return None
            for point in left:
                log = open(self._workdir / f"{point.name}.log", "a")
                if _locked(log):
                    self._refresh()  # another may have had it meanwhile
                    if not self._settled(point):
                        return point, log
                else:
                    self._awaited.add(point.name)
                log.close()
            time.sleep(POLL)
        return None

    def _settled(self, point: Point) -> bool:
        status = self.rows[point.name]["status"]
        if status == "done" and point.name not in self._told | self._tried:
            self._told.add(point.name)
            logging.info("%s is done already", point.name)
        failed = status == "failed" and point.name in self._awaited
        return status == "done" or point.name in self._tried or failed

    def _run(self, point: Point, row: dict[str, Any], log: IO[str]) -> int:
        row |= {"status": "running", "error": ""}
        self._write(point.name)
        code, out, err = errors.EXIT_RETRY, "", ""
        for _ in range(1 + self._retries):
            began, spent = time.monotonic(), _cpu_seconds()
            code, out, err = self._start(point, log)
            row["seconds"] += round(time.monotonic() - began, 1)
            row["cpu_seconds"] += round(_cpu_seconds() - spent, 2)
            if self._stopped or not (code == errors.EXIT_RETRY or code < 0):
                break
        row["exit_code"] = code
        if code == errors.EXIT_DONE:
            try:
                figures = json.loads(out.splitlines()[-1])
                figures.pop("workdir")
            except (ValueError, IndexError, KeyError, AttributeError):
                row |= {"status": "failed", "error": "it printed no figures"}
                return errors.EXIT_BAD_INPUT
            row |= {"status": "done", "figures": figures}
        elif self._stopped:
            row["status"] = "stopped"
        else:
            row |= {"status": "failed", "error": _error(code, err)}
        return code

    def _is_hopeless(self, row: Mapping[str, Any]) -> bool:
        """Whether a run ended by a mistake as another did, and none is done."""
        if row["exit_code"] != errors.EXIT_BAD_INPUT:
            return False
        rows = self.rows.values()
        alike = [one for one in rows if one["error"] == row["error"]]
        return len(alike) > 1 and all(one["status"] != "done" for one in rows)

    def _start(self, point: Point, log: IO[str]) -> tuple[int, str, str]:
        """Runs a point's command to its end: its code, output, and what it said."""
        if self._stopped:
            return errors.EXIT_RETRY, "", ""
        began = os.fstat(log.fileno()).st_size
        self._child = subprocess.Popen(
            command(point, self._workdir, self._program),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            errors="replace",  # a library may say anything
            start_new_session=True,  # Ctrl-C reaches us alone, and we pass it on
            preexec_fn=IN_CHILD,
        )
        out, _ = self._child.communicate()
        with open(log.name, errors="replace") as said:
            said.seek(began)
            return self._child.returncode, out, said.read()

    def _refresh(self) -> None:
        """Takes in what other processes wrote, and points that are new.

        Raises:
            UserError: The folder is another queue's.
        """
        path = self._workdir / self.FILE
        with turns.turn(self._workdir):
            known = sweep_table.read(path) if path.exists() else []
        self.rows |= {row["name"]: row for row in known}
        for point in self.plan():
            row = self.rows.setdefault(
                point.name, {**point._asdict(), **NEW, "figures": {}}
            )
            if row["arguments"] != point.arguments:
                raise errors.UserError(
                    f"{self._workdir} has another sweep: {point.name} is "
                    f"{shlex.join(map(str, row['arguments']))} there, and "
                    f"{shlex.join(point.arguments)} here; want another --workdir"
                )

    def _write(self, *names: str) -> None:
        """Writes what is known, with the rows of these points as we have them."""
        path = self._workdir / self.FILE
        with turns.turn(self._workdir):
            if path.exists():
                theirs = {row["name"]: row for row in sweep_table.read(path)}
                ours = {name: self.rows[name] for name in names}
                self.rows = theirs | {
                    name: row for name, row in self.rows.items() if name not in theirs
                }
                self.rows |= ours
            record = {"points": list(self.rows.values()), **self.record()}
            texts = {self.FILE: json.dumps(record, indent=2), **self.pages()}
            for name, text in texts.items():
                host_files.write_whole(self._workdir / name, text)

    @contextlib.contextmanager
    def _passing_on(self) -> Iterator[None]:
        """Has a request to stop reach the run, which saves, and then end this."""

        def stop(number: int, frame: object) -> None:
            self._stopped = True
            if self._child is not None and self._child.poll() is None:
                self._child.send_signal(signal.SIGTERM)

        asked = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, stop) for number in asked}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _locked(file: IO[str]) -> bool:
    """Locks a file that its child holds as well; False: another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _cpu_seconds() -> float:
    """The CPU time of all runs that ended, the user's and the system's."""
    times = os.times()
    return times.children_user + times.children_system


def _error(code: int, said: str) -> str:
    """The error of a run in one line, from its log."""
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    _, found, text = said.rpartition("error: ")
    lines = text.splitlines() if found else said.splitlines()[-1:]
    return f"{how}: {' '.join(lines)[:LONGEST_ERROR]}".rstrip(": ")
