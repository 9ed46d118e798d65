"""Hugging Face's own cache, in which transformers and timm look as well.

    $HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub
        models--ORG--NAME/
            refs/REVISION           the commit that a branch or a tag stood for
            snapshots/COMMIT/FILE   a link to the blob; a copy where links do not work
            blobs/ETAG              whole; ETAG.incomplete while it is on its way
            .no_exist/COMMIT/FILE   empty: the repository has no such file

It is read here without the package huggingface_hub, which alone writes to it.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from vit_jax.host import files as host_files

_COMMIT = re.compile(r"[0-9a-zA-Z]{1,64}", re.ASCII)
_TRUE = ("1", "ON", "YES", "TRUE")


def root() -> Path:
    """Returns the cache's folder, as huggingface_hub finds it."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if own := os.environ.get(name):
            return _expanded(own)
    if home := os.environ.get("HF_HOME"):
        return _expanded(home) / "hub"
    everyone = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _expanded(everyone) / "huggingface" / "hub"


def _expanded(path: str) -> Path:
    return host_files.expanded(os.path.expandvars(path))


def offline() -> str:
    """Returns the variable by which the user forbids to ask the hub, or ""."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    said = {name: os.environ.get(name) or "" for name in names}
    return next((name for name, value in said.items() if value.upper() in _TRUE), "")


@dataclass(frozen=True)
class Snapshot:
    """A commit of a repository, as far as it is in a cache."""

    repository: Path
    commit: str

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.repository / "snapshots" / self.commit

    def file(self, name: str) -> Path | None:
        """Returns a file of it that is there in full, None for a link with no blob."""
        path = self.folder / name
        return path if path.is_file() else None

    def is_known_to_lack(self, name: str) -> bool:
        """Returns whether the hub has said that this commit has no such file."""
        return (self.repository / ".no_exist" / self.commit / name).is_file()


def find(cache: Path, repository: str, revision: str) -> Snapshot | None:
    """Returns the snapshot of a branch, tag or commit of "ORG/NAME", if there."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    if _COMMIT.fullmatch(revision) and (folder / "snapshots" / revision).is_dir():
        return Snapshot(folder, revision)
    ref = folder / "refs" / revision
    commit = ref.read_bytes().decode(errors="replace").strip() if ref.is_file() else ""
    if not _COMMIT.fullmatch(commit):
        return None
    found = Snapshot(folder, commit)
    return found if found.folder.is_dir() else None


def revisions(cache: Path, repository: str) -> list[str]:
    """Returns the branches, tags and commits of a repository that a cache knows."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    refs = folder / "refs"
    named = [str(p.relative_to(refs)) for p in refs.rglob("*") if p.is_file()]
    commits = [p.name for p in (folder / "snapshots").glob("*") if p.is_dir()]
    return sorted(named) + sorted(commits)
