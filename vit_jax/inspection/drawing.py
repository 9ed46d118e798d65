"""Pictures of what a model sees in images: rollout, attention, similarity of tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax.inspection import attention as attention_lib
from vit_jax.inspection import figure, looking, rollout, similarity
from vit_jax.models.vit_architecture import VitArchitecture

LONGEST_NAME = 20
_TRIPLES = 3  # side by side
_MOST = 12  # panels of layers


def rollouts(inspection: looking.Inspection) -> Any:
    """Draws each image, under the mask of its rollout, and the rollout's shares.

    The mask is the authors' display (Figures 6 and 14), which blurs by a patch.
    """
    arch, seen = inspection.architecture, inspection.seen
    across = min(_TRIPLES, len(seen))
    rows = -(-len(seen) // across)
    height, width = arch.image_size
    tall = max((1.4 * height / width + 0.3) * rows + 0.3, 2.0)
    drawn = figure.new(4.2 * across + 0.9, tall)
    axes = drawn.subplots(rows, 3 * across, squeeze=False)
    for each in axes.ravel():
        figure.bare(each)
    image = None
    for one, (plain_, under, shares) in zip(seen, axes.reshape(-1, 3)):
        values = one.rollout[arch.prefix :].reshape(arch.grid)
        mask = rollout.mask(values, arch.strides, arch.image_size)
        show(plain_, one.view)
        show(under, rollout.masked(one.view, mask))
        image = heat(shares, arch, values / max(values.max(), 1e-12), (0, 1))
        plain_.set_title(short(one.name))
        under.set_title(_predicted(one))
    drawn.suptitle(f"Attention rollout of {_read(inspection)}", fontsize=9)
    bar = drawn.colorbar(image, ax=list(axes.ravel()), fraction=0.03, pad=0.01)
    bar.set_label("share / largest")
    return drawn


def attention(
    inspection: looking.Inspection,
    seen: looking.Seen,
    layers: Sequence[int],
    heads: Sequence[int],
) -> Any:
    """Draws the attention of what the head reads, a map each layer and head."""
    arch = inspection.architecture
    among = seen.readout[:, :, arch.prefix :][list(layers)]
    chosen = np.concatenate(
        [among.mean(axis=1, keepdims=True), among[:, list(heads)]], axis=1
    )
    maps = chosen.reshape(*chosen.shape[:2], *arch.grid)
    largest = np.maximum(maps.max(axis=(2, 3), keepdims=True), 1e-12)
    values, (down, across) = mosaic(maps / largest)
    wide = min(max(0.7 * (len(heads) + 1), 3.0), 13.0)
    scale = wide / values.shape[1]
    tall = max(values.shape[0] * scale + 1.0, 2.3)
    drawn = figure.new(wide + 3.6, tall)
    left, right = drawn.subplots(1, 2, width_ratios=[2.2, wide])
    figure.bare(left)
    left.set_anchor("N")
    show(left, seen.view)
    left.set_title(f"{short(seen.name)}\n{_predicted(seen)}".strip())
    image = right.imshow(values, cmap=figure.COLOURMAP, vmin=0, vmax=1)
    figure.bare(right)
    right.set_xticks(across, ["mean", *map(str, heads)])
    right.set_yticks(down, [inspection.layers[i] for i in layers])
    right.set_xlabel("head")
    right.set_ylabel("layer")
    right.set_title(f"Attention of {_read(inspection)} to the patches")
    bar = drawn.colorbar(image, ax=right, fraction=0.03, pad=0.01)
    bar.set_label("probability / largest of its map")
    return drawn


def similarities(
    inspection: looking.Inspection,
    seen: looking.Seen,
    blocks: Sequence[int],
    patch: tuple[int, int],
) -> Any:
    """Draws how alike every token is to that of one patch, after some blocks."""
    arch = inspection.architecture
    blocks = evenly(blocks, _MOST)
    columns = min(len(blocks) + 1, 5)
    rows = -(-(len(blocks) + 1) // columns)
    height, width = arch.image_size
    drawn = figure.new(1.7 * columns + 0.8, (1.7 * height / width + 0.25) * rows + 0.3)
    axes = drawn.subplots(rows, columns, squeeze=False).ravel()
    for each in axes:
        figure.bare(each)
    show(axes[0], seen.view)
    axes[0].set_title(short(seen.name))
    _mark(axes[0], arch, patch)
    image = None
    for block, each in zip(blocks, axes[1:]):
        found = similarity.to_patch(seen.tokens[block].reshape(*arch.grid, -1), patch)
        image = heat(each, arch, found, (-1, 1))
        each.set_title(f"block {block}")
        _mark(each, arch, patch)
    drawn.colorbar(image, ax=list(axes), fraction=0.03, pad=0.01).set_label(
        f"cosine to row {patch[0]}, column {patch[1]}"
    )
    return drawn


def mosaic(maps: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Puts maps [rows, columns, h, w] side by side, with gaps of NaN.

    Returns:
        The picture, and the middles of its rows and of its columns, in cells.
    """
    rows, columns, height, width = maps.shape
    gap = max(1, round(max(height, width) / 10))
    wide = np.pad(maps, ((0, 0), (0, 0), (0, gap), (0, gap)), constant_values=np.nan)
    whole = wide.transpose(0, 2, 1, 3).reshape(rows * (height + gap), -1)
    down = np.arange(rows) * (height + gap) + (height - 1) / 2
    across = np.arange(columns) * (width + gap) + (width - 1) / 2
    return whole[:-gap, :-gap], (down, across)


def show(axes: Any, image: np.ndarray) -> None:
    """Draws an image; its corner is (0, 0), and a pixel is 1."""
    height, width = image.shape[:2]
    axes.imshow(image, extent=(0, width, height, 0))


def heat(
    axes: Any, arch: VitArchitecture, values: np.ndarray, span: tuple[float, float]
) -> Any:
    """Draws values of patches where these lie on the image; returns matplotlib's."""
    (rows, columns), (high, wide) = arch.grid, arch.strides
    image = axes.imshow(
        values,
        cmap=figure.COLOURMAP,
        vmin=span[0],
        vmax=span[1],
        extent=(0, columns * wide, rows * high, 0),
    )
    axes.set_xlim(0, arch.image_size[1])
    axes.set_ylim(arch.image_size[0], 0)
    return image


def evenly(values: Sequence[int], most: int) -> list[int]:
    """Returns at most so many of some values, the first and the last with them."""
    if len(values) <= most:
        return list(values)
    return [values[round(x)] for x in np.linspace(0, len(values) - 1, most)]


def short(path: str) -> str:
    """Returns the last part of a path as `plain` writes it."""
    return plain(path.rstrip("/").rpartition("/")[2])


def plain(text: str) -> str:
    """Returns a text for a title: as `literal`, cut in its middle if long."""
    if len(text) > LONGEST_NAME:
        text = f"{text[:7]}...{text[10 - LONGEST_NAME :]}"
    return literal(text)


def literal(text: str) -> str:
    """Returns a text that is drawn as it is: printable, and no formula."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown.replace("$", r"\$")


def _read(inspection: looking.Inspection) -> str:
    return attention_lib.READ[inspection.architecture.pool]


def _predicted(seen: looking.Seen) -> str:
    if "top" not in seen.predictions:
        return ""
    best = seen.predictions["top"][0]
    name = best["label"] if best["name"] is None else best["name"]
    if best["probability"] is None:
        return plain(str(name))
    return f"{plain(str(name))}, {100 * best['probability']:.0f} %"


def _mark(axes: Any, arch: VitArchitecture, patch: tuple[int, int]) -> None:
    """Draws a frame around a patch, seen on light and on dark."""
    from matplotlib import patches  # pyright: ignore[reportMissingImports]

    height, width = arch.strides
    corner = patch[1] * width, patch[0] * height
    for colour, thick in (("black", 2.4), ("white", 1.0)):
        axes.add_patch(
            patches.Rectangle(
                corner, width, height, fill=False, edgecolor=colour, linewidth=thick
            )
        )
