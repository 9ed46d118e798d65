"""Hybrids of the paper: `configs/hybrid.py:R50+B/16[,i1k|i21k|jft]`.

Pre-trained exactly as the ViT counterpart (Table 3 and appendix B.1).
"""

from ml_collections import ConfigDict

from configs import pretrain

MODELS = tuple(name for name in pretrain.JFT if name.startswith("R50+"))


def get_config(arguments: str | None = None) -> ConfigDict:
    """Returns the recipe for "MODEL" or "MODEL,DATASET"."""
    return pretrain.recipe(*pretrain.arguments(arguments, "R50+B/16", MODELS))
