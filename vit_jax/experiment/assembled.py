"""What the assembly of a run makes of its configuration."""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import optax
from jax.sharding import Mesh

from vit_jax import models
from vit_jax.data import catalog, preprocessing
from vit_jax.learning import passes, schedules
from vit_jax.parallel import layouts
from vit_jax.settings import sections
from vit_jax.settings.durations import Durations
from vit_jax.types import TrainState

if TYPE_CHECKING:
    from vit_jax.learning.tuning import Tuning
    from vit_jax.weights.frozen import Frozen


@dataclass(frozen=True)
class Experiment:
    """Model, optimizer, abstract state and compiled functions of a run.

    Attributes:
        config: the resolved configuration, a record for config.json and checkpoints.
            Nobody reads its keys; what a run needs of them are the other fields.
        data: where training images are.
        start: where the first weights are from; None: drawn at random.
        evals: what is measured, and when.
        writers: where figures go beside metrics.jsonl, keys of `writers.WRITERS`.
        batch_size: examples a step, over all devices.
        microbatches: parts of a batch.
        seed: of all that is random.
        keep: newest checkpoints to keep.
        keep_best: the figure whose best is kept beside them, see `runs.keeping`.
        stop_after: evaluations without a better one that end the run; 0: none do.
        skip_bad_steps: in a row that may be left out.
        loss: a key of `losses.LOSSES`.
        labels: how classes are matched with those of data, a key of `labels.MODES`.
        mesh: from `mesh.make_mesh`.
        architecture: of the model.
        layout: of the state on the mesh.
        preprocessing: of images at evaluation.
        info: the training dataset.
        durations: in steps.
        tuning: which parameters are trained, and how fast; None: all alike.
        tx: the optimizer.
        schedule: step -> learning rate.
        state: abstract `TrainState` with shardings.
        batch: abstract global batch with shardings: image uint8, label.
        frozen: models that the loss reads and nobody trains, laid out; mostly none.
        init: () -> TrainState, placed; jitted.
        train_step: (state, batch, *frozen) -> (state, metrics); jitted, donates state.
        forward: (params, uint8 images) -> features and logits; jitted.
        evaluation: what only evaluators of the objective measure, or None.
        train_transform: host part of the training preprocessing.
    """

    config: dict[str, Any]
    data: sections.Data
    start: sections.Start | None
    evals: tuple[sections.EvalSettings, ...]
    writers: tuple[str, ...]
    batch_size: int
    microbatches: int
    seed: int
    keep: int
    keep_best: str
    stop_after: int
    skip_bad_steps: int
    loss: str
    labels: str
    mesh: Mesh
    architecture: models.Architecture
    layout: layouts.Layout
    preprocessing: preprocessing.Preprocessing
    info: catalog.DatasetInfo
    durations: Durations
    tuning: "Tuning | None"
    tx: optax.GradientTransformation
    schedule: schedules.Schedule
    state: TrainState
    batch: dict[str, jax.ShapeDtypeStruct]
    frozen: "tuple[Frozen, ...]"
    init: Any
    train_step: Any
    forward: passes.Forward
    evaluation: Any
    train_transform: Any

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What `train_step` is called with, abstract."""
        return self.state, self.batch, *(one.params for one in self.frozen)

    def evaluating(self, names: Collection[str]) -> "Experiment":
        """Returns the same run with these of its evaluations alone."""
        evals = tuple(one for one in self.evals if one.name in names)
        recorded = {one.name: dict(self.config["evals"][one.name]) for one in evals}
        config = self.config | {"evals": recorded}
        return dataclasses.replace(self, evals=evals, config=config)
