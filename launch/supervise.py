"""`python launch/supervise.py -- COMMAND ...`: the command again while it ends with 42.

The exit codes are those of README.md beside this file. A command killed by a signal is
started again, too. `--retries` counts restarts in a row without progress: the run says
"resuming at step N", and a larger N than ever before starts the count anew.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO, NamedTuple

DONE, RETRY = 0, 42
GRACE = 45  # seconds for the others once one process has ended badly
RESUMED = re.compile(rb"resuming at step (\d+)")


class Command(NamedTuple):
    """What to start: its words, what it adds to the environment, how lines begin."""

    words: Sequence[str]
    environ: Mapping[str, str]
    prefix: str


def outcome(codes: Sequence[int]) -> int:
    """One code for all: what no retry mends before 42, 42 before 0."""
    final = [code for code in codes if code > 0 and code != RETRY]
    if final:
        return final[0]
    return RETRY if any(codes) else DONE


class Group:
    """Processes that live and end together."""

    def __init__(self, commands: Sequence[Command]):
        self.resumed = 0  # the latest step that a run said it resumes at
        self._processes = [
            subprocess.Popen(
                command.words,
                env=os.environ | dict(command.environ),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches us alone, and we pass it on
            )
            for command in commands
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
            time.sleep(0.05)
        for thread in self._copies:
            thread.join()
        return [process.returncode for process in self._processes]


def run(
    commands: Callable[[], Sequence[Command]],
    *,
    retries: int,
    pause: float,
) -> int:
    """Starts the commands, again while they end with 42; returns the last code.

    Args:
        commands: gives what to start, anew for each start (a free port, for instance).
        retries: restarts in a row without progress.
        pause: seconds before the first of them, doubled each time, 60 at most.
    """
    stopping: list[int] = []
    group: Group | None = None

    def stop(number: int, frame: object) -> None:
        stopping.append(number)
        if group is not None:
            group.send(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    furthest = failed = 0
    while True:
        group = Group(commands())
        if stopping:
            group.send(signal.SIGTERM)
        code = outcome(group.wait())
        if group.resumed > furthest:
            furthest, failed = group.resumed, 0
        failed += 1
        if code != RETRY or stopping:
            return code
        if failed > retries:
            _say(f"{retries} restarts without progress: giving up")
            return code
        seconds = min(60.0, pause * 2 ** (failed - 1))
        _say(f"restart {failed} of {retries} since step {furthest}, in {seconds:g} s")
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not stopping:
            time.sleep(0.05)
        if stopping:
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


def main() -> int:
    """The command."""
    ours, words = split(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    options = parser.parse_args(ours)
    if not words:
        parser.error("want -- COMMAND ...")
    return run(
        lambda: [Command(words, {}, "")], retries=options.retries, pause=options.pause
    )


if __name__ == "__main__":
    sys.exit(main())
