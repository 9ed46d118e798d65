"""Hostile values, files and folders, each answered by one short error.

A row is a command and its words; "{x}" in them is a path of `place`. `python
tests/chaos/hostile.py [WORD]` tries all rows (those with WORD in their name) in
processes that are replaced when one hangs or dies, and prints a table of what is wrong.
`tests/test_hostile.py` runs the same.
"""

import contextlib
import io
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
for folder in (HERE.parent, REPOSITORY):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import commands  # noqa: E402
from chaos import hostile_places  # noqa: E402

from vit_jax import cli, errors  # noqa: E402

SECONDS = 10.0  # of work, that an answer may take
WAITING = 40.0  # and all in all, on a machine that others use as well
LINES, LETTERS = 10, 4000  # of an answer
MEMORY = 6 << 30  # that an attempt may add

LONG = "x" * 5000
DEEP = "a/" * 2500 + "b"
RTL = "\u202egnp.a\u202c"
NOT_UTF8 = "\udcff\udcfe.jpg"

QUICK = f"--config={REPOSITORY}/configs/quickstart.py"
TINY = "--config.model.depth=1 --config.model.width=32 --config.total=1"
TRAIN = f"{QUICK} {TINY}"


class Row(NamedTuple):
    """What is tried.

    Attributes:
        command: Of `vit_jax`, or a function of `hostile_places.CALLS`.
        words: Behind it.
        codes: With which it may end; 0 where it may also be taken.
    """

    command: str
    words: tuple[str, ...]
    codes: tuple[int, ...] = (2,)


class Result(NamedTuple):
    """What came of a row: exit code, standard error, CPU time, new files."""

    code: int | str
    said: str
    seconds: float
    new: list[str]


def _rows() -> dict[str, Row]:
    from chaos import hostile_rows

    return hostile_rows.ROWS


class Hang(BaseException):
    """It took longer than `SECONDS`."""


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise Hang

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timers = {
        signal.SIGALRM: (signal.ITIMER_REAL, WAITING),
        signal.SIGPROF: (signal.ITIMER_PROF, seconds),
    }
    before = {number: signal.signal(number, stop) for number in timers}
    for timer, length in timers.values():
        signal.setitimer(timer, length)
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


@contextlib.contextmanager
def _heard() -> Iterator[io.TextIOWrapper]:
    """Standard error and the log as text, standard output as what a terminal takes."""
    said = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")
    shown = io.TextIOWrapper(io.BytesIO(), "utf-8", "strict")
    handler = logging.StreamHandler(said)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    handler.addFilter(lambda told: "unparse_flags" not in told.getMessage())
    handler.setFormatter(cli.Formatter())
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = shown, said
    try:
        yield said
        shown.flush()
    finally:
        sys.stdout, sys.stderr = out, err
        root.handlers[:] = before
        root.setLevel(level)


def files_of(place: Path) -> set[str]:
    """All that is below a folder, links not followed."""
    return {
        os.path.join(folder, name)
        for folder, folders, names in os.walk(place)
        for name in (*folders, *names)
    }


def attempt(row: Row, place: dict[str, str]) -> Result:
    """Runs a row in this process."""
    words = [_filled(word, place) for word in row.words]
    root = Path(place["root"])
    before = files_of(root)
    began = time.process_time()
    argv = sys.argv
    with _heard() as said:
        try:
            with _limited(SECONDS), contextlib.chdir(place["cwd"]):
                code = _call(row.command, words)
        except Hang:
            code = "hang"
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else str(end.code)
        except BaseException as error:
            import traceback

            frames = traceback.extract_tb(error.__traceback__)
            ours = [f for f in frames if "vit_jax" in f.filename] or frames
            where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
            code = f"{type(error).__name__} at {where}: {str(error)[:200]}"
        finally:
            sys.argv = argv
        said.flush()
        text = said.buffer.getvalue().decode()
    new = sorted(files_of(root) - before)
    for path in reversed(new):
        with contextlib.suppress(OSError):
            os.rmdir(path) if os.path.isdir(path) else os.unlink(path)
    return Result(code, text, time.process_time() - began, new)


def _filled(word: str, place: dict[str, str]) -> str:
    for name, path in place.items():
        word = word.replace("{" + name + "}", path)
    return word


def _call(command: str, words: list[str]) -> int:
    if command in hostile_places.CALLS:
        return cli.guard(lambda: hostile_places.CALLS[command](*words))
    sys.argv = [command, *words]
    rest: list[str] = []
    with commands.own_flags(command) as module:
        parse = {
            "sweep": lambda argv: module._parse(argv),
            "push": lambda argv: module._parse(argv),
        }.get(command, lambda argv: commands.parse(command, argv))
        if code := cli.guard(lambda: rest.extend(parse([command, *words]))):
            return code
        return cli.guard(module._main, rest)


def faults(row: Row, result: Result) -> list[str]:
    """What is wrong with an answer."""
    found = []
    if result.code not in row.codes:
        found.append(f"ends with {result.code!r}")
    if result.seconds > SECONDS:
        found.append(f"took {result.seconds:.1f} s")
    if "Traceback (most" in result.said:
        found.append("a traceback")
    if result.code == errors.EXIT_BAD_INPUT:
        _, mark, message = result.said.rpartition("error: ")
        if not mark and row.command != "predict":
            found.append("no error")
        if len(message.splitlines()) > LINES:
            found.append(f"{len(message.splitlines())} lines")
        if len(message) > LETTERS:
            found.append(f"{len(message)} letters")
        if any(ord(letter) < 32 and letter != "\n" for letter in message):
            found.append("control characters")
        if result.new:
            found.append(f"wrote {result.new[:3]}")
    if any("executed" in name for name in result.new):
        found.append("ran code")
    return found


def _child(names: list[str], out: Any) -> None:
    """Tries rows, and says a line of JSON after each."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
    with tempfile.TemporaryDirectory() as folder:
        place = hostile_places.make(Path(folder))
        os.environ["TMPDIR"] = tempfile.tempdir = place["tmp"]
        used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
        limit = used + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        rows = _rows()
        print("ready", file=out, flush=True)
        for name in names:
            result = attempt(rows[name], place)
            print(
                json.dumps([name, faults(rows[name], result), result]),
                file=out,
                flush=True,
            )
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        hostile_places.unmake(place)


def run_all(names: list[str], tell: Callable[[str], None]) -> dict[str, list[str]]:
    """Tries rows in processes of their own; returns the faults of each."""
    found: dict[str, list[str]] = {}
    rows = _rows()
    while left := [name for name in names if name not in found]:
        numbers = [str(list(rows).index(name)) for name in left]
        command = [sys.executable, __file__, "--child", *numbers]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child:
            last = [time.monotonic() + 60]  # the first imports everything
            over = threading.Event()

            def watch(child=child, last=last, over=over) -> None:
                while not over.wait(0.5):
                    if time.monotonic() > last[0] + 2 * WAITING:
                        child.kill()
                        return

            threading.Thread(target=watch, daemon=True).start()
            assert child.stdout is not None
            heard = False
            for line in child.stdout:
                heard = True
                if not line.startswith('["'):
                    continue
                name, wrong, result = json.loads(line)
                found[name] = wrong
                last[0] = time.monotonic()
                for fault in wrong:
                    shown = result[1][-1500:].rstrip().splitlines()
                    tell(f"{name}: {fault}\n    " + "\n    ".join(shown[-12:]))
            over.set()
            if not heard:
                raise SystemExit(child.stderr.read() if child.stderr else "")
            said = child.stderr.read() if child.stderr else ""
        if rest := [name for name in names if name not in found]:
            found[rest[0]] = [f"the process ended with {child.returncode}"]
            tell(f"{rest[0]}: {found[rest[0]][0]}\n{said[-1500:]}")
    return found


def main() -> int:
    """Tries all rows, or those whose names hold a word."""
    if sys.argv[1:2] == ["--child"]:
        rows = list(_rows())
        _child(
            [rows[int(number)] for number in sys.argv[2:]], os.fdopen(os.dup(1), "w")
        )
        return 0
    word = sys.argv[1] if sys.argv[1:] else ""
    names = [name for name in _rows() if word in name]
    found = run_all(names, print)
    wrong = sum(map(bool, found.values()))
    print(f"{len(found)} hostile inputs, {wrong} with faults")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
