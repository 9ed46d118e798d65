"""Names of BiT ResNets: the published TensorFlow dumps and big_vision's two models.

The published `BiT-*.npz` (google-research/big_transfer) and big_vision's `bit_paper`
are the pre-activation form, big_vision's `bit` the post-activation one. The first two
differ in what the root's max pooling sees around its input: zeros in the code that
trained the published files, nothing in big_vision's, which reads them nevertheless.
"""

import re
from collections.abc import Mapping

import numpy as np

from vit_jax import errors
from vit_jax.models import bit
from vit_jax.models.architecture import pair
from vit_jax.weights.dialect import Dialect
from vit_jax.weights.rules import Rule, Sizes

IMAGE_SIZE = 224  # of pre-training; no tensor depends on it


def _flat(array: np.ndarray, sizes: Sizes) -> np.ndarray:
    return array.reshape(-1) if array.shape[:-1] == (1, 1, 1) else array


def _with_axes(array: np.ndarray, sizes: Sizes) -> np.ndarray:
    return array.reshape(1, 1, 1, -1)


def _from_conv(array: np.ndarray, sizes: Sizes) -> np.ndarray:
    return array[0, 0]


def _to_conv(array: np.ndarray, sizes: Sizes) -> np.ndarray:
    return array[None, None]


_UNIT = "stage{stage}/unit{unit}"
_PAPER_UNIT = "block{stage}/unit{unit:02}"
_AXES = {"load": _flat, "save": _with_axes}

# big_vision's `bit_paper`.
PRE = (
    Rule("root/conv/kernel", "root_block/conv_root/kernel"),
    Rule(f"{_UNIT}/conv{{i}}/kernel", f"{_PAPER_UNIT}/conv{{i}}/kernel"),
    Rule(f"{_UNIT}/norm{{i}}/{{leaf}}", f"{_PAPER_UNIT}/gn{{i}}/{{leaf}}", **_AXES),
    Rule(f"{_UNIT}/conv_proj/kernel", f"{_PAPER_UNIT}/conv_proj/kernel"),
    Rule("norm/{leaf}", "norm-pre-head/{leaf}", **_AXES),
    Rule("head/{leaf}", "head/{leaf}"),
)

# big_vision's `bit`; its first files have GroupNorms with four axes.
POST = (
    Rule("root/conv/kernel", "conv_root/kernel"),
    Rule("root/norm/{leaf}", "gn_root/{leaf}", load=_flat),
    Rule(f"{_UNIT}/conv{{i}}/kernel", "block{stage}/unit{unit}/conv{i}/kernel"),
    Rule(
        f"{_UNIT}/norm{{i}}/{{leaf}}",
        "block{stage}/unit{unit}/gn{i}/{leaf}",
        load=_flat,
    ),
    Rule(f"{_UNIT}/conv_proj/kernel", "block{stage}/unit{unit}/conv_proj/kernel"),
    Rule(
        f"{_UNIT}/norm_proj/{{leaf}}",
        "block{stage}/unit{unit}/gn_proj/{leaf}",
        load=_flat,
    ),
    Rule("head/{leaf}", "head/{leaf}"),
)


def _dumped_norm(ours: str, theirs: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{ours}/scale", f"{theirs}/group_norm/gamma"),
        Rule(f"{ours}/bias", f"{theirs}/group_norm/beta"),
    )


def _dumped_conv(ours: str, theirs: str) -> tuple[Rule, ...]:
    """A convolution, which some files number."""
    name = f"{theirs}/standardized_conv2d"
    return (
        Rule(f"{ours}/kernel", f"{name}/kernel"),
        Rule(f"{ours}/kernel", f"{name}_{{number}}/kernel"),
    )


_DUMPED_UNIT = f"resnet/{_PAPER_UNIT}"
PRE_DUMP = (
    *_dumped_conv("root/conv", "resnet/root_block"),
    *_dumped_conv(f"{_UNIT}/conv1", f"{_DUMPED_UNIT}/a"),
    *_dumped_conv(f"{_UNIT}/conv2", f"{_DUMPED_UNIT}/b"),
    *_dumped_conv(f"{_UNIT}/conv3", f"{_DUMPED_UNIT}/c"),
    *_dumped_conv(f"{_UNIT}/conv_proj", f"{_DUMPED_UNIT}/a/proj"),
    *_dumped_norm(f"{_UNIT}/norm1", f"{_DUMPED_UNIT}/a"),
    *_dumped_norm(f"{_UNIT}/norm2", f"{_DUMPED_UNIT}/b"),
    *_dumped_norm(f"{_UNIT}/norm3", f"{_DUMPED_UNIT}/c"),
    *_dumped_norm("norm", "resnet"),
    Rule("head/kernel", "resnet/head/conv2d/kernel", _from_conv, _to_conv),
    Rule("head/bias", "resnet/head/conv2d/bias"),
)

# A hybrid's file also has a `conv_root/kernel`: its dialects must come before "bit".
DIALECTS: dict[str, Dialect] = {
    "bit_dump": Dialect(
        PRE_DUMP,
        r"resnet/root_block/standardized_conv2d(_\d+)?/kernel",
        family="bit",
        fields={"pool_padding": "zero"},
        containers=("npz",),
    ),
    "bit_paper": Dialect(
        PRE,
        r"root_block/conv_root/kernel",
        family="bit",
        fields={"pool_padding": "lowest"},
        prefix="params/",
    ),
    "bit": Dialect(POST, r"conv_root/kernel", family="bit", prefix="params/"),
}


def infer(
    shapes: Mapping[str, tuple[int, ...]],
    image_size: int | tuple[int, int] | None = None,
) -> bit.BitArchitecture:
    """Returns the architecture that the shapes of our named leaves imply.

    Args:
        shapes: Of a BiT ResNet's leaves.
        image_size: No tensor shows it: 224 where it is None.

    Raises:
        errors.UserError: leaves that every BiT ResNet has are missing or misshapen.
    """
    root, head = "root/conv/kernel", "head/kernel"
    for name, axes in ((root, 4), (head, 2)):
        if name in shapes and (len(shapes[name]) != axes or 0 in shapes[name]):
            raise errors.UserError(
                f"{name} has shape {shapes[name]}; want {axes} axes, none empty."
            )
    units = _units(shapes)
    if root not in shapes or not units:
        missing = root if root not in shapes else "stage1/unit1/conv1/kernel"
        raise errors.UserError(f"has no tensor for our leaf {missing!r}.")
    factor = shapes[root][3] / 64
    width = int(factor) if factor.is_integer() else factor
    form = "post" if "root/norm/scale" in shapes else "pre"
    return bit.BitArchitecture(
        name=bit.name_of(units, width, form),
        image_size=pair(image_size or IMAGE_SIZE),
        num_classes=shapes[head][1] if head in shapes else 0,
        channels=shapes[root][2],
        units=units,
        width=width,
        form=form,
    )


def _units(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """How many units each stage has among the names.

    Names with gaps do not fit the architecture that this gives, which is found when
    they are compared.
    """
    found = (re.match(r"stage(\d+)/(unit\d+)/", name) for name in shapes)
    units = {(int(match[1]), match[2]) for match in found if match}
    stages = [stage for stage, _ in units]
    return tuple(stages.count(stage) for stage in sorted(set(stages)))
