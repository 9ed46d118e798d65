"""The table of model families: from a name to an `Architecture`, and to its module."""

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vit_jax import errors
from vit_jax.models import roles
from vit_jax.models.architecture import Architecture, Family, pair

if TYPE_CHECKING:
    from vit_jax.models.model import Model


def _vit() -> "Family[Model]":
    from vit_jax.models import vit

    return vit.FAMILY


def _mixer() -> "Family[Model]":
    from vit_jax.models import mixer

    return mixer.FAMILY


def _bit() -> "Family[Model]":
    from vit_jax.models import bit

    return bit.FAMILY


def _axial_resnet() -> "Family[Model]":
    from vit_jax.models import axial_resnet

    return axial_resnet.FAMILY


@dataclasses.dataclass(frozen=True)
class Row:
    """Where a family is.

    Attributes:
        prefix: What its names start with.
        load: Imports the family's module: the first model of it pays for that.
    """

    prefix: str
    load: "Callable[[], Family[Model]]"


# A name belongs to the last family whose prefix it starts with.
FAMILIES: dict[str, Row] = {
    "vit": Row("", _vit),
    "mixer": Row("Mixer-", _mixer),
    "bit": Row("BiT-", _bit),
    "axial_resnet": Row("AxialResNet", _axial_resnet),
}


def architecture(
    name: str,
    *,
    num_classes: int,
    image_size: int | tuple[int, int] = 224,
    **options: Any,
) -> Architecture:
    """Returns the architecture of a name such as "B/16", "R50+L/32" or "Mixer-B/16".

    Args:
        name: For a ViT a size of `variants.SIZES`, a slash and the patch ("16", or
            "16x8": height x width); before the size "R50+" and the like for a hybrid,
            "Axial-" for axial attention. Other families: see `list_names`.
        num_classes: Outputs of the head; 0: none, the model returns features.
        image_size: Pixels, one number or (height, width).
        **options: Any field of the family's architecture. 0 for width, depth,
            mlp_width or heads means the name's. Fields that only a ViT has are
            accepted by other families at the values that a ViT has by default.

    Raises:
        errors.UserError: unknown name, size or option, or an image that the patches do
            not divide.
    """
    family = family_of_name(name)
    fields = _parsed(family, name) | _given(family, name, options)
    if "patch" in fields:
        fields["patch"] = pair(fields["patch"])
    return family.architecture(
        **{"name": name, **fields},
        image_size=pair(image_size),
        num_classes=num_classes,
    )


def _fields(family: Family) -> dict[str, dataclasses.Field]:
    """Returns the fields that an option can name: the family's, and those of a ViT.

    Configurations have the options of a ViT for all families.
    """
    classes = (named("vit").architecture, family.architecture)
    return {own.name: own for cls in classes for own in dataclasses.fields(cls)}


def chosen(family: Family, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that do not leave it to the name or the model."""
    unset = {key: roles.told(own).unset for key, own in _fields(family).items()}
    return {
        key: value
        for key, value in options.items()
        if key not in unset or value != unset[key]
    }


def decided_by_run(arch: Architecture) -> tuple[str, ...]:
    """Returns the options that a run decides, of a model whose weights are given."""
    roles_of = {k: roles.told(own).role for k, own in _fields(family_of(arch)).items()}
    return tuple(k for k, role in roles_of.items() if role in (roles.RUN, roles.TASK))


def _parsed(family: Family, name: str) -> dict[str, Any]:
    """The fields of a name; of one that another code has, the error says ours."""
    try:
        return family.parse(name)
    except errors.UserError:
        from vit_jax.models import names

        if advice := names.advice(name):
            raise errors.UserError(advice) from None
        raise


def with_options(arch: Architecture, options: Mapping[str, Any]) -> Architecture:
    """Returns a copy with options as `architecture` takes them."""
    return arch.replace(**_given(family_of(arch), arch.name, options))


def _given(family: Family, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that options set: not those that stay as the name or a ViT has them.

    Raises:
        errors.UserError: an option that this family does not have.
    """
    own = {f.name: f for f in dataclasses.fields(family.architecture)}
    known = _fields(family)
    fields = {}
    for key, value in chosen(family, options).items():
        if key not in own and key in known:
            neutral = known[key].default
            if roles.told(known[key]).harmless or value == neutral:
                continue
            leave = f"leave it at {neutral!r}"
            if neutral is dataclasses.MISSING:
                leave = "leave it out"
            raise errors.UserError(f"{name} has no option {key}={value!r}; {leave}.")
        errors.lookup(own, key, "model option")
        fields[key] = tuple(value) if isinstance(value, list | tuple) else value
    return fields


def named(family: str) -> "Family[Model]":
    """Returns the family of a key of `FAMILIES`.

    Raises:
        errors.UserError: there is none.
    """
    return errors.lookup(FAMILIES, family, "family of models").load()


def family_of_name(name: str) -> "Family[Model]":
    """Returns the family that a model's name belongs to."""
    rows = reversed(FAMILIES.values())
    return next(row for row in rows if name.startswith(row.prefix)).load()


def family_of(arch: Architecture) -> "Family[Model]":
    """Returns the family of an architecture."""
    return named(arch.family)


def from_dict(values: Mapping[str, Any]) -> Architecture:
    """Inverts `Architecture.to_dict`; refuses unknown and missing keys.

    Raises:
        errors.UserError: an unknown family or key, a missing one, or values that do
            not fit together.
    """
    fields = dict(values)
    name = fields.pop("family", "vit")  # the first checkpoints knew no other
    return named(name).architecture.from_dict(fields)


def forward_macs(arch: Architecture) -> int:
    """Multiply-adds of one image's forward pass; a train step's FLOPs are 6 times it.

    Matrix products and convolutions only, as the paper's exaFLOPs count them.
    """
    return family_of(arch).macs(arch)


def list_names(pattern: str = "*") -> list[str]:
    """Returns the named models that match a shell pattern, e.g. "R50*".

    Any other patch size works too: "B/20", "S/16x8".
    """
    names = [name for row in FAMILIES.values() for name in row.load().names]
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]
