"""Which columns of a dataset are its images and its labels."""

from collections.abc import Mapping

from vit_jax import errors
from vit_jax.settings import naming

_IMAGES = ("image", "img", "images", "picture", "pixel_values")
_LABELS = ("label", "labels")


def choose(
    kinds: Mapping[str, str],
    columns: naming.Columns,
    dataset: str,
    *,
    described: Mapping[str, str] | None = None,
) -> tuple[str, str]:
    """Returns the column of the images and that of the labels.

    What the configuration leaves open is found where one column alone will do: images
    by their type, labels as the only classes with names, else by the name "label" or
    "labels", else as the only column that can hold them.

    Args:
        kinds: Of each column: "image", "classes" (with names), "label" (numbers, texts
            or lists of them) or "other".
        columns: What the configuration says.
        dataset: Its name, for messages.
        described: What each column is, for messages; None: its kind.

    Raises:
        errors.UserError: no such column, none, or several; lists the columns.
    """
    listed = ", ".join(
        f"{name} ({what})" for name, what in (described or kinds).items()
    )
    for key, name in (("image_column", columns.image), ("label_column", columns.label)):
        if name and name not in kinds:
            raise errors.UserError(
                f"{dataset} has no column {name!r} (data.{key}); it has: {listed}."
                f"{errors.suggest(name, kinds)}"
            )
    image = columns.image or _one(
        [name for name, kind in kinds.items() if kind == "image"], _IMAGES
    )
    if not image:
        raise errors.UserError(
            f"{dataset}: which column holds the images? --config.data.image_column="
            f"NAME, of: {listed}"
        )
    named = [name for name, kind in kinds.items() if kind == "classes"]
    able = [n for n, kind in kinds.items() if kind in ("classes", "label")]
    able = [name for name in able if name != image]
    label = columns.label or _one(named, _LABELS) or _one(able, _LABELS)
    if len(named) > 1 and not columns.label:
        label = _one(named, _LABELS)
    if not label:
        raise errors.UserError(
            f"{dataset}: which column holds the labels? --config.data.label_column="
            f"NAME, of: {listed}"
        )
    return image, label


def _one(names: list[str], usual: tuple[str, ...]) -> str:
    """The only name, or the only usual one; "" where it could be several."""
    if len(names) == 1:
        return names[0]
    found = [name for name in names if name.lower() in usual]
    return found[0] if len(found) == 1 else ""
