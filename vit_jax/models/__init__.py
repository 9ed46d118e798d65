"""Models: sizes and names, the NNX modules, and their parameters as plain dicts."""

from vit_jax.models.architecture import Architecture, pair, size_text
from vit_jax.models.build import abstract, count_parameters, create, merge, split
from vit_jax.models.families import (
    FAMILIES,
    architecture,
    decided_by_run,
    forward_macs,
    from_dict,
    list_names,
    with_options,
)
from vit_jax.models.shown import summary
from vit_jax.models.variants import SIZES
from vit_jax.models.vit import VisionTransformer
from vit_jax.models.vit_architecture import VitArchitecture

__all__ = [
    "FAMILIES",
    "SIZES",
    "Architecture",
    "VisionTransformer",
    "VitArchitecture",
    "abstract",
    "architecture",
    "size_text",
    "count_parameters",
    "create",
    "decided_by_run",
    "forward_macs",
    "from_dict",
    "list_names",
    "merge",
    "pair",
    "split",
    "summary",
    "with_options",
]
