"""Downloads and prepares a dataset with tensorflow_datasets, in ArrayRecord files.

TensorFlow is needed only by those builders that use it.
"""

import os
from pathlib import Path
from typing import Any

from vit_jax import errors
from vit_jax.data import catalog, prepared, tfds, tfds_features

_MOST_INSTRUCTIONS = 500
_OF_THE_EXTRA = ("tensorflow", "importlib_resources")


def run(name: str, *, data_dir: str = "") -> catalog.DatasetInfo:
    """Prepares a dataset where it is not yet there, and returns what is known of it.

    Args:
        name: Of TFDS: "cifar10", "eurosat/rgb", "cifar10:3.0.2", "cifar10:3.*.*".
        data_dir: Where to; "" is $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
        errors.UserError: an unknown name, files to be fetched by hand, no network, no
            TensorFlow where the builder needs it, a folder that cannot be written.
    """
    root = prepared.root(data_dir)
    bare, _, version = name.partition(":")
    if prepared.find(root, bare, version) is None:
        _refuse_what_nobody_can(bare, root)
        _download(_builder(name, root), name, root)
    try:
        return catalog.describe(name, data_dir=str(root))
    except tfds_features.Unread:  # of its labels a run takes one, by a name or a rule
        directory = prepared.find(root, bare, version)
        counts = {} if directory is None else tfds.counts(directory)
        return catalog.DatasetInfo(bare, 0, counts, None, False, prepared=True)


def _refuse_what_nobody_can(name: str, root: Path) -> None:
    if name in catalog.NOT_PREPARABLE:
        note = catalog.ROWS[name].note.format(data_dir=root, name=name)
        raise errors.UserError(f"{name} cannot be prepared. {note}")


def _library() -> Any:
    if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow_datasets

    return tensorflow_datasets


def _builder(name: str, root: Path) -> Any:
    tfds = _library()
    try:
        return tfds.builder(name, data_dir=str(root))
    except ImportError as error:
        raise _lacks(name, error) from error
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        base = name.split(":")[0].split("/")[0]
        raise errors.UserError(
            f"TFDS has no dataset {base!r}.{errors.suggest(base, known)} Its datasets: "
            "https://www.tensorflow.org/datasets/catalog; your own pictures need no "
            "preparing: folder:PATH"
        ) from error
    except Exception as error:  # of builders' own code
        raise _failed(name, error) from error


def _download(builder: Any, name: str, root: Path) -> None:
    tfds = _library()
    try:
        builder.download_and_prepare(file_format="array_record")
    except ImportError as error:
        raise _lacks(name, error) from error
    except Exception as error:
        told = (builder.MANUAL_DOWNLOAD_INSTRUCTIONS or "").strip()
        if told and not _network(error, tfds):
            raise errors.UserError(
                f"{name}: some files have to be fetched by hand, into "
                f"{root}/downloads/manual, before it can be prepared. TFDS says: "
                f"{' '.join(told.split())[:_MOST_INSTRUCTIONS]}\n"
                f"({errors.reason(error)})"
            ) from error
        raise _failed(name, error) from error


def _network(error: BaseException, tfds: Any) -> bool:
    """Whether an error, or what it came from, is of a connection."""
    import requests

    kinds = ConnectionError, TimeoutError, requests.RequestException
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, (*kinds, tfds.download.DownloadError)):
            return True
        found = found.__cause__ or found.__context__
    return False


def _failed(name: str, error: Exception) -> errors.UserError:
    if _network(error, _library()):
        return errors.UserError(
            f"{name} cannot be downloaded: {errors.reason(error)}. Is there a network? "
            "Run the same command where there is one, and copy the folder"
        )
    return errors.UserError(
        f"{name} cannot be prepared ({type(error).__name__}: {errors.reason(error)})"
    )


def _lacks(name: str, error: ImportError) -> errors.UserError:
    """What is said of a package that the code of a dataset imports."""
    package = (error.name or "").split(".")[0]
    other = package and package not in _OF_THE_EXTRA
    install = f"pip install {package if other else repr('vit_jax[prepare]')}"
    return errors.UserError(
        f"preparing {name} needs a package that is not installed here "
        f"({errors.reason(error)}): {install}"
    )
