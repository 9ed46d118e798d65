"""MLP-Mixer on ImageNet: `configs/mixer.py:Mixer-B/16` (S, B or L at 16 or 32).

big_vision's recipe for Mixer-B/16: 300 epochs, Adam, linear decay from 1e-3, decay of
kernels, stochastic depth 0.1. It also has RandAugment(2, 15) and mixup 0.5, to reach
76.3 %; without them expect less.
"""

from ml_collections import ConfigDict

from configs import base, pretrain

MODELS = tuple(f"Mixer-{size}/{patch}" for size in "SBL" for patch in (16, 32))


def get_config(model: str | None = None) -> ConfigDict:
    """Returns the recipe for a Mixer."""
    model, dataset = pretrain.arguments(model, "Mixer-B/16", MODELS)
    pretrain.choose("dataset of a Mixer", dataset, ("i1k",))
    config = pretrain.on(dataset)
    config.total = "300 epochs"
    config.model.name = model
    config.model.pre_logits = False
    config.model.head_bias = -6.9
    config.model.drop_path = 0.1
    config.data.train_split = "train[:99%]"
    base.set_evals(
        config, dev=base.classify("train[99%:]"), val=base.classify("validation")
    )
    pretrain.add_fewshot(config)
    config.optimizer.lr = 1e-3
    config.optimizer.clip_norm = 1.0
    config.optimizer.weight_decay = 0.1
    config.optimizer.decay = "kernels"
    return config
