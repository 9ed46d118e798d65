"""What all families of models say of themselves: `Architecture`, their common base."""

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from vit_jax import errors
from vit_jax.settings import validation

COMPUTE_DTYPES = ("float32", "bfloat16")
DTYPES = ("compute_dtype",)  # fields that also take a dtype itself
TYPES = {"int": int, "float": float, "bool": bool, "str": str}
WANTED = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


def dtype_name(value: Any) -> Any:
    """Returns "bfloat16" of `jnp.bfloat16` and the like; what is no dtype stays."""
    if isinstance(value, str) or value is None:
        return value
    try:
        return np.dtype(value).name
    except TypeError:
        return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything that decides a model's parameters and its forward pass.

    Each family of models has a subclass with its own fields. Hashable: compiled
    functions and abstract parameters are cached by it.

    Attributes:
        name: What it was asked for as, e.g. "B/16"; nothing is computed from it.
        image_size: (height, width) in pixels.
        channels: Of the images; 3: red, green and blue.
        num_classes: Outputs of the head; 0: no head, the forward pass returns features.
        head_bias: Initial value of the head's bias.
        compute_dtype: Of activations; parameters, statistics of normalisations,
            softmax and logits are float32.

    Raises:
        errors.UserError: values that do not fit together.
    """

    family: ClassVar[str]
    # Whether its weights take images of any size, `image_size` being what they are
    # evaluated at.
    any_size: ClassVar[bool] = False
    # Field -> known values, beyond those of the base.
    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {}

    name: str
    image_size: tuple[int, int]
    num_classes: int
    channels: int = 3
    head_bias: float = 0.0
    compute_dtype: str = "float32"

    def __post_init__(self):
        self._check_types()
        choices = {"compute_dtype": COMPUTE_DTYPES, **self.CHOICES}
        for field, known in choices.items():
            errors.lookup(dict.fromkeys(known), getattr(self, field), field)
        self.check_pair("image_size")
        self.check_least(0, "num_classes")
        self.check_least(1, "channels")

    def _check_types(self) -> None:
        """Takes numpy's numbers and dtypes as ours; raises for any other type."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            kind = TYPES.get(str(getattr(field.type, "__name__", field.type)))
            if field.name in DTYPES:
                value = dtype_name(value)
            elif isinstance(value, np.generic):
                value = value.item()
            if kind is float and type(value) is int:
                value = float(value)
            if value is not getattr(self, field.name):
                object.__setattr__(self, field.name, value)
            if kind is not None and type(value) is not kind:
                raise errors.UserError(
                    f"{field.name}={value!r} is a {type(value).__name__}; want "
                    f"{WANTED[kind]}."
                )

    def check_pair(self, field: str) -> None:
        """Raises `UserError` unless a field is (height, width), both positive."""
        value = getattr(self, field)
        if len(value) != 2 or min(value) < 1:
            raise errors.UserError(
                f"{field}={value} must be two positive numbers: (height, width)."
            )

    def check_least(self, least: float, *fields: str) -> None:
        """Raises `UserError` unless the fields are `least` or more."""
        for field in fields:
            if getattr(self, field) < least:
                raise errors.UserError(
                    f"{field}={getattr(self, field)} must be at least {least}."
                )

    def check_rates(self, *fields: str) -> None:
        """Raises `UserError` unless the fields are in [0, 1)."""
        for field in fields:
            if not 0 <= getattr(self, field) < 1:
                raise errors.UserError(
                    f"{field}={getattr(self, field)} must be in [0, 1)."
                )

    def replace(self, **changes: Any) -> Self:
        """Returns a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Returns what JSON can hold and `families.from_dict` takes back."""
        fields = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }
        return {"family": self.family, **fields}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict` for one family; refuses unknown and missing keys."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for key in values:
            errors.lookup(fields, key, "architecture key")
        missing = [
            name
            for name, field in fields.items()
            if field.default is dataclasses.MISSING and name not in values
        ]
        if missing:
            raise errors.UserError(f"architecture: no value for {', '.join(missing)}.")
        return cls(
            **{
                key: tuple(value) if isinstance(value, list | tuple) else value
                for key, value in values.items()
            }
        )


def pair(size: int | str | Sequence[int]) -> tuple[int, int]:
    """Returns (height, width) of one whole number, of two, or of a text like "48x64".

    Raises:
        errors.UserError: anything else.
    """
    if isinstance(size, str):
        return validation.parse_size(size, "image_size")
    sides: Any = size if isinstance(size, Sequence | np.ndarray) else (size,)
    whole = [isinstance(s, numbers.Integral) and not isinstance(s, bool) for s in sides]
    if len(whole) not in (1, 2) or not all(whole):
        raise errors.UserError(
            f"{str(size)[:60]!r} is no size: want one whole number or height and "
            'width, as in 48, (48, 64) or "48x64".'
        )
    return int(sides[0]), int(sides[-1])


def size_text(size: tuple[int, int]) -> str:
    """Returns "HxW" of (H, W)."""
    return f"{size[0]}x{size[1]}"
