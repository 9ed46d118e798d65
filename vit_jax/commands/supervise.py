"""`vit_jax supervise [--retries=N] [--pause=SECONDS] -- COMMAND ...`.

Runs a command again while it ends with 42 or is killed, by a signal or for memory, and
gives up after N restarts in a row without progress: a run that says "resuming at step
S" with a larger S than ever before starts the count anew. A run that stops answering is
killed. SIGTERM and Ctrl-C are passed on, and nothing is started after them. Its last
lines say where the time went; the run writes the same into metrics.jsonl.
"""

import argparse
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from vit_jax.runs import goodput

# Nothing here loads jax: it starts at once, and nothing that ends a run ends it.
DONE, RETRY = 0, 42
KILLED = 128  # and more: by a signal, as a shell or a guard of ours says it
GRACE = 45.0  # seconds for the others once one process has ended badly
LONGEST_PAUSE = 60.0
RESUMED = re.compile(rb"resuming at step (\d+)")
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Command(NamedTuple):
    """What to start: its words, what it adds to the environment, how lines begin."""

    words: Sequence[str]
    environ: Mapping[str, str]
    prefix: str


def outcome(codes: Sequence[int]) -> int:
    """Returns one code for all: what no retry mends before 42, 42 before 0."""
    final = [code for code in codes if 0 < code < KILLED and code != RETRY]
    if final:
        return final[0]
    return RETRY if any(codes) else DONE


def _end_with_us() -> None:
    """In a child: it is asked to stop, and saves, should this process be killed."""
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class Group:
    """Processes that live and end together.

    Attributes:
        resumed: The latest step that a run said it resumes at.
        seconds: From the start to the end of all.

    Args:
        commands: What to start.
        account: A file in which the first of them says where its time goes.
    """

    def __init__(self, commands: Sequence[Command], account: Path):
        self.resumed = 0
        self._account = account
        self._began = time.monotonic()
        self._processes = [
            subprocess.Popen(
                command.words,
                env=os.environ
                | dict(command.environ)
                | ({goodput.VARIABLE: str(account)} if index == 0 else {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches us alone, and we pass it on
                preexec_fn=_end_with_us,
            )
            for index, command in enumerate(commands)
        ]
        self._copies = [
            threading.Thread(target=self._copy, args=(source, target, command.prefix))
            for command, process in zip(commands, self._processes)
            for source, target in (
                (process.stdout, sys.stdout.buffer),
                (process.stderr, sys.stderr.buffer),
            )
        ]
        for thread in self._copies:
            thread.start()

    def _copy(self, source: BinaryIO, target: BinaryIO, prefix: str) -> None:
        for line in source:
            if match := RESUMED.search(line):
                self.resumed = max(self.resumed, int(match[1]))
            target.write(prefix.encode() + line)
            target.flush()

    def send(self, number: int) -> None:
        """Sends a signal to every process that still runs."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)

    def wait(self) -> list[int]:
        """Waits for all; once one ends badly, the others have `GRACE` seconds."""
        deadline = None
        while any(process.poll() is None for process in self._processes):
            if deadline is None and any(p.poll() for p in self._processes):
                deadline = time.monotonic() + GRACE
            if deadline is not None and time.monotonic() > deadline:
                self.send(signal.SIGKILL)
            if deadline is None and (said := goodput.silent(self._account)):
                _say(f"{said}: killing it")
                self.send(signal.SIGKILL)
                deadline = time.monotonic()
            time.sleep(0.05)
        for thread in self._copies:
            thread.join()
        return [process.returncode for process in self._processes]


class Supervisor:
    """Starts commands again and again; see `run`."""

    def __init__(self, *, retries: int, pause: float):
        self._retries, self._pause = retries, pause
        self._furthest = self._failed = 0
        self._asked = False
        self._group: Group | None = None

    def stop(self, number: int, frame: object) -> None:
        """Passes a signal on, and starts nothing any more."""
        self._asked = True
        if self._group is not None:
            self._group.send(signal.SIGTERM)

    def run(self, commands: Callable[[], Sequence[Command]], book: goodput.Book) -> int:
        """Returns the last code."""
        while True:
            with book.start() as account:
                self._group = group = Group(commands(), account)
                if self._asked:
                    group.send(signal.SIGTERM)
                code = outcome(group.wait())
                resumed = max(group.resumed, goodput.resumed(account))
                if resumed > self._furthest:
                    self._furthest, self._failed = resumed, 0
                self._failed += 1
                if code != RETRY or self._asked:
                    return code
                if self._failed > self._retries:
                    _say(f"{self._retries} restarts without progress: giving up")
                    return code
                if not self._waited():
                    return code

    def _waited(self) -> bool:
        """Waits before a restart; False where a signal came first."""
        seconds = min(LONGEST_PAUSE, self._pause * 2 ** (self._failed - 1))
        _say(
            f"restart {self._failed} of {self._retries} since step {self._furthest}, "
            f"in {seconds:g} s"
        )
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._asked:
            time.sleep(0.05)
        return not self._asked


def run(
    commands: Callable[[], Sequence[Command]],
    *,
    retries: int,
    pause: float,
) -> int:
    """Starts the commands, again while they end with 42; returns the last code.

    Args:
        commands: Gives what to start, anew for each start (a free port, for instance).
        retries: Restarts in a row without progress.
        pause: Seconds before the first of them, doubled each time, 60 at most.
    """
    supervisor = Supervisor(retries=retries, pause=pause)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.stop)
    with tempfile.TemporaryDirectory(prefix="vit_jax-supervise-") as folder:
        book = goodput.Book(Path(folder))
        code = supervisor.run(commands, book)
        if told := book.close():
            _say(told)
    return code


def _say(text: str) -> None:
    print(f"supervise: {text}", file=sys.stderr, flush=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Defines --retries and --pause."""
    parser.add_argument("--retries", type=int, default=3, help="without progress")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds, doubling")


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns what stands before and after the first "--"."""
    argv = list(argv)
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], argv[at + 1 :]


def parser() -> argparse.ArgumentParser:
    """Returns what parses the words before "--"."""
    found = argparse.ArgumentParser(
        prog="vit_jax supervise",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(found)
    return found


def main() -> int:
    """Runs the command line."""
    ours, words = split(sys.argv[1:])
    options = parser().parse_args(ours)
    if not words:
        parser().error("want -- COMMAND ...")
    return run(
        lambda: [Command(words, {}, "")], retries=options.retries, pause=options.pause
    )


if __name__ == "__main__":
    sys.exit(main())
