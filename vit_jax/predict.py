"""`python -m vit_jax.predict --checkpoint=PATH [--top_k=5] IMAGE ...`.

Classifies image files with the checkpoint's own preprocessing and label names. The
last line of standard output is JSON. A file that is no image gets an "error" in its
place, the others their prediction, and the exit code is 2.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from vit_jax import cli, errors, evaluators, metrics, objectives, pretrained

BATCH = 32


def _top(
    probabilities: np.ndarray, names: Sequence[str] | None, top_k: int
) -> list[dict[str, Any]]:
    """Returns the best classes of one image, best first."""
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return [
        {
            "label": int(label),
            "name": names[label] if names else None,
            "probability": metrics.json_number(probabilities[label]),
        }
        for label in order
    ]


def _read(loaded: pretrained.Loaded, paths: Sequence[str]) -> Iterator[Any]:
    """Yields the pixels of each file, or the `UserError` that says why not."""
    for path in paths:
        try:
            yield np.asarray(loaded.images([path]))[0]
        except errors.UserError as error:
            yield error


def run(
    checkpoint: str, paths: Sequence[str], *, top_k: int = 5
) -> list[dict[str, Any]]:
    """Classifies images.

    Args:
        checkpoint: a workdir, one checkpoint in it, or a file in a known dialect.
        paths: image files.
        top_k: classes to return of each; all where there are fewer.

    Returns:
        For each path, in order: {"image", "top": [{"label", "name", "probability"}]},
        or {"image", "error"} where it could not be read. `name` is None where the
        checkpoint has no label names. Probabilities are those that the checkpoint was
        trained for: one sigmoid a class, or their softmax.

    Raises:
        UserError: no such checkpoint, one without a head, no paths, top_k < 1.
    """
    if not paths:
        raise errors.UserError("want image files: --checkpoint=PATH IMAGE ...")
    if top_k < 1:
        raise errors.UserError(f"--top_k={top_k}; want at least 1")
    loaded = pretrained.load(checkpoint)
    if not loaded.architecture.num_classes:
        raise errors.UserError(
            f"{checkpoint} has no head, so it predicts no classes; fine-tune one first"
        )
    loss = evaluators.trained_loss(checkpoint)
    probabilities = objectives.LOSSES[loss].probabilities
    result = []
    for start in range(0, len(paths), BATCH):
        part = paths[start : start + BATCH]
        read = list(_read(loaded, part))
        pixels = [x for x in read if not isinstance(x, errors.UserError)]
        scores = iter(())
        if pixels:
            logits = loaded.model(np.stack(pixels))
            scores = iter(jax.device_get(probabilities(logits)))
        for path, value in zip(part, read, strict=True):
            if isinstance(value, errors.UserError):
                reason = str(value)
                named = reason if path in reason else f"{path}: {reason}"
                result.append({"image": path, "error": named})
            else:
                top = _top(next(scores), loaded.label_names, top_k)
                result.append({"image": path, "top": top})
    return result


def _define_flags() -> None:
    flags.DEFINE_string("checkpoint", None, "Workdir, checkpoint in it, or .npz file.")
    flags.DEFINE_integer("top_k", 5, "Classes to show of each image.")


def _main(argv: list[str]) -> int:
    if not flags.FLAGS.checkpoint:
        raise errors.UserError("want --checkpoint=...; --help lists the flags")
    predictions = run(flags.FLAGS.checkpoint, argv[1:], top_k=flags.FLAGS.top_k)
    failed = 0
    for entry in predictions:
        if "error" in entry:
            failed += 1
            logging.error("%s", entry["error"])
            continue
        shown = (
            f"{c['name'] or c['label']} {c['probability']:.4f}" for c in entry["top"]
        )
        logging.info("%s: %s", entry["image"], ", ".join(shown))
    cli.print_figures({"predictions": predictions})
    return errors.EXIT_BAD_INPUT if failed else errors.EXIT_DONE


if __name__ == "__main__":
    _define_flags()
    cli.run(_main)
