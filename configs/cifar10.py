"""CIFAR-10 from scratch: `configs/cifar10.py` on a laptop; `:adam`, `:small`, `:gpu`.

Without an argument a ViT of 4 blocks and two epochs of Muon: 62.1 % of the test images
after 495 CPU seconds, about five minutes of two cores. `adam` is nearly that model by
Adam, three epochs in batches of 32, 56 %: what studies change. `small` is a ViT of
5 blocks and 1.5 million parameters, made to go as far as two hours on them go: Muon,
shifts, CutMix of every second batch, an average of the weights: 82.25 % of the test
images after 12,844 CPU seconds.

`gpu` is a ViT of 10.7 million parameters for one H100 or H200, which is to reach 93 %
of the test images in less than six minutes: no run has shown it yet, and this form was
not run on a GPU. One with Adam at 1e-3, batches of 512, 250 epochs and every image
mixed ended on an H200 at 86.2 % after 313 s (benchmarks/gpu.md). It still learned when
its rate came to 0, so there are twice as many steps now, of Muon, and half of the
images are mixed. Images stay on the device, where they are changed inside the step too:
the input costs the host a few bytes a row. What is known of such ViTs: 93.6 % after 100
epochs with AutoAugment, Mixup, CutMix, random erasing and batches of 128 (arXiv
2112.13492, 2.8 million parameters), 93.6 % after 300 (arXiv 2104.05704, ViT-Lite-7/4,
3.7 million). Length, batch and rate are our own choice, to fit the time.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns the recipe for a laptop: short, "adam" or "small"; or that for "gpu"."""
    changes = {"": [_short], "adam": [], "small": [_small], "gpu": [_gpu]}
    if (variant or "") not in changes:
        raise ValueError(
            f"configs/cifar10.py:{variant}: want no argument, or adam, gpu or small"
        )
    config = base.get_config()
    config.batch_size = 32
    config.total = "3 epochs"
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
    for change in changes[variant or ""]:
        change(config)
    return config


def _short(config: ConfigDict) -> None:
    """Changes the optimizer, which needs fewer epochs, and the positions."""
    config.total = "2 epochs"
    config.batch_size = 64
    config.log_every = "100 steps"

    config.model.heads = 2
    config.model.posemb = "sincos_2d"

    config.optimizer.name = "muon"
    config.optimizer.lr = 4e-3


def _small(config: ConfigDict) -> None:
    """Changes the recipe to that of two hours on two cores."""
    config.total = "16 epochs"
    config.batch_size = 64  # as many images/s as with 128
    config.label_smoothing = 0.1
    config.ema = 0.999
    config.ema_warmup = True
    config.eval_every = "25%"

    config.model.width = 192
    config.model.depth = 5
    config.model.mlp_width = 384
    config.model.heads = 3
    config.model.posemb = "sincos_2d"

    config.data.train.transform = "random_crop_pad"
    config.data.train.pad = 4
    config.data.mix.form = "timm"
    config.data.mix.cutmix = 1.0
    config.data.mix.share = 0.5

    config.optimizer.name = "muon"
    config.optimizer.lr = 3e-3
    config.optimizer.warmup = "5%"


def _gpu(config: ConfigDict) -> None:
    """Changes the recipe to that of one fast GPU."""
    config.total = "240 epochs"
    config.batch_size = 256
    config.label_smoothing = 0.1
    config.ema = 0.9995  # the last 2,000 of 46,875 steps, about
    config.log_every = "1000 steps"
    config.eval_every = "50%"  # and at the end
    config.save_every = ""  # at the end

    config.model.width = 384
    config.model.depth = 6
    config.model.mlp_width = 1536
    config.model.heads = 6
    config.model.posemb = "sincos_2d"
    config.model.drop_path = 0.1
    config.model.compute_dtype = "bfloat16"
    config.model.remat = "none"

    config.data.cache = "device"
    config.data.train.transform = "random_crop_pad"
    config.data.train.pad = 4
    config.data.device_trivial = 1.0
    config.data.device_erase = 0.25
    config.data.mix.form = "timm"
    config.data.mix.mixup = 0.8
    config.data.mix.cutmix = 1.0
    config.data.mix.each = "image"
    config.data.mix.share = 0.5

    config.optimizer.name = "muon"
    config.optimizer.lr = 2e-3
    config.optimizer.warmup = "5%"
    config.optimizer.weight_decay = 0.05
