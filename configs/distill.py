"""Distillation on ImageNet-1k: `configs/distill.py:TEACHER[,MODEL][,deit]`.

TEACHER is a checkpoint with a head for the 1,000 classes, as `vit_jax.load` takes it.
FunMatch (arXiv 2106.05237): MODEL, BiT-R50x1 unless said, sees the same crop as its
teacher, mixed by a weight that may be any, and learns its probabilities for 1,200
epochs; values of big_vision's proj/distill/bit_i1k.py, the decay in our convention
(0.01 at a rate of 0.03 is 3e-4 there). `deit` is the distilled DeiT (arXiv 2012.12877):
the recipe of `configs/deit.py` with a second token and head, which learn the teacher's
best class for half of the loss; values of its authors' main.py. Inferred: FunMatch's
teacher sees the crop at the student's size. Nobody has trained either here.
"""

from ml_collections import ConfigDict

from configs import augreg, deit, pretrain


def get_config(arguments: str | None = None) -> ConfigDict:
    """Returns the recipe for "TEACHER[,MODEL][,deit]"."""
    teacher, *words = (arguments or "").split(",")
    hard = words[-1:] == ["deit"]
    models = words[:-1] if hard else words
    if not teacher or len(models) > 1:
        raise ValueError(f"{arguments!r}: want TEACHER[,MODEL][,deit]")
    config = _deit(*models) if hard else _funmatch(*models)
    config.objective = "distillation"
    config.distill.teacher = teacher
    return config


def _deit(model: str = "B/16") -> ConfigDict:
    config = deit.get_config(model)
    config.model.pool = "distilled"
    config.model.registers = 1
    config.model.prefix_positions = 2
    config.distill.kind = "hard"
    config.distill.share = 0.5
    return config


def _funmatch(model: str = "BiT-R50x1") -> ConfigDict:
    config = pretrain.on("i1k")
    augreg.big_vision(config)
    config.total = "1200 epochs"
    config.batch_size = 4096
    config.loss = "softmax"
    config.model.name = model
    config.model.head_bias = 0.0
    config.model.pre_logits = False
    if model.startswith("BiT-"):
        config.model.posemb_std = 0.02  # it has no positions
    config.data.train_split = "train[:98%]"
    config.data.mix.mixup = 1.0
    config.optimizer.lr = 0.03
    config.optimizer.weight_decay = 0.01
    config.optimizer.warmup = "5000 steps"
    return config
