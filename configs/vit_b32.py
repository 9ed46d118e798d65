"""ViT-B/32 pre-training, paper Table 3: `:i1k` (default), `:i21k` or `:jft`."""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(dataset: str | None = None) -> ConfigDict:
    """Returns the recipe for a pre-training dataset."""
    return pretrain.recipe("B/32", dataset)
