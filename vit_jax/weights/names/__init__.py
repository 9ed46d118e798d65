"""Pre-trained models by the names that everybody knows them by.

    names.find("timm/vit_base_patch16_224.augreg_in21k")
    names.find("facebook/dinov2-base")
    names.of_model("B/16", "augreg_in21k")

A name stands for a repository of Hugging Face's hub. The tables are one file for each
code whose models they are; a name that is in none is looked for by its `hf://` address.
"""

import difflib
import fnmatch
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vit_jax import errors
from vit_jax.weights.names import huggingface, timm

_ORGANISATION = "timm/"
_SIZE_AT_THE_END = re.compile(r"_\d{3}(?=$|\.)|-\d{3}(?=$|-in21k)")


@dataclass(frozen=True)
class Row:
    """A pre-trained model of the hub.

    Attributes:
        name: As `load` takes it.
        model: Our name of its size, "B/16"; "" where it has none.
        tag: What tells it from others of its size, for `create_model`.
        image_size: Of its evaluation, pixels.
        dialect: Of its files.
        repository: Where they are.
        file: Which; "": the first of `hub.DEFAULT_FILES`.
        options: Fields of the architecture that its files do not say.
    """

    name: str
    model: str
    tag: str
    image_size: int
    dialect: str
    repository: str
    file: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Its address."""
        return f"hf://{self.repository}" + (f"/{self.file}" if self.file else "")

    @property
    def kind(self) -> str:
        """Its name without the size of the images."""
        return _SIZE_AT_THE_END.sub("", self.name)


@functools.cache
def rows() -> Mapping[str, Row]:
    """Returns all by name, those of timm first."""
    found = [
        row for text, dialect in timm.TABLES.items() for row in _timm(text, dialect)
    ]
    found += [
        Row(name, model, name, size, dialect, name)
        for name, (model, size, dialect) in huggingface.TABLE.items()
    ]
    return {row.name: row for row in found}


def _timm(text: str, dialect: str) -> Iterable[Row]:
    for line in re.sub(r"\n +", " ", text.strip()).split("\n"):
        architecture, model, size, *tags = line.split()
        quick = timm.QUICK in architecture
        options = {"gelu": "quick"} if quick else {}
        home = architecture.replace(timm.QUICK, "_clip_")
        elsewhere = (timm.ELSEWHERE[s] for s in timm.ELSEWHERE if home.endswith(s))
        owner = next(elsewhere, _ORGANISATION)
        for tag in tags:
            yield Row(
                f"{_ORGANISATION}{architecture}.{tag}",
                model.strip("-"),
                tag,
                int(size),
                dialect,
                f"{owner}{home}.{tag}",
                options=options,
            )


def find(name: str) -> Row | None:
    """Returns the model of a name, timm's also without its "timm/"; None: unknown."""
    known = rows()
    for full in (name, f"{_ORGANISATION}{name}"):
        if full in known:
            return known[full]
    return None


def nearest(name: str) -> list[str]:
    """Returns at most three names that are like one that is unknown."""
    known = list(rows())
    if "/" not in name:
        name = f"{_ORGANISATION}{name}"
    return difflib.get_close_matches(name, known, n=3, cutoff=0.75)


def listed(pattern: str = "*") -> list[str]:
    """Returns the names that match a shell pattern, or whose size does."""
    return [
        name
        for name, row in rows().items()
        if any(fnmatch.fnmatchcase(text, pattern) for text in (name, row.model))
    ]


def of_model(model: str, tag: Any, image_size: tuple[int, int] | None = None) -> Row:
    """Returns the pre-trained model of a size.

    Of those that differ in the size of their images alone it is the one nearest to what
    is asked for, by default the smallest.

    Args:
        model: Our name of the size, "B/16".
        tag: What it is called among those: "augreg_in21k"; or its whole name.
        image_size: Pixels that it shall be for.

    Raises:
        errors.UserError: there is none, or several.
    """
    of_size = [row for row in rows().values() if row.model == model]
    if not of_size:
        known = dict.fromkeys(row.model for row in rows().values() if row.model)
        raise errors.UserError(
            f"no pre-trained model of the size {model[:200]!r} has a name here; those "
            f"that have: {', '.join(known)}."
        )
    whole = find(tag) if isinstance(tag, str) else None
    fitting = [row for row in of_size if tag == row.tag or row == whole]
    if not fitting:
        tags = list(dict.fromkeys(row.tag for row in of_size))
        near = difflib.get_close_matches(str(tag)[:200], tags, n=3) or tags[:6]
        raise errors.UserError(
            f"pretrained={str(tag)[:200]!r} is no {model}; the nearest are: "
            f"{', '.join(near)}.\nvit_jax.list_models({model!r}, pretrained=True) has "
            f"all {len(of_size)} of that size."
        )
    kinds = {row.kind for row in fitting}
    if len(kinds) > 1:
        raise errors.UserError(
            errors.listing(
                f"pretrained={tag!r} is several {model}:",
                [row.name for row in fitting],
                "give one of these names in its place",
            )
        )
    wanted = min(image_size) if image_size else 0
    return min(fitting, key=lambda row: abs(row.image_size - wanted))
