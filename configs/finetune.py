"""Fine-tuning as in the paper's Table 4: `configs/finetune.py:B/16,cifar10[,dev]`.

SGD with momentum, batch 512, cosine, no weight decay, clipping at 1, 384 px, a new
zero head; `imagenet_table2` is Table 2's row (512 or 518 px, Polyak averaging). Name
the checkpoint with --config.init_from; the model may be "checkpoint", then it is
whatever that holds. The learning rate is one of the paper's sweep: try the others with
--config.optimizer.lr on the dev split (third word `dev`), then train on everything.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from configs import base


class Task(NamedTuple):
    """A row of Table 4.

    Attributes:
        dataset: TFDS name.
        steps: length of the run.
        sweep: the paper's learning rates.
        lr: the default among them.
        warmup: steps; not in the paper, from its authors' code.
        dev: split point of train: the rest is the paper's dev split.
        test: the test split.
        ema: factor of the Polyak average.
    """

    dataset: str
    steps: int
    sweep: tuple[float, ...]
    lr: float
    warmup: int
    dev: str
    test: str
    ema: float = 0.0


SMALL_SWEEP = (0.001, 0.003, 0.01, 0.03)
TASKS = {
    "imagenet2012": Task(
        "imagenet2012",
        20_000,
        (0.003, 0.01, 0.03, 0.06),
        0.03,
        500,
        "99%",
        "validation",
    ),
    "cifar10": Task("cifar10", 10_000, SMALL_SWEEP, 0.01, 500, "98%", "test"),
    "cifar100": Task("cifar100", 10_000, SMALL_SWEEP, 0.01, 500, "98%", "test"),
    "pets": Task("oxford_iiit_pet", 500, SMALL_SWEEP, 0.003, 100, "90%", "test"),
    "flowers": Task("oxford_flowers102", 500, SMALL_SWEEP, 0.03, 100, "90%", "test"),
}
TASKS["imagenet_table2"] = TASKS["imagenet2012"]._replace(ema=0.9999)
TABLE2_SIZE = {"L/16": 512, "H/14": 518}
DROPOUT = {"L/16": 0.1, "H/14": 0.1, "R50+B/16": 0.1}  # as its authors released them


def get_config(arguments: str | None = None) -> ConfigDict:
    """Returns the recipe for "MODEL,TASK" or "MODEL,TASK,dev"."""
    words = (arguments or "B/16,cifar10").split(",")
    if (
        len(words) not in (2, 3)
        or words[1] not in TASKS
        or words[2:] not in ([], ["dev"])
    ):
        known = ", ".join(TASKS)
        raise ValueError(
            f"configs/finetune.py:{arguments}: want MODEL,TASK[,dev], "
            f"TASK one of {known}"
        )
    model, task = words[0], TASKS[words[1]]
    config = base.get_config()
    config.total = f"{task.steps} steps"
    config.batch_size = 512
    config.loss = "softmax"
    config.log_every = "100 steps"
    config.save_every = "10%"

    config.model.name = model
    if model.startswith("Axial-"):
        config.model.pool = "mean"  # its attention has no place for a class token
    size = 384
    if words[1] == "imagenet_table2":
        if model not in TABLE2_SIZE:
            known = ", ".join(TABLE2_SIZE)
            raise ValueError(f"Table 2 of the paper has no {model}; it has {known}")
        size = TABLE2_SIZE[model]
    config.model.image_size = (size, size)
    config.model.crop = "valid"  # the paper's: /14 at 384 px reads 27 x 27 patches
    config.ema = task.ema
    config.model.pre_logits = False
    config.model.dropout = DROPOUT[model] if model in DROPOUT else 0.0

    config.data.dataset = task.dataset
    config.optimizer.name = "sgd"
    config.optimizer.lr = task.lr
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = f"{task.warmup} steps"
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 1.0
    config.optimizer.accumulator_dtype = "bfloat16"
    if words[2:]:
        config.data.train_split = f"train[:{task.dev}]"
        base.set_evals(config, dev=base.classify(f"train[{task.dev}:]"))
    else:
        base.set_evals(config, test=base.classify(task.test))
    return config
