"""Linear probing: `configs/probe.py:CHECKPOINT,DATASET`; only a new head is trained.

What is below it is frozen: it keeps its bits, and no gradient of it is computed. The
protocol is that of DINO's `eval_linear.py` (arXiv 2104.14294): 100 epochs, batch 1024,
SGD with momentum 0.9 and no weight decay, a rate of 0.001 for each 256 images of a
batch, cosine to zero, crops of 8 to 100 % of an image and flips, nothing else, at 224
pixels. Sweep the rate: other features want another, --config.optimizer.lr=0.1. A layer
between features and head (pre_logits) is left out, as in fine-tuning.

A dataset is one of `base.FEWSHOT` (imagenet, pets, ...) with its usual splits, or any
other, with `train` and its test split. A checkpoint whose address has commas goes into
--config.init_from, and `checkpoint` stands here.
"""

from ml_collections import ConfigDict

from configs import base

BATCH = 1024


def get_config(arguments: str | None = None) -> ConfigDict:
    """Returns the recipe for "CHECKPOINT,DATASET"."""
    checkpoint, comma, dataset = (arguments or "").rpartition(",")
    if not checkpoint or not dataset or "," in checkpoint:
        raise ValueError(
            f"argument {arguments or ''!r}: want configs/probe.py:CHECKPOINT,DATASET, "
            f"DATASET one of {', '.join(base.FEWSHOT)}, digits, any TFDS name or "
            "folder:PATH; a checkpoint whose address has commas goes into "
            "--config.init_from, then CHECKPOINT is `checkpoint`"
        )
    splits = base.fewshot_splits(dataset)
    config = base.get_config()
    config.total = "100 epochs"
    config.batch_size = BATCH
    config.loss = "softmax"
    config.init_from = "" if checkpoint == "checkpoint" else checkpoint
    config.model.name = "checkpoint"
    config.model.pre_logits = False
    config.data.dataset = splits.dataset
    config.data.train.transform = "inception_crop"
    config.data.train.area = (0.08, 1.0)
    config.optimizer.name = "sgd"
    config.optimizer.lr = 0.001 * BATCH / 256
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = ""
    config.optimizer.weight_decay = 0.0
    config.optimizer.freeze = "all-head"
    base.set_evals(config, test=base.classify(splits.test))
    return config
