"""CIFAR-10 from scratch on a laptop: a small ViT, ten minutes on two CPU cores."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns a ViT of 4 blocks on 32x32 images with patches of 4 pixels."""
    config = base.get_config()
    config.total = "3 epochs"
    config.batch_size = 32
    config.loss = "softmax"
    config.log_every = "200 steps"
    config.eval_every = "50%"
    config.save_every = "1000 steps"

    config.model.name = "Ti/4"
    config.model.image_size = (32, 32)
    config.model.width = 128
    config.model.depth = 4
    config.model.mlp_width = 256
    config.model.heads = 4
    config.model.pool = "mean"
    config.model.pre_logits = False
    config.model.compute_dtype = "float32"

    config.data.dataset = "cifar10"
    config.data.train.transform = "resize"  # three epochs need no more than flips

    config.optimizer.lr = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "10%"
    config.optimizer.weight_decay = 0.05
    config.optimizer.decay = "kernels"
    config.optimizer.clip_norm = 1.0
    base.set_evals(config, test=base.classify("test"))
    return config
