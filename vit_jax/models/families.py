"""The table of model families: from a name to an `Architecture`, and to its module."""

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from vit_jax import errors
from vit_jax.models import axial_resnet, bit, mixer, names, roles, variants, vit
from vit_jax.models.architecture import Architecture, pair
from vit_jax.models.vit_architecture import VitArchitecture


@dataclasses.dataclass(frozen=True)
class Family:
    """Models of one kind.

    Attributes:
        architecture: Its subclass of `Architecture`.
        module: The NNX module, made as `module(architecture, rngs=rngs)`.
        macs: Multiply-adds of one image's forward pass.
        parse: From a name to fields of the architecture.
        prefix: What this family's names start with.
        names: The published ones.
    """

    architecture: type[Architecture]
    module: Callable[..., nnx.Module]
    macs: Callable[[Any], int]
    parse: Callable[[str], dict[str, Any]]
    prefix: str
    names: tuple[str, ...]


# A name belongs to the last family whose prefix it starts with.
FAMILIES: dict[str, Family] = {
    "vit": Family(
        VitArchitecture,
        vit.VisionTransformer,
        vit.forward_macs,
        variants.parse,
        "",
        variants.NAMES,
    ),
    "mixer": Family(
        mixer.MixerArchitecture,
        mixer.MlpMixer,
        mixer.forward_macs,
        mixer.parse,
        mixer.PREFIX,
        mixer.NAMES,
    ),
    "bit": Family(
        bit.BitArchitecture,
        bit.BitResNet,
        bit.forward_macs,
        bit.parse,
        bit.PREFIX,
        bit.NAMES,
    ),
    "axial_resnet": Family(
        axial_resnet.AxialResNetArchitecture,
        axial_resnet.AxialResNet,
        axial_resnet.forward_macs,
        axial_resnet.parse,
        axial_resnet.PREFIX,
        axial_resnet.NAMES,
    ),
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
    classes = (VitArchitecture, family.architecture)
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


def family_of_name(name: str) -> Family:
    """Returns the family that a name belongs to."""
    return next(f for f in reversed(FAMILIES.values()) if name.startswith(f.prefix))


def family_of(arch: Architecture) -> Family:
    """Returns the family of an architecture."""
    return FAMILIES[arch.family]


def from_dict(values: Mapping[str, Any]) -> Architecture:
    """The inverse of `Architecture.to_dict`; refuses unknown and missing keys.

    Raises:
        errors.UserError: an unknown family or key, a missing one, or values that do
            not fit together.
    """
    fields = dict(values)
    name = fields.pop("family", "vit")  # the first checkpoints knew no other
    family = errors.lookup(FAMILIES, name, "family of models")
    return family.architecture.from_dict(fields)


def forward_macs(arch: Architecture) -> int:
    """Multiply-adds of one image's forward pass; a train step's FLOPs are 6 times it.

    Matrix products and convolutions only, as the paper's exaFLOPs count them.
    """
    return family_of(arch).macs(arch)


def list_names(pattern: str = "*") -> list[str]:
    """Returns the named models that match a shell pattern, e.g. "R50*".

    Any other patch size works too: "B/20", "S/16x8".
    """
    names = [name for family in FAMILIES.values() for name in family.names]
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]
