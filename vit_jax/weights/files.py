"""From a file of another code to our architecture and parameters, and back."""

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from vit_jax import errors, tree
from vit_jax.data import preprocessing as preprocessing_lib
from vit_jax.models import build, families
from vit_jax.models.architecture import Architecture, pair, size_text
from vit_jax.weights import containers, dialects, infer, outputs, posemb, rules
from vit_jax.weights.dialect import Dialect
from vit_jax.weights.source import Tensors


@dataclass(frozen=True)
class Weights:
    """What a file of weights says.

    Attributes:
        architecture: Read from the shapes of the tensors.
        leaves: Our leaves by name, float32, read from the file when asked for. Nested
            dicts of arrays are taken as well.
        preprocessing: How the code that wrote them evaluates; its image size may be
            another than the model's where that code takes any (DINOv2 at 224 pixels).
        dialect: Key of `dialects.DIALECTS`.
        label_names: One a class, where the file has them.
        label_ids: Other names of the same classes, where it has both.
        problem: What the outputs are: "single_label", "multi_label" or "regression".
        config: Of the run that trained them; empty where nothing says.
    """

    architecture: Architecture
    leaves: Tensors
    preprocessing: preprocessing_lib.Preprocessing
    dialect: str
    label_names: tuple[str, ...] | None = None
    label_ids: tuple[str, ...] | None = None
    problem: str = outputs.SINGLE
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "leaves", _tensors(self.leaves))

    @property
    def params(self) -> dict[str, Any]:
        """All leaves as nested dicts of arrays, read now."""
        return tree.from_named(dict(self.leaves.largest_first()))

    def close(self) -> None:
        """Closes the file behind the leaves."""
        self.leaves.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read(
    path: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> Weights:
    """Opens weights in any dialect; only names and shapes are read until asked.

    Args:
        path: A file, or a folder of a format that is one. "FILE.npz:img" is the model
            under `img/` of a file of several, "FILE.pth:teacher" the one under
            `teacher/` or `teacher.`.
        image_size: Pixels (one number or height, width) to resample the position
            table for; None: the size it was trained at.
        **options: Fields of the architecture that the tensors do not decide (heads,
            gelu, norm_epsilon, pool, posemb_resample ...), over what is inferred; and
            grid, the (rows, columns) of a position table that is not square.

    Raises:
        errors.UserError: a file that is missing or damaged, in an unknown layout, or
            with tensors that have no place or do not fit together.
    """
    tensors, subtree = containers.open(path)
    try:
        suffix = Path(tensors.label).suffix
        prefix, names = dialects.select(tensors.names, subtree, suffix)
        _check_objects(tensors, prefix)
        tensors = tensors.renamed({n.removeprefix(prefix): n for n in names})
        name = dialects.recognise(tensors.names)
        entry = dialects.DIALECTS[name]
        leaves, arch = interpret(tensors, entry, options, image_size)
        if image_size is None:
            prepared = entry.preprocessing(arch, tensors.config)
        else:
            size = pair(image_size)
            arch = infer.with_rest(arch, size) if entry.leaves_rest else arch
            leaves, arch = posemb.at_size(leaves, arch, size)
            prepared = entry.preprocessing(arch, tensors.config).at(size)
        check_shapes(leaves.shapes, arch)
        return Weights(
            arch,
            _warning_of_zeros(leaves),
            prepared,
            name,
            **_outputs(tensors.config, entry, arch.num_classes),
        )
    except errors.UserError as error:
        tensors.close()
        raise errors.UserError(f"{path}: {error}") from None
    except BaseException:
        tensors.close()
        raise


def _check_objects(tensors: Tensors, prefix: str) -> None:
    """Raises `UserError` if what is no array lies where a tensor should."""
    lines = [
        f"{name}: {what}"
        for name, what in tensors.objects.items()
        if name.startswith(prefix) and what.startswith("torch.")
    ]
    if lines:
        raise errors.UserError(
            f"among its weights are {len(lines)} that we cannot read:\n"
            f"{rules.listed(lines)}\n"
            "Save them with PyTorch as plain tensors of float32."
        )


def interpret(
    tensors: Tensors,
    entry: Dialect,
    options: Mapping[str, Any],
    image_size: int | tuple[int, int] | None,
) -> tuple[Tensors, Architecture]:
    """Returns our leaves and the architecture of tensors in a dialect.

    Raises:
        errors.UserError: tensors without a place, or that do not fit together.
        infer.UnknownHeads: see there.
    """
    given = families.chosen(families.named(entry.family), options)
    said = entry.says(tensors)
    fields = {**entry.fields, **said, **given}
    sizes = rules.Sizes()
    if not entry.says_heads:
        if "heads" not in fields:
            draft = rules.load(entry.rules, tensors, sizes, entry.ignore)
            fields["heads"] = infer.known_heads(draft.shapes)
        sizes = rules.Sizes(heads=fields["heads"])
    leaves = rules.load(entry.rules, tensors, sizes, entry.ignore)
    leaves = _loaded(leaves, entry, given)
    arch = infer.architecture(leaves.shapes, fields, image_size, entry.family)
    if "grid" in said and "grid" not in given:
        # Where it says both, the table is resampled, once, to whatever size it is for.
        size = said["image_size"] if image_size is None else pair(image_size)
        arch = infer.with_rest(arch, size) if entry.leaves_rest else arch
        return posemb.at_size(leaves, arch, size)
    return leaves, arch


def _loaded(leaves: Tensors, entry: Dialect, given: Mapping[str, Any]) -> Tensors:
    """What the dialect makes of our leaves; a table of the grid given stays whole."""
    changed = entry.loaded(leaves)
    if "grid" in given and "posemb" in leaves.shapes:
        shape = leaves.shapes["posemb"]
        if shape[1:2] == (math.prod(pair(given["grid"])),):
            table = {"posemb": (shape, lambda: leaves.read("posemb"))}
            return changed.changed(table)
    return changed


def _outputs(
    config: Mapping[str, Any] | None, entry: Dialect, num_classes: int
) -> dict[str, Any]:
    """The fields of `Weights` that say what the outputs of a model are."""
    names = outputs.fitting(entry.label_names(config), num_classes, "config.json")
    return {
        "label_names": names,
        "label_ids": None if names is None else entry.label_ids(config),
        "problem": outputs.problem(entry.problem(config), num_classes),
    }


def _warning_of_zeros(leaves: Tensors) -> Tensors:
    """The same leaves, which say so when a head of zeros is read."""
    name = "head/kernel"
    if name not in leaves.shapes:
        return leaves

    def head() -> np.ndarray:
        kernel = leaves.read(name)
        if not kernel.any():
            logging.warning(
                "%s: its head is all zeros, as in the published ImageNet-21k files of "
                "the paper: every class gets the same score. Features are fine; "
                "fine-tune, or take a file with a head.",
                leaves.label,
            )
        return kernel

    return leaves.changed({name: (leaves.shapes[name], head)})


def write(
    weights: Weights, path: str | Path, dialect: str | None = None
) -> dict[str, tuple[int, ...]]:
    """Writes weights in a dialect (None: the one they came in), tensor by tensor.

    Args:
        weights: What to write.
        path: File or folder; its suffix chooses the format where the dialect has
            several.
        dialect: Key of `dialects.DIALECTS`.

    Returns:
        The names and shapes written.

    Raises:
        errors.UserError: an unknown dialect, or one that cannot say all of the model.
    """
    name = dialect or weights.dialect
    entry = errors.lookup(dialects.DIALECTS, name, "dialect")
    path = Path(path)
    tensors = _in_dialect(weights, name, entry)
    prefixed = tensors.renamed({entry.prefix + n: n for n in tensors.names})
    container = _container(path, name, entry)
    write_file = containers.CONTAINERS[container].write
    assert write_file is not None, f"no dialect is written as {container}"
    write_file(prefixed, path)
    return prefixed.shapes


def _tensors(leaves: Tensors | Mapping[str, Any]) -> Tensors:
    if isinstance(leaves, Tensors):
        return leaves
    return Tensors.of(dict(tree.named_leaves(leaves)))


def _container(path: Path, name: str, entry: Dialect) -> str:
    for container, (suffix, _, _) in containers.CONTAINERS.items():
        if path.suffix == suffix:
            if container in entry.containers:
                return container
            wanted = " or ".join(
                containers.CONTAINERS[c].suffix for c in entry.containers
            )
            raise errors.UserError(f"{path}: {name} is written as {wanted}.")
    return entry.containers[0]


def _in_dialect(weights: Weights, name: str, entry: Dialect) -> Tensors:
    """The tensors of a dialect, after the proof that reading gives the model back."""
    arch = weights.architecture
    if arch.family != entry.family:
        raise errors.UserError(
            f"{name} is a dialect of the {entry.family} family; {arch.name} is of the "
            f"{arch.family} family."
        )
    leaves, saved = entry.saved(weights.leaves, arch)
    try:
        tensors = rules.save(entry.rules, leaves, rules.Sizes(heads=saved.heads))
    except errors.UserError as error:
        raise errors.UserError(
            f"{name} cannot hold this {arch.name}: {error}"
        ) from None
    wanted = weights.preprocessing
    said: dict[str, Any] = {} if entry.config is not None else {**grid_option(saved)}
    if entry.config is not None:
        config = entry.config(saved, wanted, weights.label_names)
        tensors = tensors.configured(config | entry.says_problem(weights.problem))
    try:
        back = interpret(tensors, entry, said, saved.image_size)[1]
    except infer.UnknownHeads:
        said |= {"heads": saved.heads}
        back = interpret(tensors, entry, said, saved.image_size)[1]
    if lines := infer.differences(saved, back):
        raise errors.UserError(
            f"{name} has no way to say of this {arch.name}:\n{rules.listed(lines)}"
        )
    _warn_of_positions(saved, back, name, entry)
    meant = outputs.problem(entry.problem(tensors.config), saved.num_classes)
    if saved.num_classes and meant != weights.problem:
        logging.warning(
            "%s does not say that outputs are of the kind %s: its readers will take "
            "them as %s",
            *(name, weights.problem, meant),
        )
    read = entry.preprocessing(saved, tensors.config)
    if wanted is not None and dataclasses.replace(wanted, exif=read.exif) != read:
        theirs, ours = read.to_dict(), wanted.to_dict()
        different = [key for key in ours if key != "exif" and ours[key] != theirs[key]]
        logging.warning(
            "%s cannot say all of how images are prepared: its readers will take %s, "
            "this model wants %s.",
            name,
            ", ".join(f"{key}={theirs[key]!r}" for key in different),
            ", ".join(f"{key}={ours[key]!r}" for key in different),
        )
    return tensors


def grid_option(arch: Architecture) -> dict[str, tuple[int, int]]:
    """Returns the `grid` to read weights back with: {} where their table shows it."""
    learned = arch.posemb == "learned"
    return {"grid": arch.grid} if learned and len(set(arch.grid)) == 2 else {}


def _warn_of_positions(
    ours: Architecture, theirs: Architecture, name: str, entry: Dialect
) -> None:
    """Says what of a position table its readers will not know, or do otherwise."""
    if ours.posemb not in ("learned", "learned_2d"):
        return
    if entry.config is None and (grid := grid_option(ours)):
        logging.warning(
            "%s does not say that its %d positions are %s: load it with grid=%s.",
            *(name, math.prod(ours.grid), size_text(ours.grid), grid["grid"]),
        )
    methods = posemb.method_of(ours), posemb.method_of(theirs)
    if methods[0] != methods[1]:
        logging.warning(
            "%s has no way to say how positions are resampled for other sizes: its "
            "readers take %r, this model %r (load it with posemb_resample=%r).",
            *(name, methods[1], methods[0], methods[0]),
        )


def check_shapes(shapes: Mapping[str, tuple[int, ...]], arch: Architecture) -> None:
    """Raises `UserError` unless the leaves are exactly those of the architecture."""
    _, params = build.abstract(arch)
    wanted = {name: leaf.shape for name, leaf in tree.named_leaves(params)}
    lines = [
        f"{name}: {shapes.get(name, 'missing')}, want {wanted.get(name, 'none')}"
        for name in sorted({*shapes, *wanted})
        if shapes.get(name) != wanted.get(name)
    ]
    if lines:
        raise errors.UserError(
            f"its tensors do not make a {arch.name}:\n{rules.listed(lines)}"
        )
