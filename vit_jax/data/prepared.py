"""Where TFDS has prepared which datasets: DATA_DIR/NAME[/CONFIG]/VERSION."""

import os
import re
from pathlib import Path

from vit_jax import errors
from vit_jax.host import files as host_files

_VERSION = re.compile(r"^\d{1,9}\.\d{1,9}\.\d{1,9}$")


def root(data_dir: str) -> Path:
    """Returns TFDS's data folder; "" is $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
        errors.UserError: a URL.
    """
    place = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    if "://" in place:
        raise errors.UserError(
            f"data_dir={place}: want a local or mounted folder; copy the dataset, or "
            "mount the bucket (gcsfuse and the like)"
        )
    return host_files.expanded(place)


def is_one(directory: Path) -> bool:
    """Returns whether a folder holds one version of a prepared dataset."""
    return (directory / "dataset_info.json").is_file()


def versions(directory: Path) -> list[str]:
    """Returns the versions that are prepared in a dataset's folder, oldest first."""
    if not directory.is_dir():
        return []
    found = [
        entry.name
        for entry in directory.iterdir()
        if _VERSION.match(entry.name) and is_one(entry)
    ]
    return sorted(found, key=lambda version: [int(n) for n in version.split(".")])


def find(data_dir: Path, name: str, version: str) -> Path | None:
    """Returns the folder of a prepared dataset, None if it is not there.

    Args:
        data_dir: TFDS's data folder.
        name: "cifar10" or "name/config".
        version: "" for the newest, "3.*.*" for the newest of these.
    """
    found = versions(data_dir / name)
    if version:
        parts = version.split(".")
        found = [
            one
            for one in found
            if all(a in (b, "*") for a, b in zip(parts, one.split("."), strict=True))
        ]
    return data_dir / name / found[-1] if found else None
