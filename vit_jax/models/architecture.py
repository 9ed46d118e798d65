"""What families of models say of themselves: `Family`, and its `Architecture`."""

import dataclasses
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from flax import nnx

from vit_jax import errors
from vit_jax.models.roles import RUN, TASK, UNTOLD, role
from vit_jax.settings import validation

MOST = 2**24  # of any number of an architecture: no model has more of anything
COMPUTE_DTYPES = ("float32", "bfloat16")
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

    Each family of models has a subclass with its own fields, and each field says what
    it is to weights and to a run (`roles`). What callers ask of models of any family is
    here: where a family has no field or property of that name, what stands for it.
    Hashable: compiled functions and abstract parameters are cached by it.

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
    # Field -> the largest number that it takes; of others `MOST`.
    LIMITS: ClassVar[dict[str, int]] = {}

    # Of a family without such fields: one block, no heads to tell apart, nothing that
    # is computed again, no loop, no rest of an image, no table of positions.
    depth = 1
    heads = 1
    remat = "none"
    unroll = 0
    crop = "error"
    posemb = "none"
    posemb_resample = "auto"

    name: str = field(metadata=role(UNTOLD))
    image_size: tuple[int, int] = field(metadata=role(RUN))
    num_classes: int = field(metadata=role(TASK))
    channels: int = 3
    head_bias: float = field(default=0.0, metadata=role(RUN))
    compute_dtype: str = field(default="float32", metadata=role(RUN))

    def __post_init__(self) -> None:
        object.__setattr__(self, "compute_dtype", dtype_name(self.compute_dtype))
        self._check_types()
        choices = {"compute_dtype": COMPUTE_DTYPES, **self.CHOICES}
        for name, known in choices.items():
            errors.lookup(dict.fromkeys(known), getattr(self, name), name)
        self.check_pair("image_size")
        self.check_least(0, "num_classes")
        self.check_least(1, "channels")

    def _check_types(self) -> None:
        """Takes numpy's numbers as ours; raises for any other type."""
        for own in dataclasses.fields(self):
            value = getattr(self, own.name)
            if isinstance(value, np.generic):
                value = value.item()
            if own.type is float and type(value) is int:
                value = float(value)
            if value is not getattr(self, own.name):
                object.__setattr__(self, own.name, value)
            if own.type in WANTED and type(value) is not own.type:
                raise errors.UserError(
                    f"{own.name}={value!r} is a {type(value).__name__}; want "
                    f"{WANTED[own.type]}."
                )
            self._check_size(own.name, value)

    def _check_size(self, name: str, value: Any) -> None:
        """Raises `UserError` for a number that no program could be made with."""
        most = self.LIMITS.get(name, MOST)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not abs(number) <= most:
                raise errors.UserError(f"{name}={value!r}; want at most {most:,}.")

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches, or of cells of the last feature map."""
        raise NotImplementedError

    @property
    def tokens(self) -> int:
        """Length of the encoder's sequence; 0: there is none."""
        return 0

    @property
    def strides(self) -> tuple[int, int]:
        """(height, width) in pixels that an image must be a whole number of."""
        return 1, 1

    @property
    def pre_logits_width(self) -> int:
        """Outputs of the layer before the head; 0 without one."""
        return 0

    @property
    def feature_width(self) -> int:
        """Width of what feeds the head."""
        raise NotImplementedError

    def check_pair(self, name: str) -> None:
        """Raises `UserError` unless a field is (height, width), both positive."""
        value = getattr(self, name)
        whole = isinstance(value, tuple) and all(type(side) is int for side in value)
        if not whole or len(value) != 2 or min(value) < 1:
            raise errors.UserError(
                f"{name}={value} must be two positive numbers: (height, width)."
            )

    def check_least(self, least: float, *names: str) -> None:
        """Raises `UserError` unless the fields are `least` or more."""
        for name in names:
            if getattr(self, name) < least:
                raise errors.UserError(
                    f"{name}={getattr(self, name)} must be at least {least}."
                )

    def check_rates(self, *names: str) -> None:
        """Raises `UserError` unless the fields are in [0, 1)."""
        for name in names:
            if not 0 <= getattr(self, name) < 1:
                raise errors.UserError(
                    f"{name}={getattr(self, name)} must be in [0, 1)."
                )

    def values(self) -> dict[str, Any]:
        """Returns the fields by name."""
        return {own.name: getattr(self, own.name) for own in dataclasses.fields(self)}

    def replace(self, **changes: Any) -> Self:
        """Returns a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def replace_known(self, **changes: Any) -> Self:
        """Returns a copy with the changes that are of fields of this family."""
        known = {own.name for own in dataclasses.fields(self)}
        return self.replace(**{k: v for k, v in changes.items() if k in known})

    def to_dict(self) -> dict[str, Any]:
        """Returns what JSON can hold and `families.from_dict` takes back."""
        fields = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in self.values().items()
        }
        return {"family": self.family, **fields}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverts `to_dict` for one family; refuses unknown and missing keys."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for key in values:
            errors.lookup(fields, key, "architecture key")
        missing = [
            name
            for name, own in fields.items()
            if own.default is dataclasses.MISSING and name not in values
        ]
        if missing:
            raise errors.UserError(f"architecture: no value for {', '.join(missing)}.")
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list | tuple) else value
            for key, value in values.items()
        }
        return cls(**given)


M_co = TypeVar("M_co", bound=nnx.Module, covariant=True)


@dataclasses.dataclass(frozen=True)
class Family(Generic[M_co]):
    """Models of one kind.

    Attributes:
        architecture: Its subclass of `Architecture`.
        module: The NNX module, made as `module(architecture, rngs=rngs)`.
        macs: Multiply-adds of one image's forward pass.
        parse: From a name to fields of the architecture.
        names: The published ones.
    """

    architecture: type[Architecture]
    module: Callable[..., M_co]
    macs: Callable[[Any], int]
    parse: Callable[[str], dict[str, Any]]
    names: tuple[str, ...]


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


def summary(arch: Architecture) -> str:
    """Returns name, image size and outputs of an architecture."""
    outputs = f"{arch.num_classes:,} classes" if arch.num_classes else "features"
    return f"{arch.name}, {size_text(arch.image_size)} pixels, {outputs}"
