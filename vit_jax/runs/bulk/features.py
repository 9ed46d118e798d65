"""What a model makes of images before its head, as one array."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vit_jax import errors
from vit_jax.learning import passes
from vit_jax.runs.bulk import arrays, job, journal, reading
from vit_jax.runs.bulk import inputs as inputs_lib

DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class Features:
    """Rows of `model.features`; a `job.Task`.

    Attributes:
        layer: A block, or a stage of a ResNet, from 0, or from -1 at the end; None:
            what feeds the head.
        tokens: All patches; of no layer, those of the last after the final LayerNorm.
            Otherwise a layer is the mean of its patches.
        dtype: Of the file's numbers, one of `DTYPES`.
        labels: What labels are written, as `inputs.Inputs` says it; "": none.

    Raises:
        errors.UserError: another dtype.
    """

    layer: int | None = None
    tokens: bool = False
    dtype: str = "float32"
    labels: str = ""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise errors.UserError(
                f"--dtype={self.dtype}; want one of {', '.join(DTYPES)}"
            )

    @property
    def job(self) -> Mapping[str, Any]:
        """What decides the rows; see `job.Task`."""
        found = {
            "command": "features",
            "layer": self.layer,
            "tokens": self.tokens,
            "dtype": self.dtype,
        }
        return found | ({"labels": self.labels} if self.labels else {})

    def outputs(self, bound: passes.Bound, params: Any, images: jax.Array) -> Any:
        """Returns float32 [b, d], or [b, n, d] of tokens."""
        model, pixels = bound.model(params), bound.pixels(images)
        if self.layer is None and not self.tokens:
            return model.features(pixels, placement=bound.placement)
        (found,) = model.features(
            pixels,
            layers=[-1 if self.layer is None else self.layer],
            reshape=False,
            norm=self.layer is None,
            placement=bound.placement,
        )
        found = found.astype(np.float32)
        return found if self.tokens else found.mean(axis=1)

    def rows(self, read: reading.Read, values: Any) -> arrays.Rows:
        """Returns the rows of the images that are there."""
        found = np.array(values[: len(read.names)])
        found[[problem is not None for problem in read.problems]] = np.nan
        labels = [_plain(label) for label in read.labels] if self.labels else None
        return arrays.Rows(read.names, read.problems, found, labels)


def _plain(label: Any) -> int | list[int] | None:
    """A label as JSON has it: a class, or the several of an image."""
    if label is None:
        return None
    array = np.asarray(label)
    return int(array) if not array.ndim else np.flatnonzero(array > 0.5).tolist()


def run(
    checkpoint: str,
    images: inputs_lib.Inputs,
    out: str | Path,
    *,
    layer: int | None = None,
    tokens: bool = False,
    dtype: str = "float32",
    batch_size: int = job.BATCH_SIZE,
    threads: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes the features of any number of images into a file.

    Args:
        checkpoint: Whatever `pretrained.load` takes.
        images: From `inputs.find`.
        out: `.npy` (names beside it), `.safetensors` or `.parquet`, see `arrays`.
        layer: See `Features`.
        tokens: See `Features`.
        dtype: See `Features`.
        batch_size: Images at a time, over all devices of this machine.
        threads: That decode; 0 is one a core.
        overwrite: Replace what is there.

    Returns:
        See `job.run`, and the shape.

    Raises:
        errors.UserError: bad input, another command's file, a full disk.
    """
    suffix = Path(out).suffix
    make = errors.lookup(arrays.FORMATS, suffix, f"--out={out}: its suffix")
    Features(dtype=dtype)
    reading.check_threads(threads)
    job.check_batch_size(batch_size)
    make((1, 1), np.dtype(dtype), "")  # whether its package is there
    place = journal.check_place(str(out), overwrite=overwrite)
    labels = _labels(images, place, overwrite)
    task = Features(layer=layer, tokens=tokens, dtype=dtype, labels=labels)
    ready = job.prepare(checkpoint, batch_size=batch_size)
    shape = (len(images), *ready.abstract(task).shape[1:])
    figures = job.run(
        ready,
        task,
        make(shape, np.dtype(dtype), labels),
        images,
        place,
        threads=threads,
        overwrite=overwrite,
    )
    return figures | {"shape": list(shape)}


def _labels(images: inputs_lib.Inputs, out: Path, overwrite: bool) -> str:
    """The labels that are written; a file that an older version began has none."""
    earlier = None if overwrite else journal.read_job(out)
    begun_without = earlier is not None and "labels" not in earlier["job"]
    return "" if begun_without else images.labels
