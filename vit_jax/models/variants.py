"""The sizes and names of the ViT family.

Sources: the ViT paper's Table 1, section 4.1 and appendices D.3 to D.6, and the
released code of google-research/vision_transformer; mu, M, So400m, g, G, e, g-opt and
G-opt are big_vision's.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from vit_jax import errors


@dataclasses.dataclass(frozen=True)
class Size:
    """Width (D), blocks, MLP width and heads of an encoder."""

    width: int
    depth: int
    mlp_width: int
    heads: int


SIZES: dict[str, Size] = {
    "mu": Size(32, 1, 128, 2),
    "Ti": Size(192, 12, 768, 3),
    "S": Size(384, 12, 1536, 6),
    # The paper's Figure 4: B with the hidden dimensions halved. It does not give the
    # head count; 6 keeps B's 64 dimensions a head.
    "b": Size(384, 12, 1536, 6),
    "M": Size(512, 12, 2048, 8),
    "B": Size(768, 12, 3072, 12),
    "L": Size(1024, 24, 4096, 16),
    "So400m": Size(1152, 27, 4304, 16),
    "H": Size(1280, 32, 5120, 16),
    "g": Size(1408, 40, 6144, 16),
    "g-opt": Size(1536, 40, 6144, 16),
    "G": Size(1664, 48, 8192, 16),
    "G-opt": Size(1536, 48, 8192, 16),
    "e": Size(1792, 56, 15360, 16),
}

# Field -> the largest number of it that a program can be made with, and some more.
LIMITS: dict[str, int] = {
    **{"image_size": 2**14, "patch": 2**14, "width": 2**17, "mlp_width": 2**19},
    **{"depth": 2**11, "heads": 2**11, "unroll": 2**11, "registers": 2**12},
    **{"prefix_positions": 2**13, "attention_window": 2**14},
    **{"resnet": 2**8, "resnet_width": 2**13},
}

# (ResNet, total downsampling in the name) -> (units a stage, patch on the feature map).
# "R+Ti/16" is the published name although its total downsampling is 32.
RESNETS: dict[str, tuple[tuple[int, ...], int]] = {
    "R/16": ((), 8),
    "R26/32": ((2, 2, 2, 2), 1),
    "R50/16": ((3, 4, 9), 1),
    "R50/32": ((3, 4, 6, 3), 1),
}

NAMES: tuple[str, ...] = (
    *("mu/16", "Ti/16", "S/16", "S/32", "b/32", "M/16", "M/32"),
    *("B/8", "B/16", "B/32", "L/16", "L/32", "So400m/14", "H/14"),
    *("g/14", "g-opt/14", "G/14", "G-opt/14", "e/14"),
    *("R+Ti/16", "R26+S/32", "R26+B/32"),
    *("R50+B/16", "R50+B/32", "R50+L/16", "R50+L/32"),
    *("Axial-B/16", "Axial-B/32"),
)


def parse(name: str) -> dict[str, Any]:
    """Returns the fields that a name such as "B/16", "Ti/4x8" or "R50+L/32" gives.

    Raises:
        errors.UserError: not such a name, or an unknown size or ResNet.
    """
    pattern = r"(?:(R\d{0,4})\+|(Axial)-)?([A-Za-z0-9-]+)/(\d{1,5})(?:x(\d{1,5}))?"
    found = re.fullmatch(pattern, name)
    if not found:
        raise errors.UserError(
            f"model {name!r} is not SIZE/PATCH such as 'B/16', 'Ti/4x8' or 'R50+B/16'."
            + errors.suggest(name, NAMES)
        )
    resnet, axial, size, height, width = found.groups()
    fields = dataclasses.asdict(errors.lookup(SIZES, size, "model size"))
    fields["patch"] = (int(height), int(width or height))
    if axial:
        fields |= {"block": "axial", "pool": "mean"}
    if resnet:
        key = f"{resnet}/{height}" + (f"x{width}" if width else "")
        fields["resnet"], fields["patch"] = errors.lookup(RESNETS, key, "hybrid ResNet")
    return fields


def name_of(fields: Mapping[str, Any]) -> str:
    """Returns the name of the size, ResNet and patch among an architecture's fields.

    "custom/16" where the table has no such size, "custom+B/1" no such ResNet.
    """
    dimensions = (fields[f.name] for f in dataclasses.fields(Size))
    wanted = Size(*dimensions)
    size = next((name for name, size in SIZES.items() if size == wanted), "custom")
    height, width = fields["patch"]
    patch = str(height) if height == width else f"{height}x{width}"
    axial = "Axial-" if "block" in fields and fields["block"] == "axial" else ""
    if fields["resnet"] is None:
        return f"{axial}{size}/{patch}"
    for key, (units, cells) in RESNETS.items():
        if units == fields["resnet"] and (height, width) == (cells, cells):
            resnet, total = key.split("/")
            return f"{resnet}+{size}/{total}"
    return f"custom+{size}/{patch}"
