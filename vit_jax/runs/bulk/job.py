"""From inputs through a model to a file: the loop, and going on with it."""

import functools
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from vit_jax import cli, errors, host, models, tree
from vit_jax.learning import passes
from vit_jax.parallel import memory
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.runs.bulk import inputs as inputs_lib
from vit_jax.runs.bulk import journal as journal_lib
from vit_jax.runs.bulk import progress as progress_lib
from vit_jax.runs.bulk import reading
from vit_jax.runs.bulk.tables import Format
from vit_jax.types import Params
from vit_jax.weights import loaded as loaded_lib
from vit_jax.weights import pretrained

# Over all devices of this machine.
BATCH_SIZE = 64


class Task(Protocol):
    """What is wanted of a model. Equal ones have equal hashes."""

    @property
    def job(self) -> Mapping[str, Any]:
        """What decides the rows beside weights and inputs; plain values."""
        ...

    def __hash__(self) -> int: ...

    def outputs(self, bound: passes.Bound, params: Params, images: jax.Array) -> Any:
        """Returns what goes to the host, inside `jax.jit`."""
        ...

    def rows(self, read: reading.Read, values: Any) -> Any:
        """Returns the rows that a format takes, of a batch's images and outputs."""
        ...


# Compiled once for each model and task, however many files are written in a process.
@functools.lru_cache(maxsize=4)
def _compiled(bound: passes.Bound, task: Task) -> Any:
    return jax.jit(functools.partial(task.outputs, bound))


@dataclass(frozen=True)
class Ready:
    """A model on all devices of this machine, and how it is called on many images.

    Attributes:
        loaded: The checkpoint.
        bound: Its model, and how it is called.
        params: On the devices.
        batch_size: That every call has.
        where: The sharding of a batch.
    """

    loaded: loaded_lib.Loaded
    bound: passes.Bound
    params: Params
    batch_size: int
    where: jax.sharding.NamedSharding

    def compiled(self, task: Task) -> Callable[[np.ndarray], Any]:
        """Returns the function of uint8 images [batch_size, h, w, 3], compiled."""
        forward = _compiled(self.bound, task)
        # JAX keeps it for the calls.
        forward.lower(self.params, self._images(self.where)).compile()
        return lambda images: forward(self.params, jax.device_put(images, self.where))

    def abstract(self, task: Task) -> Any:
        """Returns the shapes of the outputs of a batch; computes nothing."""
        return jax.eval_shape(
            _compiled(self.bound, task), self.params, self._images(None)
        )

    def _images(self, where: jax.sharding.Sharding | None) -> jax.ShapeDtypeStruct:
        size = (self.batch_size, *self.loaded.preprocessing.image_size, 3)
        return jax.ShapeDtypeStruct(size, np.uint8, sharding=where)

    def description(self) -> dict[str, Any]:
        """Returns what of it decides the rows; plain values."""
        arch = self.loaded.architecture
        return {
            "weights": _digest(self.params),
            "model": f"{models.summary(arch)}, {arch.compute_dtype}",
            "preprocessing": self.loaded.preprocessing.to_dict(),
            "batch_size": self.batch_size,
        }


def check_batch_size(batch_size: int) -> None:
    """Raises `UserError` for a size that is none."""
    if batch_size < 1:
        raise errors.UserError(f"--batch_size={batch_size}; want at least 1")


def prepare(checkpoint: str, *, batch_size: int = BATCH_SIZE) -> Ready:
    """Loads a checkpoint and puts it on every device of this machine.

    Args:
        checkpoint: Whatever `pretrained.load` takes.
        batch_size: Images at a time, rounded up to a multiple of the devices.

    Raises:
        errors.UserError: no such checkpoint; one that is not of colour images; more
            images at a time than the memory holds.
    """
    check_batch_size(batch_size)
    loaded = pretrained.load(checkpoint)
    loaded_lib.check_color(loaded.architecture)
    mesh = mesh_lib.make_mesh(devices=jax.local_devices())
    batch_size += -batch_size % mesh.size
    height, width = loaded.preprocessing.image_size
    # Batches of bytes that are under way, and one of floats on a CPU.
    needed = batch_size * height * width * 3 * (reading.AHEAD + 6)
    if needed > (there := host.available_memory()):
        raise errors.UserError(
            f"--batch_size={batch_size} wants {needed / 2**30:.2f} GiB for its images, "
            f"{there / 2**30:.2f} are there; want at most "
            f"{batch_size * there // (2 * needed)}"
        )
    graphdef, _ = models.abstract(loaded.architecture)
    _, params = models.split(loaded.model)
    wanted = loaded.preprocessing
    bound = passes.Bound(graphdef, loaded.architecture, wanted.mean, wanted.std)
    placed = jax.device_put(params, mesh_lib.replicated(mesh))
    where = mesh_lib.batch_sharding(mesh)
    return Ready(loaded, bound, placed, batch_size, where)


def run(
    ready: Ready,
    task: Task,
    encode: Format,
    inputs: inputs_lib.Inputs,
    out: Path,
    *,
    threads: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes the rows of all inputs, and goes on where an earlier call ended.

    Rows do not depend on where it ended: a batch always holds the same images at the
    same places.

    Args:
        ready: The model.
        task: What is wanted of it.
        encode: The format of the file.
        inputs: The images.
        out: From `journal.check_place`.
        threads: That decode; 0 is one a core.
        overwrite: Forget what is there of another command.

    Returns:
        The file, and how many rows, unreadable images, and images a second there were.

    Raises:
        errors.UserError: another command's rows are there; the disk is full.
        errors.Preempted: Ctrl-C, the rows so far are safe.
    """
    job = {
        **task.job,
        **ready.description(),
        "images": len(inputs),
        "names": inputs_lib.digest(inputs),
    }
    said = {"checkpoint": ready.loaded.source}
    begin = encode.begin()
    with journal_lib.Journal(out, job, begin, said=said, overwrite=overwrite) as rows:
        if rows.finished:
            logging.info("%s is there already, with %s rows", out, f"{rows.rows:,}")
            return _figures(rows, 0.0)
        if rows.rows:
            logging.info("going on behind %s rows of %s", f"{rows.rows:,}", out)
        counts = len(inputs), rows.rows
        with cli.progress("images", *counts) as tell:
            with memory.explained(ready.batch_size):
                ready.compiled(task)  # whose time is in no rate
            progress = progress_lib.Progress(*counts, rows.failed, tell=tell)
            try:
                with memory.explained(ready.batch_size):
                    _fill(ready, task, encode, inputs, rows, progress, threads)
            except KeyboardInterrupt:
                raise errors.Preempted(
                    f"{progress.line()}; the same command goes on behind them"
                ) from None
        with journal_lib.explained(out):
            encode.finish(rows.parts(), out)
        rows.end()
        logging.info("%s: %s", out, progress.line())
        return _figures(rows, progress.rate())


def _figures(rows: journal_lib.Journal, rate: float) -> dict[str, Any]:
    return {
        "out": str(rows.out),
        "rows": rows.rows,
        "errors": rows.failed,
        "images_per_second": round(rate, 2),
    }


def _fill(
    ready: Ready,
    task: Task,
    encode: Format,
    inputs: inputs_lib.Inputs,
    rows: journal_lib.Journal,
    progress: progress_lib.Progress,
    threads: int,
) -> None:
    """Appends the rows that are missing, while the device works on the next batch."""
    forward = ready.compiled(task)
    transform = ready.loaded.preprocessing.eval_transform(exif=inputs.exif)

    def write(read: reading.Read, values: Any) -> None:
        chunks = encode.encode(task.rows(read, jax.device_get(values)))
        failed = sum(problem is not None for problem in read.problems)
        rows.append(len(read.names), failed, chunks)
        progress.add(len(read.names), failed)

    pending = None
    for read in reading.batches(
        inputs,
        transform,
        batch_size=ready.batch_size,
        start=rows.rows,
        threads=threads,
    ):
        values = forward(read.images)
        if pending is not None:
            write(*pending)
        pending = read, values
    if pending is not None:
        write(*pending)


def _digest(params: Params) -> str:
    """A hash of the weights."""
    found = hashlib.blake2b(digest_size=16)
    for name, leaf in tree.named_leaves(params):
        found.update(f"{name} {leaf.dtype} {leaf.shape}".encode())
        found.update(np.ascontiguousarray(jax.device_get(leaf)).view(np.uint8).data)
    return found.hexdigest()
