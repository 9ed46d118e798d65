"""What is on disk: folders by the number of a step, and trees of arrays by orbax."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from vit_jax import tree
from vit_jax.host import files

FOLDER = "checkpoints"
METADATA = Path("description", "metadata")
COMMITTED = "commit_success.txt"  # orbax's, in a bucket
ITEMS = ("params", "ema", "optimizer")


def step_of(path: Path) -> int | None:
    """Returns the step whose folder has this name; None: it is no step's."""
    name = path.name
    if not (name.isascii() and name.isdigit()) or str(int(name)) != name:
        return None
    return int(name)


def is_whole(folder: Path) -> bool:
    """Returns whether a checkpoint is at a path that was written to the end.

    On a file system its folder gets its name then, in a bucket a file says it.
    """
    if files.address(folder) and not (folder / COMMITTED).exists():
        return False
    return (folder / METADATA).is_file()


def available(directory: Path) -> list[int]:
    """Returns the steps under a `checkpoints` folder that were committed, ascending."""
    if not directory.is_dir():
        return []
    found = ((path, step_of(path)) for path in directory.iterdir())
    return sorted(step for path, step in found if step is not None and is_whole(path))


def handler() -> ocp.PyTreeCheckpointHandler:
    """Returns what reads and writes a tree of arrays, without compression."""
    return ocp.PyTreeCheckpointHandler(use_compression=False)


def _path(folder: Path, item: str) -> Any:
    return files.absolute(folder / item)  # orbax says that it wants a Path of etils


def shapes(folder: Path, item: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes and types of a tree on disk, by leaf name."""
    metadata = handler().metadata(_path(folder, item)).tree
    plain = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), metadata
    )
    return dict(tree.named_leaves(plain))


def read_item(folder: Path, item: str, like: Any | None = None) -> Any:
    """Reads one tree: onto the shardings of `like`, or as numpy arrays.

    Processes do not wait for each other: one that cannot read hangs no other.
    """
    if like is None:
        return tree.from_named(read_leaves(folder, item, shapes(folder, item)))
    args = jax.tree.map(
        lambda leaf: ocp.ArrayRestoreArgs(
            sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype
        ),
        like,
    )
    restore = ocp.args.PyTreeRestore(item=like, restore_args=args)
    return handler().restore(_path(folder, item), args=restore)


def read_leaves(folder: Path, item: str, names: Iterable[str]) -> dict[str, Any]:
    """Reads some leaves of a tree as numpy arrays, all at once."""
    names = list(names)
    as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
    restore = ocp.args.PyTreeRestore(
        item=tree.from_named({n: jax.ShapeDtypeStruct((), np.float32) for n in names}),
        restore_args=tree.from_named(dict.fromkeys(names, as_numpy)),
        partial_restore=True,
    )
    restored = handler().restore(_path(folder, item), args=restore)
    return dict(tree.named_leaves(restored))


def reason(error: Exception) -> str:
    """Returns the gist of an error of orbax or its backends, which can fill a page."""
    text = str(error).strip() or repr(error)
    if "os_error_code='28'" in text or "No space left" in text:
        return "no space left on device"
    return text.splitlines()[0][:300]
