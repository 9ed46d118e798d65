"""Fine-tuning as in the paper's Table 4: `configs/finetune.py:B/16,cifar10[,dev]`.

SGD with momentum, batch 512, cosine, no weight decay, clipping at 1, 384 px, a new
zero head; `imagenet_table2` is Table 2's row (512 or 518 px, Polyak averaging), and
`vtab_NAME` the row of VTAB: 800 + 200 images, 2500 steps. Name the checkpoint with
--config.init_from; the model may be "checkpoint", then it is whatever that holds.

The learning rate is one of the paper's sweep, the one that its authors' code has by
default: try the others with --config.optimizer.lr on the dev split (third word `dev`),
then train on everything. That code crops as Inception does; the paper says 448 pixels
square and a random crop: --config.data.train.transform=resize_crop. Mixers, of which
the paper has none, are fine-tuned at 224 px as in the same code.

BiT models follow BiT-HyperRule, or Table 4 with the last word `table4`: the paper tried
both and reports the better. The rule's mixup of 0.1 from 20,000 images on is missing.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from configs import base


class Task(NamedTuple):
    """A row of Table 4.

    Attributes:
        dataset: TFDS name.
        train: what is trained on.
        part: of it, where `dev` tells which rate is best.
        dev: for that.
        test: the test split.
        steps: length of the run.
        sweep: the paper's learning rates.
        lr: the default among them.
        warmup: steps; not in the paper, from its authors' code.
        rule: key of `HYPERRULE`, by the number of training images.
        tiny: whether images have fewer than 96 x 96 pixels.
        ema: factor of the Polyak average.
        crop: whether parts of images are trained on; not where the task is where.
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


def _row(dataset: str, percent: int, test: str, rule: str, **changes: object) -> Task:
    """A row whose dev split is the last percents of train, its rates SMALL_SWEEP."""
    steps, warmup = HYPERRULE[rule]  # Table 4's are as long
    cut = f"{100 - percent}%"
    splits = ("train", f"train[:{cut}]", f"train[{cut}:]", test)
    return Task(dataset, *splits, steps, SMALL_SWEEP, 0.03, warmup, rule)._replace(
        **changes
    )


def _vtab(dataset: str, val: str, test: str = "test", **changes: object) -> Task:
    """A task of VTAB-1k: 800 images of train, 200 to choose by, both to train on."""
    splits = (f"train[:800]+{val}", "train[:800]", val, test)
    row = Task(dataset, *splits, 2_500, (0.01,), 0.01, 500, "small", crop="resize_crop")
    return row._replace(**changes)


SMALL_SWEEP = (0.001, 0.003, 0.01, 0.03)
# BiT-HyperRule: (steps, steps of warmup) below 20,000 images, below 500,000, above.
HYPERRULE = {"small": (500, 100), "medium": (10_000, 500), "large": (20_000, 500)}
TASKS = {
    "imagenet2012": _row(
        *("imagenet2012", 1, "validation", "large"), sweep=(0.003, 0.01, 0.03, 0.06)
    ),
    "cifar10": _row("cifar10", 2, "test", "medium", tiny=True),
    "cifar100": _row("cifar100", 2, "test", "medium", tiny=True),
    "pets": _row("oxford_iiit_pet", 10, "test", "small"),
    "flowers": _row("oxford_flowers102", 10, "test", "small"),
    # Splits of task_adaptation, the code of VTAB.
    "vtab_caltech101": _vtab("caltech101", "train[2753:2953]"),
    "vtab_cifar100": _vtab("cifar100", "train[45000:45200]", tiny=True),
    "vtab_dtd": _vtab("dtd", "validation[:200]"),
    "vtab_flowers": _vtab("oxford_flowers102", "validation[:200]"),
    "vtab_pets": _vtab("oxford_iiit_pet", "train[2944:3144]"),
    "vtab_sun397": _vtab("sun397/tfds", "validation[:200]"),
    "vtab_svhn": _vtab("svhn_cropped", "train[65931:66131]", tiny=True),
    "vtab_camelyon": _vtab("patch_camelyon", "validation[:200]"),
    "vtab_eurosat": _vtab(
        "eurosat/rgb", "train[16200:16400]", "train[80%:]", tiny=True
    ),
    "vtab_resisc45": _vtab("resisc45", "train[18900:19100]", "train[80%:]"),
    "vtab_retinopathy": _vtab(
        "diabetic_retinopathy_detection/btgraham-300", "validation[:200]"
    ),
    "vtab_dmlab": _vtab("dmlab", "validation[:200]", crop="resize"),  # what is how far
}
TASKS["imagenet_table2"] = TASKS["imagenet2012"]._replace(ema=0.9999)
# Their labels are made of fields other than a label, which no dataset here does.
NOT_THERE = (
    *("vtab_clevr_count", "vtab_clevr_distance", "vtab_dsprites_location"),
    *("vtab_dsprites_orientation", "vtab_kitti", "vtab_smallnorb_azimuth"),
    "vtab_smallnorb_elevation",
)
LR = {("B/16", "cifar10"): 0.01}  # where the authors' code has another than 0.03
TABLE2_SIZE = {"L/16": 512, "H/14": 518}
DROPOUT = {"L/16": 0.1, "H/14": 0.1, "R50+B/16": 0.1}  # as its authors released them


def get_config(arguments: str | None = None) -> ConfigDict:
    """Returns the recipe for "MODEL,TASK[,dev][,table4]"."""
    model, name, dev, rule = _arguments(arguments or "B/16,cifar10")
    task = TASKS[name]
    config = base.get_config()
    config.batch_size = 512
    config.loss = "softmax"
    config.log_every = "100 steps"
    config.save_every = "10%"
    config.model.name = model
    config.model.pre_logits = False
    config.data.dataset = task.dataset
    config.data.exif = "stored"  # its authors read with TensorFlow, which turns nothing
    config.data.train_split = task.part if dev else task.train
    if dev:
        base.set_evals(config, dev=base.classify(task.dev))
    else:
        base.set_evals(config, test=base.classify(task.test))
    config.optimizer.name = "sgd"
    config.optimizer.weight_decay = 0.0
    if rule:
        _hyperrule(config, model, task)
    else:
        _table_4(config, model, name, task)
    return config


def _arguments(text: str) -> tuple[str, str, bool, bool]:
    """Returns (model, task, whether on the dev split, whether by BiT-HyperRule)."""
    model, *words = text.split(",")
    if words[:1] and words[0] in NOT_THERE:
        raise ValueError(
            f"{words[0]}: its labels are computed from other fields of the dataset, "
            f"which is not there yet; of VTAB there are "
            f"{', '.join(t for t in TASKS if t.startswith('vtab_'))}"
        )
    bit = model.startswith("BiT-")
    extra = words[1:]
    known = [[], ["dev"], *([["table4"], ["dev", "table4"]] if bit else [])]
    if not words or words[0] not in TASKS or extra not in known:
        raise ValueError(
            f"configs/finetune.py:{text}: want MODEL,TASK[,dev], "
            f"TASK one of {', '.join(TASKS)}; of BiT also [,table4]"
        )
    if words[0] == "imagenet_table2" and model not in TABLE2_SIZE:
        known_models = ", ".join(TABLE2_SIZE)
        raise ValueError(f"Table 2 of the paper has no {model}; it has {known_models}")
    return model, words[0], "dev" in extra, bit and "table4" not in extra


def _table_4(config: ConfigDict, model: str, name: str, task: Task) -> None:
    config.total = f"{task.steps} steps"
    if model.startswith("Axial-"):
        config.model.pool = "mean"  # its attention has no place for a class token
    size = 224 if model.startswith("Mixer-") else 384
    if name == "imagenet_table2":
        size = TABLE2_SIZE[model]
    config.model.image_size = (size, size)
    config.model.crop = "valid"  # the paper's: /14 at 384 px reads 27 x 27 patches
    config.model.dropout = DROPOUT[model] if model in DROPOUT else 0.0
    config.ema = task.ema
    config.data.train.transform = task.crop
    config.data.train.resize = round(size * 448 / 384)  # of resize_crop
    key = (model, name)
    config.optimizer.lr = LR[key] if key in LR else task.lr
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = f"{task.warmup} steps"
    config.optimizer.clip_norm = 1.0
    config.optimizer.accumulator_dtype = "bfloat16"


def _hyperrule(config: ConfigDict, model: str, task: Task) -> None:
    """BiT (arXiv 1912.11370), section 3.3; warmup as in its code.

    Its code differs in two points: it drops the rate of the 500 steps at 200, 300 and
    400, and has 512 and 480 pixels for every model; BiT's text has them for R152x4.
    """
    steps, warmup = HYPERRULE[task.rule]
    config.total = f"{steps} steps"
    resize, size = (512, 480) if model.startswith("BiT-R152x4") else (448, 384)
    if task.tiny:
        resize, size = 160, 128
    config.model.image_size = (size, size)
    config.data.train.transform = "resize" if task.crop == "resize" else "resize_crop"
    config.data.train.resize = resize
    config.optimizer.lr = 0.003
    config.optimizer.schedule = "stairs"
    config.optimizer.drop_at = (0.3, 0.6, 0.9)
    config.optimizer.warmup = f"{warmup} steps"
    if task.rule != "small":
        base.note(
            "BiT-HyperRule has mixup 0.1 from 20,000 training images on, which is not "
            "there yet: this is the rule without it"
        )
