"""The 50,000 checkpoints of "How to train your ViT?" and how one is chosen.

    augreg.resolve("augreg:B/16")                   # pre-trained, ImageNet-21k
    augreg.resolve("augreg:B/16,imagenet2012,384")  # and fine-tuned
    augreg.resolve("augreg:R+Ti/16,ds=i1k,aug=light1")

Each row of the published `index.csv` is a fine-tuning and the pre-training it starts
from (arXiv 2106.10270; columns as google-research/vision_transformer documents them).
A pre-training is chosen by its own validation accuracy, as the paper's section 4.5
recommends, then one of its fine-tunings by theirs: the test figures choose nothing.
"""

import csv
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from vit_jax import errors
from vit_jax.weights import remote

PREFIX = "augreg:"
FOLDER = "gs://vit_models/augreg"
INDEX = f"{FOLDER}/index.csv"
UPSTREAM = "i21k"
MAX_INDEX_BYTES = 200_000_000  # the published one has some 20 MB

# Our names -> how their files begin.
MODELS = {
    "Ti/16": "Ti_16",
    "S/16": "S_16",
    "S/32": "S_32",
    "B/8": "B_8",
    "B/16": "B_16",
    "B/32": "B_32",
    "L/16": "L_16",
    "R+Ti/16": "R_Ti_16",
    "R26+S/32": "R26_S_32",
    "R50+L/32": "R50_L_32",
}

_WORD = re.compile(r"[\w.+/-]{1,40}", re.ASCII)
_FILE = re.compile(r"[A-Za-z0-9][\w.-]{0,250}", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A row of the index: a pre-training, and one fine-tuning (`adapt_*`) of it.

    Attributes:
        name: The model, as `vit_jax.list_models` spells it.
        ds: Pre-training data: "i1k" or "i21k" (300 epochs), "i21k_30" (30 epochs).
        epochs: Of pre-training.
        lr: Learning rate of pre-training.
        aug: Augmentation: "none", "light0", "light1", "medium1", ... "strong2".
        wd: Weight decay.
        do: Dropout rate.
        sd: Stochastic depth rate.
        best_val: Best accuracy on held-out pre-training data; nan: not known, as for
            every other figure.
        final_val: The same at the end.
        final_test: At the end, on the test split.
        adapt_ds: Fine-tuning data, a TFDS name.
        adapt_lr: Learning rate of fine-tuning.
        adapt_steps: Steps of fine-tuning, 512 examples each.
        adapt_resolution: Pixels.
        adapt_final_val: Accuracy of the fine-tuned model on held-out training data.
        adapt_final_test: On the test split.
        params: Number of parameters.
        infer_samples_per_sec: Images a second on a V100.
        filename: Of the pre-trained weights.
        adapt_filename: Of the fine-tuned weights.
    """

    name: str
    ds: str
    epochs: int
    lr: float
    aug: str
    wd: float
    do: float
    sd: float
    best_val: float
    final_val: float
    final_test: float
    adapt_ds: str
    adapt_lr: float
    adapt_steps: int
    adapt_resolution: int
    adapt_final_val: float
    adapt_final_test: float
    params: int
    infer_samples_per_sec: float
    filename: str
    adapt_filename: str

    @property
    def url(self) -> str:
        """Of the pre-trained weights."""
        return _url(self.filename)

    @property
    def adapt_url(self) -> str:
        """Of the fine-tuned weights."""
        return _url(self.adapt_filename)


def _url(filename: str) -> str:
    return f"{FOLDER}/{filename}.npz"


def _word(text: str) -> str:
    if not _WORD.fullmatch(text):
        raise ValueError("not a name")
    return text


def _file(text: str) -> str:
    if not _FILE.fullmatch(text) or ".." in text:
        raise ValueError("not a file's name")
    return text


def _whole(text: str) -> int:
    number = float(text)  # "384", or "384.0" where a column has gaps
    if not number.is_integer():
        raise ValueError("not a whole number")
    return int(number)


def _figure(text: str) -> float:
    return float(text) if text.strip() else math.nan


_FILES = ("filename", "adapt_filename")
_KINDS: dict[Any, Callable[[str], Any]] = {str: _word, int: _whole, float: _figure}
COLUMNS: dict[str, Callable[[str], Any]] = {
    field.name: _file if field.name in _FILES else _KINDS[field.type]
    for field in dataclasses.fields(Entry)
}
FILTERS = {column: cast for column, cast in COLUMNS.items() if column != "name"}


def read_index(path_or_url: str | Path = INDEX) -> list[Entry]:
    """Reads the index; a URL is fetched into the cache.

    Raises:
        errors.UserError: it cannot be had, or is not what it should be.
    """
    path = Path(path_or_url)
    if remote.is_remote(path_or_url):
        path = remote.fetch(str(path_or_url))
    try:
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise errors.UserError(f"{path} is too large for an index of checkpoints.")
        with path.open(newline="", encoding="utf-8") as stream:
            return _parse(path, csv.reader(stream, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise errors.UserError(
            f"{path} cannot be read as an index of checkpoints: {str(error)[:200]}"
        ) from error


def _parse(path: Path, rows: Any) -> list[Entry]:
    header: list[str] = next(rows, [])
    missing = [name for name in COLUMNS if header.count(name) != 1]
    if missing:
        raise errors.UserError(
            f"{path} is no index of checkpoints: it lacks the columns "
            f"{', '.join(missing)} or has them twice."
        )
    places = [(name, header.index(name), cast) for name, cast in COLUMNS.items()]
    entries = []
    for row in rows:
        if len(row) != len(header):
            raise _bad(path, rows.line_num, f"{len(row)} cells, not {len(header)}")
        values = []
        for name, place, cast in places:
            try:
                values.append(cast(row[place]))
            except (ValueError, OverflowError) as error:
                what = f"{name}={row[place][:80]!r}: {str(error)[:80]}"
                raise _bad(path, rows.line_num, what) from None
        entries.append(Entry(*values))
    return entries


def _bad(path: Path, line: int, what: str) -> errors.UserError:
    return errors.UserError(f"{path} is no index of checkpoints: line {line}: {what}.")


def choose(
    index: Sequence[Entry],
    name: str,
    *,
    dataset: str | None = None,
    resolution: int | None = None,
    **filters: Any,
) -> Entry:
    """Returns the best checkpoint of a model.

    First the pre-training with the best `final_val`, then, with a dataset, the one of
    its fine-tunings with the best `adapt_final_val`: so the released notebook makes
    its table of the best checkpoints. To choose among the fine-tunings of every
    pre-training, sort the index.

    Args:
        index: From `read_index`.
        name: Our spelling, "R50+L/32", or that of the files, "R50_L_32".
        dataset: Of the fine-tuning, e.g. "imagenet2012"; None: any, for the
            pre-trained weights.
        resolution: Of the fine-tuning, in pixels; None: the better one.
        **filters: Values of other columns: `aug="light1"`. `ds` is "i21k" if not given.

    Raises:
        errors.UserError: an unknown name or column, or nothing that fits.
    """
    for column in filters:
        errors.lookup(FILTERS, column, "column")
    known = {"name": _our_name(name)}
    asked = {"ds": UPSTREAM} | filters
    for column, value in (("adapt_ds", dataset), ("adapt_resolution", resolution)):
        asked |= {} if value is None else {column: value}
    tuning = {c: v for c, v in asked.items() if c.startswith("adapt_")}
    training = {c: v for c, v in asked.items() if c not in tuning}
    rows = _fitting(index, known | training, "final_val")
    if not rows:
        raise _nothing(index, known, training)
    best = max(rows, key=lambda row: (row.final_val, row.filename))
    if not tuning:
        return best
    known |= training | {"filename": best.filename}
    rows = _fitting(index, known | tuning, "adapt_final_val")
    if not rows:
        raise _nothing(index, known, tuning)
    return max(rows, key=lambda row: (row.adapt_final_val, row.adapt_filename))


def _our_name(name: str) -> str:
    ours = {theirs: name for name, theirs in MODELS.items()}
    return ours[name] if name in ours else name


def _fitting(
    index: Iterable[Entry], wanted: dict[str, Any], figure: str
) -> list[Entry]:
    """The rows with these values whose figure is known."""
    return [
        row
        for row in index
        if all(getattr(row, column) == value for column, value in wanted.items())
        and not math.isnan(getattr(row, figure))
    ]


def _nothing(
    index: Sequence[Entry], known: dict[str, Any], wanted: dict[str, Any]
) -> errors.UserError:
    """What the index has instead of `wanted`, among the rows that are `known`."""
    rows = [r for r in index if all(getattr(r, c) == v for c, v in known.items())]
    name = known["name"]
    if not rows:
        names = sorted({row.name for row in index})
        return errors.UserError(
            f"no AugReg checkpoint of {name!r}; there are: {', '.join(names[:30])}."
            f"{errors.suggest(name, names)}"
        )
    lines = []
    for column, value in wanted.items():
        there = sorted({getattr(row, column) for row in rows})
        shown = ", ".join(map(str, there[:12])) + (", ..." if len(there) > 12 else "")
        hint = errors.suggest(str(value), map(str, there)) if value not in there else ""
        lines.append(f"{column}={value!r}; there are: {shown}.{hint}")
    return errors.UserError(
        errors.listing(
            f"no AugReg checkpoint of {name} has all of this:",
            lines,
            "leave one out, or take values that go together.",
        )
    )


def resolve(text: str, index: str | Path = INDEX) -> str:
    """Returns the URL of the checkpoint that a short name means.

    Args:
        text: "augreg:MODEL[,DATASET[,RESOLUTION]][,COLUMN=VALUE]...", or "augreg:" and
            a file's whole name, which needs no index.
        index: Where the index is.

    Raises:
        errors.UserError: no such checkpoint, or another kind of text.
    """
    name, *rest = text.removeprefix(PREFIX).split(",")
    plain = [part for part in rest if "=" not in part]
    if not text.startswith(PREFIX) or not name or len(plain) > 2:
        raise errors.UserError(
            f"{text[:200]!r} names no AugReg checkpoint: wanted augreg:B/16, "
            "augreg:B/16,imagenet2012 or augreg:B/16,imagenet2012,384."
        )
    if "-" in name and not rest:
        if not _FILE.fullmatch(name) or ".." in name:
            raise errors.UserError(f"{name[:200]!r} is no name of an AugReg file.")
        return _url(name.removesuffix(".npz"))
    if _our_name(name) not in MODELS:
        errors.lookup(MODELS, name, "AugReg model")
    filters = dict(zip(("adapt_ds", "adapt_resolution"), plain))
    filters |= dict(part.split("=", 1) for part in rest if "=" in part)
    values = {column: _value(column, text) for column, text in filters.items()}
    chosen = choose(read_index(index), name, **values)
    tuned = any(column.startswith("adapt_") for column in values)
    return chosen.adapt_url if tuned else chosen.url


def _value(column: str, text: str) -> Any:
    cast = errors.lookup(FILTERS, column, "column")
    try:
        return cast(text)
    except (ValueError, OverflowError) as error:
        raise errors.UserError(f"{column}={text[:80]!r}: {error}.") from None
