"""FlexiViT (arXiv 2212.08013) on ImageNet-21k: `configs/flexivit.py[:S|B|L]`.

One model for sequences of 5 x 5 to 30 x 30 patches of a 240 px image: each step draws
a patch of 8 to 48 pixels and resizes kernel and positions to it. Afterwards
`vit_jax.load(PATH, patch=12, posemb_resample="centers")` is the model at that size;
evaluations while training are at 16. Values of big_vision's proj/flexivit/i21k_sup.py,
the decay in our convention. Inferred, or other here: the weights are those of patches
of 16 and of 15 x 15 positions (theirs: 32 pixels in the paper, 8 in that file, and
7 x 7), and the augmentation of S and L is B's. The paper's own models are distilled,
which this is not. Nobody has trained it here.
"""

from ml_collections import ConfigDict

from configs import augreg, pretrain

PATCHES = (48, 40, 30, 24, 20, 16, 15, 12, 10, 8)


def get_config(size: str | None = None) -> ConfigDict:
    """Returns the recipe for "S", "B" (default) or "L"."""
    size = size or "B"
    pretrain.choose("size of FlexiViT", size, ("S", "B", "L"))
    config = pretrain.on("i21k")
    augreg.big_vision(config)
    config.objective = "flexible"
    config.flexible.patches = PATCHES
    config.total = "90 epochs"
    config.batch_size = 4096
    config.model.name = f"{size}/16"
    config.model.image_size = (240, 240)
    config.model.pre_logits = False
    config.model.unroll = 1  # ten programs in one: compiling them is what takes time
    config.data.eval.resize = 272  # 240 // 7 * 8
    config.data.train.auto_augment = "randaug(2,10)"
    config.data.mix.mixup = 0.2
    return config
