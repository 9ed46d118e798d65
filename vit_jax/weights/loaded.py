"""A model with its weights, and the images that it wants."""

import dataclasses
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vit_jax import errors, models
from vit_jax.data import decode, walking
from vit_jax.data import preprocessing as preprocessing_lib
from vit_jax.models.model import Model
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.types import Params


@dataclass(repr=False)
class Loaded:
    """A model with its weights, and how it wants its images.

    Attributes:
        model: `model(loaded.images([...]))` gives logits [b, classes].
        architecture: Of the model.
        preprocessing: Of the evaluation images.
        label_names: One a class, or None where the checkpoint has none.
        source: Where it came from.
        dialect: What it was written in: "vit_jax" or a key of `dialects.DIALECTS`.
        problem: What its outputs are: "single_label" (their softmax are probabilities),
            "multi_label" (one sigmoid each) or "regression" (numbers).
        label_ids: Other names of the classes, where the checkpoint has both.
    """

    model: Model
    architecture: models.Architecture
    preprocessing: preprocessing_lib.Preprocessing
    label_names: tuple[str, ...] | None
    source: str
    dialect: str
    problem: str = "single_label"
    label_ids: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        """What there is to know of it, on a screen."""
        lines = [f"Loaded from {self.source[:300]}"]
        for name, text in _shown(self).items():
            filled = textwrap.wrap(
                f"{name}: {text}", 88, subsequent_indent="    ", max_lines=5
            )
            lines += [f"  {line}" for line in filled]
        return "\n".join(lines)

    @property
    def params(self) -> Params:
        """Its parameters on the host: nested dicts of numpy arrays, not to write to."""
        return jax.tree.map(mesh_lib.to_host, models.split(self.model)[1])

    def images(self, images: Any) -> np.ndarray:
        """Reads and normalises images as the checkpoint wants them.

        Photographs are turned as their EXIF orientation says.

        Args:
            images: Paths, encoded bytes, Pillow images or uint8 arrays [h, w] or
                [h, w, 1 | 3 | 4], or one of these.

        Returns:
            float32 [b, height, width, 3]; of one image b is 1.

        Raises:
            errors.UserError: a file that is missing or no image, or a model that does
                not take color images.
        """
        check_color(self.architecture)
        wanted = self.preprocessing
        transform = wanted.eval_transform(exif="turn")
        images = _several(images)
        batch = np.empty((len(images), *wanted.image_size, 3), np.uint8)
        for image, out in zip(images, batch):
            try:
                transform(_content(image), out=out)
            except (decode.BadImage, OSError) as error:
                name = str(image)[:200] if isinstance(image, str | Path) else "an image"
                raise errors.UserError(f"{name} cannot be read: {error}") from error
        mean = np.array(wanted.mean, np.float32)
        std = np.array(wanted.std, np.float32)
        return (batch - mean[None, None, None]) / std[None, None, None]


def _shown(loaded: Loaded) -> dict[str, str]:
    """The lines of a loaded checkpoint, by what they are of."""
    arch, names = loaded.architecture, loaded.label_names
    fields = {
        f.name: getattr(arch, f.name)
        for f in dataclasses.fields(arch)
        if f.name not in ("name", "image_size", "num_classes")
        and getattr(arch, f.name) != f.default
    }
    if names is not None and len(names) > 8:
        names = (*names[:6], "...", names[-1])
    count = models.count_parameters(arch)
    return {
        "written in": loaded.dialect,
        "model": f"{models.summary(arch)}, {count:,} parameters",
        "architecture": f"{arch.family}, {_listed(fields)}",
        "preprocessing": _listed(loaded.preprocessing.to_dict()),
        "outputs": f"{arch.num_classes}, {loaded.problem}",
        "labels": "without names" if names is None else ", ".join(map(str, names)),
    }


def _listed(fields: Mapping[str, Any]) -> str:
    said = {name: value for name, value in fields.items() if value not in ("", None)}
    return ", ".join(f"{name}={value}" for name, value in said.items())


def check_color(arch: models.Architecture) -> None:
    """Raises `UserError` unless a model takes what is read here: red, green, blue."""
    if arch.channels != 3:
        raise errors.UserError(
            f"this {arch.name} is for images of {arch.channels} channels, and images "
            "are read as red, green and blue. Make [b, height, width, "
            f"{arch.channels}] floats yourself and call the model; or take "
            "vit_jax.load(path, channels=3), or convert it with --option=channels=3."
        )


def _several(images: Any) -> list[Any]:
    """A list of the images, of one where it is one."""
    shape = getattr(images, "shape", None)
    if shape is not None and len(shape) == 3 and shape[-1] not in (1, 3, 4):
        raise errors.UserError(
            f"images of shape {tuple(shape)}: wanted one image [h, w, 3] or [h, w], or "
            "several as [b, h, w, 3] or a list; are the channels first?"
        )
    single = isinstance(images, str | Path | bytes | bytearray | memoryview | Mapping)
    if single or hasattr(images, "convert") or (shape is not None and len(shape) < 4):
        return [images]
    try:
        return list(images)
    except TypeError:
        raise errors.UserError(
            f"images: got {type(images).__name__}; wanted paths, bytes, Pillow images "
            "or uint8 arrays, or one of these."
        ) from None


def _content(image: Any) -> Any:
    return walking.read_file(image) if isinstance(image, str | Path) else image
