"""What every evaluator is handed: the model, its run and how datasets are opened."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from jax.sharding import Mesh

from vit_jax import errors, tree
from vit_jax.data import catalog, sources
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.evaluators import images
from vit_jax.types import Forward, Params

if TYPE_CHECKING:
    from vit_jax.data import labels


@dataclass(frozen=True)
class Datasets:
    """How evaluations open datasets.

    Attributes:
        default: The dataset of evaluations that name none, as `data.catalog` takes it.
        data_dir: The folder of TFDS, or "".
    """

    default: str
    data_dir: str

    def describe(self, dataset: str) -> catalog.DatasetInfo:
        """Returns what is known of a dataset; "" is the default one."""
        return catalog.describe(dataset or self.default, data_dir=self.data_dir)

    def open(self, dataset: str, split: str) -> sources.Source:
        """Returns the examples of a split."""
        return catalog.open_source(
            dataset or self.default, split, data_dir=self.data_dir
        )


class Resized(NamedTuple):
    """A model on images of another size.

    Attributes:
        forward: As `Context.forward`, with what `fit` returns.
        fit: From the parameters of the run to those for this size.
    """

    forward: Forward
    fit: Callable[[Params], Params]


@dataclass(frozen=True)
class Context:
    """What is evaluated, and on what; the same for all evaluations of a run.

    Attributes:
        datasets: How datasets are opened.
        forward: The model, `(params, uint8 images) -> {"features", "logits"}`.
        preprocessing: How the model wants images; its host part is applied here.
        outputs: How many outputs the model has, and the names of its classes.
        batch_size: Examples at a time, over all devices.
        mesh: The mesh of all devices.
        loss: What outputs are trained with, a key of `losses.LOSSES`; None where they
            are numbers and no scores of classes.
        evaluation: What `Objective.make_evaluation` returned in a run, else None.
        mode: How classes are matched with outputs, a key of `labels.MODES`.
        prefix: What the names of figures begin with.
        between: Called after every batch, on all processes equally often.
        resized: Gives the model on images of another (height, width), or raises
            `UserError`; None: it is there at its own size alone.
    """

    datasets: Datasets
    forward: Forward
    preprocessing: Preprocessing
    outputs: "labels.Side"
    batch_size: int
    mesh: Mesh
    loss: str | None = "softmax"
    evaluation: Any = None
    mode: str = "auto"
    prefix: str = ""
    between: Callable[[], None] | None = None
    resized: Callable[[tuple[int, int]], Resized] | None = None

    def seeing(self, **options: Any) -> "tuple[Context, Callable[[Params], Params]]":
        """Returns the context of an evaluation with images of its own.

        Args:
            **options: As `images.prepared` takes them by keyword.

        Returns:
            The context, and what makes parameters for it of those of the run.

        Raises:
            UserError: values that cannot work, or a size that the model cannot have.
        """
        own = images.prepared(self.preprocessing, **options)
        context = dataclasses.replace(self, preprocessing=own)
        if own.image_size == self.preprocessing.image_size:
            return context, tree.same
        if self.resized is None:
            raise errors.UserError(
                f"image_size={own.image_size}: the model is there for images of "
                f"{self.preprocessing.image_size} alone; leave it empty"
            )
        model = self.resized(own.image_size)
        # What an objective measures of itself is at the size that it trains.
        return (
            dataclasses.replace(context, forward=model.forward, evaluation=None),
            model.fit,
        )

    def split(self, dataset: str, split: str) -> str:
        """Returns a split that there is; "" is the usual one to report figures on.

        Raises:
            UserError: an unknown dataset or split.
        """
        info = self.datasets.describe(dataset)
        split = split or catalog.usual_split(info)
        catalog.num_examples(info, split)
        return split

    def open(self, dataset: str, split: str) -> sources.Source:
        """Returns the examples of a split; see `split`.

        Raises:
            UserError: an unknown dataset or split, or one that is not prepared.
        """
        return self.datasets.open(dataset, self.split(dataset, split))

    def over(self, source: sources.Source) -> dict[str, Any]:
        """Returns what `batches.run` takes by keyword, for a pass over a source."""
        return {
            "source": source,
            "transform": self.preprocessing.eval_transform(),
            "batch_size": self.batch_size,
            "mesh": self.mesh,
            "between": self.between,
        }
