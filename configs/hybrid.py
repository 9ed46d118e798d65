"""Hybrids of the paper: `configs/hybrid.py:R50+B/16[,i1k|i21k|jft]`.

The rows on JFT are Table 3's. i1k and i21k are extrapolations, which the log says:
pre-trained exactly as the ViT counterpart (appendix B.1), whose rows the table has.
"""

from ml_collections import ConfigDict

from configs import pretrain

MODELS = tuple(name for name in pretrain.JFT if name.startswith("R50+"))


def get_config(arguments: str | None = None) -> ConfigDict:
    """Returns the recipe for "MODEL" or "MODEL,DATASET"."""
    return pretrain.recipe(*pretrain.arguments(arguments, "R50+B/16", MODELS))
