"""FlexiViT (arXiv 2212.08013) on ImageNet-21k: `configs/flexivit.py[:S|B|L|TEACHER]`.

One model for sequences of 5 x 5 to 30 x 30 patches of a 240 px image: each step draws
a patch of 8 to 48 pixels and resizes kernel and positions to it. Afterwards
`vit_jax.load(PATH, patch=12, posemb_resample="centers")` is the model at that size;
evaluations while training are at the size of the weights. Values are those of
big_vision's proj/flexivit/i21k_sup.py, the decay in our convention. TEACHER is a
checkpoint with a head for the classes: as the paper's own models, the student starts
from it and at each size learns its probabilities of the same mixed crop; values of
i21k_distill.py there. Inferred, or other here: the weights are those of patches of 16
and of 15 x 15 positions, or the teacher's (theirs: 32 pixels and 7 x 7 positions in the
paper, 8 pixels in these files); the augmentation of S and L is B's; the teacher sees
the student's 240 pixels (theirs: 224). Nobody has trained either here.
"""

from ml_collections import ConfigDict

from configs import augreg, pretrain

PATCHES = (48, 40, 30, 24, 20, 16, 15, 12, 10, 8)


def get_config(size: str | None = None) -> ConfigDict:
    """Returns the recipe for "S", "B" (default), "L", or the path of a teacher."""
    size = size or "B"
    config = pretrain.on("i21k")
    augreg.big_vision(config)
    config.objective = "flexible"
    config.flexible.patches = PATCHES
    config.total = "90 epochs"
    config.batch_size = 4096
    config.model.image_size = (240, 240)
    config.model.unroll = 1  # ten programs in one: compiling them is what takes time
    config.data.eval.resize = 272  # 240 // 7 * 8
    if size in ("S", "B", "L"):
        config.model.name = f"{size}/16"
        config.model.pre_logits = False
        config.data.train.auto_augment = "randaug(2,10)"
        config.data.mix.mixup = 0.2
        return config
    config.init_from = config.distill.teacher = size
    config.keep_head = True
    config.loss = "softmax"
    config.model.name = "checkpoint"
    config.data.mix.mixup = 1.0
    config.optimizer.lr = 1e-4
    config.optimizer.warmup = "5000 steps"
    return config
