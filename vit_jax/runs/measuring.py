"""A run of no steps: evaluates `init_from` as it is, writes the figures, and ends.

`total="0 steps"` asks for it; `configs/fewshot.py` is the recipe. The model and its
preprocessing are the checkpoint's, as with `vit_jax.evaluate`.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from vit_jax import errors, evaluators, models, weights
from vit_jax.checkpoints import best, checkpoint
from vit_jax.data import labels
from vit_jax.host import files as host_files
from vit_jax.learning import losses, passes
from vit_jax.parallel import layouts
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.runs import evaluations, metrics, writers
from vit_jax.runs import workdir as workdir_lib
from vit_jax.settings import naming, packaged, recipe, sections, validation
from vit_jax.types import Params
from vit_jax.weights import places, resizing

# What a run of no steps reads; the rest of a configuration is about training, or is
# the checkpoint's to say.
READ = (
    *("init_from", "total", "batch_size", "labels", "model.image_size", "evals."),
    *("data.image_column", "data.label_column", "data.class_names"),
    *("data.dataset", "data.data_dir", "data.exif", "log."),
    *("mesh.data", "mesh.fsdp", "mesh.tensor", "mesh.slices"),
)


def run(
    config: Mapping[str, Any], workdir: str | Path, mesh: Mesh
) -> dict[str, float | None]:
    """Evaluates a checkpoint by `config.evals`; the same call again is done at once.

    Figures go to workdir/metrics.jsonl as they come, at step 0. A run that was stopped
    goes on with the evaluations that are missing.

    Returns:
        The figures, "pets/5shot" for instance; None for those that are no number.

    Raises:
        UserError: no checkpoint, no evaluation, keys without effect, missing data.
    """
    config, workdir = recipe.plain(config), host_files.folder(workdir)
    _check(config, mesh)
    writers.check(sections.writers(config), workdir)
    data = config["data"]
    there = evaluations.available(
        sections.evals(config["evals"], data=data),
        data_dir=data["data_dir"],
    )
    evals = {name: config["evals"][name] for name in there}
    if not evals:
        raise errors.UserError(
            f"none of {', '.join(config['evals'])} has its data prepared, so there is "
            "nothing to evaluate; prepare one, or add another to config.evals"
        )
    checkpoint_ = _newest(weights.pretrained.agreed(config["init_from"]))
    config |= {"evals": evals, "init_from": checkpoint_}
    if (started := workdir_lib.read_config(workdir)) is not None:
        workdir_lib.check_same(workdir, config, started)
    changed = workdir_lib.changed_evals(workdir, config)
    stored = workdir_lib.figures_at(workdir, 0)
    again = evaluations.on_any_process(
        [name not in stored or name in changed for name in evals]
    )
    missing = [name for name, wanted in zip(evals, again) if wanted]
    done = {name: stored[name] for name in evals if name not in missing}
    if not missing:
        logging.info("done: %s has all evaluations already", workdir)
        return workdir_lib.flat(done)
    params, run_ = _open(config, mesh, missing)
    workdir_lib.forget(workdir, 0, changed)
    with workdir_lib.started(workdir, config):
        writer = writers.Writers(
            *(workdir, sections.writers(config)),
            start_step=0,
            config=config,
            enabled=jax.process_index() == 0,
        )
    try:
        for name, figures in done.items():
            writer.write(0, workdir_lib.flat({name: figures}))
        for name, evaluate in run_.items():
            done[name] = {
                k: metrics.json_number(v) for k, v in evaluate(params).items()
            }
            named = workdir_lib.flat({name: done[name]})
            writer.write(0, named)
            writer.keep()
            logging.info(metrics.figures_line(named))
    finally:
        writer.close()
    logging.info("done: %d evaluations, figures in %s", len(evals), workdir)
    return workdir_lib.flat({name: done[name] for name in evals})


def _newest(path: str) -> str:
    """The checkpoint that a workdir stands for now, so that a later one is another."""
    if (found := best.find(path)) is not None:
        return str(found)
    found = places.in_a_bucket(path)
    with contextlib.suppress(OSError):  # a text too long for a path is none
        folder = host_files.expanded(path)
        found = checkpoint.find(folder) if folder.is_dir() else found
    return path if found is None else str(found)


def _check(config: Mapping[str, Any], mesh: Mesh) -> None:
    size = tuple(config["model"]["image_size"])
    model = config["model"] | {"image_size": size or (1, 1)}  # (): the checkpoint's
    validation.check_values({**config, "model": model})
    mesh_lib.check_batch("batch_size", config["batch_size"], mesh)
    for key, value in {
        "init_from": "=PATH, the checkpoint to evaluate",
        "evals": ".NAME=TYPE[:DATASET], as in --config.evals.few=fewshot:pets",
    }.items():
        if not config[key]:
            raise errors.UserError(
                f"total={config['total']!r} evaluates a checkpoint and ends, and {key} "
                f"is empty; want --config.{key}{value}"
            )
    if unread := _without_effect(config):
        raise errors.UserError(
            errors.listing(
                f"total={config['total']!r} evaluates a checkpoint as it is; without "
                "any effect would be:",
                [f"{key}={value!r}" for key, value in unread.items()],
                "leave them at their defaults, as configs/fewshot.py does",
            )
        )


def _without_effect(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of training and of models that differ from the defaults."""
    defaults = packaged.defaults()
    defaults["model"]["name"] = "checkpoint"
    return {
        key: ours
        for key, (ours, _) in validation.differences(config, defaults).items()
        if not key.startswith(READ)
    }


def _open(
    config: Mapping[str, Any], mesh: Mesh, names: Sequence[str]
) -> tuple[Any, dict[str, evaluators.Evaluator]]:
    """Returns the checkpoint's parameters, and these evaluations with their data."""
    size, data = tuple(config["model"]["image_size"]), config["data"]
    loaded = weights.pretrained.load(
        config["init_from"],
        image_size=size * 2 if len(size) == 1 else size or None,
        mesh=mesh,
    )
    weights.loaded.check_color(loaded.architecture)
    prepared = dataclasses.replace(loaded.preprocessing, exif=data["exif"])
    graphdef, params = models.split(loaded.model)

    def bind(
        architecture: models.Architecture, shapes: Params
    ) -> tuple[passes.Bound, Params]:
        graphdef, _ = models.abstract(architecture)
        bound = passes.Bound(graphdef, architecture, prepared.mean, prepared.std)
        return bound, layouts.placed("fsdp", shapes, mesh)

    bound = passes.Bound(graphdef, loaded.architecture, prepared.mean, prepared.std)
    logging.info(
        "%s from %s, %d parameters, images of %dx%d",
        *(loaded.architecture.name, loaded.source),
        models.count_parameters(loaded.architecture),
        *prepared.image_size,
    )
    outputs = labels.Side(
        loaded.source,
        loaded.architecture.num_classes,
        loaded.label_names,
        loaded.label_ids,
    )
    context = evaluators.Context(
        datasets=evaluators.Datasets(naming.of_run(data), data["data_dir"]),
        forward=passes.make_forward(bound),
        preprocessing=prepared,
        outputs=outputs,
        batch_size=config["batch_size"],
        mesh=mesh,
        loss=losses.PROBLEMS[loaded.problem],
        mode=config["labels"],
        resized=lambda size: resizing.at_size(loaded.architecture, params, size, bind),
    )
    return params, {
        name: evaluators.make(config["evals"][name], context) for name in names
    }
