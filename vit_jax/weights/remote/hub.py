"""Files of Hugging Face's hub, through its own package, kept in our cache."""

import contextlib
import importlib
import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vit_jax import errors
from vit_jax.weights.remote import address, cache, server

DEFAULT_FILES = ("model.safetensors", "pytorch_model.bin")  # the first that is there

_URL = re.compile(
    r"hf://(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[^/@]+))?(/(?P<file>.+))?",
    re.ASCII,
)

# Class of the hub's error -> what to tell; the first that fits.
_PROBLEMS = (
    (
        "GatedRepoError",
        "its owner asks you to accept terms: do so on its page, then `hf auth login`.",
    ),
    (
        "RepositoryNotFoundError",
        "there is no such model, or it is private: check the name, or `hf auth login`.",
    ),
    ("RevisionNotFoundError", "the model has no such branch, tag or commit."),
    (
        "RemoteEntryNotFoundError",
        "the model has no such file; name one of its own: hf://org/name/FILE.",
    ),
    ("HFValidationError", "that is no name of a model."),
)


def get(url: str, root: Path, path: Path, expected: str | None) -> Path:
    """Downloads a file and what belongs to it, all of one commit, under `root/hub`.

    `path` only names the record. Access is that of the user's own `hf auth login`.

    Raises:
        errors.UserError: as `remote.fetch`; also without the package huggingface_hub.
        OSError: the cache cannot be written.
    """
    match = _URL.fullmatch(url)
    if not match or ".." in urllib.parse.unquote(url):
        raise errors.UserError(
            f"{address.shown(url)} is no file of the hub: wanted hf://org/name, "
            "hf://org/name@revision or hf://org/name/file."
        )
    try:
        hub = importlib.import_module("huggingface_hub")
        problems = importlib.import_module("huggingface_hub.errors")
    except ImportError:
        raise errors.UserError(
            f"{address.shown(url)} needs the package huggingface_hub:\n"
            "  pip install 'vit_jax[hub]'"
        ) from None
    names = (match["file"],) if match["file"] else DEFAULT_FILES
    where: dict[str, Any] = {"repo_id": match["repository"], "cache_dir": root / "hub"}
    revision = match["revision"] and urllib.parse.unquote(match["revision"])
    missing = problems.RemoteEntryNotFoundError
    try:
        found, name = _first(hub, missing, names, revision=revision, **where)
        # root/hub/models--org--name/snapshots/COMMIT/name
        commit = found.parents[name.count("/")].name
        folder, _, _ = name.rpartition("/")
        for companion in server.COMPANIONS if server.is_described(found) else ():
            beside = f"{folder}/{companion}" if folder else companion
            with contextlib.suppress(missing):
                hub.hf_hub_download(filename=beside, revision=commit, **where)
    except Exception as error:  # a dozen of its own, httpx's, the file system's
        raise _problem(url, " or ".join(names), error) from error
    sha256 = cache.digest(found, "sha256")
    if expected and sha256 != expected:
        found.resolve().unlink()
        found.unlink(missing_ok=True)
        raise cache.mismatch(url, "sha256", expected, sha256)
    size = found.stat().st_size
    cache.keep(root, path, url, found, size=size, etag=commit, sha256=sha256)
    return found


def _first(
    hub: Any, missing: type[Exception], names: Sequence[str], **where: Any
) -> tuple[Path, str]:
    """Downloads the first of some files that a model has; returns it and its name."""
    *others, last = names
    for name in others:
        with contextlib.suppress(missing):
            return Path(hub.hf_hub_download(filename=name, **where)), name
    return Path(hub.hf_hub_download(filename=last, **where)), last


def _problem(url: str, name: str, error: Exception) -> errors.UserError:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    for kind, advice in _PROBLEMS:
        if kind in kinds:
            return errors.UserError(f"{address.shown(url)} ({name[:200]}): {advice}")
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return errors.UserError(
        f"{address.shown(url)} cannot be fetched from the hub: {reason}\n"
        "Without network, copy the model here by other means and give its path."
    )
