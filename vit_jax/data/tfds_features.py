"""What a record of a TFDS dataset holds, and how its image is read from it."""

import dataclasses
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.data import decode, example
from vit_jax.settings import naming

# Tags of TFDS's proto messages in features.json.
_IMAGE, _CLASS, _SEQUENCE, _TENSOR = "image", "classLabel", "sequence", "tensor"
_ENCODINGS = ("none", "bytes", "zlib")  # of a tensor
_MOST_NUMBERS = 4 * decode.MAX_PIXELS


class Unread(errors.UserError):
    """Features that this reader does not read; TFDS's own may."""


@dataclasses.dataclass(frozen=True)
class Label:
    """How a record states its label."""

    feature: str
    num_classes: int  # 0: not recorded
    # "class", "classes" (a list of indices), "vector" (one number a class) or "numbers"
    # (of a regression; num_classes of them)
    kind: str


@dataclasses.dataclass(frozen=True)
class Picture:
    """How a record holds its image."""

    feature: str
    dtype: str
    dimensions: tuple[int, ...]  # as stated; -1 where images differ
    encoding: str = ""  # of a tensor, one of `_ENCODINGS`; "": an image file

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """Height, width and channels that all images share, where they do."""
        shape = self.dimensions
        if len(shape) == 2 and self.encoding:
            shape = (*shape, 1)
        return shape if len(shape) == 3 and min(shape) > 0 else None

    def read(self, values: example.Value) -> bytes | np.ndarray:
        """Returns the image of one record: a file's bytes, or an array.

        Raises:
            decode.BadImage: the record holds something else.
            IndexError: it holds nothing.
        """
        if self.encoding:
            return self._read_tensor(values)
        if self.dtype == "float32":
            return decode.decode_packed_floats(values[0])
        return values[0]

    def _read_tensor(self, values: example.Value) -> np.ndarray:
        dtype = np.dtype(self.dtype).newbyteorder("<")
        try:
            if self.encoding == "none":
                array = np.asarray(values, dtype)
            else:
                data = values[0]
                if self.encoding == "zlib":
                    # One byte too many is enough to be refused below.
                    known = math.prod(self.shape) if self.shape else _MOST_NUMBERS
                    limit = known * dtype.itemsize
                    data = zlib.decompressobj().decompress(data, limit + 1)
                array = np.frombuffer(data, dtype)
            return array.reshape(self.dimensions)
        except (ValueError, TypeError, OverflowError, zlib.error) as error:
            raise decode.BadImage(
                f"a record whose {self.feature!r} is no {self.dtype} tensor of "
                f"{list(self.dimensions)} ({error})"
            ) from error


def choose(
    features: dict[str, Any],
    info: dict[str, Any],
    path: Path,
    columns: naming.Columns,
) -> tuple[Picture, Label]:
    """Picks the image and the label: the supervised pair, else the only ones.

    A tensor of two or three axes is an image where the pair says so, or where no
    feature is declared as one.

    Args:
        features: Of features.json.
        info: dataset_info.json.
        path: Of features.json, for messages.
        columns: The features that the configuration names, in their place.

    Raises:
        errors.UserError: there is not one of each.
    """
    pair = []
    if "supervisedKeys" in info and "tuple" in info["supervisedKeys"]:
        items = info["supervisedKeys"]["tuple"]["items"]
        pair = [item["featureKey"] for item in items if "featureKey" in item]
    images = {
        name: picture
        for name in features
        if (picture := _image(name, features[name], path))
    }
    tensors = {
        name: picture for name in features if (picture := _tensor(name, features[name]))
    }
    if not images or pair[:1] and pair[0] in tensors:
        images = tensors
    named = [name for name in pair if name in images] or list(images)
    if "image" in named:
        named = ["image"]
    labels = [label for name in features if (label := _label(name, features[name]))]
    preferred = [label for label in labels if label.feature in pair[1:]]
    usual = [label for label in labels if label.feature in ("label", "labels")]
    classes = [label for label in labels if label.kind != "vector"]
    candidates = preferred or usual or classes
    if columns.image:
        named = [name for name in [columns.image] if name in {**tensors, **images}]
        images = {**tensors, **images}
    if columns.label.startswith(naming.RULE):
        from vit_jax.data import label_rules

        label_rules.check(columns.label, features, path)
        classes_of = label_rules.named(columns.label).classes
        candidates = [Label(columns.label, classes_of, "class")]
    elif columns.numeric:
        candidates = _numbers(columns.plain.label, features)
    elif columns.label:
        candidates = [label for label in labels if label.feature == columns.label]
    if len(named) != 1 or len(candidates) != 1:
        raise Unread(
            f"{path}: wanted one image and one label, found images {named} and "
            f"labels {[label.feature for label in labels]} "
            f"among {sorted(features)}; --config.data.image_column and "
            "--config.data.label_column say which"
        )
    return images[named[0]], candidates[0]


def _image(name: str, feature: dict[str, Any], path: Path) -> Picture | None:
    if _IMAGE not in feature:
        return None
    image = feature[_IMAGE]
    dtype = image["dtype"] if "dtype" in image else "uint8"
    if dtype not in ("uint8", "uint16", "float32"):
        raise Unread(
            f"{path}: image {name!r} has dtype {dtype!r}; readable: uint8, uint16, "
            "float32"
        )
    return Picture(name, dtype, _dimensions(image))


def _tensor(name: str, feature: dict[str, Any]) -> Picture | None:
    if _TENSOR not in feature or name in ("label", "labels"):
        return None
    tensor = feature[_TENSOR]
    dims = _dimensions(tensor)
    encoding = tensor["encoding"] if "encoding" in tensor else "none"
    wide = len(dims) in (2, 3) and dims.count(-1) <= 1 and encoding in _ENCODINGS
    if not wide or (len(dims) == 3 and dims[2] not in (1, 3, 4)):
        return None
    try:
        known = np.dtype(tensor["dtype"]).kind in "biuf"
    except TypeError:
        return None
    return Picture(name, tensor["dtype"], dims, encoding) if known else None


def _dimensions(feature: dict[str, Any]) -> tuple[int, ...]:
    shape = feature["shape"] if "shape" in feature else {}
    return tuple(int(n) for n in shape["dimensions"]) if "dimensions" in shape else ()


def _label(name: str, feature: dict[str, Any]) -> Label | None:
    if _CLASS in feature:
        return Label(name, _num_classes(feature), "class")
    if _SEQUENCE in feature:
        inner = feature[_SEQUENCE]["feature"]
        return Label(name, _num_classes(inner), "classes") if _CLASS in inner else None
    if _TENSOR not in feature or name not in ("label", "labels"):
        return None
    tensor = feature[_TENSOR]
    dims = _dimensions(tensor)
    if not dims and "int" in tensor["dtype"]:
        return Label(name, 0, "class")
    if len(dims) == 1 and dims[0] > 0:
        return Label(name, dims[0], "vector")
    return None


def _numbers(name: str, features: dict[str, Any]) -> list[Label]:
    """The feature of this name, where it is a number or a list of fixed length."""
    feature = features[name] if name in features else {}
    if _TENSOR not in feature:
        return []
    dims = _dimensions(feature[_TENSOR])
    width = math.prod(dims)
    good = len(dims) <= 1 and width > 0 and "string" not in feature[_TENSOR]["dtype"]
    return [Label(name, width, "numbers")] if good else []


def _num_classes(feature: dict[str, Any]) -> int:
    label = feature[_CLASS]
    return int(label["numClasses"]) if "numClasses" in label else 0
