"""Damages checkpoints by the hundred, and sees what all who read them do.

    python -m tests.chaos.readers --corruptions=300 --restores=100 --out=TABLE.md

Each time the newest of a run's three checkpoints is damaged in one of the ways of
`corruption`, and then read by a resumed run, `evaluate`, `predict`, `load` and
`convert`. All of them must find it, say what is wrong, name the leaf, take the step
before, and give to the bit what that step gives. Undamaged checkpoints must be taken
without a word.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import logging
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chaos import corruption

from configs import quickstart
from vit_jax import convert, errors, evaluate, experiment, predict, train, tree
from vit_jax.checkpoints import checkpoint, manager, verify
from vit_jax.parallel import mesh
from vit_jax.runs import starting
from vit_jax.weights import pretrained

NEWEST, BEFORE = "3", "2"
IMAGES = sorted((Path(__file__).parents[1] / "golden/photographs").glob("*.jpg"))[:1]


def config() -> Any:
    """Returns that of a small run with an average, three steps long."""
    found = quickstart.get_config()
    small = {"depth": 1, "width": 16, "mlp_width": 32, "heads": 2}
    changes = {f"model.{key}": value for key, value in small.items()}
    changes |= {"total": "3 steps", "save_every": "1 steps", "eval_every": ""}
    changes |= {"batch_size": 8, "ema": 0.9, "keep": 3}
    found.update_from_flattened_dict(changes)
    return found


def _bytes(nested: Any) -> bytes:
    leaves = sorted(tree.named_leaves(nested))
    return b"".join(np.asarray(leaf).tobytes() for _, leaf in leaves)


class Readers:
    """The five readers of a workdir, and what each gives of a step."""

    def __init__(self, root: Path):
        self.mesh = mesh.make_mesh(devices=jax.devices()[:1])
        self.workdir = root / "run"
        train.run(config(), self.workdir, self.mesh)
        self.exp = experiment.assemble(config(), self.mesh)
        self.all: dict[str, Callable[[Path], Any]] = {
            "resume": self.resume,
            "evaluate": self.evaluate,
            "predict": self.predict,
            "load": self.load,
            "convert": self.convert,
        }

    def resume(self, workdir: Path) -> Any:
        """Restores as a run does that goes on; the last, it moves what is damaged."""
        checkpoints = manager.Checkpoints(workdir)
        state, step = starting.restore_or_start(self.exp, checkpoints)
        return step, _bytes(jax.device_get(state))

    def evaluate(self, workdir: Path) -> Any:
        """Measures the checkpoint."""
        found = evaluate.run(str(workdir), split="test[:32]", batch_size=32)
        return {name: found[name] for name in ("top1", "loss")}

    def predict(self, workdir: Path) -> Any:
        """Classifies an image."""
        return predict.run(str(workdir), [str(path) for path in IMAGES])

    def load(self, workdir: Path) -> Any:
        """Loads the model."""
        loaded = pretrained.load(workdir)
        return repr(loaded.architecture), _bytes(_params(loaded.model))

    def convert(self, workdir: Path) -> Any:
        """Writes the weights anew, and reads what was written."""
        target = workdir.parent / "converted"
        convert.run(str(workdir), target, "vit_jax", overwrite=True)
        return _bytes(checkpoint.read_params(target)[0])


def _params(model: Any) -> Any:
    from vit_jax import models

    return models.split(model)[1]


@contextlib.contextmanager
def said() -> Iterator[list[str]]:
    """Collects warnings."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda entry: texts.append(entry.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        yield texts
    finally:
        logging.getLogger().removeHandler(handler)


def _outcome(read: Callable[[Path], Any], workdir: Path) -> tuple[Any, list[str]]:
    verify._warn.cache_clear()  # so that each says it, as in a process of its own
    with said() as texts:
        try:
            return read(workdir), texts
        except errors.UserError as error:
            return error, texts


def damage(
    readers: Readers, wanted: dict[str, Any], kind: str, seed: int, root: Path
) -> dict[str, bool]:
    """Damages a copy of the run; returns which readers did what they must."""
    workdir = root / f"{kind}-{seed}"
    shutil.copytree(readers.workdir, workdir)
    folder = workdir / "checkpoints" / NEWEST
    words = corruption.KINDS[kind](folder, np.random.default_rng(seed))
    right = {}
    for name in ("evaluate", "predict", "load", "convert", "resume"):
        found, texts = _outcome(readers.all[name], workdir)
        told = [t for t in texts if f"{NEWEST} does not verify" in t and words in t]
        told = [t for t in told if f"step {BEFORE} is taken instead" in t]
        right[name] = found == wanted[name] and (bool(told) or kind in corruption.GONE)
        if not right[name]:
            print("MISSED", kind, seed, name, repr(words), texts, repr(found)[:300])
    shutil.rmtree(workdir)
    return right


def clean(readers: Readers, wanted: dict[str, Any], root: Path) -> bool:
    """Reads an undamaged copy; returns whether all took the newest without a word."""
    workdir = root / "clean"
    shutil.copytree(readers.workdir, workdir)
    fine = True
    for name, read in readers.all.items():
        found, texts = _outcome(read, workdir)
        fine &= found == wanted[name] and not any("verif" in t for t in texts)
    shutil.rmtree(workdir)
    return fine


Counts = tuple[collections.Counter, collections.Counter, int]


def run(numbers: range, restores: int) -> Counts:
    """Returns how often each kind was tried, found by each reader, and false alarms."""
    with tempfile.TemporaryDirectory() as folder:
        return _run(numbers, restores, Path(folder))


def _run(numbers: range, restores: int, root: Path) -> Counts:
    readers = Readers(root)
    older = root / "older"
    shutil.copytree(readers.workdir, older)
    newest = {name: read(older) for name, read in readers.all.items()}
    shutil.rmtree(older / "checkpoints" / NEWEST)
    before = {name: read(older) for name, read in readers.all.items()}
    assert all(newest[name] != before[name] for name in newest), "steps must differ"
    tried: collections.Counter = collections.Counter()
    found: collections.Counter = collections.Counter()
    kinds = list(corruption.KINDS)
    for number in numbers:
        kind = kinds[number % len(kinds)]
        tried[kind] += 1
        for name, is_right in damage(readers, before, kind, number, root).items():
            found[kind, name] += is_right
    alarms = sum(not clean(readers, newest, root) for _ in range(restores))
    return tried, found, alarms


def table(
    tried: collections.Counter,
    found: collections.Counter,
    alarms: int,
    restores: int,
    seconds: float,
) -> str:
    """Returns the outcome as Markdown."""
    names = ("resume", "evaluate", "predict", "load", "convert")
    lines = [
        "# Damaged checkpoints, and who finds it",
        "",
        "`python -m tests.chaos.readers` (`make chaos`): the newest of three",
        "checkpoints is damaged and read. Counted is who says what is wrong, with the",
        "leaf where one is, takes the step before, and gives to the bit what it gives.",
        "",
        f"| damage | tried | {' | '.join(names)} |",
        f"|---|{'---|' * (1 + len(names))}",
    ]
    for kind in (kind for kind in corruption.KINDS if tried[kind]):
        count = tried[kind]
        what = (corruption.KINDS[kind].__doc__ or "").split("\n")[0].rstrip(".")
        each = " | ".join(str(found[kind, name]) for name in names)
        lines.append(f"| {what} | {count} | {each} |")
    totals = [sum(found[kind, name] for kind in tried) for name in names]
    lines += [
        f"| **all, of {len(tried)} kinds** | {sum(tried.values())} | "
        + " | ".join(map(str, totals))
        + " |",
        "",
        f"False alarms in {restores} reads of an undamaged run by all five: {alarms}. "
        f"{seconds:,.0f} s on {jax.default_backend()}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs it and prints the table; ends with 1 where anything was missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--corruptions", type=int, default=310)
    parser.add_argument("--restores", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    began = time.monotonic()
    jobs = given.jobs
    shares = [range(job, given.corruptions, jobs) for job in range(jobs)]
    each = [len(range(job, given.restores, jobs)) for job in range(jobs)]
    spawned = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, spawned) as pool:
        parts = list(pool.map(run, shares, each))
    tried = sum((part[0] for part in parts), collections.Counter())
    found = sum((part[1] for part in parts), collections.Counter())
    alarms = sum(part[2] for part in parts)
    text = table(tried, found, alarms, given.restores, time.monotonic() - began)
    print(text)
    if given.out:
        given.out.write_text(text)
    missed = 5 * sum(tried.values()) - sum(found.values()) + alarms
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
