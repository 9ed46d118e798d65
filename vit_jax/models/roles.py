"""What a field of an architecture is to weights and to a run, said at the field.

    attention: str = field(default="einsum", metadata=role(RUN))

Whoever needs a list of fields asks `names` for those of a role.
"""

import dataclasses
import enum
from typing import Any


class Role(enum.Enum):
    """Each field has one.

    Attributes:
        SHAPE: It shows in which leaves there are, or in their shapes.
        MEANING: Under another value weights of the same shapes are another function:
            whoever takes weights over must have the same.
        TASK: A run decides it, and the head is for it: it fits only the same.
        RUN: A run decides how it computes, how it trains and how parameters start;
            weights know nothing of it.
        UNTOLD: Of the model for good, though its weights do not tell it.
    """

    SHAPE = enum.auto()
    MEANING = enum.auto()
    TASK = enum.auto()
    RUN = enum.auto()
    UNTOLD = enum.auto()


SHAPE, MEANING, TASK, RUN, UNTOLD = Role
_KEY = "role"
_NOTHING = object()  # no option has this value


@dataclasses.dataclass(frozen=True)
class Told:
    """What the metadata of a field say.

    Attributes:
        role: See `Role`.
        unset: The value of an option that leaves the field to the name or the model.
        compared: The property that tells two models apart in the field's place.
        harmless: Whether families without the field take the option at any value,
            since it would change nothing in them.
    """

    role: Role = SHAPE
    unset: Any = _NOTHING
    compared: str = ""
    harmless: bool = False


def role(role: Role, **more: Any) -> dict[str, Told]:
    """Returns metadata for a dataclass field; arguments as `Told`'s."""
    return {_KEY: Told(role, **more)}


# Of a dimension that the name gives: an option of 0 leaves it to that.
SIZE = role(SHAPE, unset=0)


def told(field: dataclasses.Field) -> Told:
    """Returns what a field says of itself; one that says nothing is of the shape."""
    return field.metadata[_KEY] if _KEY in field.metadata else Told()


def names(cls: type, *roles: Role) -> tuple[str, ...]:
    """Returns the fields of a dataclass that have one of the roles, in their order."""
    fields = dataclasses.fields(cls)
    return tuple(f.name for f in fields if told(f).role in roles)


def compared(cls: type, *roles: Role) -> tuple[str, ...]:
    """Returns what tells two models apart, in place of the names of the fields."""
    fields = [(f.name, told(f)) for f in dataclasses.fields(cls)]
    return tuple(said.compared or name for name, said in fields if said.role in roles)
