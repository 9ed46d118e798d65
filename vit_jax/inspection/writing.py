"""Pictures and numbers of a checkpoint or of runs, as files of a folder."""

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax import errors, models
from vit_jax.data import decode
from vit_jax.host import files as host_files
from vit_jax.inspection import (
    attention,
    curves,
    drawing,
    figure,
    looking,
    numbers,
    page,
    payload,
    plots,
)
from vit_jax.models.vit_architecture import VitArchitecture
from vit_jax.runs.bulk import inputs as inputs_lib
from vit_jax.settings import validation
from vit_jax.weights import loaded as loaded_lib
from vit_jax.weights import pretrained

NUMBERS, RECORD, PAGE = "inspection.npz", "inspection.json", "index.html"


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is to be drawn.

    Attributes:
        draw: Of `NAMES`; none: all that there can be.
        layers: Numbers of attention layers, from -1 back; none: all.
        heads: Numbers of heads; none: all.
        patch: (row, column), to whose token others are compared; None: in the middle.
        runs: Folders of runs, for "curves".
        figures: Of runs; none: `curves.usual`.
        smooth: Factor of `curves.smoothed`.
        theme: A key of `figure.THEMES`.
        detailed: Of how many images there are pictures.
    """

    draw: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    patch: tuple[int, int] | None = None
    runs: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    smooth: float = 0.0
    theme: str = "light"
    detailed: int = looking.DETAILED

    def patch_in(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Returns the patch, in the middle of a grid where none was asked for."""
        return self.patch or (grid[0] // 2, grid[1] // 2)


Drawn = Iterator[tuple[str, Any]]  # names of files, and figures


def _rollout(found: looking.Inspection, asked: Asked) -> Drawn:
    yield "rollout", drawing.rollouts(found)


def _attention(found: looking.Inspection, asked: Asked) -> Drawn:
    layers = asked.layers or drawing.evenly(range(len(found.layers)), 24)
    heads = asked.heads or range(found.architecture.heads)
    for number, seen in enumerate(found.seen):
        yield f"attention_{number}", drawing.attention(found, seen, layers, heads)


def _distance(found: looking.Inspection, asked: Asked) -> Drawn:
    yield "distance", plots.distances(found)


def _similarity(found: looking.Inspection, asked: Asked) -> Drawn:
    patch = asked.patch_in(found.architecture.grid)
    layers = asked.layers or range(len(found.layers))
    blocks = dict.fromkeys(int(found.layers[i].partition("/")[0]) for i in layers)
    for number, seen in enumerate(found.seen):
        name = f"similarity_{number}"
        yield name, drawing.similarities(found, seen, list(blocks), patch)


def _posemb(found: looking.Inspection, asked: Asked) -> Drawn:
    if found.positions is not None:
        yield "posemb", plots.positions(found)


def _filters(found: looking.Inspection, asked: Asked) -> Drawn:
    yield "filters", plots.filters(found)


Draw = Callable[[looking.Inspection, Asked], Drawn]
OF_IMAGES: dict[str, Draw] = {
    "rollout": _rollout,
    "attention": _attention,
    "distance": _distance,
    "similarity": _similarity,
}
OF_MODELS: dict[str, Draw] = {"posemb": _posemb, "filters": _filters}
NAMES = (*OF_IMAGES, *OF_MODELS, "curves", "page")


def run(
    checkpoint: str | None,
    images: inputs_lib.Inputs | None,
    out: str | os.PathLike,
    asked: Asked,
    *,
    image_size: int | tuple[int, int] | None = None,
    most: int = 128,
) -> dict[str, Any]:
    """Looks into a checkpoint and draws.

    Args:
        checkpoint: Whatever `pretrained.load` takes; None: only runs are drawn.
        images: From `inputs.find`; None: what needs none is drawn.
        out: A folder; what an earlier call has drawn there is drawn again.
        asked: What to draw.
        image_size: Pixels, as `pretrained.load` takes it.
        most: Images that are looked at; the first so many.

    Returns:
        "out", "pictures" (names of files), "page", the name of its file or None,
        "numbers", and "notes" of what there is not.

    Raises:
        errors.UserError: bad input, before anything is computed.
    """
    figure.check_installed()
    folder = _folder(out)
    runs = curves.read(asked.runs)
    _check(asked, with_model=checkpoint is not None, with_images=images is not None)
    curves.check_figures(runs, asked.figures)
    with figure.style(asked.theme):
        found = None
        if checkpoint is not None:
            loaded = pretrained.load(checkpoint, image_size=image_size)
            asked = _checked(asked, looking.checked(loaded.architecture))
            found = _look(loaded, images, asked, most)
            for note in found.notes:
                logging.info("%s", note)
        folder.mkdir(parents=True, exist_ok=True)
        pictures = []
        for name, drawn in _drawn(found, runs, asked):
            pictures += figure.save(drawn, folder, name)
            logging.info("%s", folder / f"{name}.png")
    record = {
        "out": str(folder),
        "pictures": pictures,
        "page": _write_page(folder, found, asked),
        "numbers": NUMBERS,
        "notes": [] if found is None else list(found.notes),
    }
    _write_numbers(folder, found, runs, asked, record)
    return record


def _folder(out: str | os.PathLike) -> Path:
    """The folder, after a look at what is there."""
    validation.check_local(out, "--out")
    folder = host_files.expanded(Path(out))
    if folder.exists() and not folder.is_dir():
        raise errors.UserError(f"--out={folder} is a file; want a folder")
    above = folder
    while not above.exists():
        above = above.parent
    if not os.access(above, os.W_OK):
        raise errors.UserError(f"--out={folder}: {above} cannot be written to")
    return folder


def _check(asked: Asked, *, with_model: bool, with_images: bool) -> None:
    """Raises `UserError` for what cannot be drawn of what was given."""
    for name in asked.draw:
        errors.lookup(dict.fromkeys(NAMES), name, "--draw")
        if name == "curves" and not asked.runs:
            raise errors.UserError("--draw=curves wants --runs=WORKDIR,WORKDIR")
        if name != "curves" and not with_model:
            raise errors.UserError(f"--draw={name} wants a CHECKPOINT")
        if name in OF_IMAGES and not with_images:
            raise errors.UserError(
                f"--draw={name} wants images: files, folders, or --dataset=NAME"
            )
    if not with_model and not asked.runs:
        raise errors.UserError("want a CHECKPOINT, or --runs=WORKDIR,WORKDIR; --help")
    if not 0 <= asked.smooth < 1:
        raise errors.UserError(f"--smooth={asked.smooth:g}; want from 0 to below 1")
    for name, value, wants, has in (
        ("layers", asked.layers, "images", with_images),
        ("heads", asked.heads, "images", with_images),
        ("patch", asked.patch, "images", with_images),
        ("figures", asked.figures, "--runs", bool(asked.runs)),
        ("smooth", asked.smooth, "--runs", bool(asked.runs)),
    ):
        if value and not has:
            raise errors.UserError(f"--{name} means nothing without {wants}")


def _checked(asked: Asked, arch: VitArchitecture) -> Asked:
    """What was asked of a model, with numbers counted from 0.

    Raises:
        errors.UserError: it has no such layers, heads, patch or positions.
    """
    layers = arch.depth * (2 if arch.block == "axial" else 1)
    if asked.patch is not None and not (
        0 <= asked.patch[0] < arch.grid[0] and 0 <= asked.patch[1] < arch.grid[1]
    ):
        raise errors.UserError(
            f"--patch={asked.patch[0]},{asked.patch[1]}: the patches of {arch.name} "
            f"have rows 0 to {arch.grid[0] - 1} and columns 0 to {arch.grid[1] - 1}"
        )
    if "posemb" in asked.draw and arch.posemb == "none":
        raise errors.UserError(
            f"--draw=posemb: {arch.name} has no table of positions (posemb='none')"
        )
    return dataclasses.replace(
        asked,
        layers=_counted(asked.layers, layers, "layers"),
        heads=_counted(asked.heads, arch.heads, "heads"),
    )


def _counted(chosen: Sequence[int], count: int, name: str) -> tuple[int, ...]:
    for number in chosen:
        if not -count <= number < count:
            raise errors.UserError(
                f"--{name}={number}: there are {count}; want from 0 to {count - 1}, or "
                "from -1 back"
            )
    return tuple(dict.fromkeys(number % count for number in chosen))


def _look(
    loaded: loaded_lib.Loaded,
    images: inputs_lib.Inputs | None,
    asked: Asked,
    most: int,
) -> looking.Inspection:
    if images is None:
        return looking.inspect(loaded)
    count = min(len(images), most)
    contents = []
    for i in range(count):
        try:
            contents.append(images.example(i)["image"])
        except (decode.BadImage, OSError) as error:
            raise errors.UserError(
                f"{images.name(i)} cannot be read: {error}"
            ) from error
    found = looking.inspect(
        loaded,
        contents,
        names=[images.name(i) for i in range(count)],
        detailed=asked.detailed,
    )
    if count == len(images):
        return found
    note = f"Of {len(images)} images the first {count} were looked at (--most)."
    return dataclasses.replace(found, notes=(*found.notes, note))


def _drawn(
    found: looking.Inspection | None, runs: Sequence[curves.Run], asked: Asked
) -> Drawn:
    if found is not None:
        possible = {**(OF_IMAGES if found.images else {}), **OF_MODELS}
        for name, draw in possible.items():
            if not asked.draw or name in asked.draw:
                yield from draw(found, asked)
    if runs and (not asked.draw or "curves" in asked.draw):
        chosen = asked.figures or curves.usual(runs)
        yield "curves", plots.learning(runs, chosen, asked.smooth)


def _write_page(
    folder: Path, found: looking.Inspection | None, asked: Asked
) -> str | None:
    """Writes the page; returns its name, or None where there is none."""
    if found is None or (asked.draw and "page" not in asked.draw):
        return None
    host_files.write_whole(folder / PAGE, page.render(payload.payload(found)))
    logging.info("%s", folder / PAGE)
    return PAGE


def _write_numbers(
    folder: Path,
    found: looking.Inspection | None,
    runs: Sequence[curves.Run],
    asked: Asked,
    record: Mapping[str, Any],
) -> None:
    """Writes all arrays, and what they are."""
    tables = {**numbers.of_runs(runs, asked.smooth)}
    about: dict[str, Any] = {"runs": list(asked.runs)}
    if found is not None:
        arch = found.architecture
        tables |= numbers.of_model(found, asked.patch_in(arch.grid))
        about |= {
            "checkpoint": found.loaded.source,
            "model": models.summary(arch),
            "grid": arch.grid,
            "patch_pixels": arch.strides,
            "prefix_tokens": arch.prefix,
            "read": attention.READ[arch.pool],
            "layers": found.layers,
            "images": found.images,
            "predictions": {seen.name: seen.predictions for seen in found.seen},
        }
    with host_files.whole(folder / NUMBERS) as file:
        arrays_by_name: dict[str, Any] = {
            k: table.values for k, table in tables.items()
        }
        np.savez(file, **arrays_by_name)
    arrays = {
        name: {"shape": table.values.shape, "axes": table.axes, "unit": table.unit}
        for name, table in tables.items()
    }
    text = json.dumps({**about, **record, "arrays": arrays}, indent=1)
    host_files.write_whole(folder / RECORD, text + "\n")
