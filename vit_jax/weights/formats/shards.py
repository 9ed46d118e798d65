"""Weights in several files, with an index that says which holds what."""

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from vit_jax import errors
from vit_jax.weights import source
from vit_jax.weights.formats import sidecars

MAX_FILES = 1000
FILE_NAME = r"[\w.+~-]{1,200}"


def open(
    path: Path, suffix: str, open_file: Callable[[Path], source.Tensors]
) -> source.Tensors:
    """Opens the files of an index, which must hold what it says and nothing else.

    Args:
        path: The index: JSON with a `weight_map` of tensors' names to files.
        suffix: Of the files in it.
        open_file: Opens one.

    Raises:
        errors.UserError: a damaged index, or files that are not those it says.
    """
    weight_map = read_index(path, suffix)
    shards = sorted(set(weight_map.values()))
    with contextlib.ExitStack() as stack:
        files: dict[str, source.Tensors] = {}
        for name in shards:
            if not (path.parent / name).is_file():
                raise errors.UserError(
                    f"{path} names {name}, which is not there: copy it beside it."
                )
            files[name] = stack.enter_context(open_file(path.parent / name))
        held = {(name, file) for file, tensors in files.items() for name in tensors}
        differ = sorted(held ^ set(weight_map.items()))
        if differ:
            lines = [f"{name[:80]} in {file}" for name, file in differ]
            raise errors.UserError(
                errors.listing(
                    f"{path} and its files do not agree about:",
                    lines,
                    "They are not of one download: copy all of them again.",
                )
            )
        close = stack.pop_all().close
    return source.Tensors(
        {name: files[weight_map[name]].shapes[name] for name in _in_files(files)},
        lambda name: files[weight_map[name]].read(name),
        label=str(path),
        config=files[shards[0]].config,
        objects={k: v for file in files.values() for k, v in file.objects.items()},
        close=close,
    )


def read_index(path: Path, suffix: str) -> dict[str, str]:
    """Returns the `weight_map` of an index: the name of a tensor -> that of its file.

    Raises:
        errors.UserError: it has none, or one that names other files than such with
            this suffix beside it.
    """
    index = sidecars.read_json(path)
    weight_map = index["weight_map"] if index and "weight_map" in index else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise errors.UserError(f'{path} has no "weight_map" of names to files.')
    for name in weight_map.values():
        named = re.fullmatch(FILE_NAME, str(name), re.ASCII)
        if not named or not isinstance(name, str) or not name.endswith(suffix):
            raise errors.UserError(
                f"{path} names {str(name)[:100]!r}, which is no {suffix} file beside "
                "it."
            )
    if (count := len(set(weight_map.values()))) > MAX_FILES:
        raise errors.UserError(f"{path} names {count:,} files: no checkpoint.")
    return weight_map


def _in_files(files: Mapping[str, source.Tensors]) -> Iterator[str]:
    """The names of all tensors, file by file, each in the cheapest order to read."""
    return itertools.chain.from_iterable(file.names for file in files.values())
