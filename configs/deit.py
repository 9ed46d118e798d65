"""DeiT (arXiv 2012.12877) on ImageNet-1k: `configs/deit.py:Ti/16|S/16|B/16`.

Values are the defaults of its authors' code (facebookresearch/deit, main.py), each
compared with it, and Table 9 of the paper: 300 epochs of AdamW at 5e-4 a 512 images,
RandAugment, Mixup, CutMix, random erasing, each image three times in a batch. Their
average of the weights is not what they report, and not here. Inferred, or other here:
crops are drawn as TensorFlow draws them (theirs: log aspect and area uniform); the rate
ends at 0 (theirs: 1e-5, held for ten epochs more) and begins at 0 (theirs: 1e-6);
matrices start as our ViTs' do (theirs: a normal distribution of 0.02). With a teacher:
`configs/distill.py`.
"""

from ml_collections import ConfigDict

from configs import base, pretrain

MEAN = (123.675, 116.28, 103.53)  # of ImageNet, as timm and torchvision have it
STD = (58.395, 57.12, 57.375)


def get_config(model: str | None = None) -> ConfigDict:
    """Returns the recipe for "Ti/16", "S/16" or "B/16" (default)."""
    model = model or "B/16"
    pretrain.choose("model of DeiT", model, ("Ti/16", "S/16", "B/16"))
    config = base.get_config()
    timm(config)
    config.total = "300 epochs"
    config.batch_size = 1024
    config.model.name = model
    config.model.drop_path = 0.1
    config.label_smoothing = 0.1
    config.data.repeats = 3
    config.data.train.auto_augment = "rand-m9-mstd0.5-inc1"
    config.data.train.erase = 0.25
    config.optimizer.lr = 1e-3
    config.optimizer.warmup = "5 epochs"
    config.optimizer.weight_decay = 0.05
    return config


def timm(config: ConfigDict) -> None:
    """Sets what DeiT, DeiT III and MAE have in common: timm's models and data."""
    config.loss = "softmax"
    config.model.gelu = "erf"
    config.model.pre_logits = False
    config.data.mean = MEAN
    config.data.std = STD
    config.data.train.transform = "inception_crop"
    config.data.train.area = (0.08, 1.0)
    config.data.train.filter = "bicubic"
    config.data.mix.form = "timm"
    config.data.mix.mixup = 0.8
    config.data.mix.cutmix = 1.0
    config.data.eval.transform = "resize_small_crop"
    config.data.eval.resize = 256
    config.data.eval.filter = "bicubic"
    config.optimizer.schedule = "cosine"
    config.optimizer.decay = "kernels"
