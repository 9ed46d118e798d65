"""Checkpoints of any kind as models, and their weights as the start of another run."""

import dataclasses
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from vit_jax import augreg, checkpoint, errors, interop, models, recipe, remote, tree
from vit_jax import mesh as mesh_lib
from vit_jax.data import decode
from vit_jax.data import preprocessing as preprocessing_lib
from vit_jax.models.architecture import pair

Params = dict[str, Any]

# Same shapes, another function: these must agree for weights to mean the same.
MEANING = (
    *("pool", "class_token", "positioned", "posemb", "posemb_at", "norm", "final_norm"),
    *("norm_epsilon", "gelu", "mlp", "attention_mask", "attention_window", "form"),
    *("pool_padding", "resnet_style"),
)
HEADS = ("head/", "head_dist/")
# Leaves that come and go with what a model is trained for.
_OF_TIMM = r"(vit|deit3?|flexivit|mixer|resnetv2)_\w+(\.\w+)?"
OF_A_TASK = re.compile(r"head/|head_dist/|pre_logits/|mask_token$|patch_head/")


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
) -> interop.Weights:
    """Opens as `open_weights`, by default at the size of the evaluation."""
    weights = open_weights(path, image_size=image_size, **options)
    size = weights.preprocessing.image_size
    if image_size is not None or size == weights.architecture.image_size:
        return weights
    weights.close()
    return open_weights(path, image_size=size, **options)


def from_weights(
    weights: interop.Weights,
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
            like = mesh_lib.with_shardings(like, mesh_lib.shardings(like, mesh))
        params, _ = adapt(
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
    weights: interop.Weights,
    image_size: int | tuple[int, int] | None,
    num_classes: int | None,
) -> interop.Weights:
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
        preprocessing=preprocessing_at(weights.preprocessing, target.image_size),
        **(new_head if target.num_classes != source.num_classes else {}),
    )


def _place(array: np.ndarray, like: jax.ShapeDtypeStruct) -> jax.Array:
    # Waiting, because the host's copy lives until the transfer is done.
    if like.sharding is None:
        return jax.block_until_ready(jax.device_put(array))
    return jax.block_until_ready(mesh_lib.place(array, like.sharding))


def open_weights(
    path: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    **options: Any,
) -> interop.Weights:
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
        leaves, arch = interop.with_channels(
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
) -> interop.Weights:
    text = str(path)
    if text.startswith("augreg:"):
        text = augreg.resolve(text)
    local = remote.fetch(text) if remote.is_remote(text) else Path(text).expanduser()
    if not interop.locate(local)[0].exists():
        raise errors.UserError(f"{path} does not exist.{_on_the_hub(text)}")
    if local.is_dir() and checkpoint.find(local) is not None:
        stored = checkpoint.StoredParams(local)
        described = stored.description
        if "grid" in options:
            raise errors.UserError(
                f"{path} is a checkpoint of ours, whose grid is known "
                f"({described.architecture.image_size} pixels): leave grid out."
            )
        return interop.Weights(
            models.with_options(described.architecture, options),
            interop.Tensors(stored.shapes, stored.read, label=text),
            described.preprocessing,
            "vit_jax",
            interop.fitting(
                described.label_names, described.architecture.num_classes, text
            ),
            problem=described.problem,
            config=described.config,
        )
    if local.is_dir() and not interop.is_weights(local):
        raise errors.UserError(
            f"{path} is no checkpoint of vit_jax, expected a workdir or a folder in "
            f"its {checkpoint.FOLDER}/, and holds no weights of another code."
            + interop.inside(local)
        )
    return interop.read(local, image_size=image_size, **options)


def _on_the_hub(text: str) -> str:
    """What a path that is none may mean, as the end of a message; or ""."""
    if text in augreg.MODELS:
        return f" For the published weights of that model: augreg:{text}"
    on_the_hub = f"timm/{text}" if re.fullmatch(_OF_TIMM, text, re.ASCII) else text
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", on_the_hub, re.ASCII):
        return ""
    return f" For the model of that name on Hugging Face's hub: hf://{on_the_hub}"


def describe(path: str | Path, **options: Any) -> interop.Weights:
    """What a checkpoint says, as `load` would find it; its leaves cannot be read.

    Raises:
        errors.UserError: as `load`.
    """
    with (weights := open_weights(path, **options)).leaves:
        return weights


def check_decided(
    options: Mapping[str, Any],
    architecture: models.Architecture,
    *,
    besides: Sequence[str],
) -> None:
    """Raises `UserError` for options that a checkpoint decides, and otherwise.

    Args:
        options: the configuration's "model", without its name.
        architecture: of the checkpoint.
        besides: options that a run decides.
    """
    defaults = recipe.defaults()["model"]
    lines = [
        f"model.{key}={value!r}: the checkpoint has "
        f"{getattr(architecture, key, 'no such option')!r}; leave it at "
        f"{defaults[key]!r}"
        for key, value in options.items()
        if key not in besides
        and value != defaults[key]
        and value != getattr(architecture, key, None)
    ]
    if lines:
        raise errors.UserError(
            errors.listing(
                'with model.name="checkpoint" the checkpoint decides these:',
                lines,
                "or name the model, to fit the checkpoint's weights to it",
            )
        )


def preprocessing_at(
    old: preprocessing_lib.Preprocessing, image_size: tuple[int, int]
) -> preprocessing_lib.Preprocessing:
    """Returns the same evaluation at another size; a crop keeps its share."""
    return old.at(image_size)


def adapt(
    leaves: interop.Tensors,
    source: models.Architecture,
    target: models.Architecture,
    like: Params,
    *,
    keep_head: bool = True,
    head_order: np.ndarray | None = None,
    place: Callable[[np.ndarray, Any], Any] = lambda array, like: array,
    fresh: Mapping[str, Any] | None = None,
) -> tuple[Params, Report]:
    """Fits weights to another architecture, for fine-tuning (the paper's section 3.2).

    Leaves of the same shape are kept, the position table is resampled for another
    grid, a head for another number of classes starts at zero, and the pre-logits
    layer and what only masked prediction uses are dropped where the target has none.

    Args:
        leaves: Of the source, by name; read one at a time, the largest first.
        source: Their architecture.
        target: What they shall fit.
        like: Parameters or shapes of the target.
        keep_head: Keep the head when the number of classes is the same.
        head_order: int [classes], the source's output that becomes each of the
            target's, where the head is kept; None: they stay where they are.
        place: From an array and its part of `like` to what is returned.
        fresh: Initial values of the target's leaves, by name, for what its task adds.

    Returns:
        Parameters of the target, and what was done.

    Raises:
        errors.UserError: anything else that differs.
    """
    leaves, new, report = _fitted(
        *(leaves, source, target, like),
        keep_head=keep_head,
        head_order=head_order,
        fresh=fresh or {},
    )
    wanted = dict(tree.named_leaves(like))
    shapes = {name: tuple(leaf.shape) for name, leaf in wanted.items()}
    result = {}
    for name in sorted(wanted, key=lambda name: -math.prod(shapes[name])):
        if name in new:
            result[name] = place(new[name](), wanted[name])
        else:
            result[name] = place(leaves.read(name), wanted[name])
    return tree.from_named({name: result[name] for name in wanted}), report


def check_adapt(
    leaves: interop.Tensors,
    source: models.Architecture,
    target: models.Architecture,
    like: Params,
    *,
    keep_head: bool = True,
) -> None:
    """Raises what `adapt` would, from shapes alone: no array is read."""
    fresh = dict(tree.named_leaves(like))
    _fitted(leaves, source, target, like, keep_head=keep_head, fresh=fresh)


def _fitted(
    leaves: interop.Tensors,
    source: models.Architecture,
    target: models.Architecture,
    like: Params,
    *,
    keep_head: bool,
    fresh: Mapping[str, Any],
    head_order: np.ndarray | None = None,
) -> tuple[interop.Tensors, dict[str, Callable[[], np.ndarray]], Report]:
    """The tensors at the target's size, what is made new, and what was done."""
    _check_meaning(source, target)
    before = leaves.shapes
    if source.image_size != target.image_size:
        crops = [getattr(arch, "crop", "") for arch in (source, target)]
        cut = {"crop": "valid"} if "valid" in crops else {}
        said = getattr(target, "posemb_resample", "auto")
        leaves, _ = interop.at_size(
            *(leaves, source.replace(**cut), target.image_size),
            method=None if said == "auto" else said,
        )
    keep_head = keep_head and keeps_head(source, target)
    if keep_head and head_order is not None:
        leaves = _reordered(leaves, head_order)
    shapes = {name: tuple(leaf.shape) for name, leaf in tree.named_leaves(like)}
    new = _made_new(shapes, leaves, target, keep_head, fresh)
    report = _report(shapes, leaves.shapes, before, set(new))
    _check_fit(shapes, leaves.shapes, set(new), source, target)
    return leaves, new, report


def keeps_head(source: models.Architecture, target: models.Architecture) -> bool:
    """Whether a head fits another architecture."""
    # A head reads what the pre-logits layer writes: they stay or go together.
    return all(
        getattr(source, field, None) == getattr(target, field, None)
        for field in ("num_classes", "pre_logits")
    )


def _reordered(leaves: interop.Tensors, order: np.ndarray) -> interop.Tensors:
    """The same leaves, the outputs of their heads in another order."""
    read = {
        name: (shape, lambda name=name: leaves.read(name)[..., order])
        for name, shape in leaves.shapes.items()
        if name.startswith(HEADS)
    }
    return leaves.changed(read)


def _made_new(
    shapes: Mapping[str, tuple[int, ...]],
    leaves: interop.Tensors,
    target: models.Architecture,
    keep_head: bool,
    fresh: Mapping[str, Any],
) -> dict[str, Callable[[], np.ndarray]]:
    """Functions that make the leaves which do not come from the source."""
    new: dict[str, Callable[[], np.ndarray]] = {}
    for name, shape in shapes.items():
        if name.startswith(HEADS) and not keep_head:
            value = target.head_bias if name.endswith("/bias") else 0.0
            new[name] = lambda v=value, s=shape: np.full(s, v, np.float32)
        elif OF_A_TASK.match(name) and leaves.shapes.get(name) != shape:
            if name in fresh:
                new[name] = lambda n=name: mesh_lib.to_host(fresh[n])
    return new


def _report(
    shapes: Mapping[str, tuple[int, ...]],
    leaves: Mapping[str, tuple[int, ...]],
    before: Mapping[str, tuple[int, ...]],
    new: set[str],
) -> Report:
    report = Report(made_new=[f"{name} {shapes[name]}" for name in sorted(new)])
    for name, shape in shapes.items():
        if name not in new and leaves.get(name) == shape:
            if before.get(name) == shape:
                report.kept.append(name)
            else:
                report.resized.append(f"{name} {before.get(name)} -> {shape}")
    report.dropped = [
        f"{name} {shape}"
        for name, shape in sorted(before.items())
        if name in new or name not in shapes
    ]
    return report


def _check_fit(
    shapes: Mapping[str, tuple[int, ...]],
    leaves: Mapping[str, tuple[int, ...]],
    new: set[str],
    source: models.Architecture,
    target: models.Architecture,
) -> None:
    problems = [
        f"{name}: the checkpoint has {leaves.get(name, 'none')}, this model {shape}"
        for name, shape in shapes.items()
        if name not in new and leaves.get(name) != shape
    ]
    problems += [
        f"{name}: only the checkpoint has it, {shape}"
        for name, shape in leaves.items()
        if name not in shapes and not OF_A_TASK.match(name)
    ]
    if problems:
        raise _mismatch(problems, source, target)


def _check_meaning(source: models.Architecture, target: models.Architecture) -> None:
    if source.family != target.family:
        raise errors.UserError(
            f"the checkpoint is a {source.name} of the {source.family} family, this "
            f"model a {target.name}; use model.name='checkpoint'."
        )
    different = [
        name
        for name in MEANING
        if hasattr(source, name) and getattr(source, name) != getattr(target, name)
    ]
    if different:
        lines = [
            f"  {name}: {getattr(source, name)!r} in the checkpoint, "
            f"{getattr(target, name)!r} in this model"
            for name in different[:5]
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
