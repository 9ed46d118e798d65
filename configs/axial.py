"""Axial models of the paper's D.6: `configs/axial.py:Axial-B/16[,i1k|i21k|jft]`.

Axial-ViT as the ViT it is compared with: the paper has no table of them, so these are
extrapolations, which the log says. "AxialResNet50" is on ImageNet as in scenic's
config of it: SGD, 130 epochs, batch 2048, rate 0.1 for 256 images, decay of kernels.
"""

from ml_collections import ConfigDict

from configs import pretrain

MODELS = ("Axial-B/16", "Axial-B/32", "AxialResNet50")


def get_config(arguments: str | None = None) -> ConfigDict:
    """Returns the recipe for "MODEL" or "MODEL,DATASET"."""
    model, dataset = pretrain.arguments(arguments, "Axial-B/16", MODELS)
    if model != "AxialResNet50":
        config = pretrain.recipe(model, dataset)
        config.model.pool = "mean"
        return config
    pretrain.choose(f"dataset of {model}", dataset, ("i1k",))
    config = pretrain.on(dataset)
    config.total = "130 epochs"
    config.batch_size = 2048
    config.model.name = model
    config.model.pre_logits = False
    config.optimizer.name = "sgd"
    config.optimizer.lr = 0.1 * 2048 / 256
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "7 epochs"
    config.optimizer.clip_norm = 1.0
    config.optimizer.weight_decay = 1e-3
    config.optimizer.decay = "kernels"
    config.optimizer.accumulator_dtype = "bfloat16"
    return config
