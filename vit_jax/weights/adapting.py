"""Weights fitted to another architecture: the start of another run."""

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vit_jax import errors, models, tree
from vit_jax.models import roles
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.types import Params
from vit_jax.weights import posemb
from vit_jax.weights.source import Tensors

HEADS = ("head/", "head_dist/")
# Leaves that come and go with what a model is trained for.
OF_A_TASK = re.compile(r"head/|head_dist/|pre_logits/|mask_token$|patch_head/")


@dataclass
class Report:
    """What `adapt` did with each leaf; `str()` of it fits in a log."""

    kept: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    made_new: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"kept {len(self.kept)} leaves"]
        for what in ("resized", "made_new", "dropped"):
            if names := getattr(self, what):
                lines.append(f"{what.replace('_', ' ')}: {', '.join(names)}")
        return "\n".join(lines)


def check_decided(
    options: Mapping[str, Any],
    defaults: Mapping[str, Any],
    architecture: models.Architecture,
    *,
    besides: Sequence[str],
) -> None:
    """Raises `UserError` for options that a checkpoint decides, and otherwise.

    Args:
        options: The configuration's "model", without its name.
        defaults: Of these options.
        architecture: of the checkpoint.
        besides: Options that a run decides.
    """
    values = architecture.values()
    said = {key: values[key] if key in values else "no such option" for key in options}
    lines = [
        f"model.{key}={value!r}: the checkpoint has {said[key]!r}; leave it at "
        f"{defaults[key]!r}"
        for key, value in options.items()
        if key not in besides and value not in (defaults[key], said[key])
    ]
    if lines:
        raise errors.UserError(
            errors.listing(
                'with model.name="checkpoint" the checkpoint decides these:',
                lines,
                "or name the model, to fit the checkpoint's weights to it",
            )
        )


def of_a_run(
    architecture: models.Architecture,
    options: Mapping[str, Any],
    defaults: Mapping[str, Any],
) -> models.Architecture:
    """Returns the architecture of a checkpoint with what a run decides about it.

    Args:
        architecture: of the checkpoint.
        options: of the run, by the names of a configuration's `model`.
        defaults: as `configs/base.py` has them.

    Raises:
        errors.UserError: as `check_decided`.
    """
    ours = [key for key in models.decided_by_run(architecture) if key in options]
    decided = {key: options[key] for key in ours}
    if options["pre_logits"] and architecture.pre_logits_width:
        decided["pre_logits"] = architecture.pre_logits_width
    check_decided(options, defaults, architecture, besides=ours)
    return models.with_options(architecture, decided)


def adapt(
    leaves: Tensors,
    source: models.Architecture,
    target: models.Architecture,
    like: Params,
    *,
    keep_head: bool = True,
    head_order: np.ndarray | None = None,
    place: Callable[[np.ndarray, Any], Any] = lambda array, like: array,
    fresh: Mapping[str, Any] | None = None,
) -> tuple[Params, Report]:
    """Fits weights to another architecture, for fine-tuning (the paper's section 3.2).

    Leaves of the same shape are kept, the position table is resampled for another
    grid, or with posemb_resample="fresh" drawn anew, a head for another number of
    classes starts at zero, and the pre-logits layer and what only masked prediction
    uses are dropped where the target has none.

    Args:
        leaves: Of the source, by name; read one at a time, the largest first.
        source: Their architecture.
        target: What they shall fit.
        like: Parameters or shapes of the target.
        keep_head: Keep the head when the number of classes is the same.
        head_order: int [classes], the source's output that becomes each of the
            target's, where the head is kept; None: they stay where they are.
        place: From an array and its part of `like` to what is returned.
        fresh: Initial values of the target's leaves, by name, for what its task adds
            and for positions that are drawn anew.

    Returns:
        Parameters of the target, and what was done.

    Raises:
        errors.UserError: anything else that differs.
    """
    leaves, new, report = _fitted(
        *(leaves, source, target, like),
        keep_head=keep_head,
        head_order=head_order,
        fresh=fresh or {},
    )
    wanted = dict(tree.named_leaves(like))
    shapes = {name: tuple(leaf.shape) for name, leaf in wanted.items()}
    result = {}
    for name in sorted(wanted, key=lambda name: -math.prod(shapes[name])):
        if name in new:
            result[name] = place(new[name](), wanted[name])
        else:
            result[name] = place(leaves.read(name), wanted[name])
    return tree.from_named({name: result[name] for name in wanted}), report


def check_adapt(
    leaves: Tensors,
    source: models.Architecture,
    target: models.Architecture,
    like: Params,
    *,
    keep_head: bool = True,
) -> None:
    """Raises what `adapt` would, from shapes alone: no array is read."""
    fresh = dict(tree.named_leaves(like))
    _fitted(leaves, source, target, like, keep_head=keep_head, fresh=fresh)


def _fitted(
    leaves: Tensors,
    source: models.Architecture,
    target: models.Architecture,
    like: Params,
    *,
    keep_head: bool,
    fresh: Mapping[str, Any],
    head_order: np.ndarray | None = None,
) -> tuple[Tensors, dict[str, Callable[[], np.ndarray]], Report]:
    """The tensors at the target's size, what is made new, and what was done."""
    _check_meaning(source, target)
    before = leaves.shapes
    if source.image_size != target.image_size:
        cut = {"crop": "valid"} if "valid" in (source.crop, target.crop) else {}
        said = target.posemb_resample
        if said != posemb.FRESH or not fresh:
            leaves, _ = posemb.at_size(
                *(leaves, source.replace(**cut), target.image_size),
                method=None if said == "auto" else said,
            )
    keep_head = keep_head and keeps_head(source, target)
    if keep_head and head_order is not None:
        leaves = _reordered(leaves, head_order)
    shapes = {name: tuple(leaf.shape) for name, leaf in tree.named_leaves(like)}
    new = _made_new(shapes, leaves, target, keep_head, fresh)
    report = _report(shapes, leaves.shapes, before, set(new))
    _check_fit(shapes, leaves.shapes, set(new), source, target)
    return leaves, new, report


def keeps_head(source: models.Architecture, target: models.Architecture) -> bool:
    """Returns whether a head fits another architecture."""
    # A head reads what the pre-logits layer writes: they stay or go together.
    return source.family == target.family and all(
        getattr(source, name) == getattr(target, name)
        for name in roles.names(type(source), roles.Role.TASK)
    )


def _reordered(leaves: Tensors, order: np.ndarray) -> Tensors:
    """The same leaves, the outputs of their heads in another order."""
    read = {
        name: (shape, lambda name=name: leaves.read(name)[..., order])
        for name, shape in leaves.shapes.items()
        if name.startswith(HEADS)
    }
    return leaves.changed(read)


def _made_new(
    shapes: Mapping[str, tuple[int, ...]],
    leaves: Tensors,
    target: models.Architecture,
    keep_head: bool,
    fresh: Mapping[str, Any],
) -> dict[str, Callable[[], np.ndarray]]:
    """Functions that make the leaves which do not come from the source."""
    new: dict[str, Callable[[], np.ndarray]] = {}
    for name, shape in shapes.items():
        if name.startswith(HEADS) and not keep_head:
            value = target.head_bias if name.endswith("/bias") else 0.0
            new[name] = functools.partial(np.full, shape, value, np.float32)
        elif leaves.shapes.get(name) != shape and name in fresh:
            drawn = target.posemb_resample == posemb.FRESH and name in posemb.TABLES
            if OF_A_TASK.match(name) or drawn:
                new[name] = functools.partial(_on_host, fresh, name)
    return new


def _on_host(leaves: Mapping[str, Any], name: str) -> np.ndarray:
    return mesh_lib.to_host(leaves[name])


def _report(
    shapes: Mapping[str, tuple[int, ...]],
    leaves: Mapping[str, tuple[int, ...]],
    before: Mapping[str, tuple[int, ...]],
    new: set[str],
) -> Report:
    report = Report(made_new=[f"{name} {shapes[name]}" for name in sorted(new)])
    for name, shape in shapes.items():
        if name not in new and leaves.get(name) == shape:
            if before.get(name) == shape:
                report.kept.append(name)
            else:
                report.resized.append(f"{name} {before.get(name)} -> {shape}")
    report.dropped = [
        f"{name} {shape}"
        for name, shape in sorted(before.items())
        if name in new or name not in shapes
    ]
    return report


def _check_fit(
    shapes: Mapping[str, tuple[int, ...]],
    leaves: Mapping[str, tuple[int, ...]],
    new: set[str],
    source: models.Architecture,
    target: models.Architecture,
) -> None:
    problems = [
        f"{name}: the checkpoint has {leaves.get(name, 'none')}, this model {shape}"
        for name, shape in shapes.items()
        if name not in new and leaves.get(name) != shape
    ]
    problems += [
        f"{name}: only the checkpoint has it, {shape}"
        for name, shape in leaves.items()
        if name not in shapes and not OF_A_TASK.match(name)
    ]
    if problems:
        raise _mismatch(problems, source, target)


def _check_meaning(source: models.Architecture, target: models.Architecture) -> None:
    if source.family != target.family:
        raise errors.UserError(
            f"the checkpoint is a {source.name} of the {source.family} family, this "
            f"model a {target.name}; use model.name='checkpoint'."
        )
    different = [
        name
        for name in roles.compared(type(source), roles.Role.MEANING)
        if getattr(source, name) != getattr(target, name)
    ]
    if different:
        lines = [
            f"  {name}: {getattr(source, name)!r} in the checkpoint, "
            f"{getattr(target, name)!r} in this model"
            for name in different[:5]
        ]
        raise errors.UserError(
            "the checkpoint's weights mean something else in this model:\n"
            + "\n".join(lines)
            + "\nuse the checkpoint's values, or model.name='checkpoint'."
        )


def _mismatch(
    problems: Iterable[str], source: models.Architecture, target: models.Architecture
) -> errors.UserError:
    return errors.UserError(
        errors.listing(
            f"the weights of {source.name} do not fit this {target.name}:",
            list(problems),
            "make the model's options those of the checkpoint, or use\n"
            "model.name='checkpoint', which takes them from it.",
        )
    )
