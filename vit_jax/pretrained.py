"""Checkpoints of any kind as models, and their weights as the start of another run."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vit_jax import checkpoint, errors, interop, models, tree
from vit_jax.data import decode
from vit_jax.data import preprocessing as preprocessing_lib
from vit_jax.models.architecture import pair

Params = dict[str, Any]

# Same shapes, another function: these must agree for weights to mean the same.
MEANING = ("posemb", "pool", "gelu", "norm_epsilon")


@dataclass
class Loaded:
    """A model with its weights, and how it wants its images.

    Attributes:
        model: `model(loaded.images([...]))` gives logits [b, classes].
        architecture: Of the model.
        params: Its parameters on the host: nested dicts of numpy arrays.
        preprocessing: Of the evaluation images.
        label_names: One a class, or None where the checkpoint has none.
        source: Where it came from.
    """

    model: models.VisionTransformer
    architecture: models.Architecture
    params: Params
    preprocessing: preprocessing_lib.Preprocessing
    label_names: tuple[str, ...] | None
    source: str

    def images(self, images: Sequence[Any]) -> np.ndarray:
        """Reads and normalises images as the checkpoint wants them.

        Args:
            images: Paths, encoded bytes, Pillow images or uint8 arrays [h, w, 3].

        Returns:
            float32 [b, height, width, 3].

        Raises:
            errors.UserError: a file that is missing or no image.
        """
        wanted = self.preprocessing
        transform = wanted.eval_transform()
        batch = np.empty((len(images), *wanted.image_size, 3), np.uint8)
        for image, out in zip(images, batch):
            try:
                transform(_content(image), out=out)
            except (decode.BadImage, OSError) as error:
                name = str(image)[:200] if isinstance(image, str | Path) else "an image"
                raise errors.UserError(f"{name} cannot be read: {error}") from error
        mean, std = np.float32(wanted.mean), np.float32(wanted.std)
        return (batch - mean[None, None, None]) / std[None, None, None]


def _content(image: Any) -> Any:
    return Path(image).read_bytes() if isinstance(image, str | Path) else image


@dataclass
class Report:
    """What `adapt` did with each leaf; `str()` of it fits in a log."""

    kept: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    made_new: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"kept {len(self.kept)} leaves"]
        for what in ("resized", "made_new", "dropped"):
            if names := getattr(self, what):
                lines.append(f"{what.replace('_', ' ')}: {', '.join(names)}")
        return "\n".join(lines)


def load(
    path: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
) -> Loaded:
    """Loads a checkpoint; its architecture and layout are read from it.

    Args:
        path: A checkpoint of ours (a workdir, or one checkpoint inside), or an `.npz`
            of google-research/vision_transformer or big_vision.
        image_size: Pixels (one number or height, width); the position table is
            resampled for it. None: the checkpoint's.
        num_classes: Another number than the checkpoint's puts a new zero head on; 0
            takes the head off. None: the checkpoint's.

    Raises:
        errors.UserError: a path that holds no checkpoint, or a damaged or unknown one.
    """
    weights = _read(path, image_size)
    source = weights.architecture
    changes: dict[str, Any] = {}
    if image_size is not None:
        changes["image_size"] = pair(image_size)
    if num_classes is not None:
        changes["num_classes"] = num_classes
    target = source.replace(**changes)
    graphdef, like = models.abstract(target)
    params, _ = adapt(weights.params, source, target, like)
    preprocessing = weights.preprocessing
    if preprocessing.image_size != target.image_size:
        preprocessing = _preprocessing_at(preprocessing, target.image_size)
    names = weights.label_names if target.num_classes == source.num_classes else None
    model = models.merge(graphdef, jax.tree.map(jax.numpy.asarray, params))
    return Loaded(model, target, params, preprocessing, names, str(path))


def read_architecture(path: str | Path) -> models.Architecture:
    """The architecture of a checkpoint, as `load` would find it.

    Raises:
        errors.UserError: as `load`.
    """
    if Path(path).is_dir():
        return checkpoint.describe(path).architecture
    return _read(path, None).architecture


def _read(
    path: str | Path, image_size: int | tuple[int, int] | None
) -> interop.Weights:
    if re.match(r"\w+://", str(path)):
        raise errors.UserError(f"{path} is not on this machine: copy it here first.")
    path = Path(path).expanduser()
    if not path.exists():
        raise errors.UserError(f"{path} does not exist.")
    if path.is_dir():
        params, description = checkpoint.read_params(path)
        return interop.Weights(
            description.architecture,
            params,
            description.preprocessing,
            "vit_jax",
            description.label_names,
        )
    if not _is_zip(path):
        raise errors.UserError(
            f"{path} is no checkpoint we can read: neither a folder that vit_jax "
            "wrote nor an .npz file."
        )
    return interop.read(path, image_size=image_size)


def _is_zip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"PK" or path.suffix == ".npz"


def _preprocessing_at(
    old: preprocessing_lib.Preprocessing, image_size: tuple[int, int]
) -> preprocessing_lib.Preprocessing:
    """The same evaluation at another size: the share that a crop keeps is kept."""
    resize = round(old.resize * min(image_size) / min(old.image_size))
    return preprocessing_lib.Preprocessing.from_dict(
        old.to_dict() | {"image_size": list(image_size), "resize": resize}
    )


def adapt(
    params: Params,
    from_architecture: models.Architecture,
    to_architecture: models.Architecture,
    like_params: Params,
    key: jax.Array | None = None,
    *,
    keep_head: bool = True,
) -> tuple[Params, Report]:
    """Fits weights to another architecture, for fine-tuning (the paper's section 3.2).

    Leaves of the same shape are kept, the position table is resampled for another
    grid, a head for another number of classes starts at zero, and the pre-logits
    layer and what only masked prediction uses are dropped where the target has none.

    Args:
        params: Of `from_architecture`.
        from_architecture: Where they come from.
        to_architecture: What they shall fit.
        like_params: Parameters or shapes of `to_architecture`.
        key: For new leaves with random values; a head has none.
        keep_head: Keep the head when the number of classes is the same.

    Returns:
        Parameters of `to_architecture` as numpy arrays, and what was done.

    Raises:
        errors.UserError: anything else that differs.
    """
    source, wanted = dict(tree.named_leaves(params)), tree.named_leaves(like_params)
    _check_meaning(from_architecture, to_architecture)
    result, report, problems = {}, Report(), []
    # A head reads what the pre-logits layer writes: they stay or go together.
    keep_head &= all(
        getattr(from_architecture, same) == getattr(to_architecture, same)
        for same in ("num_classes", "pre_logits")
    )
    for name, like in wanted:
        ours, shape = source.pop(name, None), tuple(like.shape)
        if name.startswith("head/") and not keep_head:
            value = to_architecture.head_bias if name == "head/bias" else 0.0
            result[name] = np.full(shape, value, np.float32)
            report.made_new.append(f"{name} {shape}")
            if ours is not None:
                report.dropped.append(f"{name} {ours.shape}")
        elif name == "posemb" and ours is not None and shape[2] == ours.shape[2]:
            result[name] = _posemb(ours, from_architecture, to_architecture)
            changed = result[name].shape != ours.shape
            note = f"{name} {ours.shape} -> {shape}"
            (report.resized if changed else report.kept).append(note)
        elif ours is not None and tuple(ours.shape) == shape:
            result[name] = np.asarray(ours)
            report.kept.append(name)
        else:
            theirs = "none" if ours is None else tuple(ours.shape)
            problems.append(f"{name}: the checkpoint has {theirs}, this model {shape}")
    for name, leaf in source.items():
        if re.match("pre_logits/|head/|mask_token$|patch_head/", name):
            report.dropped.append(f"{name} {tuple(leaf.shape)}")
        else:
            problems.append(f"{name}: only the checkpoint has it, {tuple(leaf.shape)}")
    if problems:
        raise _mismatch(problems, from_architecture, to_architecture)
    return tree.from_named(result), report


def _posemb(
    table: np.ndarray, source: models.Architecture, target: models.Architecture
) -> np.ndarray:
    return interop.resample_posemb(
        np.asarray(table),
        old_grid=source.grid,
        new_grid=target.grid,
        prefix=source.prefix,
    )


def _check_meaning(source: models.Architecture, target: models.Architecture) -> None:
    different = [n for n in MEANING if getattr(source, n) != getattr(target, n)]
    if different:
        lines = [
            f"  {name}: {getattr(source, name)!r} in the checkpoint, "
            f"{getattr(target, name)!r} in this model"
            for name in different
        ]
        raise errors.UserError(
            "the checkpoint's weights mean something else in this model:\n"
            + "\n".join(lines)
            + "\nuse the checkpoint's values, or model.name='checkpoint'."
        )


def _mismatch(
    problems: Iterable[str], source: models.Architecture, target: models.Architecture
) -> errors.UserError:
    return errors.UserError(
        errors.listing(
            f"the weights of {source.name} do not fit this {target.name}:",
            list(problems),
            "make the model's options those of the checkpoint, or use\n"
            "model.name='checkpoint', which takes them from it.",
        )
    )
