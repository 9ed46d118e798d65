"""The best checkpoint of a run: which one it is, and how long none was better.

`best.json` in the workdir has a line for each evaluation of the figure that decides. A
run that goes on from a step goes by the lines up to it, so that no end in between
changes what is best or when the run stops.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vit_jax import errors
from vit_jax.checkpoints import checkpoint, disk
from vit_jax.host import files

FILE = "best.json"
NAME = ":best"  # what an address of the best checkpoint of a workdir ends in
_MOST_BYTES = 1 << 26
LEAST = ("loss", "mse", "mae")  # what the best has least of


@dataclass(frozen=True)
class Judgement:
    """What is known after an evaluation.

    Attributes:
        step: When it was.
        best: The best step up to then; 0: none had a figure.
        value: Its figure, None: as above.
        since: Evaluations after that, none of them better.
    """

    step: int
    best: int
    value: float | None
    since: int


START = Judgement(0, 0, None, 0)


def is_better(figure: str, value: float, than: float | None) -> bool:
    """Returns whether a value is better: higher, or lower of a loss or an error."""
    if not math.isfinite(value):
        return False
    if than is None:
        return True
    return value < than if figure.endswith(LEAST) else value > than


def judge(figure: str, before: Judgement, step: int, value: float) -> Judgement:
    """Returns what is known after one more evaluation."""
    if is_better(figure, value, before.value):
        return Judgement(step, step, value, 0)
    return Judgement(step, before.best, before.value, before.since + 1)


def read(workdir: Path) -> tuple[str, list[Judgement]]:
    """Returns the figure that decides in a workdir, and all judgements, ascending.

    Raises:
        UserError: the file is damaged.
    """
    path = workdir / FILE
    if not path.exists():
        return "", []
    try:
        found = json.loads(files.read_whole(path, _MOST_BYTES))
        told = [Judgement(**line) for line in found["judgements"]]
        return str(found["figure"]), sorted(told, key=lambda one: one.step)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise errors.UserError(
            f"{path} is damaged ({errors.reason(error)}): it says which checkpoint is "
            "the best; bring it back from a copy, or remove it: the run then chooses "
            "anew"
        ) from error


def write(workdir: Path, figure: str, judgements: Sequence[Judgement]) -> None:
    """Writes what `read` returns."""
    lines: dict[str, Any] = {"figure": figure}
    lines["judgements"] = [asdict(one) for one in judgements]
    files.write_whole(workdir / FILE, json.dumps(lines))


def step_of(workdir: Path) -> int:
    """Returns the step of the best checkpoint that is there; 0: none is.

    Raises:
        UserError: the record of it is damaged.
    """
    there = set(disk.available(workdir / disk.FOLDER))
    bests = [one.best for one in read(workdir)[1] if one.best in there]
    return bests[-1] if bests else 0


class Pruning:
    """A rule of orbax: the newest steps stay, and the best.

    Attributes:
        bests: What was best, one after the other: the last that is there stays.

    Args:
        keep: How many of the newest.
    """

    def __init__(self, keep: int):
        self.bests: list[int] = []
        self._keep = keep

    def _stays(self, steps: Sequence[int]) -> list[bool]:
        """Whether each of the steps, ascending, stays."""
        there = [step for step in self.bests if step in steps]
        newest = len(steps) - self._keep
        return [n >= newest or step in there[-1:] for n, step in enumerate(steps)]

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> list[bool]:
        """Returns whether each stays."""
        del context
        return self._stays([one.step for one in checkpoints])

    def tidy(self, directory: Path) -> None:
        """Removes those that only the writing of another step would have removed."""
        steps = disk.available(directory)
        for step, stays in zip(steps, self._stays(steps), strict=True):
            if not stays:
                files.remove(directory / str(step))


def find(address: str | Path) -> Path | None:
    """Returns the folder of the checkpoint that "WORKDIR:best" names; None: no such.

    Raises:
        UserError: a workdir without a best checkpoint, or one that is not what was
            saved.
    """
    text = str(address)
    if not text.endswith(NAME):
        return None
    workdir = files.folder(files.expanded(text.removesuffix(NAME)))
    if not workdir.is_dir() or checkpoint.is_one(files.folder(text)):
        return None
    if not (step := step_of(workdir)):
        raise errors.UserError(
            f"{workdir} has no best checkpoint; a run with --config.keep_best=EVAL/"
            "FIGURE, as in val/top1, keeps one. Its newest is the workdir itself"
        )
    folder = workdir / disk.FOLDER / str(step)
    if problem := checkpoint.problem(folder):
        raise errors.UserError(
            f"{folder}, the best of its run, does not verify: {problem}; bring it back "
            "from a copy, or take the newest: the workdir itself"
        )
    return folder
