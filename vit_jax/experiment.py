"""From a configuration to everything a run needs, allocating nothing.

Training, evaluation during training and tests all start at `assemble`, so what one of
them measures is what the others run. Configuration stops here: what lies below takes
keyword arguments.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from vit_jax import errors, models, weights
from vit_jax.data import augment, catalog, inputs, labels, preprocessing, transforms
from vit_jax.learning import objective, optim, passes
from vit_jax.learning import step as step_lib
from vit_jax.parallel import fitting, layouts, xla
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.settings import recipe, validation

if TYPE_CHECKING:
    from vit_jax.weights.files import Weights


@dataclass(frozen=True)
class Durations:
    """The durations of a configuration in steps; 0 is never."""

    total: int
    log_every: int
    eval_every: int
    save_every: int
    warmup: int
    cooldown: int


@dataclass(frozen=True)
class Experiment:
    """Model, optimizer, abstract state and compiled functions of a run.

    Attributes:
        config: the resolved configuration, a plain nested dict.
        mesh: from `mesh.make_mesh`.
        architecture: of the model.
        layout: of the state on the mesh.
        preprocessing: of images at evaluation.
        info: the training dataset.
        durations: in steps.
        tx: the optimizer.
        schedule: step -> learning rate.
        state: abstract `TrainState` with shardings.
        batch: abstract global batch with shardings: image uint8, label.
        init: () -> TrainState, placed; jitted.
        train_step: (state, batch) -> (state, metrics); jitted, the state is donated.
        forward: (params, uint8 images) -> features and logits; jitted.
        evaluation: what only evaluators of the objective measure, or None.
        train_transform: host part of the training preprocessing.
        head_order: the output of `init_from` that becomes each one of this run, where
            the head is kept and its classes come in another order, else None.
    """

    config: dict[str, Any]
    mesh: Mesh
    architecture: models.Architecture
    layout: layouts.Layout
    preprocessing: preprocessing.Preprocessing
    info: catalog.DatasetInfo
    durations: Durations
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    state: step_lib.TrainState
    batch: step_lib.Batch
    init: Callable[[], step_lib.TrainState]
    train_step: Callable[..., tuple[step_lib.TrainState, step_lib.Metrics]]
    forward: passes.Forward
    evaluation: Any
    train_transform: Any
    head_order: np.ndarray | None


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
    if options["remat"] == fitting.AUTO:  # `_layout` decides
        options["remat"] = "none"
    options |= {"num_classes": info.num_classes, "image_size": _image_size(config)}
    if name != "checkpoint":
        return models.architecture(name, **options)
    if start is None:
        raise errors.UserError(
            'model.name="checkpoint" is the model in init_from, which is empty; '
            "want --config.init_from=PATH"
        )
    architecture = start.architecture
    if options["pre_logits"] and architecture.pre_logits_width:
        options["pre_logits"] = architecture.pre_logits_width
    weights.loaded.check_color(architecture)
    defaults = recipe.defaults()["model"]
    ours = [key for key in models.decided_by_run(architecture) if key in options]
    weights.adapting.check_decided(options, defaults, architecture, besides=ours)
    return models.with_options(architecture, {key: options[key] for key in ours})


def _head_order(
    config: Mapping[str, Any],
    info: catalog.DatasetInfo,
    start: "Weights | None",
    architecture: models.Architecture,
) -> np.ndarray | None:
    """The checkpoint's output of each class, where its head is kept in another order.

    Raises:
        UserError: it is kept for other classes.
    """
    if start is None or not (config["keep_head"] and architecture.num_classes):
        return None
    if not weights.adapting.keeps_head(start.architecture, architecture):
        return None
    count = architecture.num_classes
    return labels.align(
        labels.Side(config["init_from"], count, start.label_names, start.label_ids),
        labels.Side(info.name, info.num_classes, info.label_names),
        config["labels"],
    )


def _durations(
    config: Mapping[str, Any], info: catalog.DatasetInfo, num_examples: int
) -> Durations:
    steps = functools.partial(
        validation.duration,
        batch_size=config["batch_size"],
        num_examples=num_examples,
    )
    total = steps("total", config["total"])
    if total == 0:
        raise errors.UserError("total is empty; want a length, as in '300 epochs'")
    optimizer = config["optimizer"]
    durations = Durations(
        total=total,
        log_every=steps("log_every", config["log_every"], total_steps=total),
        eval_every=steps("eval_every", config["eval_every"], total_steps=total),
        save_every=steps("save_every", config["save_every"], total_steps=total),
        warmup=steps("optimizer.warmup", optimizer["warmup"], total_steps=total),
        cooldown=steps("optimizer.cooldown", optimizer["cooldown"], total_steps=total),
    )
    if durations.warmup + durations.cooldown > total:
        raise errors.UserError(
            f"optimizer.warmup={optimizer['warmup']!r} and "
            f"cooldown={optimizer['cooldown']!r} are {durations.warmup} and "
            f"{durations.cooldown} steps, the whole run is {total}; "
            "shorten them or give them as a share, as in '10%'"
        )
    return durations


def schedule_of(
    config: Mapping[str, Any], info: catalog.DatasetInfo
) -> tuple[Durations, optax.Schedule]:
    """Returns the durations and the learning rate of a configuration.

    Raises:
        UserError: durations or a schedule that cannot be.
    """
    examples = catalog.num_examples(info, config["data"]["train_split"])
    durations = _durations(config, info, examples)
    return durations, _optimizer(config["optimizer"], durations)[1]


def _optimizer(
    options: Mapping[str, Any], durations: Durations
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    lengths = {"warmup", "cooldown"}
    return optim.of_a_run(
        total_steps=durations.total,
        warmup_steps=durations.warmup,
        cooldown_steps=durations.cooldown,
        **{key: value for key, value in options.items() if key not in lengths},
    )


def _layout(
    config: Mapping[str, Any],
    architecture: models.Architecture,
    abstract: step_lib.TrainState,
    mesh: Mesh,
) -> tuple[models.Architecture, layouts.Layout]:
    """Decides what is "auto", says so, and lays out the state."""
    wanted, remat = config["mesh"]["layout"], config["model"]["remat"]
    examples = (
        config["batch_size"] // config["microbatches"] // mesh_lib.batch_parts(mesh)
    )
    choice = fitting.choose(
        wanted,
        remat,
        architecture=architecture,
        state=abstract,
        mesh=mesh,
        examples=examples,
    )
    if remat == fitting.AUTO and choice.remat != "none":
        # A flat program gains nothing where blocks are computed again.
        loop = {} if config["model"]["unroll"] else {"unroll": 1}
        architecture = models.with_options(
            architecture, {"remat": choice.remat, **loop}
        )
    if fitting.AUTO in (wanted, remat):
        logging.info(
            "mesh.layout=%s, model.remat=%s: about %.2f GiB a device",
            *(choice.layout, choice.remat, choice.peak_bytes / 2**30),
        )
    layout = layouts.make(
        choice.layout,
        abstract,
        mesh,
        dtype=architecture.compute_dtype,
        microbatches=config["microbatches"],
    )
    return architecture, layout


def _entered(layout: layouts.Layout) -> Callable[[Any], Any]:
    """From stored parameters to those the model is called with, outside of a step."""
    return lambda params: layout.enter(layout.gather(params))


def _abstract_batch(
    config: Mapping[str, Any], trained: objective.Objective, mesh: Mesh
) -> step_lib.Batch:
    rows, sharding = config["batch_size"], mesh_lib.batch_sharding(mesh)
    image = jax.ShapeDtypeStruct((rows, *_image_size(config), 3), jnp.uint8)
    batch = {"image": image, "label": trained.labels(rows)}
    return {name: leaf.update(sharding=sharding) for name, leaf in batch.items()}


def _check(config: Mapping[str, Any], mesh: Mesh) -> None:
    if validation.no_steps(config["total"]):
        raise errors.UserError(
            f"total={config['total']!r} trains nothing: vit_jax.main evaluates "
            "init_from and ends. Here want a length, as in '300 epochs'"
        )
    validation.check_values(config)
    mesh_lib.check_batch(
        "batch_size", config["batch_size"], mesh, microbatches=config["microbatches"]
    )


def assemble(
    config: Mapping[str, Any], mesh: Mesh, *, start: "Weights | None" = None
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
    config = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    _check(config, mesh)
    data = config["data"]
    info = catalog.describe(data["dataset"], data_dir=data["data_dir"])
    examples = catalog.num_examples(info, data["train_split"])
    durations = _durations(config, info, examples)
    if start is None and config["init_from"]:
        start = weights.pretrained.describe(config["init_from"])
    trained = objective.make(config["objective"], info, config)
    architecture = trained.outputs(_architecture(config, info, start))
    tx, schedule = _optimizer(config["optimizer"], durations)

    def make_state() -> step_lib.TrainState:
        key = step_lib.step_key(config["seed"], durations.total)
        _, params = models.split(models.create(architecture, rngs=nnx.Rngs(key)))
        return step_lib.init_state(params, tx, ema=config["ema"] > 0)

    abstract = jax.eval_shape(make_state)
    architecture, layout = _layout(config, architecture, abstract, mesh)
    graphdef, _ = models.abstract(architecture)
    prepared = _preprocessing(config, start)
    in_step = passes.Bound(
        *(graphdef, architecture, prepared.mean, prepared.std),
        enter=layout.enter,
        placement=layout.placement,
    )
    outside = dataclasses.replace(in_step, enter=_entered(layout))
    train_step = step_lib.make_train_step(
        trained.make_loss(in_step),
        tx,
        seed=config["seed"],
        microbatches=config["microbatches"],
        ema_decay=config["ema"],
        augmentations=augment.chosen(data, info.num_classes),
        gather=layout.gather,
        scatter=layout.scatter,
    )
    return Experiment(
        config=_with_defaults(config, prepared),
        mesh=mesh,
        architecture=architecture,
        layout=layout,
        preprocessing=prepared,
        info=info,
        durations=durations,
        tx=tx,
        schedule=schedule,
        state=mesh_lib.with_shardings(abstract, layout.state),
        batch=_abstract_batch(config, trained, mesh),
        init=jax.jit(make_state, out_shardings=layout.state),
        train_step=_jit_step(train_step, layout, mesh),
        forward=passes.make_forward(outside),
        evaluation=trained.make_evaluation(outside),
        train_transform=_train_transform(config),
        head_order=_head_order(config, info, start, architecture),
    )


def _jit_step(
    train_step: Callable[[step_lib.TrainState, step_lib.Batch], Any],
    layout: layouts.Layout,
    mesh: Mesh,
) -> Any:
    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(layout.state, mesh_lib.batch_sharding(mesh)),
        out_shardings=(layout.state, mesh_lib.replicated(mesh)),
        compiler_options=xla.options(mesh),
    )


def make_mesh(
    config: Mapping[str, Any], devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Returns the mesh of a configuration, over all devices or these."""
    names = ("data", "fsdp", "tensor", "slices")
    axes = {name: config["mesh"][name] for name in names}
    return mesh_lib.make_mesh(**axes, devices=devices)


def _preprocessing(
    config: Mapping[str, Any], start: "Weights | None"
) -> preprocessing.Preprocessing:
    data, size = config["data"], _image_size(config)
    wanted = start and start.preprocessing.at(size)
    return inputs.resolve(
        size,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        transform=data["eval"]["transform"],
        resize=data["eval"]["resize"],
        filter=data["eval"]["filter"],
        wanted=wanted,
        source=config["init_from"],
        exif=data["exif"],
    )


def _with_defaults(
    config: Mapping[str, Any], prepared: preprocessing.Preprocessing
) -> dict[str, Any]:
    """The configuration with what it left to us; what is a checkpoint's stays so."""
    if config["init_from"]:
        return dict(config)
    evaluated = {"transform": prepared.transform, "filter": prepared.filter}
    data = {"mean": prepared.mean, "std": prepared.std}
    data["eval"] = config["data"]["eval"] | evaluated
    return config | {"data": config["data"] | data}


# The parameters of `data.train` that each training transform takes.
TRANSFORM_PARAMETERS = {
    "inception_crop": ("area", "aspect"),
    "resize": ("filter",),
    "resize_crop": ("resize",),
    "resize_small_crop": ("resize", "filter"),
    "random_crop_pad": ("pad",),
    "none": (),
}


def _train_transform(config: Mapping[str, Any]) -> Any:
    options = config["data"]["train"]
    name = options["transform"]
    names = errors.lookup(TRANSFORM_PARAMETERS, name, "data.train.transform")
    parameters = {key: options[key] for key in names}
    return transforms.make(
        *("train", name),
        image_size=_image_size(config),
        exif=config["data"]["exif"],
        **parameters,
    )
