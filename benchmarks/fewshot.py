"""Few-shot evaluation at ImageNet's size, beside scikit-learn's ridge regression.

    python benchmarks/fewshot.py

1,000 classes, 10 images each, features of width 1,024 and 50,000 test features, float32
and random: class centres with a decaying spectrum, noise around them. CPU seconds of
the process, from features in memory to accuracies; scikit-learn is given them
standardised already. It solves once for each penalty, so its seconds for many are those
of one times their number.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.linear_model import Ridge, RidgeClassifier

from vit_jax.evaluators import fewshot, least_squares

CLASSES, SHOTS, WIDTH, TEST = 1000, 10, 1024, 50_000
L2 = 2.0**10
SWEEPS = {
    "30 penalties, 2^-10 to 2^19": 2.0 ** np.arange(-10, 20),
    "10 x 19 = 190 penalties": np.logspace(-10, 19, 190, base=2.0),
}


def features() -> tuple[np.ndarray, ...]:
    """Training features and labels, 12 a class, and those of the test."""
    rng = np.random.default_rng(0)
    spectrum = (1.0 + np.arange(WIDTH)) ** -0.5
    turn = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    centres = rng.normal(size=(CLASSES, WIDTH))

    def split(labels: np.ndarray) -> np.ndarray:
        noise = rng.normal(size=(len(labels), WIDTH))
        rows = (centres[labels] + 5.0 * noise) * spectrum
        return (rows @ turn + 2.0).astype(np.float32)

    train = rng.permutation(np.repeat(np.arange(CLASSES), 12))
    test = rng.permutation(np.repeat(np.arange(CLASSES), TEST // CLASSES))
    return split(train), train, split(test), test


def timed(function: Callable[[], Any], repeats: int) -> tuple[Any, float, float]:
    """What a function returns, and the least CPU and wall seconds of its calls."""
    best = (float("inf"), float("inf"))
    for _ in range(repeats):
        began = time.process_time(), time.perf_counter()
        result = function()
        ended = time.process_time(), time.perf_counter()
        best = min(best, (ended[0] - began[0], ended[1] - began[1]))
    return result, *best


def main() -> None:
    """Prints a JSON line a row."""
    train, labels, test, wanted = data = features()
    chosen = fewshot.choose_support(labels, num_classes=CLASSES, shots=SHOTS, seed=0)
    few, classes = train[chosen], labels[chosen]
    mean, std = few.mean(axis=0), few.std(axis=0) + least_squares.EPSILON
    x, y = (few - mean) / std, (test - mean) / std

    def ours(l2s: Any) -> np.ndarray:
        options = {"num_classes": CLASSES, "shots": SHOTS, "seed": 0}
        return fewshot.sweep(*data, l2s=list(l2s), **options)

    def ridge() -> float:
        targets = 2 * np.eye(CLASSES, dtype=np.float32)[classes] - 1
        scores = Ridge(alpha=L2).fit(x, targets).predict(y)
        return float((scores.argmax(axis=1) == wanted).mean())

    def classifier() -> float:
        found = RidgeClassifier(alpha=L2).fit(x, classes).predict(y)
        return float((found == wanted).mean())

    def tell(what: str, code: str, accuracy: Any, cpu: float, wall: float) -> None:
        figures = {"cpu_s": round(cpu, 2), "wall_s": round(wall, 2)}
        found = [round(float(a), 5) for a in np.atleast_1d(accuracy)[[0, -1]]]
        print(json.dumps({"what": what, "code": code, "accuracy": found} | figures))

    ours([L2])  # compiles
    tell("one penalty, 2^10", "ours", *timed(lambda: ours([L2]), 3))
    for code, function in {"Ridge": ridge, "RidgeClassifier": classifier}.items():
        tell("one penalty, 2^10", code, *timed(function, 3))
    for what, l2s in SWEEPS.items():
        tell(what, "ours", *timed(lambda: ours(l2s), 2))  # noqa: B023


if __name__ == "__main__":
    main()
