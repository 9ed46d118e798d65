"""What a run starts from, once its own model is known."""

from vit_jax import models
from vit_jax.data import catalog, labels
from vit_jax.settings import sections
from vit_jax.weights import adapting
from vit_jax.weights.files import Weights


def of(
    start: Weights,
    architecture: models.Architecture,
    info: catalog.DatasetInfo,
    path: str,
    *,
    keep_head: bool,
    mode: str,
) -> sections.Start:
    """Returns where first weights are from, and the order of a kept head's outputs.

    Args:
        start: What is known of the checkpoint.
        architecture: Of the run.
        info: The dataset that is trained on.
        path: Of the checkpoint.
        keep_head: Whether its head is kept where it fits.
        mode: How its classes are matched with the dataset's, a key of `labels.MODES`.

    Raises:
        UserError: a head is kept for other classes.
    """
    order = None
    kept = keep_head and architecture.num_classes
    if kept and adapting.keeps_head(start.architecture, architecture):
        order = labels.align(
            labels.Side(
                *(path, architecture.num_classes),
                *(start.label_names, start.label_ids),
            ),
            labels.Side(info.name, info.num_classes, info.label_names),
            mode,
        )
    return sections.Start(path, keep_head, order)
