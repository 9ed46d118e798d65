"""Pre-training as in the paper's Table 3, one row a (model, dataset).

Batch 4096, 224 px, 10k steps of warmup, Adam (0.9, 0.999), sigmoid loss with head bias
-10, tanh pre_logits (not for ResNets); Inception crop and flip. The ImageNet rows add
clipping at 1 and label smoothing 1e-4, as their authors described them.

The table has rows of hybrids on JFT alone, of H/14 on JFT and ImageNet, and none of
axial models. What is asked for beyond it is extrapolated, and said so in the log: the
row of the ViT counterpart (for hybrids that is the paper's B.1), of L/16 for H/14.

Every recipe has the few-shot evaluations of big_vision's suite and of ImageNet, each
where its data is prepared, with the run's evaluation preprocessing.
"""

from collections.abc import Iterable

from ml_collections import ConfigDict

from configs import base

DATASETS = {"i1k": "imagenet2012", "i21k": "imagenet21k", "jft": "jft"}

# Models with a row of Table 3 beside JFT's.
ROWS = {
    "i1k": ("B/16", "B/32", "L/16", "L/32", "H/14"),
    "i21k": ("B/16", "B/32", "L/16", "L/32"),
}

# model: (epochs, learning rate) on JFT; L/16 and R50+L/16 were also trained for 7
# epochs, R152x2 for 14.
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
    "Axial-B/16": (7, 8e-4),
    "Axial-B/32": (7, 8e-4),
    "BiT-R50x1": (7, 1e-3),
    "BiT-R50x2": (7, 1e-3),
    "BiT-R101x1": (7, 8e-4),
    "BiT-R152x1": (7, 6e-4),
    "BiT-R152x2": (7, 6e-4),
}


def choose(what: str, name: str, known: Iterable[str]) -> None:
    """Raises `ValueError` unless a recipe's argument is a known one."""
    if name not in known:
        raise ValueError(f"{what} {name!r} is unknown; known: {', '.join(known)}")


def arguments(text: str | None, default: str, known: Iterable[str]) -> tuple[str, str]:
    """Returns (model, dataset) of a recipe's argument "MODEL[,i1k|i21k|jft]".

    Raises:
        ValueError: a model that is not known, or too many words.
    """
    model, dataset, *rest = [*(text or default).split(","), "i1k"]
    choose("model", model, known)
    if rest not in ([], ["i1k"]):
        raise ValueError(f"{text!r}: want MODEL[,{'|'.join(DATASETS)}]")
    return model, dataset


def on(dataset: str) -> ConfigDict:
    """Returns what all pre-training on "i1k", "i21k" or "jft" has in common."""
    choose("pre-training dataset", dataset, DATASETS)
    config = base.get_config()
    config.model.head_bias = -10.0
    config.data.dataset = DATASETS[dataset]
    config.data.exif = "stored"  # its authors read with TensorFlow, which turns nothing
    # As in big_vision's recipes of all of these models: resize_small(256), by area.
    config.data.eval.transform = "resize_small_crop"
    config.data.eval.resize = 256
    config.data.eval.filter = "area"
    if dataset == "jft":
        base.set_evals(config)
    elif dataset == "i21k":
        config.data.train_split = "train[51200:]"
        base.set_evals(config, val=base.classify("train[25600:51200]"))
    add_fewshot(config)
    return config


def add_fewshot(config: ConfigDict, *, every: str = "25_000 steps") -> None:
    """Adds the few-shot evaluations of pre-training on the config's dataset.

    25,000 steps is big_vision's default.
    """
    suite = base.fewshot_suite(every=every, without=config.data.dataset)
    base.add_evals(config, **suite)


def extrapolated(model: str, dataset: str) -> str:
    """Returns why a recipe is no row of Table 3, "" where it is one."""
    if dataset == "jft":
        return (
            f"Table 3 of the paper has no {model}" if model.startswith("Axial-") else ""
        )
    if model in ROWS[dataset]:
        return ""
    return f"Table 3 of the paper has no {model} on {DATASETS[dataset]}"


def recipe(model: str, dataset: str | None) -> ConfigDict:
    """Returns the row of Table 3 for a model and "i1k" (default), "i21k" or "jft"."""
    dataset = dataset or "i1k"
    config = on(dataset)
    if why := extrapolated(model, dataset):
        base.note(
            f"{why}: this recipe extrapolates the row of the ViT counterpart "
            "or of the nearest size"
        )
    config.model.name = model
    if dataset == "jft":
        choose("model with a row for JFT", model, JFT)
        epochs, config.optimizer.lr = JFT[model]
        config.total = f"{epochs} epochs"
        return config
    config.model.dropout = 0.1
    if dataset == "i21k":
        config.total = "90 epochs"
        config.optimizer.lr = 1e-3
        config.optimizer.weight_decay = 0.03
        return config
    config.total = "300 epochs"
    config.optimizer.lr = 3e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.weight_decay = 0.3
    config.optimizer.clip_norm = 1.0
    config.label_smoothing = 1e-4
    return config
