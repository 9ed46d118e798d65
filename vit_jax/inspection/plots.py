"""Pictures of a model and of runs: distances, positions, filters, learning curves."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax.inspection import curves, drawing, figure, looking

_FEW = 40  # points of a curve that are drawn one by one
_MOST = 12  # tables of positions


def distances(inspection: looking.Inspection) -> Any:
    """Draws the mean attention distance of every head over depth (Figures 7, 11)."""
    arch = inspection.architecture
    found = inspection.distances.mean(axis=0)
    axes_of = {"row": ("o", 0), "column": ("^", 1), "": ("o", 0)}
    drawn = figure.new(5.6, 3.6)
    axes = drawn.subplots()
    kinds = list(dict.fromkeys(n.partition("/")[2] for n in inspection.layers))
    for kind in kinds:
        marker, number = axes_of[kind]
        chosen = [
            i for i, n in enumerate(inspection.layers) if n.partition("/")[2] == kind
        ]
        depth = [int(inspection.layers[i].partition("/")[0]) for i in chosen]
        colour, said = figure.colour(number), f", along a {kind}" if kind else ""
        axes.plot(
            np.repeat(depth, arch.heads),
            found[chosen].ravel(),
            marker,
            color=colour,
            markersize=4,
            alpha=0.75,
            label=f"a head{said}",
        )
        axes.plot(
            depth,
            found[chosen].mean(axis=1),
            figure.DASHES[number],
            color=colour,
            linewidth=1.2,
            label=f"mean of heads{said}",
        )
    if kinds == [""]:
        axes.axhline(
            inspection.uniform,
            color=figure.colour(1),
            linestyle=figure.DASHES[2],
            label="uniform attention",
        )
    height, width = arch.image_size
    count = len(inspection.images)
    axes.set_xlabel("layer")
    axes.set_ylabel("mean attention distance (pixels)")
    axes.set_ylim(0, 1.1 * max(found.max(), inspection.uniform))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title(
        f"{drawing.plain(arch.name)}, {width} x {height} pixels, "
        f"mean over {count} image{'s' if count > 1 else ''}"
    )
    axes.legend()
    return drawn


def positions(inspection: looking.Inspection) -> Any:
    """Draws the cosines of each position to all, a tile a position (Figures 7, 10)."""
    found, (rows, columns) = inspection.positions, inspection.architecture.grid
    assert found is not None, "asked where there are any"
    names = list(found.similarity)
    names = [names[i] for i in drawing.evenly(range(len(names)), _MOST)]
    across = min(len(names), 4)
    down = -(-len(names) // across)
    side = 4.6 if len(names) == 1 else 2.4
    shape = max((rows / columns) ** 2, 0.3)  # of a map of maps
    drawn = figure.new(side * across + 1.0, (side * shape + 0.5) * down + 0.3)
    panels = drawn.subplots(down, across, squeeze=False).ravel()
    image = None
    for panel in panels:
        figure.bare(panel)
    for name, panel in zip(names, panels):
        tiles = found.similarity[name].reshape(rows, columns, rows, columns)
        values, (middles, centres) = drawing.mosaic(tiles)
        image = panel.imshow(values, cmap=figure.COLOURMAP, vmin=-1, vmax=1)
        shown = drawing.evenly(range(rows), 8), drawing.evenly(range(columns), 8)
        panel.set_yticks(middles[shown[0]], [str(i) for i in shown[0]])
        panel.set_xticks(centres[shown[1]], [str(i) for i in shown[1]])
        panel.set_title(name if len(names) > 1 else f"Positions ({found.what})")
    for panel in panels[::across]:
        panel.set_ylabel("row of the patch")
    for panel in panels[max(len(names) - across, 0) : len(names)]:
        panel.set_xlabel("column of the patch")
    drawn.colorbar(image, ax=list(panels), fraction=0.03, pad=0.02).set_label(
        "cosine similarity"
    )
    if len(names) > 1:
        drawn.suptitle(f"Positions ({found.what})", fontsize=9)
    return drawn


def filters(inspection: looking.Inspection) -> Any:
    """Draws the first principal components of the filters, 7 in a row (Figure 7)."""
    found = inspection.filters
    images = found.images
    count, height, width, _ = images.shape
    across = min(count, 7)
    down = -(-count // across)
    cells = np.full((down * across, height, width, 4), 0, np.uint8)
    cells[:count, ..., :3], cells[:count, ..., 3] = images, 255
    layers = [
        np.nan_to_num(drawing.mosaic(part.reshape(down, across, height, width))[0])
        for part in np.moveaxis(cells.astype(float), -1, 0)
    ]
    drawn = figure.new(0.8 * across + 0.2, 0.8 * down * height / width + 0.6)
    axes = drawn.subplots()
    figure.bare(axes)
    axes.imshow(np.stack(layers, axis=-1).astype(np.uint8), interpolation="nearest")
    axes.set_title(
        f"{count} principal components of {found.what},\n{height} x {width} pixels, "
        f"{100 * found.variance.sum():.0f} % of the variance"
    )
    return drawn


def learning(runs: Sequence[curves.Run], figures: Sequence[str], smooth: float) -> Any:
    """Draws figures of runs over their steps, a panel each.

    Args:
        runs: From `curves.read`.
        figures: Names of them.
        smooth: Factor of `curves.smoothed`, for what training logs; the values as they
            were lie behind. Evaluations and learning rates are never smoothed.
    """
    across = min(len(figures), 3)
    down = -(-len(figures) // across)
    drawn = figure.new(3.6 * across, 2.6 * down + 0.4)
    drawn.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    panels = drawn.subplots(down, across, squeeze=False).ravel()
    for panel in panels[len(figures) :]:
        panel.set_visible(False)
    averaged = False
    for name, panel in zip(figures, panels):
        noisy = smooth > 0 and "/" not in name and name != "learning_rate"
        averaged |= noisy
        for number, run in enumerate(runs):
            if name in run.curves:
                _curve(panel, run, name, number, smooth if noisy else 0.0)
        panel.set_xlabel("step")
        panel.set_ylabel(drawing.literal(name))
        panel.grid(alpha=0.25, linewidth=0.5)
    handles: dict[str, Any] = {}
    for panel in panels[: len(figures)]:
        lines, labels = panel.get_legend_handles_labels()
        handles |= dict(zip(labels, lines))
    drawn.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(len(handles), 2 * across),
    )
    if averaged:
        drawn.suptitle(
            f"training figures: exponential moving average, factor {smooth:g}; "
            "faint: as logged",
            fontsize=8,
        )
    return drawn


def _curve(panel: Any, run: curves.Run, name: str, number: int, smooth: float) -> None:
    curve = run.curves[name]
    colour = figure.colour(number)
    dashes = figure.DASHES[number % len(figure.DASHES)]
    points = "o" if np.isfinite(curve.values).sum() <= _FEW and not smooth else ""
    values = curve.values
    if smooth:
        panel.plot(curve.steps, values, color=colour, alpha=0.25, linewidth=0.8)
        values = curves.smoothed(values, smooth)
    panel.plot(
        *(curve.steps, values, dashes),
        color=colour,
        marker=points,
        markersize=3,
        linewidth=1.3,
        label=drawing.plain(run.name),
    )
