"""From a configuration to everything a run needs, allocating nothing.

Training, evaluation during training and tests all start at `assemble`, so what one of
them measures is what the others run. Configuration stops here: what lies below takes
keyword arguments.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from vit_jax import errors, models, weights
from vit_jax.data import augment, catalog, inputs, preprocessing
from vit_jax.experiment.assembled import Experiment
from vit_jax.learning import objective, optim, passes, program, schedules
from vit_jax.learning import step as step_lib
from vit_jax.parallel import fitting, layouts
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.settings import durations, naming, packaged, recipe, sections, validation
from vit_jax.settings.durations import Durations
from vit_jax.types import Params, TrainState

if TYPE_CHECKING:
    from vit_jax.learning.tuning import Tuning
    from vit_jax.weights.files import Weights
    from vit_jax.weights.frozen import Frozen


def _image_size(config: Mapping[str, Any]) -> tuple[int, int]:
    size = tuple(config["model"]["image_size"])
    return size * 2 if len(size) == 1 else size


def _architecture(
    config: Mapping[str, Any],
    info: catalog.DatasetInfo,
    start: "Weights | None",
) -> models.Architecture:
    options = dict(config["model"])
    name = options.pop("name")
    if options["remat"] == layouts.AUTO:  # `fitting.lay_out` decides
        options["remat"] = "none"
    options |= {"num_classes": info.num_classes, "image_size": _image_size(config)}
    if name != "checkpoint":
        return models.architecture(name, **options)
    if start is None:
        raise errors.UserError(
            'model.name="checkpoint" is the model in init_from, which is empty; '
            "want --config.init_from=PATH"
        )
    weights.loaded.check_color(start.architecture)
    defaults = packaged.defaults()["model"]
    return weights.adapting.of_a_run(start.architecture, options, defaults)


def schedule_of(
    config: Mapping[str, Any], info: catalog.DatasetInfo
) -> tuple[Durations, schedules.Schedule]:
    """Returns the durations and the learning rate of a configuration.

    Raises:
        UserError: durations or a schedule that cannot be.
    """
    examples = catalog.num_examples(info, config["data"]["train_split"])
    lengths = durations.of(config, examples)
    return lengths, _optimizer(config["optimizer"], lengths)[1]


def _optimizer(
    options: Mapping[str, Any], lengths: Durations, tuned: "Tuning | None" = None
) -> tuple[optax.GradientTransformation, schedules.Schedule]:
    elsewhere = {"warmup", "cooldown", "layer_decay", "freeze"}
    return optim.of_a_run(
        total_steps=lengths.total,
        warmup_steps=lengths.warmup,
        cooldown_steps=lengths.cooldown,
        multiplier=None if tuned is None else tuned.rates.of,
        **{key: value for key, value in options.items() if key not in elsewhere},
    )


def _tuning(config: Mapping[str, Any], params: Params) -> "Tuning | None":
    """What is trained, and how fast, where it is not all of the model's parameters."""
    if not sections.is_tuned(config):
        return None
    from vit_jax.learning import tuning  # which most runs do not need

    return tuning.Tuning.of(params, config["optimizer"], config["lora"])


def _lay_out(
    config: Mapping[str, Any],
    architecture: models.Architecture,
    state: TrainState,
    frozen: Sequence[str],
    mesh: Mesh,
) -> "tuple[models.Architecture, layouts.Layout, tuple[Frozen, ...]]":
    """The model as it fits the mesh, and where it and the frozen ones lie there."""
    model, microbatches = config["model"], config["microbatches"]
    beside = [
        weights.frozen.describe(
            path,
            image_size=_image_size(config),
            compute_dtype=model["compute_dtype"],
            unroll=model["unroll"],
        )
        for path in frozen
    ]
    architecture, layout = fitting.lay_out(
        *(architecture, state, mesh),
        layout=config["mesh"]["layout"],
        remat=model["remat"],
        unroll=model["unroll"],
        batch_size=config["batch_size"],
        microbatches=microbatches,
        frozen=[one.params for one in beside],
    )
    laid_out = [
        one.laid_out(layout.name, mesh, microbatches=microbatches) for one in beside
    ]
    return architecture, layout, tuple(laid_out)


def _abstract_batch(
    config: Mapping[str, Any], trained: objective.Objective, mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    rows, sharding = config["batch_size"], mesh_lib.batch_sharding(mesh)
    image = jax.ShapeDtypeStruct((rows, *_image_size(config), 3), jnp.uint8)
    batch = {"image": image, "label": trained.labels(rows)}
    return {name: leaf.update(sharding=sharding) for name, leaf in batch.items()}


def _check(config: Mapping[str, Any], mesh: Mesh) -> None:
    durations.check_trains(config)
    validation.check_values(config)
    parts = max(1, config["microbatches"])
    mesh_lib.check_batch("batch_size", config["batch_size"], mesh, microbatches=parts)


def _microbatches(
    config: Mapping[str, Any], architecture: models.Architecture, mesh: Mesh
) -> int:
    """How many there are; 0 leaves it to us."""
    images = config["batch_size"] // mesh_lib.batch_parts(mesh)
    kind = mesh.devices.flat[0].device_kind
    return config["microbatches"] or fitting.microbatches(architecture, images, kind)


def assemble(
    config: recipe.Config, mesh: Mesh, *, start: "Weights | None" = None
) -> Experiment:
    """Builds a run from its configuration; only shapes, no arrays.

    Args:
        config: as `configs/base.py` gives it.
        mesh: from `mesh.make_mesh`.
        start: what is known of `init_from` where it need not be there any more; None:
            it is opened.

    Raises:
        UserError: a value that no run could use: see `validation.check_values`, a batch
            that the mesh does not divide, an image that the patch does not divide, an
            unknown model, dataset or choice.
    """
    asked = config = recipe.plain(config)
    _check(config, mesh)
    data = config["data"]
    info = catalog.describe(naming.of_run(data), data_dir=data["data_dir"])
    lengths, schedule = schedule_of(config, info)
    opened = None
    if start is None and config["init_from"]:
        start = opened = weights.pretrained.describe(config["init_from"])
    trained = objective.make(config["objective"], info, config)
    architecture = trained.outputs(_architecture(config, info, start))
    config = asked | {"microbatches": _microbatches(asked, architecture, mesh)}
    shapes = models.abstract(architecture)[1]
    tuned = _tuning(config, shapes)
    tx, _ = _optimizer(config["optimizer"], lengths, tuned)

    def make_state() -> TrainState:
        key = step_lib.step_key(config["seed"], lengths.total)
        _, params = models.split(models.create(architecture, rngs=nnx.Rngs(key)))
        params |= {} if tuned is None else tuned.added(key)
        return step_lib.init_state(params, tx, ema=config["ema"] > 0)

    abstract, fixed = jax.eval_shape(make_state), trained.frozen()
    architecture, layout, beside = _lay_out(config, architecture, abstract, fixed, mesh)
    if opened is not None:
        weights.adapting.check_adapt(
            *(opened.leaves, opened.architecture, architecture, shapes),
            keep_head=config["keep_head"],
        )
    prepared = inputs.of_a_run(
        *(data, _image_size(config)),
        stored=None if start is None else start.preprocessing,
        source=config["init_from"],
    )
    graphdef, _ = models.abstract(architecture)
    bound = passes.Bound(graphdef, architecture, prepared.mean, prepared.std)
    bound = bound.laid_out(layout, beside=[one.bound for one in beside])
    return Experiment(
        **_settings(config, info, lengths, prepared),
        **program.make(
            *(trained, tx, tuned, layout, mesh, bound),
            frozen=[one.params for one in beside],
            **_of_steps(config, info),
        ),
        config=sections.recorded(asked, dataclasses.asdict(prepared)),
        start=_start(config, info, start, architecture),
        mesh=mesh,
        architecture=architecture,
        layout=layout,
        preprocessing=prepared,
        info=info,
        schedule=schedule,
        state=mesh_lib.with_shardings(abstract, layout.state),
        batch=_abstract_batch(config, trained, mesh),
        frozen=beside,
        init=jax.jit(make_state, out_shardings=layout.state),
    )


def _settings(
    config: Mapping[str, Any],
    info: catalog.DatasetInfo,
    lengths: Durations,
    prepared: preprocessing.Preprocessing,
) -> dict[str, Any]:
    """What a run needs of its configuration as it stands there."""
    from vit_jax.data import training  # which imports OpenCV

    names = "batch_size microbatches seed keep keep_best stop_after".split()
    names += "skip_bad_steps loss labels".split()
    data = config["data"]
    examples = catalog.num_examples(info, data["train_split"])
    return {name: config[name] for name in names} | {
        "data": sections.Data.of(data),
        "durations": lengths,
        "writers": sections.writers(config),
        "train_transform": training.train_transform(
            prepared.image_size,
            exif=data["exif"],
            mean=prepared.mean,
            std=prepared.std,
            **data["train"],
        ),
        "evals": sections.evals_of(config, examples, lengths),
    }


def _of_steps(config: Mapping[str, Any], info: catalog.DatasetInfo) -> dict[str, Any]:
    """What a step needs of its configuration."""
    bad = config["skip_bad_steps"], config["optimizer"]["skip_spikes"]
    return {
        "seed": config["seed"],
        "microbatches": config["microbatches"],
        "ema_decay": config["ema"],
        "ema_warmup": config["ema_warmup"],
        "verdict": step_lib.verdict(*bad),
        "augmentations": augment.chosen(config["data"], info.num_classes),
    }


def _start(
    config: Mapping[str, Any],
    info: catalog.DatasetInfo,
    start: "Weights | None",
    architecture: models.Architecture,
) -> sections.Start | None:
    if start is None:
        return None
    return weights.starts.of(
        *(start, architecture, info, config["init_from"]),
        keep_head=config["keep_head"],
        mode=config["labels"],
    )


def make_mesh(config: recipe.Config, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh of a configuration, over all devices or these `jax.Device`s."""
    given = recipe.plain(config)["mesh"]
    axes = {name: given[name] for name in ("data", "fsdp", "tensor", "slices")}
    return mesh_lib.make_mesh(**axes, devices=devices)
