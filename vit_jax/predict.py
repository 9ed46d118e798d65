"""`vit_jax predict --checkpoint=PATH [--top_k=5] [--out=FILE] IMAGE ...`.

Classifies image files with the checkpoint's own preprocessing and label names. An IMAGE
is a file, a folder, a pattern or `@LIST`, a file with a path on each line. The last
line of standard output is JSON. A file that is no image gets an "error" in its place,
the others their prediction, and the exit code is 2.

With `--out=FILE.csv`, `.jsonl` or `.parquet` any number of images (or `--dataset` and
`--split`) becomes a row each: on all devices of the machine, decoded ahead by threads,
with what went wrong in the column `error`. The same command again goes on where it
ended; the exit code is 0 once all rows are there, but 2 where no image could be read.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from vit_jax import cli, errors
from vit_jax.host import programs
from vit_jax.runs.bulk import bulk_flags, inputs, predictions, tables
from vit_jax.weights import loaded as loaded_lib
from vit_jax.weights import pretrained

BATCH = 32


def _read(loaded: pretrained.Loaded, paths: Sequence[str]) -> Iterator[Any]:
    """Yields the pixels of each file, or the `UserError` that says why not."""
    for path in paths:
        try:
            yield np.asarray(loaded.images([path]))[0]
        except errors.UserError as error:
            yield error


def _parts(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    """Cuts paths into batches, with a bar on a terminal."""
    with cli.progress("images", len(paths)) as tell:
        for start in range(0, len(paths), BATCH):
            yield paths[start : start + BATCH]
            if tell is not None:
                tell(min(start + BATCH, len(paths)))


def run(
    checkpoint: str, paths: Sequence[str], *, top_k: int = 5
) -> list[dict[str, Any]]:
    """Classifies images.

    Args:
        checkpoint: whatever `pretrained.load` takes.
        paths: Image files.
        top_k: Classes to return of each; all where there are fewer.

    Returns:
        For each path, in order: {"image", "top": [{"label", "name", "probability"}]},
        or {"image", "error"} where it could not be read. `name` is None where the
        checkpoint has no label names. Probabilities are those that the checkpoint was
        trained for: one sigmoid a class, or their softmax. A checkpoint of a
        regression gives {"image", "values": [{"label", "name", "value"}]}: all its
        outputs in their order.

    Raises:
        UserError: no such checkpoint, one without a head, no paths, top_k < 1.
    """
    if not paths:
        raise errors.UserError("want image files: --checkpoint=PATH IMAGE ...")
    if top_k < 1:
        raise errors.UserError(f"--top_k={top_k}; want at least 1")
    loaded = pretrained.load(checkpoint)
    loaded_lib.check_color(loaded.architecture)
    predictions.check_classifies(loaded)
    meaning = predictions.meaning(loaded.problem)
    result: list[dict[str, Any]] = []
    for part in _parts(paths):
        read = list(_read(loaded, part))
        pixels = [x for x in read if not isinstance(x, errors.UserError)]
        scores = iter(())
        if pixels:
            logits = loaded.model(np.stack(pixels))
            scores = iter(jax.device_get(meaning(logits)))
        for path, value in zip(part, read, strict=True):
            if isinstance(value, errors.UserError):
                reason = str(value)
                told = errors.visible(path)[:200] in reason
                named = reason if told else f"{path}: {reason}"
                result.append({"image": path, "error": named})
            else:
                found = predictions.entry(
                    next(scores), loaded.label_names, loaded.problem, top_k
                )
                result.append({"image": path} | found)
    return result


def _line(entry: dict[str, Any]) -> str:
    """What was found in an image, for a log."""
    words = []
    for output in entry["top"] if "top" in entry else entry["values"]:
        number = output["probability"] if "top" in entry else output["value"]
        name = output["label"] if output["name"] is None else output["name"]
        words.append(f"{name} {'nan' if number is None else format(number, '.4f')}")
    return ", ".join(words)


def _define_flags() -> None:
    flags.DEFINE_string(
        "checkpoint", None, "Workdir, WORKDIR:best, file, folder or URL."
    )
    flags.DEFINE_integer("top_k", 5, "Classes to show of each image.")
    flags.DEFINE_bool("logits", False, "With --out: all logits instead of the best.")
    bulk_flags.define(", ".join(tables.FORMATS))
    flags.adopt_module_key_flags(bulk_flags)  # so that --help lists them


def _main(argv: list[str]) -> int:
    given = flags.FLAGS
    if not given.checkpoint:
        raise errors.UserError("want --checkpoint=...; --help lists the flags")
    pretrained.describe(given.checkpoint)  # before a long look for images
    programs.keep()
    if given.out:
        figures = predictions.run(
            given.checkpoint,
            bulk_flags.inputs(argv[1:]),
            given.out,
            top_k=given.top_k,
            logits=given.logits,
            **bulk_flags.options(),
        )
        cli.print_figures(figures)
        bulk_flags.check_some_read(figures)
        return errors.EXIT_DONE
    bulk_flags.check_unused()
    paths = inputs.paths(argv[1:], missing=True)
    entries = run(given.checkpoint, paths, top_k=given.top_k)
    failed = 0
    for entry in entries:
        if "error" in entry:
            failed += 1
            logging.error("%s", entry["error"])
            continue
        logging.info("%s: %s", entry["image"], _line(entry))
    cli.print_figures({"predictions": entries})
    if failed:
        raise errors.UserError(
            f"{failed} of {len(entries)} images could not be read: see the log, or "
            'their "error" in the last line'
        )
    return errors.EXIT_DONE


if __name__ == "__main__":
    _define_flags()
    cli.run(_main)
