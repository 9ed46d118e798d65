"""The reference implementations' files, written from what is drawn and what is stored.

Their weights and images are random: `tests/golden/reference/drawn.json` has the seed,
the names and the shapes of each file, and stored are the outputs, which only those
implementations can give.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

REFERENCE = Path(__file__).parent / "golden" / "reference"


def write(folder: Path) -> Path:
    """Writes NAME.npz and NAME_io.npz of each; the rest is copied."""
    shutil.copytree(REFERENCE, folder, dirs_exist_ok=True)
    drawn = json.loads((REFERENCE / "drawn.json").read_text())
    for name, row in drawn["weights"].items():
        _save(folder / f"{name}.npz", _weights(**row))
    for name, row in drawn["images"].items():
        path = folder / f"{name}_io.npz"
        with np.load(path) as outputs:
            _save(path, {"images": _images(**row), **outputs})
    return folder


def _weights(
    seed: int, sha256: str, shapes: dict[str, list[int]]
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        value = rng.standard_normal(shape)
        value = 1 + 0.5 * value if name.endswith("scale") else 0.2 * value
        tensors[name] = value.astype(np.float32)
    _check(tensors.values(), sha256)
    return tensors


def _images(seed: int, sha256: str, shape: list[int]) -> np.ndarray:
    images = np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)
    _check([images], sha256)
    return images


def _check(tensors: Iterable[np.ndarray], sha256: str) -> None:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.tobytes())
    if found.hexdigest()[: len(sha256)] != sha256:
        raise AssertionError(
            f"NumPy {np.__version__} draws other numbers from a seed than NumPy 2.0 to "
            "2.4: tests/golden/reference has no outputs for them"
        )


def _save(path: Path, tensors: dict[str, Any]) -> None:
    with path.open("wb") as stream:
        np.savez(stream, **tensors)
