"""What an inspection found as one dict of small arrays, for pages in a browser.

Attention is coded in bytes by its square root, `scale * (byte / 255) ** 2`, so that
small probabilities stay apart; cosines linearly.
"""

from typing import Any

import numpy as np
from PIL import Image

from vit_jax import models
from vit_jax.inspection import attention, looking, posemb, rollout, similarity

FORMAT = 1
LARGEST_VIEW = 224  # pixels of the longer side
# Bytes of all arrays from patch to patch, at half a byte a number, a triangle alone of
# those that are symmetric: 8 images of a B/16 of 224 pixels take 2.8 million.
BUDGET = 3_200_000
_SHARE = 0.75  # of rows * columns squared, see above


def payload(inspection: looking.Inspection, *, budget: int = BUDGET) -> dict[str, Any]:
    """Returns an inspection as plain values and arrays of bytes and float32.

    Args:
        inspection: From `looking.inspect`.
        budget: Bytes for the arrays from patch to patch; where all layers take more,
            they are there of fewer, evenly chosen, the last always.

    Returns:
        "format", "model", "images", "detail_layers", "distance", "distance_uniform",
        "posemb", "filters" and "notes"; None for what is not there. Of each image
        "rollout" has a row a layer, through the layers up to it, and "patch" an axis of
        heads, one long where only their mean is kept.
    """
    arch = inspection.architecture
    detailed = detail_layers(
        len(inspection.layers), arch.patches, len(inspection.seen), budget
    )
    positions, filters = inspection.positions, inspection.filters
    distances = None
    if inspection.images:
        distances = inspection.distances.mean(axis=0).astype(np.float32)
    return {
        "format": FORMAT,
        "model": _model(inspection),
        "images": [_image(inspection, seen, detailed) for seen in inspection.seen],
        "detail_layers": detailed,
        "distance": distances,
        "distance_uniform": None if distances is None else inspection.uniform,
        "posemb": None if positions is None else _positions(positions, budget),
        "filters": {
            "images": filters.images,
            "variance": filters.variance.astype(np.float32),
            "what": filters.what,
        },
        "notes": list(inspection.notes),
    }


def detail_layers(layers: int, patches: int, images: int, budget: int) -> list[int]:
    """Returns the layers whose arrays from patch to patch fit, the last at least."""
    if not images:
        return []
    count = int(budget / (patches**2 * _SHARE * images))
    if count >= layers:
        return list(range(layers))
    return sorted({round(x) for x in np.linspace(layers - 1, 0, max(count, 1))})


def coded(values: np.ndarray, axes: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes numbers from 0 in bytes by their square roots.

    Args:
        values: None negative.
        axes: How many of the last axes share a scale, their maximum.

    Returns:
        uint8 of the shape of `values`, and float32 scales of the first axes; a value is
        scale * (byte / 255) ** 2.
    """
    shared = tuple(range(values.ndim - axes, values.ndim))
    scale = values.max(axis=shared, keepdims=True)
    shares = np.divide(
        values, scale, out=np.zeros(values.shape, np.float64), where=scale > 0
    )
    levels = np.round(255 * np.sqrt(shares)).astype(np.uint8)
    return levels, scale.squeeze(shared).astype(np.float32)


def _bytes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    span = max(high - low, 1e-9)
    return np.round(255 * (values - low) / span).clip(0, 255).astype(np.uint8)


def _positions(positions: posemb.Positions, budget: int) -> dict[str, Any]:
    """The tables that fit into an eighth of the budget, the last at least."""
    names = list(positions.similarity)
    patches = len(positions.similarity[names[-1]])
    kept = detail_layers(len(names), patches, 1, budget // 8)
    tables = [positions.similarity[names[i]] for i in kept]
    return {
        "names": [names[i] for i in kept],
        "similarity": np.stack([_bytes(table, -1, 1) for table in tables]),
        "what": positions.what,
    }


def _model(inspection: looking.Inspection) -> dict[str, Any]:
    arch = inspection.architecture
    return {
        "source": inspection.loaded.source,
        "summary": models.summary(arch),
        "parameters": models.count_parameters(arch),
        "image_size": list(arch.image_size),
        "grid": list(arch.grid),
        "stride": list(arch.strides),
        "prefix": arch.prefix,
        "pool": arch.pool,
        "read": attention.READ[arch.pool],
        "problem": inspection.loaded.problem,
        "layers": list(inspection.layers),
        "heads": arch.heads,
    }


def _image(
    inspection: looking.Inspection, seen: looking.Seen, detailed: list[int]
) -> dict[str, Any]:
    prefix = inspection.architecture.prefix
    readout, readout_scale = coded(seen.readout[..., prefix:], 1)
    mean, mean_scale = coded(seen.readout.mean(axis=1)[:, prefix:], 1)
    every = seen.heads_mean[:, None] if seen.heads is None else seen.heads
    patch, patch_scale = coded(every[detailed][..., prefix:, prefix:], 2)
    means = seen.heads_mean[:, None]
    through = np.stack(
        [rollout.rollout([*means[: i + 1]], seen.weights) for i in range(len(means))]
    )
    rolled, rolled_scale = coded(through[:, prefix:], 1)
    per_block = len(inspection.layers) // len(seen.tokens)
    cosines = [similarity.cosines(seen.tokens[i // per_block]) for i in detailed]
    lows = [float(x.min()) for x in cosines]
    highs = [float(x.max()) for x in cosines]
    found = seen.predictions
    listed = [found[kind] for kind in ("top", "values") if kind in found]
    return {
        "name": seen.name,
        "view": _small(seen.view),
        "readout": readout,
        "readout_scale": readout_scale,
        "readout_mean": mean,
        "readout_mean_scale": mean_scale,
        "readout_prefix": seen.readout[..., :prefix].sum(axis=-1),
        "patch": patch,
        "patch_scale": patch_scale,
        "rollout": rolled,
        "rollout_scale": rolled_scale,
        "rollout_prefix": through[:, :prefix].sum(axis=-1),
        "similarity": np.stack(
            [_bytes(*each) for each in zip(cosines, lows, highs, strict=True)]
        ),
        "similarity_low": np.array(lows, np.float32),
        "similarity_high": np.array(highs, np.float32),
        "predictions": listed[0] if listed else None,
    }


def _small(view: np.ndarray) -> np.ndarray:
    image = Image.fromarray(view)
    image.thumbnail((LARGEST_VIEW, LARGEST_VIEW), Image.Resampling.LANCZOS)
    return np.asarray(image)
