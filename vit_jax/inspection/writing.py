"""Pictures and numbers of a checkpoint or of runs, as files of a folder."""

import dataclasses
import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax import errors, models
from vit_jax.data import decode
from vit_jax.host import files as host_files
from vit_jax.host import turns
from vit_jax.inspection import (
    attention,
    curves,
    figure,
    looking,
    numbers,
    page,
    payload,
    pictures,
)
from vit_jax.inspection.pictures import Asked
from vit_jax.runs.bulk import inputs as inputs_lib
from vit_jax.settings import validation
from vit_jax.weights import loaded as loaded_lib
from vit_jax.weights import pretrained

NUMBERS, RECORD, PAGE = "inspection.npz", "inspection.json", "index.html"


def run(
    checkpoint: str | None,
    images: inputs_lib.Inputs | None,
    out: str | os.PathLike,
    asked: Asked,
    *,
    image_size: int | tuple[int, int] | None = None,
    most: int = 128,
) -> dict[str, Any]:
    """Looks into a checkpoint and draws.

    Args:
        checkpoint: Whatever `pretrained.load` takes; None: only runs are drawn.
        images: From `inputs.find`; None: what needs none is drawn.
        out: A folder; what an earlier call has drawn there is drawn again.
        asked: What to draw.
        image_size: Pixels, as `pretrained.load` takes it.
        most: Images that are looked at; the first so many.

    Returns:
        "out", "pictures" (names of files), "page", the name of its file or None,
        "numbers", and "notes" of what there is not.

    Raises:
        errors.UserError: bad input, before anything is computed.
    """
    figure.check_installed()
    folder = _folder(out)
    asked.check(with_model=checkpoint is not None, with_images=images is not None)
    runs = curves.read(asked.runs)
    if asked.figures or (runs and asked.wants("curves")):
        chosen = curves.chosen(runs, asked.figures)
        asked = dataclasses.replace(asked, figures=tuple(chosen))
    contents = [] if images is None else _contents(images, most)
    found = None
    if checkpoint is not None:
        loaded, asked = _load(checkpoint, image_size, asked, images is not None)
        found = _look(loaded, images, contents, asked)
        for note in found.notes:
            logging.info("%s", note)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with turns.turn(folder), figure.style(asked.theme):
            return _write(folder, found, runs, asked)
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise errors.UserError(f"--out={folder} cannot be written: {said}") from error


def _folder(out: str | os.PathLike) -> Path:
    """The folder, after a look at what is there; nothing is left of a try to write."""
    validation.check_local(out, "--out")
    folder = host_files.expanded(Path(out))
    above = folder
    while not os.path.lexists(above):
        above = above.parent
    if not above.is_dir():
        raise errors.UserError(f"--out={folder}: {above} is no folder; want one")
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise errors.UserError(
            f"--out={folder}: {above} cannot be written to: {error.strerror}"
        ) from error
    return folder


def _load(
    checkpoint: str,
    image_size: int | tuple[int, int] | None,
    asked: Asked,
    with_images: bool,
) -> tuple[loaded_lib.Loaded, Asked]:
    """The model and what was asked of it, which is checked before weights are read."""
    with pretrained.open_as_evaluated(checkpoint, image_size=image_size) as weights:
        target = pretrained.changed(weights, image_size, None)
        arch = looking.checked(target.architecture)
        asked = asked.counted(arch)
        looking.check_memory(arch, with_images=with_images)
        loaded = pretrained.from_weights(
            weights, source=str(checkpoint), image_size=image_size
        )
    return loaded, asked


def _contents(images: inputs_lib.Inputs, most: int) -> list[Any]:
    """The first images; what is none is found now, what is damaged when decoded."""
    contents = []
    for i in range(min(len(images), most)):
        try:
            contents.append(images.example(i)["image"])
            decode.open_image(contents[-1])
        except (decode.BadImage, OSError) as error:
            raise errors.UserError(
                f"{images.name(i)} cannot be read: {error}"
            ) from error
    return contents


def _look(
    loaded: loaded_lib.Loaded,
    images: inputs_lib.Inputs | None,
    contents: Sequence[Any],
    asked: Asked,
) -> looking.Inspection:
    if images is None:
        return looking.inspect(loaded)
    count = len(contents)
    found = looking.inspect(
        loaded,
        contents,
        names=[images.name(i) for i in range(count)],
        detailed=asked.detailed,
    )
    if count == len(images):
        return found
    note = f"Of {len(images)} images the first {count} were looked at (--most)."
    return dataclasses.replace(found, notes=(*found.notes, note))


def _write(
    folder: Path,
    found: looking.Inspection | None,
    runs: Sequence[curves.Run],
    asked: Asked,
) -> dict[str, Any]:
    """Writes all files, and returns what `run` does.

    The last is the record: it is there when all are of one call.
    """
    (folder / RECORD).unlink(missing_ok=True)
    names = []
    for name, drawn in pictures.drawn(found, runs, asked):
        names += figure.save(drawn, folder, name)
        logging.info("%s", folder / f"{name}.png")
    record = {
        "out": str(folder),
        "pictures": names,
        "page": _write_page(folder, found, asked),
        "numbers": NUMBERS,
        "notes": [] if found is None else list(found.notes),
    }
    _write_numbers(folder, found, runs, asked, record)
    return record


def _write_page(
    folder: Path, found: looking.Inspection | None, asked: Asked
) -> str | None:
    """Writes the page; returns its name, or None where there is none."""
    if found is None or not asked.wants("page"):
        return None
    host_files.write_whole(folder / PAGE, page.render(payload.payload(found)))
    logging.info("%s", folder / PAGE)
    return PAGE


def _write_numbers(
    folder: Path,
    found: looking.Inspection | None,
    runs: Sequence[curves.Run],
    asked: Asked,
    record: Mapping[str, Any],
) -> None:
    """Writes all arrays, and what they are."""
    tables = {**numbers.of_runs(runs, asked.smooth)}
    about: dict[str, Any] = {"runs": list(asked.runs)}
    if found is not None:
        arch = found.architecture
        tables |= numbers.of_model(found, asked.patch_in(arch.grid))
        about |= {
            "checkpoint": found.loaded.source,
            "model": models.summary(arch),
            "grid": arch.grid,
            "patch_pixels": arch.strides,
            "prefix_tokens": arch.prefix,
            "read": attention.READ[arch.pool],
            "layers": found.layers,
            "images": found.images,
            "predictions": {seen.name: seen.predictions for seen in found.seen},
        }
    with host_files.whole(folder / NUMBERS) as file:
        arrays_by_name: dict[str, Any] = {
            k: table.values for k, table in tables.items()
        }
        np.savez(file, **arrays_by_name)
    arrays = {
        name: {"shape": table.values.shape, "axes": table.axes, "unit": table.unit}
        for name, table in tables.items()
    }
    text = json.dumps({**about, **record, "arrays": arrays}, indent=1)
    host_files.write_whole(folder / RECORD, text + "\n")
