"""Every key of a run with its default. Recipes start from `get_config()` here.

Durations are strings: "300 epochs", "10_000 steps", "5e6 examples", "5%" (of the run).
A bare number, "100", counts steps. An empty string means never, or none.
"""

import functools
import logging
from typing import NamedTuple

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the locked default configuration."""
    config = ConfigDict()
    config.seed = 0
    config.total = "300 epochs"  # length; "0 steps": evaluate init_from and end
    config.batch_size = 4096  # examples a step, over all devices and hosts
    config.microbatches = 1  # gradient accumulation: parts of a batch
    # Steps in a row whose loss or gradients are not finite that leave the state as it
    # was; one more ends the run with exit code 4. 0: the first one does.
    config.skip_bad_steps = 0
    # Times that it goes back to the checkpoint before them instead, and past their data
    config.roll_back = 0
    config.objective = "classification"  # classification | masked_patches (B.1.2)
    config.loss = "sigmoid"  # sigmoid (summed over classes) | softmax
    config.label_smoothing = 0.0
    config.ema = 0.0  # factor of the Polyak average, evaluated and saved; 0: none
    config.init_from = ""  # checkpoint to fine-tune: whatever vit_jax.load takes
    config.keep_head = False  # keep its head when the number of classes is the same
    # How its classes and those of evaluations are matched with the data's: auto: by
    # name where both have names | names | order
    config.labels = "auto"
    config.log_every = "50 steps"
    config.eval_every = "5%"
    config.save_every = "1000 steps"
    config.keep = 2  # newest checkpoints to keep

    config.log = ConfigDict()
    # Beside metrics.jsonl, by commas: tensorboard, csv, wandb, mlflow; "": nothing
    config.log.writers = "tensorboard"

    config.masked = ConfigDict()  # of masked_patches: no head, what patches were
    config.masked.target = "mean_color"  # mean_color | downsampled (4x4) | pixels
    config.masked.rate = 0.5  # share of an image's patches that are corrupted
    config.masked.mask = 0.8  # of those: the mask token
    config.masked.replace = 0.1  # of those: another patch; the rest stays as it is

    config.model = ConfigDict()
    config.model.name = "B/16"  # size / patch; "checkpoint": as init_from
    config.model.image_size = (224, 224)  # pixels (height, width)
    # token | mean | map | token_mean | distilled (two heads, registers=1) | none
    config.model.pool = "token"
    config.model.class_token = "auto"  # auto: as the pool needs it | yes | no
    config.model.registers = 0  # learned tokens beside the class token
    config.model.prefix_positions = 1  # tokens before the patches that have positions
    # none | learned | learned_2d | relative | sincos_1d | sincos_2d (paper D.4)
    config.model.posemb = "learned"
    config.model.posemb_at = "stem"  # stem | every (layer) | shared (by all layers)
    config.model.posemb_std = 0.02  # initial deviation of tables; 0: 1 / sqrt(width)
    # Of init_from's table for another grid: auto (as the checkpoint's own code does;
    # ours: corners) | corners | centers | bilinear | bicubic | bicubic_antialias | ...
    config.model.posemb_resample = "auto"
    # Queries and keys turned by their place: none | dinov3 | eva02 | axial | mixed
    # (learned); beside posemb, which may be none
    config.model.rope = "none"
    config.model.rope_base = 100.0  # of the frequencies of the turns
    config.model.rope_grid = 0  # eva02: side of the grid others are scaled to; 0: none
    config.model.pre_logits = True  # tanh layer before the head (paper D.3)
    config.model.head_bias = 0.0  # initial; -10 with sigmoid and many classes
    config.model.dropout = 0.0
    config.model.attention_dropout = 0.0
    config.model.drop_path = 0.0  # stochastic depth: rate of the last block
    config.model.norm = "pre"  # pre | post
    config.model.norm_epsilon = 1e-6
    config.model.final_norm = "tokens"  # tokens | pooled | none
    config.model.mlp = "gelu"  # gelu | swiglu
    config.model.gelu = "tanh"  # tanh (Google's) | erf (PyTorch's) | quick (CLIP's)
    config.model.layer_scale = 0.0  # initial; 0: none
    config.model.qk_norm = False
    config.model.qkv_bias = True
    config.model.key_bias = True  # of keys, where qkv_bias
    config.model.attention = "einsum"  # einsum | dot_product (cuDNN on GPU)
    config.model.logits_dtype = "compute"  # of attention: compute | float32
    config.model.attention_mask = "none"  # none | local | block
    config.model.attention_window = 0  # patches, of the mask
    config.model.crop = "error"  # image the patch does not divide: error | valid
    config.model.width = 0  # 0: of the named size, here and in the next three
    config.model.depth = 0
    config.model.mlp_width = 0
    config.model.heads = 0
    config.model.compute_dtype = "bfloat16"  # bfloat16 | float32; weights are float32
    config.model.unroll = 0  # layers in one turn of the scan; 0: all
    # Computed again in the backward pass: none | dots | dots_nb | full | auto
    config.model.remat = "auto"

    config.data = ConfigDict()
    # TFDS name, digits, folder:PATH, parquet:GLOB, hf:NAME_OR_PATH, wds:SHARDS,
    # csv:FILE, py:MODULE:FUNCTION
    config.data.dataset = "imagenet2012"
    config.data.image_column = ""  # of these and of TFDS; "": the only one that can be
    config.data.label_column = ""  # likewise; one class, or a list of them
    config.data.class_names = ""  # TXT or CSV file; "": as the data has them
    config.data.data_dir = ""  # of TFDS; "": $TFDS_DATA_DIR, else ~/tensorflow_datasets
    config.data.train_split = "train"
    config.data.cache = "auto"  # none | ram | device | auto
    config.data.threads = 0  # decoding threads; 0: one a core
    # Unreadable images beyond it stop the run: a share; above 1 their number
    config.data.max_corrupt = 0.02
    config.data.damaged = "use"  # JPEGs that libjpeg warns of: use | corrupt
    config.data.exif = "turn"  # photographs as they say | stored, as TensorFlow reads
    config.data.flip = True  # random horizontal flip
    # (x - mean) / std, x in 0..255; (): as init_from wants them, else (127.5,) * 3
    config.data.mean = ()
    config.data.std = ()
    config.data.train = ConfigDict()
    config.data.train.transform = "inception_crop"  # see vit_jax/data/transforms.py
    config.data.train.area = (0.05, 1.0)  # inception_crop: share of the image
    config.data.train.aspect = (0.75, 4 / 3)  # inception_crop
    config.data.train.resize = 448  # resize_crop, resize_small_crop: pixels (4.1)
    # resize, resize_small_crop: as of eval below
    config.data.train.filter = ""
    config.data.train.pad = 4  # random_crop_pad: pixels
    config.data.eval = ConfigDict()
    # resize | resize_small_crop | none; "": as init_from wants them, else resize
    config.data.eval.transform = ""
    config.data.eval.resize = 0  # resize_small_crop: pixels of the short side
    # area: big_vision's; with antialiasing bilinear, bicubic, lanczos, box, hamming:
    # Pillow's; default: bilinear as TensorFlow's; "": that of init_from, else default
    config.data.eval.filter = ""

    config.optimizer = ConfigDict()
    # With skip_bad_steps: a loss so many standard deviations above the mean of the last
    # 128 steps is bad, too; 6 for instance. 0: every finite one is good
    config.optimizer.skip_spikes = 0.0
    config.optimizer.name = "adam"  # adam | sgd | adafactor
    config.optimizer.lr = 1e-3  # peak
    config.optimizer.schedule = "linear"  # constant | linear | cosine | rsqrt | stairs
    config.optimizer.warmup = "10_000 steps"
    config.optimizer.cooldown = ""  # linear to zero at the end
    config.optimizer.end = 1e-5  # last rate of the linear schedule
    config.optimizer.timescale = 10_000  # steps, of rsqrt
    config.optimizer.drop_at = ()  # stairs: shares of the run, a tenth after each
    # Decoupled: p -= lr_t * (direction + weight_decay * p), the convention of the
    # paper. big_vision's value is lr * weight_decay: 1e-4 there is 0.1 at lr 1e-3.
    config.optimizer.weight_decay = 0.1
    config.optimizer.decay = "all"  # which leaves: all | kernels
    # Before that table: ((regex of leaf names, factor of weight_decay), ...), first
    # match wins: (("^head/kernel", 100.0),) with "kernels" is a head's own decay.
    config.optimizer.decay_rules = ()
    # Per-leaf learning rates: ((regex of leaf names, factor), ...), first match wins,
    # 1 where none does; factor 0 freezes: (("^head/", 1.0), (".*", 0.0)) is a probe.
    config.optimizer.lr_rules = ()
    # Whether lr_rules scale a leaf's decay too (a rate is a rate); False: the rate of
    # its direction alone, as big_vision's lr_mults. Factor 0 freezes it either way.
    config.optimizer.lr_rules_scale_decay = True
    # Of a layer to the one after it: the last block at layer_decay, the one before at
    # its square, the stem lowest (BEiT, MAE, timm); times lr_rules. 1: all alike.
    config.optimizer.layer_decay = 1.0
    # What is not trained, in order: stem+blocks[:6], all-head, all-norms-head. Also
    # stages, attention, mlp, biases, lora; "": all is.
    config.optimizer.freeze = ""
    config.optimizer.clip_norm = 0.0  # global gradient norm; 0: no clipping
    config.optimizer.beta1 = 0.9
    config.optimizer.beta2 = 0.999  # adafactor: the highest it takes
    config.optimizer.epsilon = 1e-8  # adam
    config.optimizer.momentum = 0.9  # sgd
    config.optimizer.factor_from = 32  # adafactor: axes as long are factored
    config.optimizer.update_clip = 0.0  # adafactor: RMS of a leaf's update; 0: any
    config.optimizer.accumulator_dtype = (
        "float32"  # of the momentum; bfloat16 halves it
    )

    # Low-rank changes of frozen weights (LoRA): W + alpha / rank * A B. The head is
    # trained as well; optimizer.freeze says it otherwise. --dialect=peft saves them.
    config.lora = ConfigDict()
    config.lora.rank = 0  # 0: none
    config.lora.alpha = 8.0
    config.lora.targets = ("query", "value")  # query, key, value, out, mlp

    config.mesh = ConfigDict()
    config.mesh.data = -1  # devices along the data axis; -1: all the others leave
    # Devices that share one copy of weights and optimizer state; 0: 1 on CPUs, on
    # accelerators up to 32 of one slice.
    config.mesh.fsdp = 0
    # Devices that compute on the same images, each with a part of the heads and of the
    # MLP: for huge models with few images a device.
    config.mesh.tensor = 1
    config.mesh.slices = 1  # TPU slices; the data axis joins them
    # How the state lies on them: dp | zero1 | fsdp | auto: the fastest that fits
    config.mesh.layout = "auto"

    # What is evaluated, by name. Flags change, add and remove: --config.evals.val.
    # split=test, --config.evals.few=fewshot:pets, --config.evals.val=none.
    config.evals = ConfigDict()
    config.evals.val = classify("validation")
    return config.lock()


def classify(
    split: str = "", *, dataset: str = "", every: str = "", f1_at: float = 0.0
) -> ConfigDict:
    """Top-1, top-5 and loss; mAP of several labels an image with the sigmoid loss.

    Args:
        split: "" is the usual one of the dataset: test, validation or val.
        dataset: "" is the run's.
        every: a duration; "" is eval_every.
        f1_at: probability from which on a class is predicted, for the F1 of several
            labels an image; 0: no F1.
    """
    return ConfigDict(
        {
            "type": "classify",
            "dataset": dataset,
            "split": split,
            "every": every,
            "f1_at": f1_at,
        }
    )


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
        split: of the test; "" as in `classify`.
        dataset: "" is the run's.
        every: as in `classify`.
        optional: left out, with one line in the log, where its data is not prepared.
    """
    return ConfigDict(
        {
            "type": "fewshot",
            "dataset": dataset,
            "train_split": train_split,
            "split": split,
            "every": every,
            "shots": (1, 5, 10, 25),
            "seeds": 3,
            "l2": 2.0**10,
            "optional": optional,
        }
    )


def fewshot_on(name: str, *, every: str = "", optional: bool = False) -> ConfigDict:
    """Few-shot evaluation on a dataset with its usual splits: `fewshot_splits`."""
    dataset, train, test = fewshot_splits(name)
    return fewshot(train, test, dataset=dataset, every=every, optional=optional)


def fewshot_suite(*, every: str, without: str = "") -> dict[str, ConfigDict]:
    """The few-shot evaluations of pre-training, each where its data is prepared.

    Args:
        every: a duration.
        without: a dataset, the run's own.
    """
    return {
        f"fewshot_{name}": fewshot_on(name, every=every, optional=True)
        for name in SUITE
        if FEWSHOT[name].dataset != without
    }


def masked(split: str = "", *, dataset: str = "", every: str = "") -> ConfigDict:
    """Masked prediction of a run with that objective, beside a constant prediction."""
    return ConfigDict(
        {
            "type": "masked",
            "dataset": dataset,
            "split": split,
            "every": every,
            "seed": 0,
        }
    )


# What `--config.evals.NAME=TYPE[:DATASET]` adds: TYPE -> from a dataset to its options.
EVALUATIONS = {
    "classify": lambda name: classify(dataset=fewshot_splits(name).dataset),
    "fewshot": fewshot_on,
    "masked": lambda name: masked(dataset=fewshot_splits(name).dataset),
}


@functools.cache
def note(text: str) -> None:
    """Says once what a recipe's user should know of where its numbers are from."""
    logging.getLogger(__name__).warning("%s", text)


def set_evals(config: ConfigDict, **evals: ConfigDict) -> None:
    """Replaces the evaluations of a locked config."""
    with config.unlocked():
        config.evals = ConfigDict(evals)


def add_evals(config: ConfigDict, **evals: ConfigDict) -> None:
    """Adds evaluations to those of a locked config."""
    set_evals(config, **dict(config.evals.items()), **evals)
