"""What a checkpoint's files say of its outputs: their names, and what they mean."""

import logging
from collections.abc import Mapping
from typing import Any

SINGLE, MULTI, REGRESSION = "single_label", "multi_label", "regression"


def names(said: Any, what: str) -> tuple[str, ...] | None:
    """Returns names of classes, one for each from 0, of a list or of a table.

    Args:
        said: A list, or what each number is called; None: nothing was said.
        what: Whose value it is, for the warning where it cannot be used.
    """
    if said is None:
        return None
    listed = said
    if isinstance(said, Mapping):
        numbers = [str(i) for i in range(len(said))]
        if {str(key) for key in said} != set(numbers):
            logging.warning("%s does not count from 0 and is not read", what)
            return None
        by_number = {str(key): name for key, name in said.items()}
        listed = [by_number[number] for number in numbers]
    if not isinstance(listed, list | tuple):
        logging.warning("%s=%s is not read: it names nothing", what, str(said)[:50])
        return None
    strange = [name for name in listed if not isinstance(name, str | int | float)]
    if strange:
        logging.warning(
            "%s is not read: %s is no name of a class", what, str(strange[0])[:50]
        )
        return None
    return tuple(str(name) for name in listed)


def fitting(
    found: tuple[str, ...] | None, num_classes: int, label: str
) -> tuple[str, ...] | None:
    """Returns names if there is one for each output; a warning where there is not.

    Args:
        found: The names of a file.
        num_classes: Of the model; one without a head has no use for names.
        label: The file.
    """
    if not found or not num_classes or len(found) == num_classes:
        return (found or None) if num_classes else None
    logging.warning(
        "%s: it names %d classes, its head has %d outputs: the names are not used",
        *(label, len(found), num_classes),
    )
    return None


def problem(said: str | None, num_classes: int) -> str:
    """Returns what outputs are: a head of one is a logit unless a file says a number.

    Args:
        said: What the file says, one of the constants above; None: nothing.
        num_classes: Of the model.
    """
    if num_classes == 1 and said != REGRESSION:
        return MULTI
    return said or SINGLE
