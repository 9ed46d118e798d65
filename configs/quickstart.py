"""Handwritten digits, bundled with the package: a first result in a minute on a CPU."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns a small ViT on 8x8 digits, seen at 16x16 with patches of 4 pixels."""
    config = base.get_config()
    config.total = "40 epochs"
    config.batch_size = 64
    config.loss = "softmax"
    config.log_every = "100 steps"
    config.eval_every = "25%"
    config.save_every = "25%"

    config.model.name = "Ti/4"
    config.model.image_size = (16, 16)
    config.model.width = 64
    config.model.depth = 4
    config.model.mlp_width = 256
    config.model.heads = 4
    config.model.pre_logits = False
    config.model.compute_dtype = "float32"

    config.data.dataset = "digits"
    config.data.flip = False
    config.data.train.transform = "inception_crop"
    config.data.train.area = (0.7, 1.0)
    config.data.train.aspect = (0.8, 1.25)

    config.optimizer.lr = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "10%"
    config.optimizer.weight_decay = 0.05
    config.optimizer.decay = "kernels"
    config.optimizer.clip_norm = 1.0
    base.set_evals(config, test=base.classify("test"))
    return config
