"""`vit_jax convert SOURCE TARGET --dialect=NAME [--verify]`.

Writes weights that came in any dialect in any other that can hold the model. SOURCE is
whatever `vit_jax.load` takes; TARGET a file or folder whose suffix may choose the
format (`.npz`, `.safetensors`, `.bv`). The last line of standard output is JSON.
"""

import ast
import dataclasses
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from vit_jax import cli, errors, models, tree
from vit_jax.checkpoints import checkpoint
from vit_jax.host import files as host_files
from vit_jax.settings import validation
from vit_jax.weights import (
    adapters,
    adapting,
    containers,
    dialects,
    files,
    own,
    pretrained,
)
from vit_jax.weights.formats import digests, safetensors
from vit_jax.weights.source import Tensors

OURS = "vit_jax"
TOLERANCE = 1e-4  # of logits, relative to the largest where that is above 1
VERIFIED_IMAGES = 2


def run(
    source: str,
    target: str | Path,
    dialect: str,
    *,
    image_size: int | str | tuple[int, int] | None = None,
    num_classes: int | None = None,
    verify: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Converts a checkpoint.

    Args:
        source: A path or URL that `pretrained.load` takes.
        target: File or folder to write.
        dialect: Key of `dialects.DIALECTS`, "vit_jax" for a checkpoint of ours, or
            "peft" for what a run with `lora` has learned, alone.
        image_size: Pixels (one number, height and width, or "48x64") to resample the
            position table for; None: as it is.
        num_classes: 0 takes the head off, another number than the source's puts a new
            one of zeros on; None: as it is.
        verify: Also run both models on random images, and compare.
        overwrite: Replace what is at the target.
        **options: See `pretrained.load`.

    Returns:
        Source, target, dialects, model, and the figures of the comparison.

    Raises:
        errors.UserError: bad input, a dialect that cannot hold the model, or logits
            that differ.
    """
    validation.check_local(target, "target ")
    target = host_files.expanded(target)
    if image_size is not None:
        image_size = models.pair(image_size)
    _mend(target)
    if os.path.lexists(target):
        _check_replaceable(target, overwrite)
    if dialect == adapters.DIALECT:
        written = adapters.write(source, target)
        return {"source": source, "target": str(target), "to": dialect} | written
    with pretrained.open_weights(source, image_size=image_size, **options) as weights:
        check_dialect(dialect, weights.architecture.family)
        weights = _changed(weights, image_size, num_classes)
        _write(weights, target, dialect)
        # Not that of the evaluation, which may be another and differ between the two.
        size = {"image_size": weights.architecture.image_size}
    figures = {
        "source": str(source),
        "target": str(target),
        "from": weights.dialect,
        "to": dialect,
        "model": weights.architecture.name,
        "parameters": models.count_parameters(weights.architecture),
    }
    if verify:
        again = {"num_classes": num_classes} | size | options
        of_the_source = {"grid", "adapter"}
        back = size | {k: v for k, v in options.items() if k not in of_the_source}
        if dialect != OURS:
            back |= _untold(weights.architecture)
        figures |= compare(source, target, again, back)
    return figures


def _check_replaceable(target: Path, overwrite: bool) -> None:
    """Raises `UserError` unless what is at the target may be replaced by weights."""
    if not overwrite:
        raise errors.UserError(f"{target} exists; --overwrite replaces it.")
    weights = target.is_dir() and (
        checkpoint.find(target) == target or containers.is_weights(target)
    )
    adapter = (target / adapters.CONFIG).is_file()
    if not (target.is_file() or target.is_symlink() or weights or adapter):
        raise errors.UserError(
            f"{target} is neither a file nor a folder of weights: --overwrite does not "
            "replace it; want another target."
        )


def _untold(arch: models.Architecture) -> dict[str, Any]:
    """Options to read back what another code's files may not say of a model."""
    options: dict[str, Any] = {"image_size": arch.image_size}
    options |= files.grid_option(arch)
    if arch.crop != "error":
        options["crop"] = arch.crop
    return options


def check_dialect(dialect: str, family: str) -> None:
    """Raises `UserError` unless a dialect has models of a family."""
    if dialect == OURS:
        return
    known = dict.fromkeys([OURS, *dialects.DIALECTS])
    errors.lookup(known, dialect, "dialect")
    if dialects.DIALECTS[dialect].family != family:
        fitting = [
            n for n, entry in dialects.DIALECTS.items() if entry.family == family
        ]
        raise errors.UserError(
            f"dialect {dialect!r} has no models of the {family} family; "
            f"those that have: {', '.join([OURS, *fitting])}."
        )


def _changed(
    weights: files.Weights,
    image_size: tuple[int, int] | None,
    num_classes: int | None,
) -> files.Weights:
    """The same weights for another size or head, still read one by one."""
    target = pretrained.changed(weights, image_size, num_classes)
    if target.architecture == weights.architecture:
        return weights
    _, like = models.abstract(target.architecture)
    params, report = adapting.adapt(
        weights.leaves, weights.architecture, target.architecture, like
    )
    logging.info("%s", report)
    return dataclasses.replace(
        target, leaves=Tensors.of(dict(tree.named_leaves(params)))
    )


def _write(weights: files.Weights, target: Path, dialect: str) -> None:
    """Writes beside the target first, so that a failure leaves what was there."""
    partial = target.with_name(f"partial-{target.name}")
    _remove(partial)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if dialect == OURS:
            described = own.description(weights)
            checkpoint.write_params(partial, weights.params, described)
        else:
            files.write(weights, partial, dialect)
            if (inside := partial / safetensors.FILE).is_file():
                digests.write(inside)
    except BaseException as error:
        _remove(partial)
        if isinstance(error, OSError):
            raise errors.UserError(f"{target} cannot be written: {error}") from error
        raise
    _remove(digests.beside(target))  # of what was there
    _replace(partial, target)
    if target.is_file() or dialect != OURS and not (target / safetensors.FILE).exists():
        digests.write(target)


def _replaced(target: Path) -> Path:
    """Where a folder is while another takes its name."""
    return target.with_name(f"replaced-{target.name}")


def _mend(target: Path) -> None:
    """Gives a folder back the name that a call which was killed took from it."""
    # "/" and "." are there, and have no name that another could stand beside.
    if not os.path.lexists(target) and _replaced(target).exists():
        _replaced(target).rename(target)


def _replace(new: Path, target: Path) -> None:
    """Gives what is new its name; what had it is there until that is done.

    Of files that is one rename. A folder is two: what is there waits for the second
    under another name, from which the next call takes it where this one is killed.
    """
    if not target.is_dir() and not new.is_dir():
        new.replace(target)
        return
    old = _replaced(target)
    _remove(old)
    if os.path.lexists(target):
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        _mend(target)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def compare(
    source: str,
    target: str | Path,
    source_options: dict[str, Any],
    target_options: dict[str, Any],
) -> dict[str, Any]:
    """Runs both models in float32 on random images, one after the other.

    Raises:
        errors.UserError: the outputs differ by more than `TOLERANCE`.
    """
    outputs = []
    exact: dict[str, Any] = {"compute_dtype": "float32"}
    for path, options in ((source, source_options), (target, target_options)):
        loaded = pretrained.load(path, **options | exact)
        size = loaded.architecture.image_size
        rng = np.random.default_rng(0)
        shape = (VERIFIED_IMAGES, *size, loaded.architecture.channels)
        images = rng.uniform(-1, 1, shape).astype(np.float32)
        graphdef, params = models.split(loaded.model)
        forward = jax.jit(lambda p, x, g=graphdef: models.merge(g, p)(x))
        outputs.append(np.asarray(forward(params, images)))
    difference = float(np.abs(outputs[0] - outputs[1]).max())
    scale = max(1.0, float(np.abs(outputs[0]).max()))
    if not difference <= TOLERANCE * scale:
        raise errors.UserError(
            f"{target} gives other outputs than {source}: they differ by up to "
            f"{difference:.3g}, want {TOLERANCE * scale:.3g}. It has been written."
        )
    return {"max_difference": difference, "max_output": scale}


def _parse_options(texts: list[str]) -> dict[str, Any]:
    """From "heads=12" and the like to values."""
    options = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise errors.UserError(f"--option={text}; want KEY=VALUE, as in heads=12")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    return options


def _define_flags() -> None:
    flags.DEFINE_string("dialect", None, "What to write; an unknown one lists all.")
    flags.DEFINE_string(
        "image_size", None, "Resample positions for this size: 384, or 48x64."
    )
    flags.DEFINE_integer("num_classes", None, "0: without the head.")
    flags.DEFINE_bool("verify", False, "Run both models and compare.")
    flags.DEFINE_bool("overwrite", False, "Replace what is at the target.")
    flags.DEFINE_multi_string(
        "option", [], "What the source's tensors do not say, e.g. heads=12."
    )


def _main(argv: list[str]) -> int:
    values = flags.FLAGS
    if len(argv) != 3 or not values.dialect:
        known = ", ".join([OURS, adapters.DIALECT, *dialects.DIALECTS])
        raise errors.UserError(
            f"want SOURCE TARGET --dialect=NAME, one of: {known}; --help lists the "
            "flags"
        )
    figures = run(
        argv[1],
        argv[2],
        values.dialect,
        image_size=values.image_size,
        num_classes=values.num_classes,
        verify=values.verify,
        overwrite=values.overwrite,
        **_parse_options(values.option),
    )
    cli.print_figures(figures)
    return errors.EXIT_DONE


if __name__ == "__main__":
    _define_flags()
    cli.run(_main)
