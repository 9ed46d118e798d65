"""Pre-training as in the paper's Table 3, one row a (model, dataset).

Batch 4096, 224 px, 10k steps of warmup, Adam (0.9, 0.999), sigmoid loss with head bias
-10, tanh pre_logits; Inception crop and flip. The ImageNet rows add clipping at 1 and
label smoothing 1e-4, as their authors described them.
"""

from ml_collections import ConfigDict

from configs import base

DATASETS = {"i1k": "imagenet2012", "i21k": "imagenet21k", "jft": "jft"}

# model: (epochs, learning rate) on JFT; L/16 was also trained for 7 epochs.
JFT = {
    "B/16": (7, 8e-4),
    "B/32": (7, 8e-4),
    "L/32": (7, 6e-4),
    "L/16": (14, 4e-4),
    "H/14": (14, 3e-4),
    "R50+B/16": (7, 8e-4),
    "R50+B/32": (7, 8e-4),
    "R50+L/32": (7, 2e-4),
    "R50+L/16": (14, 4e-4),
}


def recipe(model: str, dataset: str | None) -> ConfigDict:
    """Returns the row of Table 3 for a model and "i1k" (default), "i21k" or "jft"."""
    dataset = dataset or "i1k"
    if dataset not in DATASETS:
        known = ", ".join(DATASETS)
        raise ValueError(f"pre-training dataset {dataset!r} is unknown; known: {known}")
    config = base.get_config()
    config.model.name = model
    config.model.head_bias = -10.0
    config.data.dataset = DATASETS[dataset]
    if dataset == "jft":
        epochs, config.optimizer.lr = JFT[model]
        config.total = f"{epochs} epochs"
        base.set_evals(config)
    elif dataset == "i21k":
        config.total = "90 epochs"
        config.optimizer.lr = 1e-3
        config.optimizer.weight_decay = 0.03
        config.model.dropout = 0.1
        config.data.train_split = "train[51200:]"
        base.set_evals(config, val=base.classify("train[25600:51200]"))
    else:
        config.total = "300 epochs"
        config.optimizer.lr = 3e-3
        config.optimizer.schedule = "cosine"
        config.optimizer.weight_decay = 0.3
        config.optimizer.clip_norm = 1.0
        config.model.dropout = 0.1
        config.label_smoothing = 1e-4
    config.data.eval.transform = "resize_small_crop"
    config.data.eval.resize = 256
    return config
