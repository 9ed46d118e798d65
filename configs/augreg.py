"""AugReg (arXiv 2106.10270): `configs/augreg.py:MODEL[,i1k|i21k[,LEVEL]]`.

MODEL is Ti/16, S/32, S/16, B/32, B/16, L/16 or a hybrid, R+Ti/16, R26+S/32, R50+L/32;
LEVEL one of the paper's seven levels of augmentation, else the one that its authors'
code has for the model and the dataset.
Values are those of big_vision's vit_i1k.py and vit_i21k.py, each compared with them,
the decay in our convention (0.1 at a rate of 1e-3 is 1e-4 there). Those have no dropout
and no stochastic depth, which the paper adds at 0.1 each for some of its points:
--config.model.dropout=0.1 --config.model.drop_path=0.1. Of hybrids there are no
recipes: on i21k level, decay, dropout and stochastic depth are those of the checkpoints
that the README of google-research/vision_transformer recommends (timm has others of the
same sweep). Inferred: the split of i21k, `full` there, is our `train`; hybrids on i1k
have the level of the ViT they are compared with, and on i21k the ViTs' pooling.
"""

from ml_collections import ConfigDict

from configs import base, pretrain

# Level: operations and their level of RandAugment, p of Mixup.
LEVELS = {
    "none": ("", 0.0),
    "light1": ("randaug(2,0)", 0.0),
    "light2": ("randaug(2,10)", 0.2),
    "medium1": ("randaug(2,15)", 0.2),
    "medium2": ("randaug(2,15)", 0.5),
    "strong1": ("randaug(2,20)", 0.5),
    "strong2": ("randaug(2,20)", 0.8),
}
DEFAULTS = {
    "i1k": {
        **{"Ti/16": "light1", "S/32": "medium1", "S/16": "medium2"},
        **{"B/32": "medium2", "B/16": "medium2", "L/16": "medium2"},
        **{"R+Ti/16": "light1", "R26+S/32": "medium1", "R50+L/32": "medium2"},
    },
    "i21k": {
        **{"Ti/16": "none", "S/32": "none", "S/16": "light1"},
        **{"B/32": "light2", "B/16": "light2", "L/16": "medium2"},
        **{"R+Ti/16": "none", "R26+S/32": "light1", "R50+L/32": "medium1"},
    },
}
# On i21k: weight decay; dropout, which is stochastic depth too.
HYBRIDS = {"R+Ti/16": (0.03, 0.0), "R26+S/32": (0.1, 0.0), "R50+L/32": (0.1, 0.1)}


def get_config(arguments: str | None = None) -> ConfigDict:
    """Returns the recipe for "MODEL[,i1k|i21k[,LEVEL]]"."""
    model, dataset, level, *more = [*(arguments or "B/16").split(","), "", ""][:4]
    dataset = dataset or "i1k"
    pretrain.choose("dataset of AugReg", dataset, DEFAULTS)
    pretrain.choose("model of AugReg", model, DEFAULTS[dataset])
    level = level or DEFAULTS[dataset][model]
    pretrain.choose("level of augmentation", level, LEVELS)
    if any(more):
        raise ValueError(f"{arguments!r}: want MODEL[,i1k|i21k[,LEVEL]]")
    config = pretrain.on(dataset)
    big_vision(config)
    config.total = "300 epochs"
    config.batch_size = 4096
    config.model.name = model
    config.data.train.auto_augment, config.data.mix.mixup = LEVELS[level]
    if dataset == "i1k":
        config.model.head_bias = -6.9
    else:
        config.model.pool = "mean"
        config.model.pre_logits = False
        if model in HYBRIDS:
            config.optimizer.weight_decay, config.model.dropout = HYBRIDS[model]
            config.model.drop_path = config.model.dropout
    return config


def big_vision(config: ConfigDict) -> None:
    """Sets what big_vision's recipes of ViTs have in common."""
    config.model.posemb_std = 0.0
    config.optimizer.lr = 1e-3
    config.optimizer.weight_decay = 0.1
    config.optimizer.decay = "kernels"
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "10_000 steps"
    config.optimizer.clip_norm = 1.0
    config.optimizer.accumulator_dtype = "bfloat16"
    if config.data.dataset == "imagenet2012":
        config.data.train_split = "train[:99%]"
        held_back = base.classify("train[99%:]")
        base.add_evals(config, minival=held_back)
