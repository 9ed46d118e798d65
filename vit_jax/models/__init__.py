"""Models: sizes and names, the NNX modules, and their parameters as plain dicts."""

from typing import TYPE_CHECKING, Any

from vit_jax.models.architecture import Architecture, pair, size_text, summary
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

if TYPE_CHECKING:
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

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Loads what is of one family when it is asked for."""
        if name == "SIZES":
            from vit_jax.models.variants import SIZES as found
        elif name == "VisionTransformer":
            from vit_jax.models.vit import VisionTransformer as found
        elif name == "VitArchitecture":
            from vit_jax.models.vit_architecture import VitArchitecture as found
        else:
            raise AttributeError(f"module 'vit_jax.models' has no attribute {name!r}")
        return found
