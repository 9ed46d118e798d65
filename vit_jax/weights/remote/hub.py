"""Models of Hugging Face's hub: found in its cache, else brought there by its package.

What is in the cache is used without asking the hub, whoever brought it there, and
without the package huggingface_hub. All files of a model are of one commit.
"""

import contextlib
import importlib
import logging
import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_jax import errors
from vit_jax.weights.formats import safetensors, shards, torchfile
from vit_jax.weights.remote import address, cache, hubcache, server

# The first that a model has; an index stands for the files that it names.
DEFAULT_FILES = (
    *(safetensors.FILE, safetensors.INDEX),
    *(torchfile.FILE, torchfile.INDEX),
)
MAIN = "main"
_INDEX = ".index.json"

REPOSITORY = r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}"
_URL = re.compile(
    rf"hf://(?P<repository>{REPOSITORY})(@(?P<revision>[^/@]+))?(/(?P<file>.+))?",
    re.ASCII,
)
_REVISION = re.compile(r"\w[\w./+-]{0,200}", re.ASCII)
_FILE = re.compile(r"\w[\w./+=,~ -]{0,250}", re.ASCII)

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


@dataclass(frozen=True)
class Wanted:
    """What a URL asks for: the first of some files of a model at a revision."""

    url: str
    repository: str
    revision: str
    names: tuple[str, ...]


def parse(url: str) -> Wanted:
    """Returns what `hf://org/name[@revision][/file]` asks for.

    Raises:
        errors.UserError: another kind of text, or one that leads out of a folder.
    """
    match = _URL.fullmatch(url)
    revision = urllib.parse.unquote(match["revision"] or MAIN) if match else ""
    good = (
        match
        and ".." not in urllib.parse.unquote(url)
        and _REVISION.fullmatch(revision)
        and (match["file"] is None or _FILE.fullmatch(match["file"]))
    )
    if not match or not good:
        raise errors.UserError(
            f"{address.shown(url)} is no file of the hub: wanted hf://org/name, "
            "hf://org/name@revision or hf://org/name/file."
        )
    names = (match["file"],) if match["file"] else DEFAULT_FILES
    return Wanted(url, match["repository"], revision, names)


def get(url: str, caches: Sequence[Path], expected: str | None) -> Path:
    """Returns a model's file, beside it what belongs to it: shards, descriptions.

    Access is that of the user's own `hf auth login` or `$HF_TOKEN`.

    Args:
        url: As `parse` takes it.
        caches: In the layout of `hubcache`; downloads go into the first.
        expected: The file's SHA-256.

    Raises:
        errors.UserError: as `remote.fetch`; also where it is not there and nobody may
            or can ask the hub.
    """
    wanted = parse(url)
    try:
        found = _cached(wanted, caches) or _downloaded(wanted, caches)
    except OSError as error:
        raise errors.UserError(
            f"{address.shown(url)} cannot be kept in {caches[0]}: {error}\n"
            "Set HF_HUB_CACHE to a folder with room that can be written to."
        ) from error
    snapshot, name, is_new = found
    path = snapshot.folder / name
    if expected and (got := cache.digest(path, "sha256")) != expected:
        if is_new:
            _forget(snapshot, path)
            raise cache.mismatch(url, "sha256", expected, got)
        raise cache.differs(url, path, expected, got)
    return path


_Found = tuple[hubcache.Snapshot, str, bool]


def _cached(wanted: Wanted, caches: Sequence[Path]) -> _Found | None:
    """The snapshot in which all is that is wanted, and the name of the file."""
    for folder in caches:
        snapshot = hubcache.find(folder, wanted.repository, wanted.revision)
        name = _first_in(snapshot, wanted.names)
        if snapshot and name and not _missing_parts(snapshot, name):
            _complete_description(wanted, snapshot, name)
            return snapshot, name, False
    return None


def _first_in(snapshot: hubcache.Snapshot | None, names: Sequence[str]) -> str:
    """The first of some names that a snapshot has; "" for none."""
    there = (n for n in names if snapshot and snapshot.file(n))
    return next(there, "")


def _beside(name: str, companion: str) -> str:
    folder, _, _ = name.rpartition("/")
    return f"{folder}/{companion}" if folder else companion


def _parts(snapshot: hubcache.Snapshot, name: str) -> list[str]:
    """The files that an index names; none for a file that is no index."""
    if not name.endswith(_INDEX):
        return []
    suffix = Path(name.removesuffix(_INDEX)).suffix
    weight_map = shards.read_index(snapshot.folder / name, suffix)
    return [_beside(name, part) for part in sorted(set(weight_map.values()))]


def _missing_parts(snapshot: hubcache.Snapshot, name: str) -> list[str]:
    return [part for part in _parts(snapshot, name) if not snapshot.file(part)]


def _unknown(snapshot: hubcache.Snapshot, name: str) -> list[str]:
    """The descriptions of a file of which nobody has said whether there are any."""
    if not name.endswith((safetensors.SUFFIX, ".bin", _INDEX)):
        return []
    # timm's own repositories have everything in config.json.
    of_timm = snapshot.repository.name.startswith("models--timm--")
    companions = server.COMPANIONS[:1] if of_timm else server.COMPANIONS
    files = [_beside(name, companion) for companion in companions]
    return [
        n for n in files if not snapshot.file(n) and not snapshot.is_known_to_lack(n)
    ]


def _complete_description(
    wanted: Wanted, snapshot: hubcache.Snapshot, name: str
) -> None:
    """Asks for what other programs did not bring along, once, if it can be had."""
    unknown = _unknown(snapshot, name)
    if not unknown:
        return
    reason = hubcache.offline()
    if not reason:
        try:
            _bring(_package(wanted.url, ""), wanted, snapshot, unknown)
            return
        except errors.UserError as error:
            reason = errors.reason(error)
        except Exception as error:  # as in `_downloaded`
            reason = type(error).__name__
    logging.warning(
        "%s is used as it is in the cache, without %s, which its repository may have "
        "(%s)",
        *(address.shown(wanted.url), " and ".join(unknown), reason[:200]),
    )


def _downloaded(wanted: Wanted, caches: Sequence[Path]) -> _Found:
    """Brings what is missing into the first cache."""
    why = _not_there(wanted, caches[0])
    if variable := hubcache.offline():
        raise errors.UserError(
            f"{address.shown(wanted.url)} {why}, and {variable} forbids to ask the "
            "hub.\nUnset it where there is a network, or copy the model here by other "
            "means and give its path."
        )
    hub = _package(wanted.url, why)
    try:
        snapshot, name = _brought(hub, wanted, caches[0])
        _bring(hub, wanted, snapshot, _missing_parts(snapshot, name), needed=True)
        _bring(hub, wanted, snapshot, _unknown(snapshot, name))
    except errors.UserError:
        raise
    except Exception as error:  # a dozen of its own, httpx's, the file system's
        raise _problem(wanted, error) from error
    return snapshot, name, True


def _not_there(wanted: Wanted, cache: Path) -> str:
    """Why a cache does not do, for a message."""
    snapshot = hubcache.find(cache, wanted.repository, wanted.revision)
    name = _first_in(snapshot, wanted.names)
    if snapshot and name:
        missing = _missing_parts(snapshot, name)
        return (
            f"is only in part in {cache}: {len(missing)} of the files that {name} "
            f"names are missing ({', '.join(missing[:3])})"
        )
    if snapshot:
        names = " nor ".join(wanted.names)[:200]
        return f"is in {cache} without {names}"
    if known := hubcache.revisions(cache, wanted.repository):
        return (
            f"is in {cache} without the revision {wanted.revision!r} (there are: "
            f"{', '.join(known[:5])})"
        )
    return f"is not in {cache}"


def _package(url: str, why: str) -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError:
        there = f" {why}, and" if why else ""
        raise errors.UserError(
            f"{address.shown(url)}{there} needs the package huggingface_hub:\n"
            "  pip install 'vit_jax[hub]'"
        ) from None


def _brought(hub: Any, wanted: Wanted, cache: Path) -> tuple[hubcache.Snapshot, str]:
    """Downloads the first of the wanted files that the model has."""
    at = {"repo_id": wanted.repository, "revision": wanted.revision, "cache_dir": cache}
    *others, last = wanted.names
    missing = _missing_entry()
    for name in others:
        with contextlib.suppress(missing):
            return _of(Path(hub.hf_hub_download(filename=name, **at)), name), name
    return _of(Path(hub.hf_hub_download(filename=last, **at)), last), last


def _missing_entry() -> type[Exception]:
    problems = importlib.import_module("huggingface_hub.errors")
    return problems.RemoteEntryNotFoundError


def _of(path: Path, name: str) -> hubcache.Snapshot:
    """The snapshot of models--org--name/snapshots/COMMIT/name."""
    folder = path.parents[name.count("/")]
    return hubcache.Snapshot(folder.parents[1], folder.name)


def _bring(
    hub: Any,
    wanted: Wanted,
    snapshot: hubcache.Snapshot,
    names: Sequence[str],
    *,
    needed: bool = False,
) -> None:
    """Downloads more files of the commit of a snapshot, if it has them."""
    where = {"cache_dir": snapshot.repository.parent, "revision": snapshot.commit}
    for name in names:
        try:
            hub.hf_hub_download(repo_id=wanted.repository, filename=name, **where)
        except _missing_entry():
            if needed:
                raise


def _forget(snapshot: hubcache.Snapshot, path: Path) -> None:
    """Removes a file that is not what it should be, unless another snapshot has it."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    name = path.relative_to(snapshot.folder)
    others = (snapshot.repository / "snapshots").glob(f"*/{name}")
    if all(other.resolve() != blob for other in others):
        blob.unlink(missing_ok=True)


def _problem(wanted: Wanted, error: Exception) -> errors.UserError:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    shown = address.shown(wanted.url)
    for kind, advice in _PROBLEMS:
        if kind in kinds:
            names = " or ".join(wanted.names)[:200]
            return errors.UserError(f"{shown} ({names}): {advice}")
    return errors.UserError(
        f"{shown} cannot be fetched from the hub: {errors.reason(error)}\n"
        "Without network, copy the model here by other means and give its path."
    )
