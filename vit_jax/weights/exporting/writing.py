"""Exports of a checkpoint, each run again with the other tool before it counts."""

import logging
import shutil
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vit_jax import errors
from vit_jax.weights import loaded as loaded_lib
from vit_jax.weights import pretrained
from vit_jax.weights.exporting import served as served_lib
from vit_jax.weights.exporting.formats import FORMATS, Format

TOLERANCE = 1e-5  # of the largest output, or of 1
CHECKED = (1, 7)  # images in a batch
# What protocol buffers and flatbuffers can address, less the program itself.
MOST_BYTES = 2**31 - 2**24


def export(
    checkpoint: str | Path | loaded_lib.Loaded,
    path: str | Path,
    *,
    format: str = "stablehlo",
    image_size: int | tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Writes a model with its normalisation and labels as a file of another tool.

    The file takes uint8 images [b, height, width, 3], resized and cropped as its
    manifest says, and gives "logits" [b, classes] and "probabilities" of any b, in
    float32; a model without a head gives "features".

    Args:
        checkpoint: What `vit_jax.load` takes, or returned.
        path: A path where nothing is; it appears whole or not at all.
        format: A key of `FORMATS`.
        image_size: Pixels, as `vit_jax.load`; of a path alone.

    Returns:
        "out", "format", "bytes", "outputs" (their shapes by name) and "difference",
        the largest from our own outputs, of random images in batches of `CHECKED`.

    Raises:
        errors.UserError: an unknown format, a tool that is not installed, something at
            `path`, a model that the tool cannot hold, or outputs that differ.
    """
    kind = errors.lookup(FORMATS, format, "--format")
    path = Path(path).absolute()
    if path.exists() or path.is_symlink():
        raise errors.UserError(f"--out={path} is there; want a path where nothing is")
    kind.check()
    if not isinstance(checkpoint, loaded_lib.Loaded):
        checkpoint = pretrained.load(checkpoint, image_size=image_size)
    _check_size(checkpoint)
    model = served_lib.served(checkpoint)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=path.parent, prefix=f".{path.name[:80]}."
        ) as folder:
            made = Path(folder) / f"model{kind.suffix}"
            logging.info("writing %s as %s", checkpoint.source, format)
            difference = _written(kind, format, model, made)
            if not difference <= TOLERANCE:
                raise errors.UserError(
                    f"--format={format}: outputs differ from ours by {difference:.2g} "
                    f"of the largest; want {TOLERANCE:g} at most. Nothing was written."
                )
            shutil.move(made, path)
    except OSError as error:
        raise errors.UserError(f"--out={path} cannot be written: {error}") from error
    return {
        "out": str(path),
        "format": format,
        "bytes": _bytes(path),
        "outputs": model.manifest["outputs"],
        "difference": difference,
    }


def _written(kind: Format, name: str, model: served_lib.Served, path: Path) -> float:
    """Writes a model, and says how far its outputs are from ours."""
    try:
        kind.write(model, path)
        return _difference(kind, model, path)
    except (errors.UserError, OSError):
        raise
    except Exception as error:  # each tool has errors of its own
        said = textwrap.shorten(str(error), 400)
        raise errors.UserError(
            f"--format={name}: {type(error).__name__}: {said}. This model cannot be "
            "exported so; try another format."
        ) from error


def _check_size(loaded: loaded_lib.Loaded) -> None:
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(loaded.params))
    if held > MOST_BYTES:
        raise errors.UserError(
            f"{loaded.source} has {held / 2**30:.2f} GiB of parameters; these formats "
            "hold less than 2. Write it with vit_jax convert for another framework."
        )


def _difference(kind: Format, model: served_lib.Served, path: Path) -> float:
    """The largest difference of any output, in its largest value or 1."""
    run, ours = kind.run(path), jax.jit(model.call)
    found = 0.0
    for batch in CHECKED:
        images = model.sample(batch)
        outputs, wanted = run(images), jax.device_get(ours(images))
        if outputs.keys() != wanted.keys():
            return float("inf")
        for name, value in wanted.items():
            largest = max(1.0, float(np.abs(value).max()))
            off = float(np.abs(value - outputs[name]).max())
            found = max(found, off / largest) if off == off else float("inf")
    return found


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())
