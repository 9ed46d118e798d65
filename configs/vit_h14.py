"""ViT-H/14 pre-training, paper Table 3: `:i1k` (default), `:i21k` or `:jft`.

The table has no row of H/14 on ImageNet-21k: `:i21k` extrapolates L/16's, and says so.
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(dataset: str | None = None) -> ConfigDict:
    """Returns the recipe for a pre-training dataset."""
    return pretrain.recipe("H/14", dataset)
