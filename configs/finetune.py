"""Fine-tuning as in the paper's Table 4: `configs/finetune.py:B/16,cifar10[,dev]`.

SGD with momentum, batch 512, cosine, no weight decay, clipping at 1, 384 px, a new
zero head; `imagenet_table2` is Table 2's row (512 or 518 px, Polyak averaging), and
`vtab_NAME` the row of VTAB: 800 + 200 images, 2500 steps. Another dataset comes with
the size of its row: `B/16,folder:PATH,small` below 20,000 training images, `medium`
below 500,000, else `large`. `configs/tasks.py` has the table. Name the checkpoint with
--config.init_from; the model may be "checkpoint", then it is whatever that holds.

The learning rate is one of the paper's sweep, the one that its authors' code has by
default: try the others with --config.optimizer.lr on the dev split (third word `dev`),
then train on everything; `vit_jax transfer` does both. That code crops as Inception
does; the paper says 448 pixels square and a random crop:
--config.data.train.transform=resize_crop. Mixers, of which the paper has none, are
fine-tuned at 224 px as in the same code.

BiT models follow BiT-HyperRule, or Table 4 with the last word `table4`: the paper tried
both and reports the better.
"""

from ml_collections import ConfigDict

from configs import base, tasks

TABLE2_SIZE = {"L/16": 512, "H/14": 518}
DROPOUT = {"L/16": 0.1, "H/14": 0.1, "R50+B/16": 0.1}  # as its authors released them


def get_config(arguments: str | None = None) -> ConfigDict:
    """Returns the recipe for "MODEL,TASK[,dev][,table4]"."""
    model, name, task, dev, rule = _arguments(arguments or "B/16,cifar10")
    config = base.get_config()
    config.batch_size = 512
    config.loss = "softmax"
    config.log_every = "100 steps"
    config.save_every = "10%"
    config.model.name = model
    config.model.pre_logits = False
    config.data.dataset = task.dataset
    config.data.label_column = task.label
    config.data.flip = task.flip
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


def _arguments(text: str) -> tuple[str, str, tasks.Task, bool, bool]:
    """Returns (model, task, its row, whether on the dev split, whether by its rule)."""
    model, *words = text.split(",")
    bit = model.startswith("BiT-")
    name, task, extra = "", None, words[1:]
    if words and words[0] in tasks.TASKS:
        name, task = words[0], tasks.TASKS[words[0]]
    elif len(words) > 1 and words[0] and words[1] in tasks.OTHERS:
        name, *extra = words[1:]
        task = tasks.OTHERS[name]._replace(dataset=words[0])
    known = [[], ["dev"], *([["table4"], ["dev", "table4"]] if bit else [])]
    if task is None or extra not in known:
        raise ValueError(
            f"configs/finetune.py:{text}: want MODEL,TASK[,dev], "
            f"TASK one of {', '.join(tasks.TASKS)}, or DATASET,"
            f"{'|'.join(tasks.OTHERS)}; of BiT also [,table4]"
        )
    if name == "imagenet_table2" and model not in TABLE2_SIZE:
        known_models = ", ".join(TABLE2_SIZE)
        raise ValueError(f"Table 2 of the paper has no {model}; it has {known_models}")
    return model, name, task, "dev" in extra, bit and "table4" not in extra


def _table_4(config: ConfigDict, model: str, name: str, task: tasks.Task) -> None:
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
    if task.crop == "resize_crop":
        config.data.train.resize = round(size * 448 / 384)
    config.optimizer.lr = tasks.default_rate(model, name)
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = f"{task.warmup} steps"
    config.optimizer.clip_norm = 1.0
    config.optimizer.accumulator_dtype = "bfloat16"


def _hyperrule(config: ConfigDict, model: str, task: tasks.Task) -> None:
    """BiT (arXiv 1912.11370), section 3.3; warmup as in its code.

    Its code differs in two points: it drops the rate of the 500 steps at 200, 300 and
    400, and has 512 and 480 pixels for every model; BiT's text has them for R152x4.
    """
    steps, warmup = tasks.HYPERRULE[task.rule]
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
        config.data.mix.mixup = 0.1
