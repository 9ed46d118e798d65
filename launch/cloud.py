"""What tpu_vm.py and mig.py share.

Commands that can be shown instead of run, the code on its way to the hosts, and the
loop of creating machines, running on them and deleting them.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import supervise

REPOSITORY = Path(__file__).resolve().parent.parent
ARCHIVE = "/tmp/vit_jax.tgz"
FINAL = (0, 1, 2, 3, 4)  # what the run ends with and another machine would not change


class Shell:
    """Runs commands, or prints them when it is only shown what would be done."""

    def __init__(self, *, dry_run: bool):
        self.dry_run = dry_run

    def run(self, words: Sequence[str], *, check: bool = True) -> int:
        """Runs a command to its end; returns its exit code.

        Raises:
            CalledProcessError: it failed, and `check` asks for success.
        """
        print(shlex.join(words), flush=True)
        if self.dry_run:
            return 0
        return subprocess.run(words, check=check).returncode

    def read(self, words: Sequence[str], *, pretend: str) -> str:
        """Returns what a command prints, stripped; in a dry run `pretend`."""
        if self.dry_run:
            print(shlex.join(words), flush=True)
            return pretend
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
        return done.stdout.strip()

    def start(self, words: Sequence[str]) -> subprocess.Popen | None:
        """Starts a command beside others; None in a dry run."""
        print(shlex.join(words), flush=True)
        return None if self.dry_run else subprocess.Popen(words)

    def pause(self, seconds: float) -> None:
        """Waits, but not in a dry run."""
        if not self.dry_run:
            time.sleep(seconds)


class Machines(Protocol):
    """The hosts of one slice, however they are rented."""

    def create(self) -> None:
        """Asks for them, unless that was done before."""

    def ready(self) -> bool | None:
        """Whether they are there; None: they never will be, or are no longer."""

    def train(self) -> int:
        """Sets the hosts up, runs to the end and returns the run's exit code."""

    def delete(self) -> None:
        """Gives all of it back."""


def options(description: str) -> argparse.ArgumentParser:
    """Returns a parser of what every cloud needs."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--name", required=True, help="of the machines and the workdir")
    parser.add_argument("--zone", required=True)
    parser.add_argument("--bucket", required=True, help="gs://BUCKET: workdirs, data")
    parser.add_argument(
        "--spot", action="store_true", help="cheaper, can be taken away"
    )
    parser.add_argument("--keep", action="store_true", help="machines stay, and cost")
    parser.add_argument("--retries", type=int, default=20, help="machines to ask for")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    return parser


def parse(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """Parses our options and returns the flags of `vit_jax.main` after "--"."""
    ours, flags = supervise.split(sys.argv[1:])
    given = parser.parse_args(ours)
    if not flags or not given.bucket.startswith("gs://"):
        parser.error("want --bucket=gs://BUCKET ... -- --config=FILE ...")
    return given, flags


def pack(shell: Shell) -> None:
    """Writes the committed code to `ARCHIVE`."""
    shell.run(["git", "-C", str(REPOSITORY), "archive", "-o", ARCHIVE, "HEAD"])


def host_command(
    given: argparse.Namespace, flags: list[str], settings: str = ""
) -> str:
    """The line that a host runs: set up, start or find the run, follow its log."""
    bucket = given.bucket.removeprefix("gs://").strip("/")
    words = [bucket, *flags, f"--workdir=../gcs/workdirs/{given.name}"]
    unpack = "mkdir -p vit_jax && tar -xzf vit_jax.tgz -C vit_jax"
    return f"{unpack} && {settings}bash vit_jax/launch/host.sh {shlex.join(words)}"


def drive(shell: Shell, machines: Machines, *, retries: int, keep: bool) -> int:
    """Runs to the end on machines that may be lost; returns the run's exit code.

    They are deleted at the end, however it comes: done, failed, Ctrl-C, SIGTERM.
    """

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    code = supervise.RETRY
    try:
        for _ in range(1 + retries):
            machines.create()
            while (ready := machines.ready()) is False:
                shell.pause(30)
            code = machines.train() if ready else supervise.RETRY
            if code in FINAL:
                break
            if not machines.ready():
                machines.delete()
            shell.pause(30)
    except subprocess.CalledProcessError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    finally:
        if keep:
            print("kept, and paid for until you delete it", file=sys.stderr)
        else:
            machines.delete()
    return code


def region(zone: str) -> str:
    """The region of a zone: us-east5 of us-east5-b."""
    return zone.rpartition("-")[0]


def quiet_environment() -> None:
    """Keeps gcloud from asking questions that nobody would answer."""
    os.environ["CLOUDSDK_CORE_DISABLE_PROMPTS"] = "1"
