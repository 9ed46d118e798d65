"""Runs a Vision Transformer on images, one at a time, and keeps what is to be seen."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vit_jax import cli, errors, host, models
from vit_jax.inspection import attention, distance, rollout
from vit_jax.inspection import filters as filters_lib
from vit_jax.inspection import posemb as posemb_lib
from vit_jax.models.vit import VisionTransformer
from vit_jax.models.vit_architecture import VitArchitecture
from vit_jax.runs.bulk import predictions
from vit_jax.weights.loaded import Loaded

DETAILED = 8  # images
# Probabilities of all detailed images together up to which every head is kept: a byte
# each, they take as much of a page as eight images of a B/16 take by their means.
EVERY_HEAD = 5_600_000
_COPIES = 3  # of all probabilities of an image, or positions, at most at once


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a model did with one image.

    L attention layers, h heads, n tokens, N patches, K blocks.

    Attributes:
        name: Of the image.
        view: uint8 [height, width, 3], as the model sees it.
        weights: [n], how much of each token the head reads, see `attention.weights`.
        readout: float32 [L, h, n], attention from what the head reads to all tokens.
        heads_mean: float32 [L, n, n], the mean of the attention over heads.
        heads: float32 [L, h, n, n], the attention itself; None: it would be more than
            `EVERY_HEAD` numbers.
        rollout: float64 [n], of what the head reads.
        tokens: float32 [K, N, d], the patches' tokens after each block.
        predictions: As `predict` has them: "top" or "values"; {} where there are none.
    """

    name: str
    view: np.ndarray
    weights: np.ndarray
    readout: np.ndarray
    heads_mean: np.ndarray
    heads: np.ndarray | None
    rollout: np.ndarray
    tokens: np.ndarray
    predictions: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What was found in a model.

    Attributes:
        loaded: The model.
        layers: Names of the attention layers, "0", or "0/row" and "0/column".
        images: Names of all images.
        distances: float64 [images, layers, heads], pixels.
        seen: Details of the first images.
        positions: Of the position tables; None: there are none.
        filters: Principal components of those that see pixels.
        notes: What there is not, and why, in sentences.
    """

    loaded: Loaded
    layers: tuple[str, ...]
    images: tuple[str, ...]
    distances: np.ndarray
    seen: tuple[Seen, ...]
    positions: posemb_lib.Positions | None
    filters: filters_lib.Filters
    notes: tuple[str, ...]

    @property
    def architecture(self) -> VitArchitecture:
        """Of the model."""
        return checked(self.loaded.architecture)

    @property
    def uniform(self) -> float:
        """The distance of attention that is the same everywhere, in pixels."""
        arch = self.architecture
        return distance.uniform(arch.grid, arch.strides, prefix=arch.prefix)


def checked(arch: models.Architecture) -> VitArchitecture:
    """Returns the architecture of a model that can be looked into.

    Raises:
        errors.UserError: it has no attention between patches from block to block.
    """
    if isinstance(arch, VitArchitecture):
        return arch
    known = {
        "mixer": "it mixes patches by fixed weights, so it has no attention to look at",
        "bit": "it is a ResNet of convolutions, so it has no attention to look at",
        "axial_resnet": "its units attend on maps that shrink from stage to stage, so "
        "no patch goes through all layers; model.intermediates(images) has its "
        "probabilities",
    }
    family = arch.family
    why = known[family] if family in known else f"it is of the family {family!r}"
    raise errors.UserError(
        f"{arch.name} cannot be looked into: {why}. Want a Vision Transformer, a "
        "hybrid or an axial one."
    )


def check_memory(arch: VitArchitecture, *, with_images: bool = True) -> None:
    """Raises `UserError` where what is kept from patch to patch outgrows the memory.

    Args:
        arch: Of the model.
        with_images: One image's probabilities count, else its positions alone do.
    """
    layers = arch.depth * (2 if arch.block == "axial" else 1)
    many = arch.posemb_at == "every" or arch.posemb == "relative"
    tables = 0 if arch.posemb == "none" else arch.depth if many else 1
    size = 4 * tables * arch.patches**2
    what = "similarities of positions"
    if with_images:
        size = 4 * layers * arch.heads * arch.tokens**2
        what = "probabilities an image"
    needed, free = size * _COPIES, host.available_memory()
    if needed > free:
        raise errors.UserError(
            f"{arch.name} at {arch.image_size[0]}x{arch.image_size[1]} pixels has "
            f"{size / 2**30:.1f} GiB of {what} and takes {needed / 2**30:.1f} GiB to "
            f"look at; {free / 2**30:.1f} GiB can be had. Want a smaller --image_size."
        )


def inspect(
    loaded: Loaded,
    images: str | Path | Sequence[Any] = (),
    *,
    names: Sequence[str] = (),
    detailed: int = DETAILED,
    top_k: int = 5,
) -> Inspection:
    """Looks into a model.

    Args:
        loaded: From `vit_jax.load`.
        images: Paths, bytes, Pillow images or arrays, as `Loaded.images` takes them;
            one path is one image; none: what needs none is looked at.
        names: What they are called; without any as their paths, or by number.
        detailed: Of the first so many all that `Seen` has is kept, of the others their
            distances alone.
        top_k: Predicted classes of each.

    Raises:
        errors.UserError: a model without attention or with weights that are not
            finite, an image that cannot be read, or too little memory.
    """
    arch = checked(loaded.architecture)
    if isinstance(images, str | Path):
        images = [images]
    check_memory(arch, with_images=bool(len(images)))
    params = loaded.params
    names = tuple(names or (_name(image, i) for i, image in enumerate(images)))
    distances, seen, layers = [], [], _layer_names(arch)
    with cli.progress("images", len(images)) as tell:
        for i, found in enumerate(_passes(loaded, images, names)):
            probabilities = attention.of_layers(found)
            assert tuple(probabilities) == layers, f"{tuple(probabilities)}: {layers}"
            far = functools.partial(
                distance.mean, grid=arch.grid, stride=arch.strides, prefix=arch.prefix
            )
            distances.append(np.stack([far(p[0]) for p in probabilities.values()]))
            if not np.isfinite(distances[-1]).all():
                raise errors.UserError(
                    f"{names[i]}: the attention of {loaded.source} is not finite; want "
                    "weights that are, as of a checkpoint before a run diverged"
                )
            if i < detailed:
                some = min(len(images), detailed)
                seen.append(_seen(loaded, names[i], found, probabilities, some, top_k))
            if tell is not None:
                tell(i + 1)
    positions = posemb_lib.positions(params, arch)
    shape = len(images), len(layers), arch.heads
    return Inspection(
        loaded,
        layers,
        names,
        np.reshape(distances, shape),
        tuple(seen),
        positions,
        filters_lib.filters(params, arch),
        tuple(_notes(arch, len(images), detailed)),
    )


def _layer_names(arch: VitArchitecture) -> tuple[str, ...]:
    axes = ("/row", "/column") if arch.block == "axial" else ("",)
    return tuple(f"{block}{axis}" for block in range(arch.depth) for axis in axes)


def _name(image: Any, number: int) -> str:
    return str(image) if isinstance(image, str | Path) else f"image {number}"


def _passes(
    loaded: Loaded, images: Sequence[Any], names: Sequence[str]
) -> Iterator[dict[str, np.ndarray]]:
    """Yields what is inside the pass of each image, and its "pixels" and "logits"."""
    graphdef, params = models.split(loaded.model)

    @jax.jit
    def run(params: Any, pixels: jax.Array) -> dict[str, jax.Array]:
        model = models.merge(graphdef, params)
        assert isinstance(model, VisionTransformer), "`checked` saw to that"
        found = model.intermediates(pixels)
        found["logits"] = model.classify(found["features"])
        if model.map is not None:
            found["read"] = _map_attention(model, found)
        return found

    for image, name in zip(images, names, strict=True):
        try:
            pixels = loaded.images([image])
        except errors.UserError as error:
            raise errors.UserError(f"{name}: {error}") from error
        found = jax.device_get(run(params, pixels))
        yield {"pixels": pixels, **found}


def _map_attention(
    model: VisionTransformer, found: Mapping[str, jax.Array]
) -> jax.Array:
    """The probabilities of the head's learned query, [b, n], the mean of its heads."""
    assert model.map is not None, "asked of models that have one"
    tokens = found[f"blocks/{model.architecture.depth - 1}"]
    if model.norm is not None and model.architecture.final_norm == "tokens":
        tokens = model.norm(tokens)
    taps: dict[str, jax.Array] = {}
    model.map.attn(tokens, queries=model.map.probe[...].astype(tokens.dtype), taps=taps)
    return taps["attention"].mean(axis=1)[:, 0]


def _seen(
    loaded: Loaded,
    name: str,
    found: Mapping[str, np.ndarray],
    probabilities: Mapping[str, np.ndarray],
    images: int,
    top_k: int,
) -> Seen:
    """Of one of so many images."""
    arch = checked(loaded.architecture)
    learned = found["read"][0] if "read" in found else None
    weights = attention.weights(arch.pool, arch.tokens, arch.prefix, learned)
    layers = [values[0] for values in probabilities.values()]
    tokens = [found[f"blocks/{i}"][0, arch.prefix :] for i in range(arch.depth)]
    all_heads = images * sum(layer.size for layer in layers) <= EVERY_HEAD
    return Seen(
        name,
        _view(loaded, found["pixels"][0]),
        weights,
        np.stack([attention.read(layer, weights) for layer in layers]),
        np.stack([layer.mean(axis=0) for layer in layers]),
        np.stack(layers) if all_heads else None,
        rollout.rollout(layers, weights),
        np.stack(tokens).astype(np.float32),
        _predicted(loaded, arch, found["logits"][0], top_k),
    )


def _view(loaded: Loaded, pixels: np.ndarray) -> np.ndarray:
    """Undoes the normalisation of an image."""
    wanted = loaded.preprocessing
    mean, std = np.array(wanted.mean)[None, None], np.array(wanted.std)[None, None]
    return np.clip(np.round(pixels * std + mean), 0, 255).astype(np.uint8)


def _predicted(
    loaded: Loaded, arch: VitArchitecture, logits: np.ndarray, top_k: int
) -> dict[str, Any]:
    if not arch.num_classes or logits.ndim != 1:
        return {}
    scores = np.asarray(predictions.meaning(loaded.problem)(jax.numpy.asarray(logits)))
    return predictions.entry(scores, loaded.label_names, loaded.problem, top_k)


def _notes(arch: VitArchitecture, images: int, detailed: int) -> Iterator[str]:
    """Says what there is not, and why."""
    if not images:
        yield (
            "No images were given: there are only the filters and the positions, which "
            "need none."
        )
    elif images > detailed:
        yield (
            f"Of {images} images the first {detailed} have pictures; the distances are "
            "means over all."
        )
    if arch.posemb == "none":
        rope = arch.rope != "none"
        why = "it turns queries and keys instead" if rope else "it knows no positions"
        yield f"This model has no table of positions to compare: {why}."
    if images and (not arch.num_classes or arch.pool == "none"):
        none = "has no head" if not arch.num_classes else "classifies every token"
        yield f"There are no predictions: this model {none}."
