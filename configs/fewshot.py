"""Few-shot evaluation: `configs/fewshot.py:CHECKPOINT,DATASET[,DATASET...]`.

Least squares on the frozen features of a checkpoint (paper, section 4.1), 1, 5, 10 and
25 images a class, with the checkpoint's own preprocessing; nothing is trained. The
checkpoint is whatever --config.init_from takes; one whose address has commas
(augreg:B/16,imagenet2012,384) goes into that flag, and `checkpoint` stands here. A
dataset is one of `base.FEWSHOT` (imagenet, pets, ...) with its usual splits, or any
other, with `train` and its test split. --config.evals.pets.shots=5 and the like change
an evaluation, --config.evals.top1=classify:imagenet adds one.
"""

import re

from ml_collections import ConfigDict

from configs import base


def get_config(arguments: str | None = None) -> ConfigDict:
    """Returns a run of no steps for "CHECKPOINT,DATASET[,DATASET...]"."""
    checkpoint, *names = (arguments or "").split(",")
    if not checkpoint or not names or not all(names):
        raise ValueError(
            f"argument {arguments or ''!r}: want configs/fewshot.py:CHECKPOINT,DATASET"
            f"[,DATASET...], DATASET one of {', '.join(base.FEWSHOT)}, digits, any "
            "TFDS name or folder:PATH"
        )
    if checkpoint.startswith("augreg:") and any(
        re.search(r"^\d+$|=", n) for n in names
    ):
        raise ValueError(
            f"argument {arguments!r}: the address of the checkpoint has commas; write "
            "configs/fewshot.py:checkpoint,DATASET and --config.init_from='augreg:...'"
        )
    evals: dict[str, ConfigDict] = {}
    for name in names:
        # The last word of a path; what a flag can name.
        short = re.sub(r"[^A-Za-z0-9_-]+", "_", name.rstrip("/").rsplit("/", 1)[-1])
        if short in evals:
            raise ValueError(f"argument {arguments!r}: {short} is there twice")
        evals[short] = base.fewshot_on(name)
    config = base.get_config()
    config.total = "0 steps"
    config.init_from = "" if checkpoint == "checkpoint" else checkpoint
    config.batch_size = 256
    config.model.name = "checkpoint"
    config.model.image_size = ()  # the checkpoint's
    config.data.dataset = base.fewshot_splits(names[0]).dataset
    base.set_evals(config, **evals)
    return config
