"""Where a checkpoint is: by its path, URL or name, or as the best of a run."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_jax import errors
from vit_jax.checkpoints import best, checkpoint
from vit_jax.host import files as host_files
from vit_jax.weights import augreg, containers, names, remote

_OF_TIMM = r"(vit|deit3?|flexivit|mixer|resnetv2)_\w+(\.\w+)?"
_HUB, _URL = "hf:", "hf://"
# What a file of weights is called, and what may follow that in a URL.
_A_FILE = re.compile(r"\.(npz|safetensors|bin|pth?|ckpt|h5|csv|json)([#:?][^/]*)?$")


def located(path: str | Path) -> tuple[str, Path, Mapping[str, Any]]:
    """Returns (address, file or folder on this machine, what a name says of the model).

    Args:
        path: As `pretrained.open_weights` takes it.

    Raises:
        errors.UserError: there is no such thing.
    """
    text = str(path)
    if (best_one := best.find(text)) is not None:
        return text, best_one, {}
    if text.startswith("augreg:"):
        text = augreg.resolve(text)
    if text.startswith(_HUB) and not text.startswith(_URL):
        text = _URL + text.removeprefix(_HUB)
    if (stored := in_a_bucket(text)) is not None:
        return text, stored, {}
    if remote.is_remote(text):
        return text, remote.fetch(text), {}
    local = host_files.expanded(text)
    try:
        if containers.locate(local)[0].exists():
            return text, local, {}
        row = names.find(text)
        advice = "" if row else _on_the_hub(text)
    except OSError as error:  # a name too long for a file
        raise errors.UserError(
            f"{text[:200]}... is no path: {error.strerror or error}."
        ) from None
    if row is None:
        wanted = (
            " Want a workdir, a file or folder of weights, a URL, or a name of "
            "vit_jax.list_models(pretrained=True)."
        )
        raise errors.UserError(f"{text[:300]} does not exist.{advice or wanted}")
    return row.url, remote.fetch(row.url), row.options


def in_a_bucket(text: str) -> Path | None:
    """Returns where a checkpoint of ours is in a bucket; None for anything else.

    Raises:
        errors.UserError: the bucket cannot be read.
    """
    if not text.startswith("gs://") or _A_FILE.search(text):
        return None
    from vit_jax.host import buckets

    if not buckets.there():
        return None  # a file without a suffix is fetched without the packages, too
    try:
        return checkpoint.find(buckets.folder(text))
    except errors.UserError:
        raise
    except Exception as error:  # of gcsfs and what it stands on
        raise errors.UserError(
            f"{text} cannot be read: {errors.reason(error)}"
        ) from error


def _on_the_hub(text: str) -> str:
    """What a path that is none may mean, as the end of a message; or ""."""
    if text in augreg.MODELS:
        return f" For the published weights of that model: augreg:{text}"
    path = host_files.expanded(text)
    if path.parent != Path() and path.parent.is_dir():
        beside = [str(p) for p in path.parent.iterdir()]
        return errors.suggest(str(path), beside)
    on_the_hub = f"timm/{text}" if re.fullmatch(_OF_TIMM, text, re.ASCII) else text
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", on_the_hub, re.ASCII):
        return ""
    near = names.nearest(text)
    known = f" The nearest names we know: {', '.join(near)}." if near else ""
    return (
        f"{known} For the model of that name on Hugging Face's hub: hf://{on_the_hub}"
    )
