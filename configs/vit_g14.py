"""ViT-g/14 (default) and `:G`, ViT-G/14, on JFT-3B ("Scaling Vision Transformers").

One file: some file systems do not tell vit_g14.py from vit_G14.py. MAP head without
class token, Adafactor with a bfloat16 average, reciprocal square root with cooldown,
decay 3.0 for the head and 0.03 for the rest; batch 16,384 (the paper went up to
32,768), Inception crop, and the short side to 256 with a central crop at evaluation, as
published with big_vision.
"""

from ml_collections import ConfigDict

from configs import base, pretrain


def get_config(size: str | None = None) -> ConfigDict:
    """Returns the recipe for "g" or "G"."""
    size = size or "g"
    pretrain.choose("size", size, ("g", "G"))
    config = base.get_config()
    config.total = "1_000_000 steps"
    config.batch_size = 16_384
    config.model.name = f"{size}/14"
    config.model.pool = "map"
    config.model.pre_logits = False
    config.model.posemb_std = 0.0  # 1 / sqrt(width), as big_vision
    config.model.head_bias = -10.0
    config.data.dataset = "jft3b"
    config.data.exif = "stored"  # its authors read with TensorFlow, which turns nothing
    config.data.eval.transform = "resize_small_crop"
    config.data.eval.resize = 256
    base.set_evals(config)
    pretrain.add_fewshot(config, every="10_000 steps")
    config.optimizer.name = "adafactor"
    config.optimizer.accumulator_dtype = "bfloat16"
    config.optimizer.lr = 8e-4
    config.optimizer.schedule = "rsqrt"
    config.optimizer.cooldown = "50_000 steps"
    config.optimizer.clip_norm = 1.0
    config.optimizer.weight_decay = 0.03
    config.optimizer.decay = "kernels"
    config.optimizer.decay_rules = (("^head/kernel$", 100.0),)
    return config
