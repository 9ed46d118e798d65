"""Masked patch prediction (the paper's B.1.2): `:jft` (default), `:i1k`, `:cifar10`.

B/16 for a million steps of 4096 images, with the weight decay of the paper's other
pre-training (B.1.2 names none); `i1k` is as long as it helped there. `cifar10` is a
small model for minutes on a CPU. Few-shot evaluations say what the features are worth,
where their data is prepared. Fine-tune the result with
configs/finetune.py:checkpoint,cifar10 and --config.init_from=WORKDIR.
"""

from ml_collections import ConfigDict

from configs import base, cifar10, pretrain


def get_config(dataset: str | None = None) -> ConfigDict:
    """Returns the recipe for a dataset."""
    recipes = {"jft": _jft, "i1k": _i1k, "cifar10": _cifar10}
    dataset = dataset or "jft"
    if dataset not in recipes:
        raise ValueError(
            f"masked prediction on {dataset!r} is unknown; known: {', '.join(recipes)}"
        )
    config = recipes[dataset]()
    config.objective = "masked_patches"
    config.model.pre_logits = False
    return config


def _jft() -> ConfigDict:
    config = base.get_config()
    config.data.dataset = "jft"
    config.data.exif = "stored"  # its authors read with TensorFlow, which turns nothing
    config.total = "1_000_000 steps"
    config.optimizer.lr = 2e-4
    config.optimizer.schedule = "cosine"
    base.set_evals(config)
    pretrain.add_fewshot(config)
    return config


def _i1k() -> ConfigDict:
    """ImageNet, as long as the gain grew fast: "diminishing" after 100k steps."""
    config = _jft()
    config.data.dataset = "imagenet2012"
    config.total = "100_000 steps"
    config.data.eval.transform = "resize_small_crop"
    config.data.eval.resize = 256
    config.data.eval.filter = "area"
    base.set_evals(config, val=base.masked("validation"))
    pretrain.add_fewshot(config)
    return config


def _cifar10() -> ConfigDict:
    config = cifar10.get_config("adam")
    config.total = "2 epochs"
    base.set_evals(config, test=base.masked("test"))
    return config
