"""Comparisons with a question, a rule fixed before the first run, and a verdict.

A study is a file here and its row in `STUDIES`; `vit_jax studies` runs it. Tables of
those that were run are committed under benchmarks/studies/.
"""

from vit_jax.studies import augmentation, distillation, layer_decay
from vit_jax.studies.study import Study

STUDIES: dict[str, Study] = {
    "augmentation": augmentation.STUDY,
    "distillation": distillation.STUDY,
    "layer_decay": layer_decay.STUDY,
}
