"""Evaluations of a run, their options and defaults; `configs.base` hands them on."""

import re
from typing import NamedTuple

from ml_collections import ConfigDict


def evaluation(
    kind: str,
    split: str = "",
    *,
    dataset: str = "",
    every: str = "",
    optional: bool = False,
    **own: object,
) -> ConfigDict:
    """What every evaluation has, whatever it measures, and keys of its own.

    Its images are prepared as the run's are at evaluation, but for what these say:

        image_size  pixels (height, width); learned positions are resampled
        transform   as data.eval.transform; resize_crop: of a square, the centre
        resize      pixels; 0 where it crops: 8/7 of image_size, 256 for 224
        filter      as data.eval.filter

    Args:
        kind: a key of `EVALUATIONS`.
        split: "" is the usual one of the dataset: test, validation or val.
        dataset: "" is the run's.
        every: a duration; "" is eval_every.
        optional: left out, with one line in the log, where its data is not prepared.
        **own: keys of this kind.
    """
    return ConfigDict(
        {
            "type": kind,
            "dataset": dataset,
            "split": split,
            "every": every,
            "optional": optional,
            "image_size": (),
            "transform": "",
            "resize": 0,
            "filter": "",
            **own,
        }
    )


def prepared(one: ConfigDict, **images: object) -> ConfigDict:
    """An evaluation with other images: `transform="resize_crop"` and the like."""
    changed = ConfigDict(one.to_dict()).lock()  # a key it has not is an error
    changed.update(images)
    return changed


def classify(
    split: str = "", *, dataset: str = "", every: str = "", f1_at: float = 0.0
) -> ConfigDict:
    """Top-1, top-5 and loss; mAP of several labels an image with the sigmoid loss.

    Args:
        split: as in `evaluation`, like the next two.
        dataset: see there.
        every: see there.
        f1_at: probability from which on a class is predicted, for the F1 of several
            labels an image; 0: no F1.
    """
    return evaluation("classify", split, dataset=dataset, every=every, f1_at=f1_at)


class FewShot(NamedTuple):
    """Where a few-shot evaluation takes its shots from, and what it tests on."""

    dataset: str
    train: str
    test: str


# By the names that few-shot evaluations of the literature go by. Splits of big_vision's
# suite, the rest as TFDS has them. The first 65,000 images of ImageNet hold at least 30
# of each class.
FEWSHOT = {
    "imagenet": FewShot("imagenet2012", "train[:65000]", "validation"),
    "cifar10": FewShot("cifar10", "train", "test"),
    "cifar100": FewShot("cifar100", "train", "test"),
    "pets": FewShot("oxford_iiit_pet", "train", "test"),
    "flowers": FewShot("oxford_flowers102", "train", "test"),
    "caltech": FewShot("caltech101", "train", "test"),
    "dtd": FewShot("dtd", "train", "test"),
    "uc_merced": FewShot("uc_merced", "train[:1000]", "train[1000:]"),
    "birds": FewShot("caltech_birds2011", "train", "test"),
    "cars": FewShot("cars196", "train", "test"),
}
SUITE = tuple(name for name in FEWSHOT if name != "cifar10")  # of pre-training


def fewshot_splits(name: str) -> FewShot:
    """Returns the row of `FEWSHOT` for its name or its dataset's.

    The splits of any other dataset are "train" and the usual test split.
    """
    for short, row in FEWSHOT.items():
        if name == short or name.split(":")[0] == row.dataset:
            return row if name == short else row._replace(dataset=name)
    return FewShot(name, "train", "")


def fewshot(
    train_split: str,
    split: str,
    *,
    dataset: str = "",
    every: str = "",
    optional: bool = False,
) -> ConfigDict:
    """Few-shot linear evaluation by least squares on frozen features (paper 4.1).

    Args:
        train_split: where the shots are from.
        split: of the test; "" as in `evaluation`.
        dataset: "" is the run's; several: " + " between them, and between splits.
        every: as in `evaluation`.
        optional: as in `evaluation`.
    """
    return evaluation(
        "fewshot",
        split,
        dataset=dataset,
        every=every,
        optional=optional,
        train_split=train_split,
        shots=(1, 5, 10, 25),
        seeds=3,
        l2=2.0**10,  # big_vision's
        # constant | mean_rank: one l2 for several datasets, by the mean rank of its
        # accuracy, as in the paper's time
        l2_rule="constant",
        l2_powers=(-10, 19),  # of two: the least and the greatest to choose among
        choice="random",  # of the images of a class | first: as in the paper's time
    )


def fewshot_on(name: str, *, every: str = "", optional: bool = False) -> ConfigDict:
    """Few-shot evaluation on a dataset with its usual splits: `fewshot_splits`.

    Args:
        name: of a dataset, or of several with commas between: "pets,dtd".
        every: as in `evaluation`.
        optional: as in `evaluation`.
    """
    rows = [fewshot_splits(one) for one in _several(name)]
    dataset, train, test = (" + ".join(column) for column in zip(*rows))
    return fewshot(train, test, dataset=dataset, every=every, optional=optional)


def _several(name: str) -> list[str]:
    """The names in a text; a path may have commas."""
    names = name.split(",")
    tfds = all(re.fullmatch(r"\w+(/\w+)?(:[\d.]+)?", one) for one in names)
    return names if tfds else [name]


def fewshot_suite(*, every: str, without: str = "") -> dict[str, ConfigDict]:
    """The few-shot evaluations of pre-training, each where its data is prepared.

    As big_vision's: images resized to a square of 256 pixels, bilinear between
    neighbours, whose central 224 are seen.

    Args:
        every: a duration.
        without: a dataset, the run's own.
    """
    return {
        f"fewshot_{name}": prepared(
            fewshot_on(name, every=every, optional=True),
            transform="resize_crop",
            filter="default",
        )
        for name in SUITE
        if FEWSHOT[name].dataset != without
    }


def masked(split: str = "", *, dataset: str = "", every: str = "") -> ConfigDict:
    """Masked prediction of a run with that objective, beside a constant prediction."""
    return evaluation("masked", split, dataset=dataset, every=every, seed=0)


def knn(
    train_split: str = "train", split: str = "", *, dataset: str = "", every: str = ""
) -> ConfigDict:
    """Classes of the nearest training examples, by the cosine of their features.

    Args:
        train_split: the examples that vote.
        split: of the test; "" as in `evaluation`.
        dataset: "" is the run's.
        every: as in `evaluation`.
    """
    return evaluation(
        "knn",
        split,
        dataset=dataset,
        every=every,
        train_split=train_split,
        k=(20,),
        weights="exp",  # exp(cosine / temperature) | uniform
        temperature=0.07,
    )


def probe(
    train_split: str = "train", split: str = "", *, dataset: str = "", every: str = ""
) -> ConfigDict:
    """Logistic regression of frozen features; l2 is chosen on a held-out tenth.

    Args:
        train_split: what it is trained on.
        split: of the test; "" as in `evaluation`.
        dataset: "" is the run's.
        every: as in `evaluation`.
    """
    return evaluation(
        "probe",
        split,
        dataset=dataset,
        every=every,
        train_split=train_split,
        l2=(1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        max_iterations=1000,
    )


def knn_on(name: str) -> ConfigDict:
    """`knn` on a dataset with its usual splits: `fewshot_splits`."""
    dataset, train, test = fewshot_splits(name)
    return knn(train, test, dataset=dataset)


def probe_on(name: str) -> ConfigDict:
    """`probe` on a dataset with its usual splits: `fewshot_splits`."""
    dataset, train, test = fewshot_splits(name)
    return probe(train, test, dataset=dataset)


def regress(split: str = "", *, dataset: str = "", every: str = "") -> ConfigDict:
    """Squared and absolute error and R2 of objective=regression; as `evaluation`."""
    return evaluation("regress", split, dataset=dataset, every=every)


# What `--config.evals.NAME=TYPE[:DATASET]` adds: TYPE -> from a dataset to its options.
EVALUATIONS = {
    "classify": lambda name: classify(dataset=fewshot_splits(name).dataset),
    "fewshot": fewshot_on,
    "masked": lambda name: masked(dataset=fewshot_splits(name).dataset),
    "knn": knn_on,
    "probe": probe_on,
    "regress": lambda name: regress(dataset=fewshot_splits(name).dataset),
}


def set_evals(config: ConfigDict, **evals: ConfigDict) -> None:
    """Replaces the evaluations of a locked config."""
    with config.unlocked():
        config.evals = ConfigDict(evals)


def add_evals(config: ConfigDict, **evals: ConfigDict) -> None:
    """Adds evaluations to those of a locked config."""
    set_evals(config, **dict(config.evals.items()), **evals)
