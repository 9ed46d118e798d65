"""Models: sizes and names, the NNX module, and its parameters as plain dicts."""

from vit_jax.models.build import abstract, count_parameters, create, merge, split
from vit_jax.models.variants import SIZES, Architecture, architecture, list_names
from vit_jax.models.vit import VisionTransformer, forward_macs

__all__ = [
    "SIZES",
    "Architecture",
    "VisionTransformer",
    "abstract",
    "architecture",
    "count_parameters",
    "create",
    "forward_macs",
    "list_names",
    "merge",
    "split",
]
