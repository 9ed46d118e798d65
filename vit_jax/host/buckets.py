"""Folders in Google Cloud Storage as paths.

They are of `etils.epath`, whose methods are those of `pathlib`, on gcsfs: orbax writes
checkpoints through them as well, and arrays through TensorStore. An object is whole or
not at all; nothing is appended to one, and a folder is what names have in common.
"""

import logging
import os
from pathlib import Path
from types import ModuleType
from typing import cast

SCHEME = "gs"


def packages() -> ModuleType:
    """Returns Google's module of storage, with what else buckets need at hand.

    Raises:
        ImportError: something is not installed.
    """
    if "EPATH_USE_TF" not in os.environ:  # which epath prefers where it is installed
        os.environ["EPATH_USE_TF"] = "false"
    for name in ("gcsfs", "fsspec"):  # which have a line for each file they read
        logging.getLogger(name).setLevel(logging.WARNING)
    import fsspec.config

    # An extra: they need not be there.
    import gcsfs  # noqa: F401  # pyright: ignore[reportMissingImports]
    from google.cloud import storage  # pyright: ignore[reportAttributeAccessIssue]

    # TensorStore writes beside it, so that what a listing said is no more true later.
    if "gcs" not in fsspec.config.conf:
        fsspec.config.conf["gcs"] = {"use_listings_cache": False}
    return storage


def there() -> bool:
    """Returns whether the packages that buckets need are installed."""
    try:
        return bool(packages())
    except ImportError:
        return False


def folder(address: str) -> Path:
    """Returns the path of an address, `gs://BUCKET/PATH`; it has `Path`'s methods.

    Raises:
        ValueError: the address is of another kind.
        ImportError: packages are missing.
    """
    if not address.startswith(f"{SCHEME}://"):
        raise ValueError(f"{address} is no {SCHEME}://BUCKET/PATH")
    packages()
    from etils import epath

    return cast(Path, epath.Path(address))


def move_over(path: Path, target: Path) -> None:
    """Moves a folder of a bucket, as `files.move_over` does."""
    import fsspec

    system, source = fsspec.core.url_to_fs(str(path))
    if target.exists():
        system.rm(str(target), recursive=True)
    system.mv(source, str(target), recursive=True)


def remove(path: Path) -> None:
    """Removes a folder of a bucket with all that is below."""
    import fsspec

    system, place = fsspec.core.url_to_fs(str(path))
    system.rm(place, recursive=True)
