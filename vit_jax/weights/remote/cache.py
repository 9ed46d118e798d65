"""What is kept of remote files: `path` and, when all of it is there, `path.json`."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vit_jax import errors, host
from vit_jax.host import files as host_files
from vit_jax.settings import documents
from vit_jax.weights.remote import address


def root() -> Path:
    """Returns the cache's folder: `$VIT_JAX_CACHE`, or in the user's cache."""
    return host.cache_folder()


def beside(path: Path, suffix: str) -> Path:
    """Returns the path with something more at its end."""
    return path.with_name(path.name + suffix)


def find(root: Path, path: Path) -> Path | None:
    """Returns the file that the record of `path` tells of, if it is there in full."""
    try:
        record = documents.read(beside(path, ".json"))
        documents.checked(record, {"path": str, "size": int})
        found, size = root / record["path"], record["size"]
        held = found.stat().st_size
    except (OSError, errors.UserError):
        return None
    if held == size:
        return found
    logging.warning("%s has %s bytes instead of %s: fetched again", found, held, size)
    return None


def keep(root: Path, path: Path, url: str, found: Path, **facts: Any) -> None:
    """Writes the record of `path`: the URL, where the file is, size and digest."""
    record = {"url": address.shown(url), "path": os.path.relpath(found, root)} | facts
    host_files.write_whole(beside(path, ".json"), json.dumps(record))


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps other processes and threads out of a folder; a dead one lets go.

    Where the system has no such lock (Windows) two may fetch the same file.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.info("waiting for another process that fetches into %s", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def digest(path: Path, kind: str) -> str:
    """Returns the hexadecimal digest of a file's content; `kind` is hashlib's name."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()


def differs(url: str, path: Path, wanted: str, got: str) -> errors.UserError:
    """Returns the error for a copy with another SHA-256, which was there before."""
    return errors.UserError(
        f"{address.shown(url)}: the copy {path} is not what was asked for.\n"
        f"  wanted sha256 {wanted}\n  got    sha256 {got}\n"
        "Check the digest; to fetch the file again, delete the copy."
    )


def mismatch(url: str, kind: str, wanted: str, got: str) -> errors.UserError:
    """Returns the error for a file with another content, which was not kept."""
    return errors.UserError(
        f"{address.shown(url)} is not what it should be; it was not kept.\n"
        f"  wanted {kind} {wanted}\n  got    {kind} {got}\n"
        "Check the digest, or whether the file was replaced at its source."
    )
