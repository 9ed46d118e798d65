"""What a classifier says of images: its best classes, or all of its numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vit_jax import errors
from vit_jax.learning import losses, passes
from vit_jax.runs.bulk import inputs as inputs_lib
from vit_jax.runs.bulk import job, journal, reading, tables
from vit_jax.weights import loaded as loaded_lib


def entry(
    scores: np.ndarray, names: Sequence[str] | None, problem: str, top_k: int
) -> dict[str, Any]:
    """Returns the best classes of one image, best first, or all numbers in order.

    Args:
        scores: Of the classes: probabilities, or the numbers of a regression.
        names: Of the classes, or None.
        problem: What the outputs are, a key of `losses.PROBLEMS`.
        top_k: Classes to return; all where there are fewer.

    Returns:
        {"top": [{"label", "name", "probability"}]}, or {"values": [{"label", "name",
        "value"}]} of a regression.
    """
    if problem == "regression":
        return {"values": _named(range(len(scores)), scores, names, "value")}
    best = np.argsort(-scores, kind="stable")[:top_k].tolist()
    return {"top": _named(best, scores[best], names, "probability")}


def _named(
    labels: Sequence[int], numbers: np.ndarray, names: Sequence[str] | None, what: str
) -> list[dict[str, Any]]:
    return [
        {
            "label": label,
            "name": names[label] if names else None,
            what: tables.number(number),
        }
        for label, number in zip(labels, numbers, strict=True)
    ]


def _as_is(logits: jax.Array) -> jax.Array:
    return logits


def meaning(problem: str) -> Callable[[jax.Array], jax.Array]:
    """Returns what logits say: probabilities, or the numbers themselves.

    Args:
        problem: What the outputs are, a key of `losses.PROBLEMS`.
    """
    loss = losses.PROBLEMS[problem]
    return _as_is if loss is None else losses.LOSSES[loss].probabilities


def check_classifies(loaded: loaded_lib.Loaded) -> None:
    """Raises `UserError` unless a model gives one vector of classes an image."""
    if not loaded.architecture.num_classes:
        raise errors.UserError(
            f"{loaded.source} has no head, so it predicts no classes; fine-tune one "
            "first"
        )


def wanted(
    loaded: loaded_lib.Loaded, *, top_k: int = 5, logits: bool = False
) -> "Predictions":
    """Returns what is wanted of a classifier.

    Args:
        loaded: The checkpoint.
        top_k: Classes of each image; all where there are fewer.
        logits: All logits in the place of the best classes.

    Raises:
        errors.UserError: no head.
    """
    check_classifies(loaded)
    classes = loaded.architecture.num_classes
    kind = "values" if loaded.problem == "regression" else "top"
    kind = "logits" if logits else kind
    count = min(top_k, classes) if kind == "top" else classes
    return Predictions(kind, count, loaded.label_names, loaded.problem)


def check_one_vector(ready: job.Ready, task: "Predictions") -> None:
    """Raises `UserError` where every token has its logits."""
    shapes = {leaf.shape for leaf in jax.tree.leaves(ready.abstract(task))}
    if shapes != {(ready.batch_size, task.count)}:
        raise errors.UserError(
            f"{ready.loaded.source} gives {sorted(shapes)} for {ready.batch_size} "
            "images; want one vector of classes an image (model.pool is not none)"
        )


@dataclass(frozen=True)
class Predictions:
    """Rows as `predict.run` returns them; a `job.Task`. Use `wanted` to make one.

    Attributes:
        kind: What there is of each image: "top", "values" of a regression, "logits".
        count: How many of them.
        names: Of the classes.
        problem: What the outputs are, a key of `losses.PROBLEMS`.
    """

    kind: str
    count: int
    names: tuple[str, ...] | None
    problem: str

    @property
    def job(self) -> Mapping[str, Any]:
        """What decides the rows; see `job.Task`."""
        return {"command": "predict", "columns": self.kind, "outputs": self.count}

    def outputs(self, bound: passes.Bound, params: Any, images: jax.Array) -> Any:
        """Returns all numbers [b, c], or the best classes [b, k] and theirs."""
        model = bound.model(params)
        logits = model(bound.pixels(images), placement=bound.placement)
        if self.kind != "top":
            return logits
        numbers, labels = jax.lax.top_k(meaning(self.problem)(logits), self.count)
        return labels, numbers

    def rows(self, read: reading.Read, values: Any) -> list[tables.Entry]:
        """Returns {"image"} and what was found of it, or the error."""
        found = []
        for row, (name, problem) in enumerate(
            zip(read.names, read.problems, strict=True)
        ):
            if problem is not None:
                found.append({"image": name, "error": problem})
            else:
                found.append({"image": name} | self._found(values, row))
        return found

    def _found(self, values: Any, row: int) -> dict[str, Any]:
        if self.kind == "top":
            labels, numbers = values
            best = labels[row].tolist()
            return {"top": _named(best, numbers[row], self.names, "probability")}
        if self.kind == "logits":
            return {"logits": [tables.number(x) for x in values[row]]}
        return entry(values[row], self.names, self.problem, self.count)


def run(
    checkpoint: str,
    images: inputs_lib.Inputs,
    out: str | Path,
    *,
    top_k: int = 5,
    logits: bool = False,
    batch_size: int = job.BATCH_SIZE,
    threads: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Predicts the classes of any number of images into a file.

    Args:
        checkpoint: Whatever `pretrained.load` takes.
        images: From `inputs.find`.
        out: `.csv`, `.jsonl` or `.parquet`, see `tables`.
        top_k: Classes of each image; all where there are fewer.
        logits: All logits in the place of the best classes.
        batch_size: Images at a time, over all devices of this machine.
        threads: That decode; 0 is one a core.
        overwrite: Replace what is there.

    Returns:
        See `job.run`.

    Raises:
        errors.UserError: bad input, another command's file, a full disk.
    """
    suffix = Path(out).suffix
    make = errors.lookup(tables.FORMATS, suffix, f"--out={out}: its suffix")
    reading.check_threads(threads)
    job.check_batch_size(batch_size)
    if top_k < 1:
        raise errors.UserError(f"--top_k={top_k}; want at least 1")
    make("top", 1)  # whether its package is there
    place = journal.check_place(str(out), overwrite=overwrite)
    ready = job.prepare(checkpoint, batch_size=batch_size)
    task = wanted(ready.loaded, top_k=top_k, logits=logits)
    check_one_vector(ready, task)
    return job.run(
        ready,
        task,
        make(task.kind, task.count),
        images,
        place,
        threads=threads,
        overwrite=overwrite,
    )
