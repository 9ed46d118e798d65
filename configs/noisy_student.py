"""Noisy Student (arXiv 1911.04252): `configs/noisy_student.py:FILE[,MODEL][,hard]`.

A student on ImageNet-1k and on pictures whose classes a teacher gave beforehand: FILE
is the table of `vit_jax predict --checkpoint=TEACHER --top_k=1000 --out=FILE PICTURES`,
CSV or Parquet. Of each batch a quarter is labelled; the pseudo-labels are the teacher's
probabilities, or with `hard` its best class, of pictures of at least 0.3 confidence, of
each class the 130,000 most confident, and all classes equally often. Noise is on the
student alone: RandAugment, dropout and stochastic depth. It may be a teacher itself.

Values of the authors' code (google-research/noisystudent: local_scripts/imagenet,
main.py) for its largest model there, of B/16's size: three pseudo-labelled images to a
labelled one, 350 epochs of the labelled ones, RandAugment(2, 27), temperature 1.
Inferred: the model is a ViT (theirs: EfficientNets), and so optimizer, rate and batch
are those of `configs/augreg.py`; the ratio is that of the whole run, a batch has it on
the average; dropout 0.1 everywhere (theirs: 0.5 before the head), stochastic depth 0.2;
no label smoothing (theirs: 0.1 of labels, none of probabilities). Nobody has trained it
here. Names of classes are what joins both sets: the teacher's are to be the labelled
set's, else FILE#names=NAMES gives them in its order.
"""

from ml_collections import ConfigDict

from configs import augreg, pretrain

LABELLED, RATIO = 1_281_167, 3


def get_config(arguments: str | None = None) -> ConfigDict:
    """Returns the recipe for "FILE[,MODEL][,hard]"."""
    table, *words = (arguments or "").split(",")
    hard = words[-1:] == ["hard"]
    models = words[:-1] if hard else words
    if not table or len(models) > 1:
        raise ValueError(f"{arguments!r}: want FILE[,MODEL][,hard]")
    config = pretrain.on("i1k")
    augreg.big_vision(config)
    config.batch_size = 4096
    config.total = f"{350 * LABELLED * (1 + RATIO)} examples"
    config.loss = "softmax"
    config.model.name = models[0] if models else "B/16"
    config.model.head_bias = 0.0
    config.model.dropout = 0.1
    config.model.drop_path = 0.2
    config.data.dataset = mixture("imagenet2012@train[:99%]", table, hard=hard)
    config.data.train_split = "train"
    config.data.train.auto_augment = "randaug(2,27)"
    for name in ("val", "minival"):
        config.evals[name].dataset = "imagenet2012"
    return config


def mixture(labelled: str, table: str, *, hard: bool) -> str:
    """Returns the dataset of a student.

    Args:
        labelled: A dataset, as in a mixture.
        table: Of predictions, with #names=FILE behind it or not.
        hard: Whether pseudo-labels are classes, and no probabilities.
    """
    file, mark, names = table.partition("#")
    chosen = "confidence=0.3,most=130000,balance=1"
    labels = "hard" if hard else "soft"
    pseudo = f"predicted:{file},{chosen},labels={labels}{mark}{names}"
    return f"mix:1*{labelled},{RATIO}*{pseudo}"
