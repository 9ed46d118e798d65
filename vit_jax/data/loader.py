"""Batches as pure functions of (seed, step, process).

Position `step * batch_size + row` of the run decides which example a row holds and how
it is cropped (`draws`); each process reads the rows of every batch that its devices
hold. So the data state of a run is one integer, and neither threads nor processes
change what the global batch holds.
"""

import collections
import concurrent.futures
import errno
import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_jax import errors, host
from vit_jax.data import draws, orders, reader, resident, sources, transforms

if TYPE_CHECKING:
    from jax.sharding import NamedSharding

Batch = dict[str, Any]
BatchOf = Callable[[int], int]  # from the steps done to the batch of the next
# Batches being filled while one is consumed.
AHEAD = 2


def train_loader(
    source: Any,
    transform: transforms.Transform,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    rows: np.ndarray | None = None,
    repeats: int = 1,
    balance: float = 0.0,
    threads: int = 0,
    cache: str = "auto",
    max_corrupt: float = 0.01,
    read_timeout: float = 0.0,
    damaged: str = "use",
    sharding: "NamedSharding | None" = None,
) -> "TrainLoader":
    """Returns the loader of training batches.

    Args:
        source: See `sources`.
        transform: From `transforms.make("train", ...)`.
        batch_size: Over all processes.
        seed: Of order and crops; any integer.
        process_index: Which share of each batch to read.
        process_count: Into how many shares it is cut.
        rows: That this process reads, ascending, as `mesh.local_rows` has them; None:
            [p * b/P, (p + 1) * b/P) for process p of P.
        repeats: How often an image is in a batch, each time with draws of its own.
        balance: How much classes are made equally frequent, 0 to 1: `orders.balanced`.
        threads: That decode; 0 is one a core.
        cache: "none"; "ram" keeps the decoded images in host memory; "device" keeps
            them on the devices of `sharding`, and batches come out as global arrays;
            "auto" picks what fits.
        max_corrupt: Share of unreadable images that is an error when exceeded; above 1
            their number.
        read_timeout: Seconds for the images of a batch, where none are kept: storage
            that does not answer is an error then; 0: as long as it takes.
        damaged: JPEG files that libjpeg warns of: "use" what it makes of them, or count
            them as "corrupt", which costs a second look at each file.
        sharding: Of the batch, for cache="device".

    Raises:
        errors.UserError: an argument that cannot work, or a cache that does not fit.
    """
    if len(source) < 1:
        raise errors.UserError("the training split holds no example")
    local = orders.rows_of(
        *(orders.of(source, seed, balance), batch_size),
        process_index=process_index,
        process_count=process_count,
        rows=rows,
        repeats=repeats,
    )
    choice = resident.choose(cache, source, transform, sharding, process_count)
    corrupt = reader.CorruptLog(source, max_corrupt, damaged)
    pool = concurrent.futures.ThreadPoolExecutor(_threads(threads), "decode")
    try:
        reading = _rows(choice, source, transform, corrupt, pool, sharding)
        if isinstance(reading, _Decoding):
            reading.timeout = read_timeout
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    return TrainLoader(reading, transform, local, seed, corrupt, pool)


def _rows(
    cache: str,
    source: Any,
    transform: transforms.Transform,
    corrupt: reader.CorruptLog,
    pool: concurrent.futures.ThreadPoolExecutor,
    sharding: "NamedSharding | None",
) -> Any:
    """What fills batches: has `start(examples, uniforms)` -> finish() -> batch."""
    if cache == "device":
        # Imported here: JAX is not needed otherwise (100 MB in a process that only
        # prepares batches).
        from vit_jax.data import device_cache

        assert sharding is not None, "resident.choose wants it for this cache"
        return device_cache.DeviceRows(source, transform, corrupt, pool, sharding)
    if cache == "none":
        return _Decoding(source, transform, corrupt, pool)
    slices = resident.as_slices(transform, resident.common_size(source, transform.turn))
    if slices is not None:
        return resident.HostRows(source, slices, corrupt, pool)
    images, labels = resident.decode_all(source, corrupt, pool, turn=transform.turn)
    classes = getattr(source, "num_classes", 0) or 0
    decoded = sources.ArraySource(images, labels, num_classes=classes)
    return _Decoding(decoded, transform, corrupt, pool)


class TrainLoader:
    """Endless batches: {"image": uint8 [b, h, w, 3], "label": int32 [b] or float32}.

    Use `train_loader` to make one.
    """

    def __init__(
        self,
        reading: Any,
        transform: transforms.Transform,
        rows: orders.Rows,
        seed: int,
        corrupt: reader.CorruptLog,
        pool: concurrent.futures.ThreadPoolExecutor,
    ):
        self._reading = reading
        self._draws = transform.draws
        self._rows = rows
        self._seed = seed
        self._corrupt = corrupt
        self._pool = pool

    @property
    def corrupt(self) -> list[str]:
        """Names of the unreadable examples met so far."""
        return self._corrupt.names()

    def batch(self, step: int) -> Batch:
        """Returns this process's rows of the batch at `step` (0, 1, ...).

        Raises:
            errors.UserError: a label out of range, or too many unreadable images.
        """
        return self._start(step)()

    def iterate(self, start: int = 0, batch_of: BatchOf = int) -> Iterator[Batch]:
        """Yields batch_of(start), batch_of(start + 1), ...; threads fill the next."""
        return _ahead(map(self._start, map(batch_of, itertools.count(start))))

    def close(self) -> None:
        """Ends the threads; the loader yields nothing afterwards."""
        stuck = isinstance(self._reading, _Decoding) and self._reading.stuck
        self._pool.shutdown(wait=not stuck, cancel_futures=True)

    def _start(self, step: int) -> Callable[[], Batch]:
        assert step >= 0, step
        positions, examples = self._rows.at(step)
        uniforms = draws.uniforms(self._seed, positions, self._draws)
        return self._reading.start(examples, uniforms)


def eval_loader(
    source: Any,
    transform: transforms.Transform,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    rows: np.ndarray | None = None,
    threads: int = 0,
    max_corrupt: float = 1.0,
) -> "EvalLoader":
    """Returns one pass over the split, in its order; can be iterated again.

    Every process yields the same number of batches; the last one is padded with rows
    whose mask is 0. An unreadable image has mask 0, too, and is counted.

    Args:
        source: See `sources`.
        transform: From `transforms.make("eval", ...)`.
        batch_size: Over all processes.
        process_index: Which share of each batch to read.
        process_count: Into how many shares it is cut.
        rows: That this process reads, as for `train_loader`.
        threads: That decode; 0 is one a core.
        max_corrupt: Share of unreadable images that is an error when exceeded.

    Raises:
        errors.UserError: an argument that cannot work.
    """
    local = orders.local_rows(batch_size, process_index, process_count, rows)
    if len(source) < 1:
        raise errors.UserError("the evaluation split holds no example")
    return EvalLoader(
        source,
        transform,
        reader.CorruptLog(source, max_corrupt),
        _threads(threads),
        batch_size,
        local,
    )


class EvalLoader:
    """Batches {"image", "label", "mask" float32 [b]}; use `eval_loader` to make one."""

    def __init__(
        self,
        source: Any,
        transform: transforms.Transform,
        corrupt: reader.CorruptLog,
        threads: int,
        batch_size: int,
        local: np.ndarray,
    ):
        self._reader = reader.Reader(source, transform, corrupt)
        self._image_size = transform.image_size
        self._size = len(source)
        self._corrupt = corrupt
        self._threads = threads
        self._batch_size = batch_size
        self._local = local

    @property
    def corrupt(self) -> list[str]:
        """Names of the unreadable examples met so far."""
        return self._corrupt.names()

    def __len__(self) -> int:
        return -(-self._size // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        with concurrent.futures.ThreadPoolExecutor(self._threads, "decode") as pool:
            blank = self._reader.blank_label()
            yield from _ahead(self._start(k, pool, blank) for k in range(len(self)))

    def _start(
        self, number: int, pool: concurrent.futures.Executor, blank: Any
    ) -> Callable[[], Batch]:
        examples = number * self._batch_size + self._local
        count = int((examples < self._size).sum())
        images = np.empty((len(examples), *self._image_size, 3), np.uint8)
        images[count:] = 0
        labels = [blank] * len(examples)
        mask = np.zeros(len(examples), np.float32)

        def fill(rows: range) -> None:
            for row in rows:
                index = int(examples[row])
                label, mask[row] = self._reader.read_or_blank(index, images[row])
                labels[row] = blank if label is None else label

        tasks = [pool.submit(fill, rows) for rows in _chunks(count, self._threads)]

        def finish() -> Batch:
            _wait(tasks)
            return {"image": images, "label": reader.stack_labels(labels), "mask": mask}

        return finish


class _Decoding:
    """Rows read and decoded anew each time, by a pool of threads."""

    # Seconds for a batch, 0: any; whether one took longer: threads may wait for ever.
    timeout, stuck = 0.0, False

    def __init__(
        self,
        source: Any,
        transform: transforms.Transform,
        corrupt: reader.CorruptLog,
        pool: concurrent.futures.ThreadPoolExecutor,
    ):
        self._reader = reader.Reader(source, transform, corrupt)
        self._image_size = transform.image_size
        self._pool = pool

    def start(self, examples: np.ndarray, uniforms: np.ndarray) -> Callable[[], Batch]:
        images = np.empty((len(examples), *self._image_size, 3), np.uint8)
        labels: list[Any] = [None] * len(examples)
        # Plain numbers: arithmetic on numpy scalars costs ten times as much.
        indices, numbers = examples.tolist(), uniforms.tolist()

        def fill(rows: range) -> None:
            for row in rows:
                labels[row] = self._reader.read(indices[row], numbers[row], images[row])

        threads = self._pool._max_workers
        tasks = [
            self._pool.submit(fill, rows) for rows in _chunks(len(images), threads)
        ]

        def finish() -> Batch:
            if concurrent.futures.wait(tasks, self.timeout or None).not_done:
                self.stuck = True
                what = f"no images in {self.timeout:g} s, data.read_timeout"
                raise TimeoutError(errno.ETIMEDOUT, what)
            _wait(tasks)
            return {"image": images, "label": reader.stack_labels(labels)}

        return finish


def _ahead(starting: Iterator[Callable[[], Batch]]) -> Iterator[Batch]:
    """Finishes batches in order while the next `AHEAD` are being filled."""
    pending = collections.deque(itertools.islice(starting, AHEAD))
    while pending:
        pending.extend(itertools.islice(starting, 1))
        yield pending.popleft()()


def _wait(tasks: list[concurrent.futures.Future]) -> None:
    for task in tasks:
        task.result()


def _chunks(count: int, threads: int) -> list[range]:
    """Cuts rows into tasks: several images each, several tasks a thread."""
    size = max(1, min(16, math.ceil(count / (4 * threads))))
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _threads(threads: int) -> int:
    if not isinstance(threads, int) or not 0 <= threads <= 1024:
        raise errors.UserError(f"threads={threads!r}; wanted 0 (one a core) to 1024")
    return threads or host.cores()
