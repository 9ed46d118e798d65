"""ImageNet's test sets: `configs/imagenets.py:CHECKPOINT[,DATASET...]`.

Top-1 and top-5 of any checkpoint with ImageNet's 1,000 outputs on the validation images
("val"), with their reassessed labels ("real"), and on ImageNet-V2 ("v2", "v2_07" and
"v2_top"), each where TFDS has prepared it; and on more datasets, as in
objectnet:FOLDER, real:real.json or imagenetv2:FOLDER. Images are prepared as the
checkpoint wants them; nothing is trained. A checkpoint whose address has commas goes
into --config.init_from, and `checkpoint` stands here; real.json with a folder of images
is --config.evals.real.dataset=real:FILE,FOLDER.
"""

import re

from ml_collections import ConfigDict

from configs import base

PREPARED = {
    "val": ("imagenet2012", "validation"),
    "real": ("imagenet2012_real", "validation"),
    "v2": ("imagenet_v2/matched-frequency", "test"),
    "v2_07": ("imagenet_v2/threshold-0.7", "test"),
    "v2_top": ("imagenet_v2/topimages", "test"),
}


def get_config(arguments: str | None = None) -> ConfigDict:
    """Returns a run of no steps for "CHECKPOINT[,DATASET...]"."""
    checkpoint, *names = (arguments or "").split(",")
    if not checkpoint or not all(names) or checkpoint.startswith("augreg:") and names:
        raise ValueError(
            f"argument {arguments or ''!r}: want configs/imagenets.py:CHECKPOINT"
            "[,DATASET...], as in objectnet:FOLDER; a checkpoint whose address has "
            "commas goes into --config.init_from, then CHECKPOINT is `checkpoint`"
        )
    evals = {
        name: base.evaluation("classify", split, dataset=dataset, optional=True)
        for name, (dataset, split) in PREPARED.items()
    }
    for name in names:
        # The form of a dataset that has one, what a flag can name.
        short = re.sub(r"[^A-Za-z0-9_-]+", "_", name.partition(":")[0])
        if short in evals and short != "real":
            raise ValueError(f"argument {arguments!r}: {short} is there twice")
        evals[short] = base.evaluation("classify", dataset=name)
    config = base.get_config()
    config.total = "0 steps"
    config.init_from = "" if checkpoint == "checkpoint" else checkpoint
    config.batch_size = 256
    config.model.name = "checkpoint"
    config.model.image_size = ()  # the checkpoint's
    base.set_evals(config, **evals)
    return config
