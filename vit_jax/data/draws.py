"""Order and random draws as pure functions of (seed, position).

A position is the global number of an example in a run: step * batch size + row. Nothing
is stored and nothing is sequential, so neither depends on threads or processes and any
step is reached at once. Everything is unsigned 64-bit arithmetic that wraps around.
"""

import hashlib

import numpy as np

_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_STEP = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 6


def _mix(words: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64: every input bit reaches every output bit."""
    words = (words ^ (words >> np.uint64(30))) * _MIX1
    words = (words ^ (words >> np.uint64(27))) * _MIX2
    return words ^ (words >> np.uint64(31))


def _key(seed: int, purpose: str) -> np.ndarray:
    """Two words of key, [2, 1]: arithmetic on arrays wraps around without warnings."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest()
    return np.frombuffer(digest, "<u8").reshape(2, 1)


def uniforms(seed: int, positions: np.ndarray, count: int) -> np.ndarray:
    """Returns float64 [len(positions), count], uniform in [0, 1).

    Args:
        seed: Any integer.
        positions: int64 [b], not negative.
        count: Numbers per position; the first `k` do not depend on it.
    """
    first, second = _key(seed, "augmentation")
    rows = _mix(positions.astype(np.uint64) * _STEP + first)
    lanes = np.arange(count, dtype=np.uint64) * _STEP + second
    return (_mix(rows[:, None] + lanes) >> np.uint64(11)) * 2.0**-53


def words(key: int, count: int) -> np.ndarray:
    """Returns uint64 [count] of random bits, a function of the key.

    Args:
        key: Below 2**63, not negative; a number that was drawn, for instance.
        count: How many; the first `k` do not depend on it.
    """
    lanes = np.arange(1, count + 1, dtype=np.uint64) * _STEP
    return _mix(_mix(lanes + np.uint64(key)) + np.uint64(key))


def shuffled(
    seed: int, positions: np.ndarray, size: int, purpose: str = "order"
) -> np.ndarray:
    """Returns which example each position reads: int64 [b] in [0, size).

    Epoch e is positions [e * size, (e + 1) * size) and reads every example once, in an
    order of its own.

    Args:
        seed: Any integer.
        positions: int64 [b], not negative.
        size: Number of examples, at least 1.
        purpose: Of the order; those of two have nothing to do with each other.
    """
    assert size >= 1, size
    epochs, within = np.divmod(positions.astype(np.uint64), np.uint64(size))
    keys = _key(seed, purpose)
    if len(epochs) and (epochs == epochs[0]).all():
        epochs = epochs[:1]
    mixed = _mix(epochs * _STEP + keys[0])
    lanes = np.arange(_ROUNDS, dtype=np.uint64)[:, None] * _STEP + keys[1]
    rounds = list(_mix(mixed + lanes))
    sizes = np.array([size], np.uint64)
    return _permute(within, rounds, sizes).astype(np.int64)


def shuffled_each(
    seed: int, streams: np.ndarray, positions: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
    """Returns what `shuffled` does where each position is of one of many streams.

    Args:
        seed: Any integer.
        streams: int64 [b], which; each has an order of its own.
        positions: int64 [b], in the stream.
        sizes: int64 [b], examples of the stream, below 2**52.
    """
    epochs, within = np.divmod(positions.astype(np.uint64), sizes.astype(np.uint64))
    keys = _key(seed, "streams")
    mixed = _mix(_mix(epochs * _STEP + keys[0]) + streams.astype(np.uint64) * _MIX2)
    lanes = np.arange(_ROUNDS, dtype=np.uint64)[:, None] * _STEP + keys[1]
    rounds = list(_mix(mixed + lanes))
    return _permute(within, rounds, sizes.astype(np.uint64)).astype(np.int64)


def _chosen(values: np.ndarray, which: np.ndarray) -> np.ndarray:
    return values if len(values) == 1 else values[which]


def _permute(
    index: np.ndarray, rounds: list[np.ndarray], sizes: np.ndarray
) -> np.ndarray:
    """A Feistel network on pairs (left < a, right < b), a * b just above the size.

    Sizes and keys are one for all or one for each. What lands outside [0, size) goes
    through again (cycle walking), which keeps the map a bijection; with
    a * b - size < a that concerns next to nothing.
    """
    a = np.sqrt(sizes - np.uint64(1)).astype(np.uint64) + np.uint64(1)
    b = (sizes + a - np.uint64(1)) // a
    result = _network(index, rounds, a, b)
    outside = np.flatnonzero(result >= sizes)
    while len(outside):
        keys = [_chosen(key, outside) for key in rounds]
        sides = _chosen(a, outside), _chosen(b, outside)
        result[outside] = _network(result[outside], keys, *sides)
        outside = outside[result[outside] >= _chosen(sizes, outside)]
    return result


def _network(
    index: np.ndarray, rounds: list[np.ndarray], a: np.ndarray, b: np.ndarray
) -> np.ndarray:
    left, right = np.divmod(index, b)
    for number, key in enumerate(rounds):
        if number % 2:
            right = _add(right, left, key, b)
        else:
            left = _add(left, right, key, a)
    return left * b + right


def _add(
    side: np.ndarray, other: np.ndarray, key: np.ndarray, modulus: np.ndarray
) -> np.ndarray:
    """Returns (side + f(other)) mod modulus, f uniform in [0, modulus)."""
    words = (other + key) * _MIX1
    words = (words ^ (words >> np.uint64(32))) * _MIX2
    total = side + ((words >> np.uint64(32)) * modulus >> np.uint64(32))
    return total - np.where(total >= modulus, modulus, np.uint64(0))
