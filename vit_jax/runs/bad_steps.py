"""What is told of bad steps, and the way back to the checkpoint before them.

`bad_steps.jsonl` in the workdir has a line for each: its loss, the leaves whose
gradient was not finite, and the names of its examples. `rollbacks.json` says how often
the run went back and which batch follows which step since: a run that is started again
takes the batches that it would have.
"""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from vit_jax import errors, experiment
from vit_jax.checkpoints import disk
from vit_jax.data import orders, sources
from vit_jax.host import files as host_files
from vit_jax.runs import workdir as workdir_lib

STEPS = "bad_steps.jsonl"
# Of a run that did not go back: step s + 1 takes batch s.
_NONE: dict[str, Any] = {"times": 0, "offsets": []}


def examples(exp: experiment.Experiment, source: Any, batch: int) -> list[str]:
    """Returns what the examples of a batch are called, over all processes."""
    order = orders.of(source, exp.seed, exp.data.balance)
    rows = orders.rows_of(order, exp.batch_size, repeats=exp.data.repeats)
    _, indices = rows.at(batch)
    return [sources.describe_example(source, int(index)) for index in indices]


def tell(
    workdir: Path, step: int, loss: float, leaves: Sequence[str], examples: list[str]
) -> str:
    """Writes a line of `bad_steps.jsonl`, and returns what the log says of examples.

    Args:
        workdir: of the run.
        step: the bad one.
        loss: of it.
        leaves: whose gradient was not finite.
        examples: the names of all its examples.
    """
    said = {"step": step, "loss": str(loss), "leaves": leaves, "examples": examples}
    path = workdir / STEPS
    if jax.process_index() == 0:
        before = path.read_text() if path.exists() else ""
        host_files.write_whole(path, f"{before}{json.dumps(said)}\n")
    return f"; examples ({path}): {errors.some(examples)}"


def _read(workdir: Path) -> dict[str, Any]:
    path = workdir / workdir_lib.ROLLBACKS
    try:
        found = json.loads(path.read_text()) if path.exists() else _NONE
        offsets = [(int(step), int(offset)) for step, offset in found["offsets"]]
        return {"times": int(found["times"]), "offsets": offsets}
    except (ValueError, KeyError, TypeError) as error:
        raise errors.UserError(
            f"{path} is damaged ({errors.reason(error)}): it says which data the run "
            "left out; bring it back from a copy, or start in another --workdir"
        ) from error


def batch_after(workdir: Path) -> Callable[[int], int]:
    """Returns from the number of steps done to the batch of the next one.

    Raises:
        UserError: the record of a run that went back is damaged.
    """
    offsets = _read(workdir)["offsets"]

    def batch(done: int) -> int:
        since = [offset for step, offset in offsets if step <= done]
        return done + (since[-1] if since else 0)

    return batch


def go_back(limit: int, workdir: Path, error: errors.NonFiniteError) -> None:
    """Leaves a workdir as that of a run which has the bad steps before it, not behind.

    The newest checkpoint is then the one before the first bad step, or, where the run
    has gone back to that already, the one before; none: it starts anew. The data of the
    bad steps comes no more. Whoever is killed within goes back again.

    Args:
        limit: how often the run may.
        workdir: of the run, which is not running.
        error: that ended it.

    Raises:
        NonFiniteError: this one, where it may not go back again.
    """
    found = _read(workdir)
    if found["times"] >= limit:
        if not found["times"]:
            raise error
        text = f"{error}\nIt went back {found['times']} times, as roll_back allows."
        raise errors.NonFiniteError(text, error.bad) from error
    directory = workdir / disk.FOLDER
    been = {step for step, _ in found["offsets"]}
    saved = disk.available(directory)
    before = [0, *(step for step in saved if step < error.bad[0])]
    target = before[-2] if before[-1] in been and len(before) > 1 else before[-1]
    offset = batch_after(workdir)(error.bad[-1] - 1) + 1 - target
    kept = [(step, skipped) for step, skipped in found["offsets"] if step < target]
    if jax.process_index() == 0:
        for step in reversed(saved):
            if step > target:
                host_files.remove(directory / str(step))
        record = {"times": found["times"] + 1, "offsets": [*kept, (target, offset)]}
        host_files.write_whole(workdir / workdir_lib.ROLLBACKS, json.dumps(record))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("went back")
    logging.warning(
        "%s\ngoing back to step %d and past the data of %d batches: %d of %d times",
        *(error, target, offset - (kept[-1][1] if kept else 0)),
        *(found["times"] + 1, limit),
    )
