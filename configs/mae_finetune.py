"""Fine-tuning of MAE's encoders (arXiv 2111.06377): `configs/mae_finetune.py:B/16`.

On ImageNet-1k with --config.init_from=CHECKPOINT, a rate that falls from layer to layer
and the mean of the patches pooled before the last norm. MODEL is B/16, L/16 or H/14.
Values are those of FINETUNE.md and main_finetune.py of its authors' code
(facebookresearch/mae), each compared with it, where the rate is a base of 256 images'
times 4, and Table 9 of the paper. Inferred, or other here: as `configs/deit.py` says,
and the head's small initial values are 0. Without a checkpoint the log says so.
"""

from ml_collections import ConfigDict

from configs import base, deit, pretrain

# Model: epochs, rate at a batch of 1024, factor from layer to layer, stochastic depth.
MODELS = {
    "B/16": (100, 2e-3, 0.65, 0.1),
    "L/16": (50, 4e-3, 0.75, 0.2),
    "H/14": (50, 4e-3, 0.75, 0.3),
}


def get_config(model: str | None = None) -> ConfigDict:
    """Returns the recipe for "B/16" (default), "L/16" or "H/14"."""
    model = model or "B/16"
    pretrain.choose("model of MAE", model, MODELS)
    epochs, rate, layer_decay, drop_path = MODELS[model]
    config = base.get_config()
    deit.timm(config)
    config.total = f"{epochs} epochs"
    config.batch_size = 1024
    config.label_smoothing = 0.1
    config.model.name = model
    config.model.class_token = "yes"
    config.model.pool = "mean"
    config.model.final_norm = "pooled"
    config.model.drop_path = drop_path
    config.data.train.auto_augment = "rand-m9-mstd0.5-inc1"
    config.data.train.erase = 0.25
    config.optimizer.lr = rate
    config.optimizer.layer_decay = layer_decay
    config.optimizer.warmup = "5 epochs"
    config.optimizer.weight_decay = 0.05
    return config
