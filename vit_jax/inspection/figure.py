"""Matplotlib, loaded when something is drawn, and how all pictures look."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vit_jax import errors
from vit_jax.host import files as host_files

MISSING = "pictures want matplotlib: pip install 'vit_jax[inspect]'"
DASHES = ("-", "--", ":", "-.")  # beside colours, for paper without any
COLOURMAP = "viridis"  # grows in lightness, for any eyes


class Theme(NamedTuple):
    """Colours of ink, of soft ink, of paper, and of what is compared.

    The last are Okabe and Ito's, which those who see fewer colours can tell apart; on
    dark paper the light ones come first.
    """

    ink: str
    soft: str
    paper: str
    colours: tuple[str, ...]


THEMES: dict[str, Theme] = {
    "light": Theme(
        *("#1b1f24", "#5b6470", "#ffffff"),
        ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"),
    ),
    "dark": Theme(
        *("#e8eaed", "#9aa3ad", "#14171a"),
        ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00"),
    ),
}
DPI = 160
FORMATS = ("png", "svg")


def check_installed() -> None:
    """Raises `UserError` where matplotlib is missing."""
    try:
        import matplotlib.figure  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise errors.UserError(MISSING) from error


def new(width: float, height: float) -> Any:
    """Returns a new figure of inches, which no window shows."""
    from matplotlib import figure  # pyright: ignore[reportMissingImports]

    return figure.Figure(figsize=(width, height), layout="constrained")


@contextlib.contextmanager
def style(theme: str) -> Iterator[None]:
    """Draws in the colours of a theme, a key of `THEMES`."""
    import matplotlib  # pyright: ignore[reportMissingImports]
    from matplotlib import rcsetup  # pyright: ignore[reportMissingImports]

    ink, soft, paper, colours = THEMES[theme]
    inks = ("text.color", "axes.labelcolor", "axes.titlecolor")
    lines = ("xtick.color", "ytick.color", "axes.edgecolor", "grid.color")
    papers = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    parameters: dict[Any, Any] = {
        **dict.fromkeys(inks, ink),
        **dict.fromkeys(lines, soft),
        **dict.fromkeys(papers, paper),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 9,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "axes.prop_cycle": rcsetup.cycler(color=colours),
        "font.size": 9,
        "svg.hashsalt": "vit_jax",  # the same picture is the same file
    }
    with matplotlib.rc_context(parameters), warnings.catch_warnings():
        # Two lines a letter, of labels in other scripts; a box in the picture says it.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def colour(number: int) -> str:
    """Returns the name that matplotlib has for a colour of the theme, from 0 on."""
    return f"C{number}"


def save(drawn: Any, folder: Path, name: str) -> list[str]:
    """Writes a figure as FOLDER/NAME.png and .svg; returns the names of the files.

    Each is there whole, or not at all.
    """
    for suffix in FORMATS:
        told = {"Date": None} if suffix == "svg" else None
        with host_files.whole(folder / f"{name}.{suffix}") as file:
            drawn.savefig(file, format=suffix, dpi=DPI, metadata=told)
    return [f"{name}.{suffix}" for suffix in FORMATS]


def bare(axes: Any) -> None:
    """Takes ticks and frame from axes that hold an image."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
