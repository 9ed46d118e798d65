"""A disk that fills up, breaks or goes while a run writes to it.

A run stops with one error, which says what is still good, or goes on with
--on_storage_error=continue and says at every log line what is not on disk. The faults
are real: a full tmpfs, an ext4 on a loop device that is aborted (read-only at once) or
shut down (EIO), a folder that is removed or moved away. No quota holds for root, and
no broken ext4 is mended under who uses it: there the errno comes from a library that is
preloaded. Once the fault is mended, the run, or the same command again, ends with the
bits of one that nobody disturbed.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chaos import runs

TITLE = "Storage that fails while a run writes to it"
TOTAL, EVERY = 100, 20
STEP = "0.1"  # seconds that a step takes at least
FLAGS = (f"--config.total={TOTAL} steps", f"--config.save_every={EVERY} steps")
_SHUT_DOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_NOW = 2  # without writing what is in its journal


def _shell(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


class Place:
    """Where a run writes, and what happens to it.

    Attributes:
        folder: The file system, or a plain folder.
        workdir: Of the run.
        environ: What its processes need for the fault.
    """

    needs: tuple[str, ...] = ()  # programs
    code = 2

    def __init__(self, folder: Path):
        self.folder = folder / "disk"
        self.workdir = self.folder / "run"
        self.folder.mkdir(parents=True)
        self.environ: dict[str, str] = {}

    def make(self) -> None:
        """Makes the file system."""

    def break_(self) -> None:
        """Does the fault."""

    def mend(self) -> None:
        """Takes it away."""

    def remove(self) -> None:
        """Leaves nothing of it."""


class Mounted(Place):
    """A file system of its own."""

    needs = ("mount", "umount")

    def remove(self) -> None:
        """Unmounts all that was mounted there."""
        while os.path.ismount(self.folder):
            _shell("umount", "-l", self.folder)


class Full(Mounted):
    """No space: something else has taken all of it."""

    def make(self) -> None:
        """Makes a file system of 8 MB."""
        _shell("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", self.folder)

    def break_(self) -> None:
        """Fills it to the last byte."""
        file = os.open(self.folder / "ballast", os.O_CREAT | os.O_WRONLY)
        for size in (65536, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(file, bytes(size))
        os.close(file)

    def mend(self) -> None:
        """Removes what has filled it."""
        (self.folder / "ballast").unlink()


class Image(Mounted):
    """An ext4 in a file."""

    needs = ("mount", "umount", "mkfs.ext4")

    def make(self) -> None:
        """Makes a file system of 32 MB."""
        image = self.folder.parent / "image"
        with image.open("wb") as file:
            file.truncate(32 << 20)
        _shell("mkfs.ext4", "-q", "-F", image)
        _shell("mount", "-o", "loop", image, self.folder)

    def mend(self) -> None:
        """Mounts it anew, under whatever still uses the old one."""
        self.remove()
        _shell("mount", "-o", "loop", self.folder.parent / "image", self.folder)


class ReadOnly(Image):
    """It has found an error of its own, and takes no more writes."""

    def break_(self) -> None:
        """Aborts it, once all that was written is on the image."""
        os.sync()
        _shell("mount", "-o", "remount,abort", self.folder)


class Broken(Image):
    """EIO, on every access."""

    code = 42  # it may pass

    def break_(self) -> None:
        """Shuts it down, once all that was written is on the image."""
        os.sync()
        file = os.open(self.folder, os.O_RDONLY)
        fcntl.ioctl(file, _SHUT_DOWN, struct.pack("I", _NOW))
        os.close(file)


class Quota(Place):
    """EDQUOT, from a library that is preloaded."""

    needs = ("cc",)
    number = errno.EDQUOT

    def make(self) -> None:
        """Compiles the library."""
        source = Path(__file__).with_name("faulty.c")
        library = self.folder.parent / "faulty.so"
        _shell("cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl")
        self._fault = self.folder.parent / "fault"
        self.environ = {
            "LD_PRELOAD": str(library),
            "VIT_JAX_FAULTY": str(self.folder),
            "VIT_JAX_FAULT": str(self._fault),
        }

    def break_(self) -> None:
        """Says which error."""
        self._fault.write_text(str(self.number))

    def mend(self) -> None:
        """Says none."""
        self._fault.unlink()


class ReadOnlyForATime(Quota):
    """EROFS, in the same way."""

    number = errno.EROFS


class BrokenForATime(Quota):
    """EIO, in the same way."""

    number = errno.EIO


class Gone(Place):
    """The workdir is removed; a run that goes on makes it again."""

    def break_(self) -> None:
        """Removes it, against a run that adds to it."""
        while self.workdir.exists():
            shutil.rmtree(self.workdir, ignore_errors=True)


class Away(Place):
    """The workdir is moved away, and back."""

    def break_(self) -> None:
        """Moves it."""
        self.workdir.rename(self.folder / "elsewhere")

    def mend(self) -> None:
        """Moves it back."""
        (self.folder / "elsewhere").rename(self.workdir)


FAULTS = {
    "full": Full,
    "quota": Quota,
    "read-only": ReadOnly,
    "I/O error": Broken,
    "gone": Gone,
    "moved away": Away,
    "EROFS": ReadOnlyForATime,
    "EIO": BrokenForATime,
}
STOP = ("full", "quota", "read-only", "I/O error", "gone", "moved away")
GO_ON = ("full", "quota", "EROFS", "EIO", "gone", "moved away")


@contextlib.contextmanager
def place(fault: str, folder: Path) -> Iterator[Place]:
    """Yields where a run writes, which is gone afterwards."""
    made = FAULTS[fault](folder)
    try:
        made.make()
        yield made
    finally:
        made.remove()


def missing(fault: str) -> str:
    """Returns why a fault cannot be done here, or ""."""
    needs = FAULTS[fault].needs
    if absent := [name for name in needs if shutil.which(name) is None]:
        return f"no {absent[0]} here"
    if "mount" in needs and os.geteuid() != 0:
        return "only root mounts"
    return ""


def broken_run(
    here: Place, folder: Path, count: int, *flags: str
) -> tuple[runs.Run, float]:
    """Starts a run and does the fault once its first checkpoint is there."""
    environ = {"VIT_JAX_CHAOS_STEP": STEP, **here.environ}
    flags = (*FLAGS, *flags)
    run = runs.Run(folder, count, *flags, workdir=here.workdir, environ=environ)
    first = here.workdir / "checkpoints" / str(EVERY)
    runs.wait_for(
        lambda: first.is_dir() or any(p.poll() is not None for p in run.processes)
    )
    time.sleep(0.5)  # its line is in metrics.jsonl
    here.break_()
    return run, time.monotonic()


def error_of(said: str) -> list[str]:
    """Returns the lines of the error that a run ended with."""
    found = re.split(r"^(?=error: |stopped: )", said, flags=re.M)
    return found[1].strip().splitlines() if len(found) == 2 else []


def equal(workdir: Path, calm: Path) -> bool:
    """Returns whether a run has ended as another one, to the bit."""
    same = runs.figures(workdir) == runs.figures(calm)
    return same and runs.same_arrays(workdir, calm) > 0


def stop(fault: str, folder: Path, calm: Path) -> dict[str, Any]:
    """A run that stops at the fault, and goes on once it is mended."""
    with place(fault, folder) as here:
        run, began = broken_run(here, folder, 1)
        codes, ended = run.ends()
        said = run.said()
        told = re.search(r"newest good checkpoint: (step \d+|none|not known)", said)
        good = set(codes) == {here.code} and 0 < len(error_of(said)) <= 10
        here.mend()
        again = runs.Run(
            folder, 1, *FLAGS, workdir=here.workdir, environ={**here.environ}
        )
        codes_again, _ = again.ends()
        # It goes on from where the error said.
        if told and told[1].startswith("step"):
            good &= f"resuming at {told[1]} " in again.said()
        bits = equal(here.workdir, calm)
    good &= set(codes_again) == {0} and bool(told) and "Traceback" not in said
    seconds = f"{ended - began:.1f}"
    good_one = f"newest good: {told[1]}" if told else ""
    return row(fault, "stop", 1, codes, seconds, good_one, bits, good, said)


def go_on(fault: str, folder: Path, calm: Path, count: int = 1) -> dict[str, Any]:
    """A run that goes on, and whose disk is mended after a save has failed."""
    with place(fault, folder) as here:
        run, _ = broken_run(here, folder, count, "--on_storage_error=continue")
        # What is moved away comes back before the next save makes it again.
        special = {"gone": "is made again", "moved away": "NOT SAVED: the last"}
        wanted = special.get(fault, "NOT SAVED: step")
        runs.wait_for(
            lambda: (
                wanted in run.said() or all(p.poll() is not None for p in run.processes)
            )
        )
        time.sleep(0.5)
        here.mend()
        codes, _ = run.ends()
        said = run.said()
        bits = equal(here.workdir, calm)
    good = set(codes) == {0} and "NOT SAVED" in said and "Traceback" not in said
    steps = sorted({int(x) for x in re.findall(r"NOT SAVED: step (\d+)", said)})
    told = f"not saved: step {', '.join(map(str, steps))}" if steps else "lines wait"
    return row(fault, "continue", count, codes, "", told, bits, good, said)


def to_the_end(fault: str, folder: Path) -> dict[str, Any]:
    """A run that goes on to its end and has nowhere to write to."""
    with place(fault, folder) as here:
        run, _ = broken_run(here, folder, 1, "--on_storage_error=continue")
        codes, _ = run.ends()
        said, error = run.said(), error_of(run.said())
    told = re.search(r"newest good checkpoint: (step \d+|not known)", "\n".join(error))
    lies = re.search(r"saved step|everything in|is made again", said)
    since = said[said.index("NOT SAVED") :] if "NOT SAVED" in said else ""
    logged = len(re.findall(r" step \d+/\d+ \| eta", since))
    named = len(re.findall("NOT SAVED", since))
    good = set(codes) == {here.code} and 0 < len(error) <= 10 and not lies
    good &= bool(told)
    good &= f"step {TOTAL}/{TOTAL} | eta" in said and 0 < logged <= named
    good &= "Traceback" not in said
    good_one = f"newest good: {told[1]}" if told else ""
    what = f"{fault}, to the end"
    return row(what, "continue", 1, codes, "", good_one, None, good, said)


def row(
    fault: str,
    policy: str,
    count: int,
    codes: list[int | None],
    seconds: str,
    told: str,
    bits: bool | None,
    good: bool,
    said: str,
) -> dict[str, Any]:
    """Returns a row of the table."""
    return {
        "fault": fault,
        "on_storage_error": policy,
        "processes": count,
        "codes": " ".join(map(str, codes)),
        "seconds to the end": seconds,
        "it says": told,
        "bits once it is mended": {True: "equal", False: "NO", None: ""}[bits],
        "good": "yes" if good and bits is not False else "NO",
        runs.SAID: said,
    }


def rows(folder: Path, *, short: bool = False) -> list[dict[str, Any]]:
    """Breaks the storage of runs in all ways that this machine can, or in two."""
    calm = {count: runs.Run(folder / f"calm{count}", count, *FLAGS) for count in (1, 2)}
    for run in calm.values():
        assert set(run.ends()[0]) == {0}, run.said()
    tries: list[Any] = [(stop, "full"), (go_on, "gone")]
    if not short:
        tries = [(stop, fault) for fault in STOP] + [(go_on, fault) for fault in GO_ON]
        tries += [(go_on, "full", 2), (go_on, "moved away", 2)]
        tries += [(to_the_end, x) for x in ("full", "read-only", "I/O error")]
    found = []
    for number, (kind, fault, *several) in enumerate(tries):
        count = several[0] if several else 1
        if why := missing(fault):
            print(f"{fault} was not tried: {why}", flush=True)
            continue
        known = () if kind is to_the_end else (calm[count].workdir, *several)
        found.append(kind(fault, folder / str(number), *known))
        print({k: v for k, v in found[-1].items() if k != runs.SAID}, flush=True)
        shutil.rmtree(folder / str(number), ignore_errors=True)
    return found
