"""Damage to the newest checkpoint of a run, one function a kind.

Each takes the folder of a step and a generator of random numbers, and returns words
that whoever finds it must say: the leaf, or what else is wrong. `chaos.readers` does
that to checkpoints by the hundred.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp

from vit_jax import tree
from vit_jax.checkpoints import disk

Kind = Callable[[Path, np.random.Generator], str]


def _items(folder: Path) -> list[str]:
    return [item for item in disk.ITEMS if (folder / item).is_dir()]


def _leaves(folder: Path, item: str) -> dict[str, np.ndarray]:
    return disk.read_leaves(folder, item, disk.shapes(folder, item))


def _rewrite(folder: Path, item: str, leaves: dict[str, Any]) -> None:
    shutil.rmtree(folder / item)
    with ocp.Checkpointer(disk.handler()) as checkpointer:
        args = ocp.args.PyTreeSave(tree.from_named(leaves))
        checkpointer.save((folder / item).absolute(), args=args)


def _places(folder: Path, leaf: str = "") -> list[tuple[Path, int, int, str]]:
    """Files with the bytes of leaves: (file, first byte, length, name)."""
    found = []
    for item in _items(folder):
        files = [p for p in (folder / item).rglob("*") if p.is_file()]
        contents = {path: path.read_bytes() for path in files}
        arrays = _leaves(folder, item)
        raws = [array.tobytes() for array in arrays.values()]
        for name, raw in zip(arrays, raws, strict=True):
            asked = f"{item}/{name}".startswith(leaf)
            if not asked or len(raw) < 32 or not any(raw):
                continue
            alike = sum(raw in other for other in raws)  # itself, too
            if alike != 1 or sum(c.count(raw) for c in contents.values()) != 1:
                continue  # it may be those of another
            found += [
                (path, content.find(raw), len(raw), f"{item}/{name}")
                for path, content in contents.items()
                if raw in content
            ]
    assert found, "no leaf lies open in a file"
    return found


def _chosen(options: list, rng: np.random.Generator) -> Any:
    return options[int(rng.integers(len(options)))]


def flip(folder: Path, rng: np.random.Generator, leaf: str = "") -> str:
    """Flips one bit of a leaf, of one whose name starts so."""
    path, start, length, name = _chosen(_places(folder, leaf), rng)
    content = bytearray(path.read_bytes())
    content[start + int(rng.integers(length))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    return f"{name} is not what was saved"


def zeroed(folder: Path, rng: np.random.Generator) -> str:
    """Sets a block of up to 4 KiB of a leaf to zero."""
    path, start, length, name = _chosen(_places(folder), rng)
    content = bytearray(path.read_bytes())
    size = min(length, 4096)
    begin = start + int(rng.integers(length - size + 1))
    if not any(content[begin : begin + size]):
        return zeroed(folder, rng)
    content[begin : begin + size] = bytes(size)
    path.write_bytes(content)
    return f"{name} is not what was saved"


def _data_file(folder: Path, rng: np.random.Generator) -> tuple[Path, str]:
    """A file with arrays, and its item."""
    path, _, _, name = _chosen(_places(folder), rng)
    return path, name.split("/")[0] + "/"


def truncated(folder: Path, rng: np.random.Generator) -> str:
    """Cuts a file of arrays."""
    path, item = _data_file(folder, rng)
    path.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size // 2))])
    return item


def emptied(folder: Path, rng: np.random.Generator) -> str:
    """Leaves nothing in a file of arrays."""
    path, item = _data_file(folder, rng)
    path.write_bytes(b"")
    return item


def missing(folder: Path, rng: np.random.Generator) -> str:
    """Removes a file of arrays."""
    path, item = _data_file(folder, rng)
    path.unlink()
    return item


def manifest(folder: Path, rng: np.random.Generator) -> str:
    """Flips a bit of the index of an item's arrays."""
    item = _chosen(_items(folder), rng)
    path = folder / item / "manifest.ocdbt"
    content = bytearray(path.read_bytes())
    content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    return f"{item}/"


def tree_metadata(folder: Path, rng: np.random.Generator) -> str:
    """Cuts the JSON that says which leaves an item has."""
    item = _chosen(_items(folder), rng)
    path = folder / item / "_METADATA"
    path.write_text(path.read_text()[: int(rng.integers(1, 500))])
    return f"{item}/"


def gone(folder: Path, rng: np.random.Generator, item: str = "params") -> str:
    """Removes an item."""
    shutil.rmtree(folder / item)
    return f"{item}/ is gone"


def average_gone(folder: Path, rng: np.random.Generator) -> str:
    """Removes the average."""
    return gone(folder, rng, "ema")


def optimizer_gone(folder: Path, rng: np.random.Generator) -> str:
    """Removes the optimizer's state."""
    return gone(folder, rng, "optimizer")


def half_deleted(folder: Path, rng: np.random.Generator) -> str:
    """Removes files in some order, as a clean-up that was killed."""
    first, second, *_ = rng.permutation(_items(folder))
    shutil.rmtree(folder / first)
    files = sorted(path for path in (folder / second).rglob("*") if path.is_file())
    for path in files[: len(files) // 2]:
        path.unlink()
    return "/"


def swapped(folder: Path, rng: np.random.Generator) -> str:
    """Exchanges two leaves of one shape."""
    item = _chosen(_items(folder), rng)
    leaves = _leaves(folder, item)
    pairs = [
        (a, b)
        for a in leaves
        for b in leaves
        if a < b
        and leaves[a].shape == leaves[b].shape
        and leaves[a].dtype == leaves[b].dtype
        and leaves[a].tobytes() != leaves[b].tobytes()
    ]
    left, right = _chosen(pairs, rng)
    leaves[left], leaves[right] = leaves[right], leaves[left]
    _rewrite(folder, item, leaves)
    return f"{item}/{left} is not what was saved"


def moved(folder: Path, rng: np.random.Generator) -> str:
    """Exchanges two elements of a leaf."""
    item = _chosen(["params", "ema"], rng)
    leaves = _leaves(folder, item)
    names = [n for n in leaves if len(np.unique(leaves[n])) > 1]
    name = _chosen(names, rng)
    flat = leaves[name].copy().reshape(-1)
    left, right = rng.choice(flat.size, 2, replace=False)
    if flat[left] == flat[right]:
        return moved(folder, rng)
    flat[[left, right]] = flat[[right, left]]
    _rewrite(folder, item, leaves | {name: flat.reshape(leaves[name].shape)})
    return f"{item}/{name} is not what was saved"


def nan(folder: Path, rng: np.random.Generator) -> str:
    """Puts a NaN into a parameter."""
    leaves = _leaves(folder, "params")
    name = _chosen(list(leaves), rng)
    changed = leaves[name].copy()
    changed.reshape(-1)[int(rng.integers(changed.size))] = np.nan
    _rewrite(folder, "params", leaves | {name: changed})
    return f"params/{name} is not what was saved"


def average_nan(folder: Path, rng: np.random.Generator) -> str:
    """Makes the whole average NaN."""
    leaves = {n: np.full_like(a, np.nan) for n, a in _leaves(folder, "ema").items()}
    _rewrite(folder, "ema", leaves)
    return "is not what was saved"


def _cast(folder: Path, item: str, dtype: Any) -> str:
    leaves = {n: a.astype(dtype) for n, a in _leaves(folder, item).items()}
    _rewrite(folder, item, leaves)
    return f"{next(iter(sorted(leaves)))} is {np.dtype(dtype).name}"


def average_integers(folder: Path, rng: np.random.Generator) -> str:
    """Stores the average as integers."""
    return _cast(folder, "ema", np.int32)


def half_precision(folder: Path, rng: np.random.Generator) -> str:
    """Stores the parameters in 16 bits."""
    return _cast(folder, "params", _chosen([np.float16, ml_dtypes.bfloat16], rng))


def optimizer_changed(folder: Path, rng: np.random.Generator) -> str:
    """Changes the optimizer's count of steps."""
    leaves = _leaves(folder, "optimizer")
    name = _chosen([n for n in leaves if n == "step" or n.endswith("count")], rng)
    _rewrite(folder, "optimizer", leaves | {name: leaves[name] + np.int32(1)})
    return f"optimizer/{name} is not what was saved"


def leaf_more(folder: Path, rng: np.random.Generator) -> str:
    """Adds a leaf."""
    item = _chosen(_items(folder), rng)
    more = {"another/leaf": np.zeros(3, np.float32)}
    _rewrite(folder, item, _leaves(folder, item) | more)
    return f"{item}/another/leaf is not in its record"


def leaf_less(folder: Path, rng: np.random.Generator) -> str:
    """Removes a leaf."""
    item = _chosen(_items(folder), rng)
    leaves = _leaves(folder, item)
    name = _chosen(list(leaves), rng)
    del leaves[name]
    _rewrite(folder, item, leaves)
    return f"{item}/{name} is gone"


def other_step(folder: Path, rng: np.random.Generator) -> str:
    """Puts an older step in the place of this one."""
    older = folder.with_name(str(disk.available(folder.parent)[0]))
    shutil.rmtree(folder)
    shutil.copytree(older, folder)
    return f"its folder of step {folder.name}"


def mixed_steps(folder: Path, rng: np.random.Generator) -> str:
    """Puts one item of an older step into this one."""
    older = folder.with_name(str(disk.available(folder.parent)[0]))
    item = _chosen(_items(folder), rng)
    shutil.rmtree(folder / item)
    shutil.copytree(older / item, folder / item)
    return f"{item}/"


def exchanged(folder: Path, rng: np.random.Generator) -> str:
    """Exchanges parameters and average."""
    (folder / "ema").rename(folder / "x")
    (folder / "params").rename(folder / "ema")
    (folder / "x").rename(folder / "params")
    return "is not what was saved"


def _description(folder: Path) -> dict[str, Any]:
    return json.loads((folder / disk.METADATA).read_text())


def description_flip(folder: Path, rng: np.random.Generator) -> str:
    """Flips a bit of the description, besides its format."""
    path = folder / disk.METADATA
    content = bytearray(path.read_bytes())
    at = int(rng.integers(len(content)))
    near = bytes(content[max(0, at - 12) : at + 12])
    content[at] ^= 1 << int(rng.integers(8))
    if b'"format"' in near or content[at : at + 1].isspace():
        return description_flip(folder, rng)
    path.write_bytes(content)
    return "its description"


def description_edit(folder: Path, rng: np.random.Generator) -> str:
    """Changes a value of the description."""
    values = _description(folder)
    key = _chosen(["step", "architecture", "label_names", "leaves", "config"], rng)
    if key == "step":
        values["step"] += 1
    elif key == "leaves":
        del values["leaves"][_chosen(list(values["leaves"]), rng)]
    elif key == "architecture":
        values["architecture"]["norm_epsilon"] *= 10
    elif key == "label_names":
        values["label_names"] = values["label_names"][::-1]
    else:
        values["config"]["seed"] = 77
    (folder / disk.METADATA).write_text(json.dumps(values))
    return "its description"


def description_empty(folder: Path, rng: np.random.Generator) -> str:
    """Leaves nothing, or no object, in the description."""
    (folder / disk.METADATA).write_text(_chosen(["", "[]", "7", "{}", "null"], rng))
    return "its description"


def description_gone(folder: Path, rng: np.random.Generator) -> str:
    """Removes the description."""
    (folder / disk.METADATA).unlink()
    return ""


def empty_folder(folder: Path, rng: np.random.Generator) -> str:
    """Leaves an empty folder."""
    shutil.rmtree(folder)
    folder.mkdir()
    return ""


def foreign_folder(folder: Path, rng: np.random.Generator) -> str:
    """Puts somebody else's files into the place."""
    empty_folder(folder, rng)
    (folder / "notes.txt").write_text("mine")
    (folder.parent / "²").mkdir()
    return ""


def uncommitted(folder: Path, rng: np.random.Generator) -> str:
    """Leaves it as a write that did not end."""
    folder.rename(folder.with_name(f"{folder.name}.orbax-checkpoint-tmp"))
    return ""


def newer_format(folder: Path, rng: np.random.Generator) -> str:
    """Makes it one of a version that is to come."""
    values = _description(folder) | {"format": int(rng.integers(3, 100))}
    (folder / disk.METADATA).write_text(json.dumps(values))
    return "upgrade vit_jax"


KINDS: dict[str, Kind] = {
    one.__name__: one
    for one in (
        *(flip, zeroed, truncated, emptied, missing, manifest, tree_metadata),
        *(gone, average_gone, optimizer_gone, half_deleted, swapped, moved),
        *(nan, average_nan, average_integers, half_precision, optimizer_changed),
        *(leaf_more, leaf_less, other_step, mixed_steps, exchanged),
        *(description_flip, description_edit, description_empty, description_gone),
        *(empty_folder, foreign_folder, uncommitted, newer_format),
    )
}
# What is left is no checkpoint, and nothing needs to be said of it.
GONE = {"description_gone", "empty_folder", "foreign_folder", "uncommitted"}
