"""Writes golden arrays of RandAugment's operations, by the reference libraries.

    python -m benchmarks.golden_augment timm        (timm and Pillow)
    python -m benchmarks.golden_augment tensorflow  (TensorFlow 2.13 or newer)

`timm` calls timm's operations with what its own functions make of a magnitude, and
torchvision's change of hues.
`tensorflow` calls big_vision's operations as `augment_tensorflow` has them. Both go to
`tests/golden/augment/`.
"""

import io
import itertools
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "augment"
FILL = (124, 116, 104)
SIGNED = ("Rotate", "Shear", "Translate", "Increasing")
UNSIGNED = ("Posterize", "Solarize")


def scene(height: int = 24, width: int = 32) -> np.ndarray:
    """Slopes, flat parts, edges and some noise: uint8 [h, w, 3]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([5 * x + 40, 8 * y + 20, 255 - 3 * x - 4 * y], -1).clip(9, 250)
    image[(y - 14) ** 2 + (x - 10) ** 2 < 36] = (240, 30, 60)
    image[3:7, 18:29] = 255
    image[:, 14] = 7
    image[17:22, 18:28] += rng.integers(-20, 20, (5, 10, 3))
    return image.clip(0, 255).astype(np.uint8)


def is_signed(name: str) -> bool:
    """Whether an operation has a direction."""
    return any(s in name for s in SIGNED) and not any(u in name for u in UNSIGNED)


def write(name: str, cases: Iterator[tuple[dict[str, Any], np.ndarray]]) -> None:
    """Writes the scene, the cases as JSON, and what each of them gives."""
    said, images = zip(*cases)
    arrays = {
        "scene": scene(),
        "cases": np.array(json.dumps(said)),
        "images": np.stack(images),
    }
    GOLDEN.mkdir(parents=True, exist_ok=True)
    path = GOLDEN / f"{name}.npz"
    # One date for all, so that the same arrays are the same file; LZMA halves it.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        for key, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            info = zipfile.ZipInfo(f"{key}.npy", (1980, 1, 1, 0, 0, 0))
            file.writestr(info, buffer.getvalue(), zipfile.ZIP_LZMA)
    print(f"{path}: {len(said)} cases, {path.stat().st_size:,} bytes")


def of_timm() -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Every operation of timm at several magnitudes."""
    from unittest import mock

    from PIL import Image
    from timm.data import auto_augment as reference

    names = {*reference._RAND_TRANSFORMS, *reference._RAND_INCREASING_TRANSFORMS}
    names |= {"Desaturate", "GaussianBlur"}
    before: list[np.ndarray] = []
    for name in sorted(names):
        before.clear()
        moves = name.split("X")[0].split("Y")[0] in ("Rotate", "Shear", "Translate")
        for level in (2.5, 10.0) if moves else (0.0, 6.0, 9.0):
            for sign in (1.0, -1.0) if is_signed(name) else (1.0,):
                # timm's `_randomly_negate` negates above one half.
                number = mock.Mock(return_value=0.0 if sign > 0 else 1.0)
                with mock.patch.object(reference.random, "random", number):
                    argument = reference.LEVEL_TO_ARG[name]
                    arguments = argument(level, {}) if argument else ()
                if "Posterize" in name and arguments == (0,):
                    continue  # which Pillow refuses since version 12
                for filter in ("bilinear", "bicubic") if moves else ("bilinear",):
                    made = reference.NAME_TO_OP[name](
                        Image.fromarray(scene()),
                        *arguments,
                        fillcolor=FILL,
                        resample=Image.Resampling[filter.upper()],
                    )
                    pixels = np.asarray(made)
                    if any(np.array_equal(pixels, other) for other in before):
                        continue  # of no magnitude, or both of none
                    before.append(pixels)
                    said = {"name": name, "level": level, "sign": sign}
                    yield said | {"filter": filter}, pixels


def of_torchvision() -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """The one change of its colour jitter that timm has no operation of."""
    from PIL import Image
    from torchvision.transforms import functional

    for level, sign in ((1.3, 1.0), (1.3, -1.0), (10.0, 1.0)):
        turned = functional.adjust_hue(Image.fromarray(scene()), sign * level / 20)
        said = {"name": "Hue", "level": level, "sign": sign, "filter": "bilinear"}
        yield said, np.asarray(turned)


def of_tensorflow() -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Every operation of big_vision's RandAugment at several levels."""
    import tensorflow as tf

    from benchmarks import augment_tensorflow

    image = tf.constant(scene())
    for name, operation in augment_tensorflow.OPERATIONS.items():
        before: list[np.ndarray] = []
        # Shifts are in pixels: at level 4 all of this small scene but a few is gone.
        large = (0.0, 10.0, 15.0, 20.0)
        for level in (0.0, 1.3, 3.0) if "Translate" in name else large:
            for sign in (1.0, -1.0) if is_signed(name) else (1.0,):
                pixels = operation(image, level / 10, sign, 9, 25).numpy()
                if not any(np.array_equal(pixels, other) for other in before):
                    before.append(pixels)
                    yield {"name": name, "level": level, "sign": sign}, pixels


if __name__ == "__main__":
    which: dict[str, Callable[[], Iterator[tuple[dict[str, Any], np.ndarray]]]] = {
        "timm": lambda: itertools.chain(of_timm(), of_torchvision()),
        "tensorflow": of_tensorflow,
    }
    write(sys.argv[1], which[sys.argv[1]]())
