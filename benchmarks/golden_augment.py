"""Writes golden arrays of RandAugment's operations, by the reference libraries.

    python -m benchmarks.golden_augment timm        (timm and Pillow)
    python -m benchmarks.golden_augment tensorflow  (TensorFlow 2.13 or newer)

`timm` calls timm's operations with what its own functions make of a magnitude, and
torchvision's change of hues.
`tensorflow` states big_vision's operations in TensorFlow's, because what they need
(tensorflow_addons) is gone: their definitions are written out below, the sampling is
the kernel that tensorflow_addons called. Both go to `tests/golden/augment/`.
"""

import io
import itertools
import json
import math
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


class TensorFlow:
    """big_vision's operations, written in TensorFlow's."""

    def __init__(self) -> None:
        import tensorflow as tf

        self.tf = tf

    def _blend(self, plain: Any, image: Any, factor: float) -> Any:
        tf = self.tf
        if factor in (0.0, 1.0):
            return image if factor else plain
        plain, image = tf.cast(plain, tf.float32), tf.cast(image, tf.float32)
        mixed = plain + factor * (image - plain)
        return tf.cast(tf.clip_by_value(mixed, 0.0, 255.0), tf.uint8)

    def _project(self, image: Any, matrix: list[Any]) -> Any:
        """tfa.image.transform's kernel; a channel of ones tells what is outside."""
        tf = self.tf
        ones = tf.ones((*image.shape[:2], 1), tf.uint8)
        made = tf.raw_ops.ImageProjectiveTransformV3(
            images=tf.concat([image, ones], 2)[None],
            transforms=tf.cast(tf.stack([[*matrix, 0.0, 0.0]]), tf.float32),
            output_shape=image.shape[:2],
            interpolation="NEAREST",
            fill_mode="CONSTANT",
            fill_value=0.0,
        )[0]
        return tf.where(made[..., 3:] == 1, made[..., :3], tf.constant(128, tf.uint8))

    def _rotate(self, image: Any, degrees: float) -> Any:
        tf = self.tf
        turn = tf.constant(degrees * math.pi / 180, tf.float32)
        cos, sin = tf.cos(turn), tf.sin(turn)
        down, across = (tf.constant(side - 1, tf.float32) for side in image.shape[:2])
        x = (across - (cos * across - sin * down)) / 2.0
        y = (down - (sin * across + cos * down)) / 2.0
        return self._project(image, [cos, -sin, x, sin, cos, y])

    def _autocontrast(self, image: Any) -> Any:
        tf = self.tf
        planes = []
        for channel in range(3):
            plane = tf.cast(image[..., channel], tf.float32)
            low, high = tf.reduce_min(plane), tf.reduce_max(plane)
            if high > low:
                scale = 255.0 / (high - low)
                plane = tf.clip_by_value(plane * scale + -low * scale, 0.0, 255.0)
            planes.append(tf.cast(plane, tf.uint8))
        return tf.stack(planes, 2)

    def _equalize(self, image: Any) -> Any:
        tf = self.tf
        planes = []
        for channel in range(3):
            plane = tf.cast(image[..., channel], tf.int32)
            counts = tf.histogram_fixed_width(plane, [0, 255], nbins=256)
            last = tf.boolean_mask(counts, counts != 0)[-1]
            step = (tf.reduce_sum(counts) - last) // 255
            if step > 0:
                table = (tf.cumsum(counts, exclusive=True) + step // 2) // step
                table = tf.where(tf.range(256) == 0, 0, table)
                plane = tf.gather(tf.clip_by_value(table, 0, 255), plane)
            planes.append(tf.cast(plane, tf.uint8))
        return tf.stack(planes, 2)

    def _contrast(self, image: Any, factor: float) -> Any:
        tf = self.tf
        grey = tf.cast(tf.image.rgb_to_grayscale(image), tf.int32)
        counts = tf.histogram_fixed_width(grey, [0, 255], nbins=256)
        levels = tf.linspace(0.0, 255.0, 256)
        mean = tf.reduce_sum(tf.cast(counts, tf.float32) * levels) / float(
            image.shape[0] * image.shape[1]
        )
        plain = tf.fill(image.shape, tf.cast(mean, tf.uint8))
        return self._blend(plain, image, factor)

    def _color(self, image: Any, factor: float) -> Any:
        grey = self.tf.image.rgb_to_grayscale(image)
        return self._blend(self.tf.image.grayscale_to_rgb(grey), image, factor)

    def _sharpness(self, image: Any, factor: float) -> Any:
        tf = self.tf
        kernel = np.ones((3, 3, 1, 1), np.float32)
        kernel[1, 1] = 5
        kernel = tf.tile(tf.constant(kernel) / 13.0, [1, 1, 3, 1])
        means = tf.nn.depthwise_conv2d(
            tf.cast(image, tf.float32)[None], kernel, [1, 1, 1, 1], "VALID"
        )
        means = tf.cast(tf.clip_by_value(means, 0.0, 255.0), tf.uint8)[0]
        smooth = image.numpy()
        smooth[1:-1, 1:-1] = means.numpy()
        return self._blend(tf.constant(smooth), image, factor)

    def _solarize(self, image: Any, threshold: int) -> Any:
        # The number becomes one of uint8, with whatever that does to it.
        return self.tf.where(image < threshold, image, 255 - image)

    def _solarize_add(self, image: Any, addition: int) -> Any:
        tf = self.tf
        added = tf.clip_by_value(tf.cast(image, tf.int64) + addition, 0, 255)
        return tf.where(image < 128, tf.cast(added, tf.uint8), image)

    def _posterize(self, image: Any, bits: int) -> Any:
        shift = self.tf.constant(8 - bits, self.tf.uint8)
        kept = self.tf.bitwise.right_shift(image, shift)
        return self.tf.bitwise.left_shift(kept, shift)

    def _cutout(self, image: Any, half: int, y: int, x: int) -> Any:
        rows = np.abs(np.arange(image.shape[0]) - y + 0.5) < half
        columns = np.abs(np.arange(image.shape[1]) - x + 0.5) < half
        mask = (rows[:, None] & columns[None])[..., None]
        return self.tf.where(mask, self.tf.constant(128, self.tf.uint8), image)

    def operations(self) -> dict[str, Callable[[Any, float, float], Any]]:
        """From an image, level / 10 and a sign; big_vision's order."""
        return {
            "AutoContrast": lambda i, s, n: self._autocontrast(i),
            "Equalize": lambda i, s, n: self._equalize(i),
            "Invert": lambda i, s, n: 255 - i,
            "Rotate": lambda i, s, n: self._rotate(i, n * s * 30.0),
            "Posterize": lambda i, s, n: self._posterize(i, int(s * 4)),
            "Solarize": lambda i, s, n: self._solarize(i, int(s * 256)),
            "Color": lambda i, s, n: self._color(i, _enhance(s)),
            "Contrast": lambda i, s, n: self._contrast(i, _enhance(s)),
            "Brightness": lambda i, s, n: self._blend(
                self.tf.zeros_like(i), i, _enhance(s)
            ),
            "Sharpness": lambda i, s, n: self._sharpness(i, _enhance(s)),
            "ShearX": lambda i, s, n: self._project(i, [1.0, n * s * 0.3, 0, 0, 1, 0]),
            "ShearY": lambda i, s, n: self._project(i, [1.0, 0, 0, n * s * 0.3, 1, 0]),
            "TranslateX": lambda i, s, n: self._project(
                i, [1, 0, n * s * 100.0, 0, 1, 0]
            ),
            "TranslateY": lambda i, s, n: self._project(
                i, [1, 0, 0, 0, 1, n * s * 100.0]
            ),
            "Cutout": lambda i, s, n: self._cutout(i, int(s * 40), 9, 25),
            "SolarizeAdd": lambda i, s, n: self._solarize_add(i, int(s * 110)),
        }


def _enhance(share: float) -> float:
    return share * 1.8 + 0.1


def of_tensorflow() -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Every operation of big_vision's RandAugment at several levels."""
    made = TensorFlow()
    for name, operation in made.operations().items():
        before: list[np.ndarray] = []
        # Shifts are in pixels: at level 4 all of this small scene but a few is gone.
        levels = (0.0, 1.3, 3.0) if "Translate" in name else (0.0, 10.0, 15.0, 20.0)
        for level in levels:
            for sign in (1.0, -1.0) if is_signed(name) else (1.0,):
                image = made.tf.constant(scene())
                pixels = operation(image, level / 10, sign).numpy()
                if not any(np.array_equal(pixels, other) for other in before):
                    before.append(pixels)
                    yield {"name": name, "level": level, "sign": sign}, pixels


if __name__ == "__main__":
    which: dict[str, Callable[[], Iterator[tuple[dict[str, Any], np.ndarray]]]] = {
        "timm": lambda: itertools.chain(of_timm(), of_torchvision()),
        "tensorflow": of_tensorflow,
    }
    write(sys.argv[1], which[sys.argv[1]]())
