"""Arrays that spare a later start some work: indices of files, listings of folders.

Whatever is wrong with such a file, it is made again; nothing depends on it but time.
"""

import json
import logging
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.host import files

SETTLED = 2 * 10**9  # ns; file systems keep times of 2 s (FAT) to 1 ns
_TOLD = "told"
# What zipfile and NumPy raise of files that they did not write.
_DAMAGE = (
    *(OSError, ValueError, KeyError, EOFError, RecursionError, NotImplementedError),
    *(MemoryError, OverflowError, TypeError, SyntaxError, zipfile.BadZipFile),
    zlib.error,
)


def load(path: Path) -> tuple[Any, dict[str, np.ndarray]] | None:
    """Returns what `save` wrote, checked by its CRC; None of anything else.

    Damage is one line in the log.
    """
    try:
        with (
            os.fdopen(files.open_to_read(path), "rb") as stream,
            np.load(stream, allow_pickle=False) as file,
        ):
            arrays = {name: file[name] for name in file.files}
        return json.loads(arrays.pop(_TOLD).tobytes()), arrays
    except (FileNotFoundError, NotADirectoryError):
        return None
    except _DAMAGE as error:
        kind = type(error).__name__
        logging.warning("%s cannot be read (%s): made again", path, kind)
        return None


def save(path: Path, told: Any, arrays: Mapping[str, np.ndarray]) -> str:
    """Writes arrays and what JSON holds, for `load`; several processes may at once.

    Returns:
        Why it could not be written, or "".
    """
    words = np.frombuffer(json.dumps(told).encode(), np.uint8)
    members: dict[str, Any] = {**arrays, _TOLD: words}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(path, shared=True) as file:
            np.savez(file, **members)
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return ""
