"""What a loader would refuse, said before anything is compiled or decoded."""

from typing import Any

from vit_jax.data import catalog, orders, resident, transforms
from vit_jax.settings import sections


def check(
    source: Any,
    transform: transforms.Transform,
    data: sections.Data,
    info: catalog.DatasetInfo,
    batch_size: int,
) -> None:
    """Raises `UserError` for a source that cannot be read as a run wants it.

    Labels are not read: what they say is found when the loader is made.

    Args:
        source: The training split, see `sources`.
        transform: Of the training images.
        data: How they are read.
        info: The dataset.
        batch_size: Over all processes.
    """
    orders.check_repeats(data.repeats, batch_size)
    if data.balance:
        orders.check_weightless(source, data.balance)
        one_label = not (info.multi_label or info.numeric)
        orders.check_balance(data.balance, one_label=one_label)
    else:
        orders.of(source, seed=0)  # whether each part of a mixture ever comes
    if data.cache == "device":
        resident.for_devices(source, transform)
