"""Images read and decoded by threads, a few batches ahead of the device."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vit_jax import errors, host
from vit_jax.data import decode, transforms
from vit_jax.runs.bulk.inputs import Inputs

# Batches being filled while one is consumed.
AHEAD = 2
# Images that a thread takes at a time.
_TASK = 4
_MOST_THREADS = 1024


@dataclass(frozen=True)
class Read:
    """The images of one batch.

    Attributes:
        names: Of the rows that are there.
        problems: Why an image could not be read, or None, for each of them.
        images: uint8 [batch_size, h, w, 3]; zeros where there is none.
        labels: Of each of them, None where nothing says it.
    """

    names: list[str]
    problems: list[str | None]
    images: np.ndarray
    labels: list[Any]


def check_threads(threads: int) -> int:
    """Returns how many threads decode; 0 is one a core.

    Raises:
        errors.UserError: not a number of threads.
    """
    if not 0 <= threads <= _MOST_THREADS:
        raise errors.UserError(
            f"--threads={threads}; want 0 (one a core) to {_MOST_THREADS}"
        )
    return threads or host.cores()


def batches(
    inputs: Inputs,
    transform: transforms.Transform,
    *,
    batch_size: int,
    start: int = 0,
    threads: int = 0,
) -> Iterator[Read]:
    """Yields all images from `start` on, in their order.

    What is held is a few batches, however many images there are.

    Args:
        inputs: What to read.
        transform: From an image to pixels of one size.
        batch_size: Rows of `Read.images`, always.
        start: The first image.
        threads: That decode; 0 is one a core.
    """
    count = check_threads(threads)
    pool = concurrent.futures.ThreadPoolExecutor(count, "decode")
    try:
        firsts = range(start, len(inputs), batch_size)
        starting = (_start(pool, inputs, transform, batch_size, k) for k in firsts)
        pending = collections.deque(itertools.islice(starting, AHEAD))
        while pending:
            pending.extend(itertools.islice(starting, 1))
            yield pending.popleft()()
    finally:
        pool.shutdown(cancel_futures=True)


def _start(
    pool: concurrent.futures.Executor,
    inputs: Inputs,
    transform: transforms.Transform,
    batch_size: int,
    first: int,
) -> Callable[[], Read]:
    """Has a batch filled; what is returned waits for it."""
    count = min(batch_size, len(inputs) - first)
    names = [inputs.name(first + row) for row in range(count)]
    problems: list[str | None] = [None] * count
    labels: list[Any] = [None] * count
    images = np.empty((batch_size, *transform.image_size, 3), np.uint8)
    images[count:] = 0

    def fill(rows: range) -> None:
        for row in rows:
            try:
                found = inputs.example(first + row)
                labels[row] = found["label"] if "label" in found else None
                transform(found["image"], out=images[row])
            except errors.UserError as error:
                images[row], problems[row] = 0, f"{names[row]}: {error}"
            except (decode.BadImage, OSError) as error:
                what = f"{names[row][:200]} cannot be read: {error}"
                images[row], problems[row] = 0, what

    parts = (range(k, min(k + _TASK, count)) for k in range(0, count, _TASK))
    tasks = [pool.submit(fill, rows) for rows in parts]

    def finish() -> Read:
        for task in tasks:
            task.result()
        return Read(names, problems, images, labels)

    return finish
