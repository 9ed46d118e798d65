"""What can be drawn of a checkpoint or of runs, and what is asked for of it."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vit_jax import errors
from vit_jax.inspection import curves, drawing, looking, plots
from vit_jax.models.vit_architecture import VitArchitecture


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

    def wants(self, name: str) -> bool:
        """Returns whether something of `NAMES` is to be drawn where it can be."""
        return not self.draw or name in self.draw

    def check(self, *, with_model: bool, with_images: bool) -> None:
        """Raises `UserError` for what cannot be drawn of what was given."""
        for name in self.draw:
            errors.lookup(dict.fromkeys(NAMES), name, "--draw")
            if name == "curves" and not self.runs:
                raise errors.UserError("--draw=curves wants --runs=WORKDIR,WORKDIR")
            if name != "curves" and not with_model:
                raise errors.UserError(f"--draw={name} wants a CHECKPOINT")
            if name in OF_IMAGES and not with_images:
                raise errors.UserError(
                    f"--draw={name} wants images: files, folders, or --dataset=NAME"
                )
        if not with_model and not self.runs:
            raise errors.UserError(
                "want a CHECKPOINT, or --runs=WORKDIR,WORKDIR; --help"
            )
        if not 0 <= self.smooth < 1:
            raise errors.UserError(f"--smooth={self.smooth:g}; want from 0 to below 1")
        for name, value, wants, has in (
            ("layers", self.layers, "images", with_images),
            ("heads", self.heads, "images", with_images),
            ("patch", self.patch, "images", with_images),
            ("figures", self.figures, "--runs", bool(self.runs)),
            ("smooth", self.smooth, "--runs", bool(self.runs)),
        ):
            if value and not has:
                raise errors.UserError(f"--{name} means nothing without {wants}")

    def counted(self, arch: VitArchitecture) -> "Asked":
        """Returns what was asked of a model, with numbers counted from 0.

        Raises:
            errors.UserError: it has no such layers, heads, patch or positions.
        """
        layers = arch.depth * (2 if arch.block == "axial" else 1)
        if self.patch is not None and not (
            0 <= self.patch[0] < arch.grid[0] and 0 <= self.patch[1] < arch.grid[1]
        ):
            raise errors.UserError(
                f"--patch={self.patch[0]},{self.patch[1]}: the patches of {arch.name} "
                f"have rows 0 to {arch.grid[0] - 1} and columns 0 to {arch.grid[1] - 1}"
            )
        if "posemb" in self.draw and arch.posemb == "none":
            raise errors.UserError(
                f"--draw=posemb: {arch.name} has no table of positions (posemb='none')"
            )
        return dataclasses.replace(
            self,
            layers=_counted(self.layers, layers, "layers"),
            heads=_counted(self.heads, arch.heads, "heads"),
        )


def _counted(chosen: Sequence[int], count: int, name: str) -> tuple[int, ...]:
    for number in chosen:
        if not -count <= number < count:
            raise errors.UserError(
                f"--{name}={number}: there are {count}; want from 0 to {count - 1}, or "
                "from -1 back"
            )
    return tuple(dict.fromkeys(number % count for number in chosen))


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


def drawn(
    found: looking.Inspection | None, runs: Sequence[curves.Run], asked: Asked
) -> Drawn:
    """Yields all pictures that can be drawn of what was asked for."""
    if found is not None:
        possible = {**(OF_IMAGES if found.images else {}), **OF_MODELS}
        for name, draw in possible.items():
            if asked.wants(name):
                yield from draw(found, asked)
    if runs and asked.wants("curves"):
        yield "curves", plots.learning(runs, asked.figures, asked.smooth)
