"""Checkpoints of any kind as models."""

import dataclasses
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from vit_jax import errors, models
from vit_jax.checkpoints import checkpoint
from vit_jax.data import decode
from vit_jax.data import preprocessing as preprocessing_lib
from vit_jax.models.architecture import pair
from vit_jax.parallel import layouts
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.types import Params
from vit_jax.weights import adapting, augreg, files, outputs, remote, stem
from vit_jax.weights.source import Tensors

_OF_TIMM = r"(vit|deit3?|flexivit|mixer|resnetv2)_\w+(\.\w+)?"


@dataclass(repr=False)
class Loaded:
    """A model with its weights, and how it wants its images.

    Attributes:
        model: `model(loaded.images([...]))` gives logits [b, classes].
        architecture: Of the model.
        preprocessing: Of the evaluation images.
        label_names: One a class, or None where the checkpoint has none.
        source: Where it came from.
        dialect: What it was written in: "vit_jax" or a key of `interop.DIALECTS`.
        problem: What its outputs are: "single_label" (their softmax are probabilities),
            "multi_label" (one sigmoid each) or "regression" (numbers).
        label_ids: Other names of the classes, where the checkpoint has both.
    """

    model: nnx.Module
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
        mean, std = np.float32(wanted.mean), np.float32(wanted.std)
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
    return Path(image).read_bytes() if isinstance(image, str | Path) else image


def load(
    path: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    mesh: Mesh | None = None,
    **options: Any,
) -> Loaded:
    """Loads a checkpoint; its architecture and layout are read from it.

    Tensors are read one after the other and put where they belong, so that a large
    model is never on the host twice.

    Args:
        path: A checkpoint of ours (a workdir, or one checkpoint inside) or of another
            code, as `open_weights` takes it.
        image_size: Pixels (one number or height, width); the position table is
            resampled for it, as the code that it comes from does. None: that of its
            evaluation, the checkpoint's own nearly always (DINOv2's tables are for 518
            pixels, its processors make 224).
        num_classes: Another number than the checkpoint's puts a new zero head on; 0
            takes the head off. None: the checkpoint's.
        mesh: Each leaf goes to its shards on it; None: to the default device.
        **options: Fields of the architecture that the tensors do not decide, e.g.
            heads=12 behind a fused QKV, or of a run: dropout=0.1,
            compute_dtype="bfloat16". posemb_resample="corners" resamples positions in
            another way, a key of `interop.posemb.METHODS`; grid=(2, 8) says the (rows,
            columns) of a table of another code that is not square; channels=1, 3 or 4
            changes the first layer, see `interop.with_channels`.

    Raises:
        errors.UserError: a path that holds no checkpoint, or a damaged or unknown one.
    """
    weights = open_as_evaluated(path, image_size=image_size, **options)
    return from_weights(
        weights,
        source=str(path),
        image_size=image_size,
        num_classes=num_classes,
        mesh=mesh,
    )


def open_as_evaluated(
    path: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> files.Weights:
    """Opens as `open_weights`, by default at the size of the evaluation."""
    weights = open_weights(path, image_size=image_size, **options)
    size = weights.preprocessing.image_size
    if image_size is not None or size == weights.architecture.image_size:
        return weights
    weights.close()
    return open_weights(path, image_size=size, **options)


def from_weights(
    weights: files.Weights,
    *,
    source: str,
    image_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    mesh: Mesh | None = None,
) -> Loaded:
    """Loads what `open_weights` opened, and closes it; arguments as `load`.

    Args:
        weights: Of a checkpoint.
        source: Where they came from.
        image_size: As `load`.
        num_classes: As `load`.
        mesh: As `load`.

    Raises:
        errors.UserError: a damaged checkpoint.
    """
    with weights.leaves as leaves:
        target = changed(weights, image_size, num_classes)
        graphdef, like = models.abstract(target.architecture)
        if mesh is not None:
            like = layouts.placed("fsdp", like, mesh)
        params, _ = adapting.adapt(
            leaves, weights.architecture, target.architecture, like, place=_place
        )
    return Loaded(
        models.merge(graphdef, params),
        target.architecture,
        target.preprocessing,
        target.label_names,
        source,
        weights.dialect,
        target.problem,
        target.label_ids,
    )


def changed(
    weights: files.Weights,
    image_size: int | tuple[int, int] | None,
    num_classes: int | None,
) -> files.Weights:
    """Returns what weights say once they are at another size or have another head.

    The leaves stay as they are: `adapt` changes them. A new head has no names.

    Args:
        weights: Of a checkpoint.
        image_size: As `load`.
        num_classes: As `load`.
    """
    source, changes = weights.architecture, {}
    if image_size is not None:
        changes["image_size"] = pair(image_size)
    if num_classes is not None:
        changes["num_classes"] = num_classes
    target = source.replace(**changes)
    new_head = {"label_names": None, "label_ids": None, "problem": "single_label"}
    return dataclasses.replace(
        weights,
        architecture=target,
        preprocessing=weights.preprocessing.at(target.image_size),
        **(new_head if target.num_classes != source.num_classes else {}),
    )


def _place(array: np.ndarray, like: jax.ShapeDtypeStruct) -> jax.Array:
    where = like.sharding
    placed = mesh_lib.place(array, where) if where else jax.device_put(array)
    return jax.block_until_ready(placed)  # the host's copy lives until it is there


def open_weights(
    path: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    **options: Any,
) -> files.Weights:
    """Opens a checkpoint of ours or in any dialect; no array is read yet.

    Args:
        path: A file or folder; a URL (`https://`, `gs://`, `hf://ORG/NAME`); or
            "augreg:B/16" for the best published AugReg checkpoint of that name.
        image_size: What it shall have; consulted where the tensors do not say theirs.
        channels: Of the images, see `interop.with_channels`; None: the checkpoint's.
        **options: As `load`.

    Raises:
        errors.UserError: as `load`.
    """
    weights = _opened(path, image_size, options)
    if channels is None:
        return weights
    try:
        leaves, arch = stem.with_channels(
            weights.leaves, weights.architecture, channels
        )
    except errors.UserError:
        weights.close()
        raise
    return dataclasses.replace(weights, leaves=leaves, architecture=arch)


def _opened(
    path: str | Path,
    image_size: int | tuple[int, int] | None,
    options: Mapping[str, Any],
) -> files.Weights:
    text = str(path)
    if text.startswith("augreg:"):
        text = augreg.resolve(text)
    local = remote.fetch(text) if remote.is_remote(text) else Path(text).expanduser()
    if not files.locate(local)[0].exists():
        raise errors.UserError(f"{path} does not exist.{_on_the_hub(text)}")
    if local.is_dir() and checkpoint.find(local) is not None:
        stored = checkpoint.StoredParams(local)
        described = stored.description
        if "grid" in options:
            raise errors.UserError(
                f"{path} is a checkpoint of ours, whose grid is known "
                f"({described.architecture.image_size} pixels): leave grid out."
            )
        return files.Weights(
            models.with_options(described.architecture, options),
            Tensors(stored.shapes, stored.read, label=text),
            described.preprocessing,
            "vit_jax",
            outputs.fitting(
                described.label_names, described.architecture.num_classes, text
            ),
            label_ids=described.label_ids,
            problem=described.problem,
            config=described.config,
        )
    if local.is_dir() and not files.is_weights(local):
        raise errors.UserError(
            f"{path} is no checkpoint of vit_jax, expected a workdir or a folder in "
            f"its {checkpoint.FOLDER}/, and holds no weights of another code."
            + files.inside(local)
        )
    return files.read(local, image_size=image_size, **options)


def _on_the_hub(text: str) -> str:
    """What a path that is none may mean, as the end of a message; or ""."""
    if text in augreg.MODELS:
        return f" For the published weights of that model: augreg:{text}"
    path = Path(text).expanduser()
    if path.parent != Path() and path.parent.is_dir():
        beside = [str(p) for p in path.parent.iterdir()]
        return errors.suggest(str(path), beside)
    on_the_hub = f"timm/{text}" if re.fullmatch(_OF_TIMM, text, re.ASCII) else text
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", on_the_hub, re.ASCII):
        return ""
    return f" For the model of that name on Hugging Face's hub: hf://{on_the_hub}"


def describe(path: str | Path, **options: Any) -> files.Weights:
    """What a checkpoint says, as `load` would find it; its leaves cannot be read.

    Raises:
        errors.UserError: as `load`.
    """
    with (weights := open_weights(path, **options)).leaves:
        return weights
