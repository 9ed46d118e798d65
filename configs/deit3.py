"""DeiT III (arXiv 2204.07118) on ImageNet-1k: `configs/deit3.py:MODEL[,finetune]`.

The first phase is 800 epochs at a lower resolution by LAMB, with 3-Augment, binary
cross-entropy and each image three times in a batch; MODEL is S/16, B/16, L/16 or H/14.
The second, `finetune` with --config.init_from, 20 epochs at 224 px by AdamW (S/16 was
trained at 224 px and has none). Values are those of the commands in its authors' code
(facebookresearch/deit, README_revenge.md; crops, filter and jitter: augment.py), each
compared with it, and Table 2 of the paper; the fine-tuning of H/14 drops 0.55 of its
paths there. Inferred: gradients are clipped at 1, which FusedLAMB does unless told
otherwise. Other here: crops, and the ends of the rate, as `configs/deit.py` says.
"""

from ml_collections import ConfigDict

from configs import base, deit, pretrain

# Model: rate, stochastic depth in both phases, pixels of the first.
MODELS = {
    "S/16": (4e-3, 0.05, 0.05, 224),
    "B/16": (3e-3, 0.2, 0.2, 192),
    "L/16": (3e-3, 0.45, 0.45, 192),
    "H/14": (3e-3, 0.6, 0.55, 160),
}


def get_config(arguments: str | None = None) -> ConfigDict:
    """Returns the recipe for "MODEL[,finetune]"."""
    model, *phase = (arguments or "B/16").split(",")
    pretrain.choose("model of DeiT III", model, MODELS)
    if phase not in ([], ["finetune"]) or (phase and model == "S/16"):
        raise ValueError(
            f"{arguments!r}: want MODEL, or MODEL,finetune of all but S/16"
        )
    config = base.get_config()
    deit.timm(config)
    config.model.name = model
    config.model.layer_scale = 1e-4
    config.model.prefix_positions = 0
    if phase:
        _finetune(config, model)
    else:
        _first(config, model)
    config.data.eval.resize = config.model.image_size[0]  # its crop ratio is 1
    return config


def _first(config: ConfigDict, model: str) -> None:
    rate, drop_path, _, size = MODELS[model]
    config.total = "800 epochs"
    config.batch_size = 2048
    config.loss = "bce"
    config.model.image_size = (size, size)
    config.model.drop_path = drop_path
    config.data.repeats = 3
    config.data.train.auto_augment = "3a"
    config.data.train.color_jitter = (0.3,)
    config.optimizer.name = "lamb"
    config.optimizer.lr = rate
    config.optimizer.warmup = "5 epochs"
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 1.0


def _finetune(config: ConfigDict, model: str) -> None:
    config.total = "20 epochs"
    config.batch_size = 512
    config.label_smoothing = 0.1
    config.keep_head = True
    config.model.drop_path = MODELS[model][2]
    config.data.train.auto_augment = "rand-m9-mstd0.5-inc1"
    config.optimizer.lr = 1e-5
    config.optimizer.warmup = "5 epochs"
    config.optimizer.weight_decay = 0.1
