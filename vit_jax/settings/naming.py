"""A dataset's name with the columns to read: `parquet:x/*.parquet#image=a,label=b`.

So a name alone says how a dataset is read, wherever names go: to evaluations, into
checkpoints, to commands. A run's own keys `data.image_column`, `data.label_column` and
`data.class_names` become the same.
"""

import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from vit_jax import errors

# What the name of a dataset may begin with, before a colon; `data.forms` opens them.
FORMS = tuple("csv hf imagenetv2 objectnet parquet predicted py real wds".split())
# What a label column begins with that holds numbers and no classes, for a regression.
NUMBER = "number:"
# Several datasets: see `data.mixtures`. What a model said: `data.forms.predicted`.
MIX, PREDICTED = "mix:", "predicted:"
# What a label column begins with that is computed, see `data.label_rules`.
RULE = "rule:"
_PART = r"(image|label|names|classes)=[^,#=]+"
_COLUMNS = re.compile(rf"#({_PART}(,{_PART})*)$")
# The key of `config.data` of each column.
KEYS = {"image": "image_column", "label": "label_column", "names": "class_names"}
KEYS |= {"classes": "classes"}


@dataclass(frozen=True)
class Columns:
    """What of a dataset is read; "" is found out, where only one will do.

    Attributes:
        image: The column, feature or key of the images.
        label: That of the labels.
        names: A file with the names of the classes, in their order.
        classes: Those that are kept: names by commas, or a file of them.
    """

    image: str = ""
    label: str = ""
    names: str = ""
    classes: str = ""

    def __bool__(self) -> bool:
        return bool(self.image or self.label or self.names or self.classes)

    @property
    def numeric(self) -> bool:
        """Whether labels are numbers and no classes."""
        return self.label.startswith(NUMBER)

    @property
    def plain(self) -> "Columns":
        """The same columns without what says that labels are numbers."""
        return replace(self, label=self.label.removeprefix(NUMBER))


def split(name: str) -> tuple[str, Columns]:
    """Returns a dataset's name without its columns, and these."""
    match = _COLUMNS.search(name)
    if match is None:
        return name, Columns()
    pairs = (part.split("=") for part in match[1].split(","))
    given = {key: urllib.parse.unquote(value) for key, value in pairs}
    return name[: match.start()], Columns(**given)


def join(name: str, columns: Columns) -> str:
    """Returns a name with columns; what `columns` leaves open is as the name has it."""
    bare, before = split(name)
    given = {f.name: getattr(columns, f.name) for f in fields(columns)}
    merged = replace(before, **{key: value for key, value in given.items() if value})
    parts = [
        f"{f.name}={urllib.parse.quote(value, safe='/ :.*?{}[]@+~')}"
        for f in fields(merged)
        if (value := getattr(merged, f.name))
    ]
    return f"{bare}#{','.join(parts)}" if parts else bare


def with_dataset(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns a configuration with another dataset, its columns as they are."""
    return {**config, "data": {**config["data"], "dataset": name}}


def columns_of(config: Mapping[str, Any]) -> Columns:
    """Returns the columns of a configuration."""
    return of_section(config["data"])


def of_section(section: Mapping[str, Any]) -> Columns:
    """Returns the columns of `config.data`; older versions lack their keys."""
    found = {name: section[key] for name, key in KEYS.items() if key in section}
    return Columns(**found)


def of_run(section: Mapping[str, Any]) -> str:
    """Returns the name of a run's dataset with its columns, of `config.data`."""
    columns = of_section(section)
    if columns and section["dataset"].startswith(MIX):
        raise errors.UserError(
            f"data.classes and columns of parts of {MIX} are theirs: 1*NAME#label=X"
        )
    return join(section["dataset"], columns)
