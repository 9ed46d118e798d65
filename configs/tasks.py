"""The tasks of transfer: Table 4's, and the 19 of VTAB-1k, a row each.

Builders with their versions, splits, labels, numbers of classes and exceptions of
VTAB's are those of task_adaptation, the code of its authors (arXiv 1910.04867), and
BiT's (arXiv 1912.11370, appendix F) where a part of an image, or the image mirrored,
would have another label.
"""

from typing import Any, NamedTuple


class Task(NamedTuple):
    """A row of Table 4 or of VTAB.

    Attributes:
        dataset: TFDS name; "" of a dataset that is named beside it.
        train: what is trained on.
        part: of it, where `dev` tells which rate is best.
        dev: for that.
        test: the test split; "" is the usual one.
        steps: length of the run.
        sweep: the paper's learning rates.
        lr: the default among them, as its authors' code has it.
        warmup: steps; not in the paper, from its authors' code.
        rule: key of `HYPERRULE`, by the number of training images.
        tiny: whether images have fewer than 96 x 96 pixels.
        ema: factor of the Polyak average.
        crop: whether parts of images are trained on; not where the task is where.
        flip: whether mirrored ones are; not where left is another label than right.
        label: as `data.label_column`, of datasets that have several.
        classes: how many, of VTAB's.
        group: of VTAB's, a key of `GROUPS`.
    """

    dataset: str
    train: str
    part: str
    dev: str
    test: str
    steps: int
    sweep: tuple[float, ...]
    lr: float
    warmup: int
    rule: str
    tiny: bool = False
    ema: float = 0.0
    crop: str = "inception_crop"
    flip: bool = True
    label: str = ""
    classes: int = 0
    group: str = ""


def _row(dataset: str, percent: int, test: str, rule: str, **changes: Any) -> Task:
    """A row whose dev split is the last percents of train, its rates SMALL_SWEEP."""
    steps, warmup = HYPERRULE[rule]  # Table 4's are as long
    cut = f"{100 - percent}%"
    splits = ("train", f"train[:{cut}]", f"train[{cut}:]", test)
    return Task(dataset, *splits, steps, SMALL_SWEEP, 0.03, warmup, rule)._replace(
        **changes
    )


def _vtab(
    group: str,
    dataset: str,
    classes: int,
    val: str,
    test: str = "test",
    **changes: Any,
) -> Task:
    """A task of VTAB-1k: 800 images of train, 200 to choose by, both to train on."""
    splits = (f"train[:800]+{val}", "train[:800]", val, test)
    row = Task(dataset, *splits, 2_500, (0.01,), 0.01, 500, "small", crop="resize_crop")
    return row._replace(classes=classes, group=group, **changes)


SMALL_SWEEP = (0.001, 0.003, 0.01, 0.03)
IMAGENET_SWEEP = (0.003, 0.01, 0.03, 0.06)
# BiT-HyperRule: (steps, steps of warmup) below 20,000 images, below 500,000, above.
HYPERRULE = {"small": (500, 100), "medium": (10_000, 500), "large": (20_000, 500)}
RULE_BELOW = {"small": 20_000, "medium": 500_000}
N, SP, ST = GROUPS = ("natural", "specialized", "structured")
_CLEVR = ("clevr:3.*.*", "train[63000:63200]", "validation")
_DSPRITES = ("dsprites:2.*.*", "train[589824:590024]", "train[90%:]")

TABLE_4 = {
    "imagenet2012": _row(
        "imagenet2012", 1, "validation", "large", sweep=IMAGENET_SWEEP
    ),
    "cifar10": _row("cifar10", 2, "test", "medium", tiny=True),
    "cifar100": _row("cifar100", 2, "test", "medium", tiny=True),
    "pets": _row("oxford_iiit_pet", 10, "test", "small"),
    "flowers": _row("oxford_flowers102", 10, "test", "small"),
}
# Any other dataset, in the row of Table 4 that its number of training images has.
OTHERS = {
    "small": _row("", 10, "", "small"),
    "medium": _row("", 2, "", "medium"),
    "large": _row("", 1, "", "large", sweep=IMAGENET_SWEEP),
}
# VTAB's code names pets 3.*, which TFDS has no more (4.0.0 mends corrupt images), and
# kitti 3.1.0, which it reads and prepares no more (3.3.0 says more of what is hidden).
VTAB = {
    "caltech101": _vtab(N, "caltech101:3.*.*", 102, "train[2753:2953]"),
    "cifar100": _vtab(N, "cifar100:3.*.*", 100, "train[45000:45200]", tiny=True),
    "dtd": _vtab(N, "dtd:3.*.*", 47, "validation[:200]"),
    "flowers": _vtab(N, "oxford_flowers102:2.*.*", 102, "validation[:200]"),
    "pets": _vtab(N, "oxford_iiit_pet", 37, "train[2944:3144]"),
    "sun397": _vtab(N, "sun397/tfds:4.*.*", 397, "validation[:200]"),
    "svhn": _vtab(N, "svhn_cropped:3.*.*", 10, "train[65931:66131]", tiny=True),
    "camelyon": _vtab(SP, "patch_camelyon:2.*.*", 2, "validation[:200]"),
    "eurosat": _vtab(
        *(SP, "eurosat/rgb:2.*.*", 10, "train[16200:16400]", "train[80%:]"), tiny=True
    ),
    "resisc45": _vtab(SP, "resisc45:3.*.*", 45, "train[18900:19100]", "train[80%:]"),
    "retinopathy": _vtab(
        *(SP, "diabetic_retinopathy_detection/btgraham-300:3.*.*", 5),
        "validation[:200]",
    ),
    "clevr_count": _vtab(
        *(ST, _CLEVR[0], 8, *_CLEVR[1:]), crop="resize", label="rule:clevr_count"
    ),
    "clevr_distance": _vtab(
        *(ST, _CLEVR[0], 6, *_CLEVR[1:]), crop="resize", label="rule:clevr_distance"
    ),
    "dmlab": _vtab(ST, "dmlab:2.0.1", 6, "validation[:200]", crop="resize"),
    "dsprites_location": _vtab(
        *(ST, _DSPRITES[0], 16, *_DSPRITES[1:]),
        crop="resize",
        flip=False,
        tiny=True,
        label="rule:dsprites_location",
    ),
    "dsprites_orientation": _vtab(
        *(ST, _DSPRITES[0], 16, *_DSPRITES[1:]),
        flip=False,
        tiny=True,
        label="rule:dsprites_orientation",
    ),
    "kitti": _vtab(
        *(ST, "kitti:3.*.*", 4, "validation[:200]"),
        crop="resize",
        label="rule:kitti_distance",
    ),
    "smallnorb_azimuth": _vtab(
        *(ST, "smallnorb:2.*.*", 18, "test[:200]", "test[50%:]"),
        flip=False,
        label="rule:smallnorb_azimuth",
    ),
    "smallnorb_elevation": _vtab(
        *(ST, "smallnorb:2.*.*", 9, "test[:200]", "test[50%:]"),
        label="rule:smallnorb_elevation",
    ),
}
TASKS = TABLE_4 | {f"vtab_{name}": task for name, task in VTAB.items()}
TASKS["imagenet_table2"] = TASKS["imagenet2012"]._replace(ema=0.9999)
LR = {("B/16", "cifar10"): 0.01}  # where the authors' code has another than 0.03


def default_rate(model: str, task: str) -> float:
    """Returns the rate of a task of `TASKS` or `OTHERS` in the authors' code."""
    if (model, task) in LR:
        return LR[model, task]
    return (TASKS | OTHERS)[task].lr
