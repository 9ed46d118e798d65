"""`vit_jax checkpoint verify|list|prune DIR [--keep=N] [--dry_run]`.

Looks at the checkpoints of a run. DIR is a workdir, the `checkpoints` folder in it, or
the folder of one step. `list` says of each step its size, when it was written, and
whether it is what was saved, or what is wrong with it, and which is the best. `verify`
does the same, and ends with 2 where one is not what was saved. `prune` removes all but
the best and the N newest that verify, and nothing where none does.

All arrays are read and compared with the digests that were saved with them; what older
versions wrote has none and is only read. The last line of standard output is JSON.
"""

import datetime
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from vit_jax import cli, errors
from vit_jax.checkpoints import best as best_lib
from vit_jax.checkpoints import checkpoint as stored
from vit_jax.checkpoints import disk, record
from vit_jax.host import files

ACTIONS = ("verify", "list", "prune")


@dataclass(frozen=True)
class Found:
    """A checkpoint as it was found.

    Attributes:
        folder: Where it is.
        bytes: Of all its files.
        written: When.
        problem: What is wrong with it; "" where it is what was saved.
        verified: False, too, where it has no digests.
        best: Whether it is the best of its run.
    """

    folder: Path
    bytes: int
    written: datetime.datetime
    problem: str
    verified: bool
    best: bool = False

    @property
    def line(self) -> str:
        """One line of the list."""
        state = "verified" if self.verified else self.problem or "no digests, readable"
        when = f"{self.written:%Y-%m-%d %H:%M}"
        state += ", the best" if self.best else ""
        return f"{self.folder.name:>9}  {self.bytes / 1e6:>10,.1f} MB  {when}  {state}"

    def to_dict(self) -> dict[str, Any]:
        """Returns what JSON takes."""
        return {
            "step": self.folder.name,
            "bytes": self.bytes,
            "written": self.written.isoformat(timespec="seconds"),
            "verified": self.verified,
            "problem": self.problem,
            "best": self.best,
        }


def look(folder: Path) -> Found:
    """Reads a checkpoint and says what is wrong with it, if anything."""
    problem = stored.problem(folder)
    size = 0
    for path in folder.rglob("*"):
        if path.is_file():
            stat: Any = path.stat()  # of etils in a bucket
            size += stat.length if files.address(path) else stat.st_size
    stat = (folder / disk.METADATA).stat()
    seconds = stat.mtime if files.address(folder) else stat.st_mtime
    written = datetime.datetime.fromtimestamp(seconds).astimezone()
    digests = not problem and record.read(folder).leaves is not None
    named = folder.parent.name == stored.FOLDER
    best = named and best_lib.step_of(folder.parent.parent) == disk.step_of(folder)
    return Found(folder, size, written, problem, digests, best)


def folders(path: str | Path) -> list[Path]:
    """Returns the checkpoints of a workdir, the newest first, or the one at a path.

    Raises:
        UserError: there is none.
    """
    place = files.folder(Path(path).expanduser() if not files.address(path) else path)
    if disk.is_whole(place):
        return [place]
    for directory in (place, place / stored.FOLDER):
        if steps := disk.available(directory):
            return [directory / str(step) for step in reversed(steps)]
    raise errors.UserError(
        f"{path} has no checkpoint; want a workdir, or a folder in its {stored.FOLDER}/"
    )


def prune(found: Sequence[Found], keep: int, *, dry_run: bool = False) -> list[Path]:
    """Removes all checkpoints of a run but the best and the newest that verify.

    What a newer vit_jax wrote stays: only that can say what it is.

    Args:
        found: The newest first.
        keep: How many to keep, at least one.
        dry_run: Removes nothing.

    Returns:
        What was removed, or would be.

    Raises:
        UserError: none verifies, or one cannot be removed.
    """
    if keep < 1:
        raise errors.UserError(f"--keep={keep}; want at least 1")
    good = [one.folder for one in found if not one.problem]
    if not good:
        raise errors.UserError(
            "no checkpoint verifies, so none is removed: one of them may be mended"
        )
    lasting = (one.folder for one in found if one.best or _is_newer(one))
    kept = [*good[:keep], *lasting]
    gone = [one.folder for one in found if one.folder not in kept]
    for folder in reversed(gone):
        logging.info("%s %s", "would remove" if dry_run else "removes", folder)
        if dry_run:
            continue
        try:
            _remove(folder)
        except OSError as error:
            raise errors.UserError(
                f"{folder} cannot be removed: {error.strerror or error}"
            ) from error
    return gone


def _is_newer(one: Found) -> bool:
    try:
        record.read(one.folder)
    except record.Newer:
        return True
    except record.Damaged:
        return False
    return False


def _remove(folder: Any) -> None:
    """Removes a checkpoint; what a kill leaves of it does not count as one."""
    (folder / disk.METADATA).unlink()
    if files.address(folder):
        folder.rmtree()
    else:
        shutil.rmtree(folder)


def _define_flags() -> None:
    flags.DEFINE_integer("keep", 2, "Of prune: how many to keep, of those that verify.")
    flags.DEFINE_bool("dry_run", False, "Of prune: only say what it would remove.")


def _main(argv: list[str]) -> int:
    if len(argv) != 3 or argv[1] not in ACTIONS:
        near = errors.suggest(argv[1], ACTIONS) if len(argv) > 1 else ""
        raise errors.UserError(
            f"want vit_jax checkpoint {'|'.join(ACTIONS)} DIR, as in vit_jax "
            f"checkpoint list workdirs/quickstart.{near}"
        )
    action, given = argv[1], flags.FLAGS
    found = [look(folder) for folder in folders(argv[2])]
    for one in found:
        print(one.line)
    figures: dict[str, Any] = {"checkpoints": [one.to_dict() for one in found]}
    if action == "prune":
        gone = prune(found, given.keep, dry_run=given.dry_run)
        figures |= {"removed": [path.name for path in gone], "dry_run": given.dry_run}
    cli.print_figures(figures)
    if action == "verify" and any(one.problem for one in found):
        return errors.EXIT_BAD_INPUT
    return errors.EXIT_DONE


if __name__ == "__main__":
    _define_flags()
    cli.run(_main)
