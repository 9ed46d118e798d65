"""Which example each row of each batch reads, as a function of the step.

Nothing is sequential: any step is reached at once, and several processes that know
their rows agree on what the batch holds.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vit_jax import errors
from vit_jax.data import draws

# From positions in the run, int64 [b], to examples of the source, int64 [b].
Order = Callable[[np.ndarray], np.ndarray]


@runtime_checkable
class Weighted(Protocol):
    """A source of several, of `sizes` one after the other, drawn by `weights`.

    No weights: they are drawn as one.
    """

    sizes: Sequence[int]
    weights: Sequence[float]

    def __len__(self) -> int: ...


# Positions of which every source has as many as its weight says, to a whole number.
_BLOCK = 1 << 16


def of(source: Any, seed: int, balance: float = 0.0) -> Order:
    """Returns the order of a source: epochs, each example once in each.

    Args:
        source: See `sources`.
        seed: Of the order.
        balance: See `balanced`; 0: examples are alike.

    Raises:
        errors.UserError: a source with too small a weight, or labels that cannot be
            balanced.
    """
    if balance:
        return balanced(source, seed, balance)
    if isinstance(source, Weighted) and source.weights:
        return weighted(seed, source.sizes, source.weights)
    size = len(source)
    return lambda positions: draws.shuffled(seed, positions, size)


def weighted(seed: int, sizes: Sequence[int], weights: Sequence[float]) -> Order:
    """Returns an order in which sources come by their weights, in epochs of their own.

    Of every `_BLOCK` positions (more of many sources) each source has a fixed number,
    in an order that is drawn, so which example of a source a position reads is known
    without the others.

    Args:
        seed: Of the order.
        sizes: Of the sources, which lie one after the other.
        weights: Of each, of any sum.

    Raises:
        errors.UserError: a weight so small that a source would never come.
    """
    block = max(_BLOCK, 256 * len(sizes))
    shares = np.asarray(weights, np.float64) * (block / np.sum(weights))
    quotas = np.floor(shares).astype(np.int64)
    largest = np.argsort(quotas - shares, kind="stable")
    quotas[largest[: block - quotas.sum()]] += 1
    if quotas.min() < 1:
        raise errors.UserError(
            f"a weight of {min(weights):g} is less than one in {block} of all; want a "
            "larger one, or the dataset left out"
        )
    first, ends = np.cumsum(quotas) - quotas, np.cumsum(quotas)
    each = np.asarray(sizes, np.int64)
    starts = np.cumsum(each) - each

    def order(positions: np.ndarray) -> np.ndarray:
        slots = draws.shuffled(seed, positions, block, "mixture")
        which = np.searchsorted(ends, slots, side="right")
        ranks = positions // block * quotas[which] + slots - first[which]
        return starts[which] + draws.shuffled_each(seed, which, ranks, each[which])

    return order


def check_weightless(source: Any, balance: float) -> None:
    """Raises `UserError` where classes of a mixture are to be balanced."""
    if isinstance(source, Weighted) and source.weights:
        raise errors.UserError(
            f"data.balance={balance:g} of a mixture, whose parts have weights already; "
            "want one of both"
        )


def check_balance(balance: float, *, one_label: bool) -> None:
    """Raises `UserError` unless classes can be balanced so."""
    if not 0 < balance <= 1 or not one_label:
        raise errors.UserError(
            f"data.balance={balance:g}; wanted 0 to 1, of one class an example"
        )


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of every batch that one process reads.

    With repeats an image is in a batch several times, at rows far from each other:
    mixing with the next row mixes other images. Where the batch is no multiple, the
    last images come once less.

    Attributes:
        order: Of the examples.
        batch_size: Over all processes.
        local: int64 [b], which rows.
        repeats: How often an image comes in one batch.
    """

    order: Order
    batch_size: int
    local: np.ndarray
    repeats: int = 1

    def at(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns what the draws of each row depend on, and its example: int64 [b]."""
        # Python's integers: 1e12 steps of a numpy int32 would wrap around.
        positions = int(step) * self.batch_size + self.local
        distinct = -(-self.batch_size // self.repeats)
        places = int(step) * distinct + self.local % distinct
        return positions, self.order(places)


def balanced(source: Any, seed: int, balance: float) -> Order:
    """Returns an order in which a class of n examples has the weight n^(1 - balance).

    Args:
        source: Of one label an example.
        seed: Of the order.
        balance: 1: all classes come equally often; 0.5: by the root of their sizes.

    Raises:
        errors.UserError: several labels an example, or a mixture.
    """
    from vit_jax.data import subsets

    check_weightless(source, balance)
    labels = subsets.labels_of(source)
    single = labels.ndim == 1 and labels.dtype.kind == "i"
    check_balance(balance, one_label=single)
    by_class = np.argsort(labels, kind="stable")
    counts = np.unique(labels, return_counts=True)[1]
    order = weighted(seed, counts.tolist(), (counts ** (1 - balance)).tolist())
    return lambda positions: by_class[order(positions)]


def rows_of(
    order: Order,
    batch_size: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    rows: np.ndarray | None = None,
    repeats: int = 1,
) -> Rows:
    """Returns the rows that a process reads; see `loader.train_loader`.

    Raises:
        errors.UserError: repeats that cannot be, or the processes cannot have equal
            shares.
    """
    local = local_rows(batch_size, process_index, process_count, rows)
    check_repeats(repeats, batch_size)
    return Rows(order, batch_size, local, repeats)


def check_repeats(repeats: int, batch_size: int) -> None:
    """Raises `UserError` unless an image can be so often in a batch."""
    if not isinstance(repeats, int) or not 1 <= repeats <= batch_size:
        raise errors.UserError(
            f"data.repeats={repeats!r}; wanted how often an image is in a batch of "
            f"{batch_size}, 1 or more"
        )


def local_rows(
    batch_size: int, process_index: int, process_count: int, rows: np.ndarray | None
) -> np.ndarray:
    """Returns the rows of each batch that this process reads.

    Raises:
        errors.UserError: the processes cannot have equal shares.
    """
    if batch_size < 1 or batch_size % process_count:
        raise errors.UserError(
            f"batch_size={batch_size} cannot be cut into {process_count} equal shares, "
            f"one a process; wanted a multiple of {process_count}"
        )
    assert 0 <= process_index < process_count, (process_index, process_count)
    share = batch_size // process_count
    if rows is None:
        rows = process_index * share + np.arange(share)
    assert len(rows) == share, (len(rows), share)
    return np.asarray(rows, np.int64)
