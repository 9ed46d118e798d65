"""How a run's images are prepared: as its recipe says, or as its checkpoint wants."""

import logging
from collections.abc import Mapping
from typing import Any

from vit_jax.data.preprocessing import Preprocessing

# data.eval.filter for the filter of a run without a checkpoint, where one has another.
OURS = "default"


def resolve(
    image_size: tuple[int, int],
    *,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    transform: str = "",
    resize: int = 0,
    filter: str = "",
    exif: str = "turn",
    wanted: Preprocessing | None = None,
    source: str = "",
) -> Preprocessing:
    """Returns how images are prepared; each value that is empty is the checkpoint's.

    A transform that is said comes with its own `resize`. Without a checkpoint, what is
    empty is the default of `Preprocessing`: whole images, from -1 to 1.

    Args:
        image_size: (height, width) of the run, pixels.
        mean: In units of 0..255, as `data.mean`.
        std: As `data.std`.
        transform: As `data.eval.transform`.
        resize: As `data.eval.resize`.
        filter: As `data.eval.filter`; `OURS` is that of a run without a checkpoint.
        exif: As `data.exif`, which is of the run's data and not of the checkpoint.
        wanted: Of the checkpoint that the run starts from, at the run's size.
        source: The checkpoint.

    Raises:
        errors.UserError: values that cannot work.
    """
    said: dict[str, Any] = {"image_size": image_size} | {
        key: value
        for key, value in {
            "mean": mean,
            "std": std,
            "transform": transform,
            "resize": resize,
            "filter": filter,
            "exif": exif,
        }.items()
        if value
    }
    if filter == OURS:
        said["filter"] = ""
    if wanted is None:
        return Preprocessing(**said)
    base = wanted.to_dict()
    if transform:
        kept = ("mean", "std") if transform == "none" else ("mean", "std", "filter")
        base = {key: base[key] for key in kept}
    prepared = Preprocessing.from_dict(base | said)
    _log(prepared, wanted, said, source)
    return prepared


def _log(
    prepared: Preprocessing, wanted: Preprocessing, said: dict[str, Any], source: str
) -> None:
    """Says whose values were taken, and where a configuration's are others."""
    shown = ", ".join(f"{key} {value}" for key, value in prepared.to_dict().items())
    others = [
        f"data.{'' if key in ('mean', 'std') else 'eval.'}{key}={value!r} where it has "
        f"{getattr(wanted, key)!r}"
        for key, value in said.items()
        if key != "exif" and getattr(wanted, key) != getattr(prepared, key)
    ]
    if others:
        logging.warning(
            "images are not prepared as %s wants them, because the configuration says "
            "%s: %s",
            *(source, ", ".join(others), shown),
        )
    else:
        logging.info(
            "images are prepared as %s wants them (training ones: mean and std): %s",
            *(source, shown),
        )


def of_a_run(
    data: Mapping[str, Any],
    image_size: tuple[int, int],
    *,
    stored: Preprocessing | None,
    source: str,
) -> Preprocessing:
    """Returns how a run's images are prepared; see `resolve`.

    Args:
        data: The configuration's section `data`.
        image_size: (height, width) of the run, pixels.
        stored: Of the checkpoint that the run starts from, at any size.
        source: The checkpoint.
    """
    return resolve(
        image_size,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        exif=data["exif"],
        wanted=None if stored is None else stored.at(image_size),
        source=source,
        **data["eval"],
    )
