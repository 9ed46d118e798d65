"""Comparisons with a question, a rule fixed before the first run, and a verdict.

A study is a file here and its row in `STUDIES`; `vit_jax studies` runs it. Tables of
those that were run are committed under benchmarks/studies/. `clutter`, `looks` and
`claims` are the images, the runs and the arithmetic of `inside`.
"""

from vit_jax.studies import (
    adam,
    augmentation,
    crops,
    data_size,
    distillation,
    frontier,
    inside,
    layer_decay,
    masked,
    pooling,
    posemb,
    resolution,
    span,
    transfer,
)
from vit_jax.studies.study import Study

STUDIES: dict[str, Study] = {
    "adam": adam.STUDY,
    "augmentation": augmentation.STUDY,
    "crops": crops.STUDY,
    "data_size": data_size.STUDY,
    "distillation": distillation.STUDY,
    "frontier": frontier.STUDY,
    "inside": inside.STUDY,
    "layer_decay": layer_decay.STUDY,
    "masked": masked.STUDY,
    "pooling": pooling.STUDY,
    "posemb": posemb.STUDY,
    "resolution": resolution.STUDY,
    "span": span.STUDY,
    "transfer": transfer.STUDY,
}
