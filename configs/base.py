"""Every key of a run with its default. Recipes start from `get_config()` here.

Durations are strings: "300 epochs", "10_000 steps", "5e6 examples", "5%" (of the run).
A bare number, "100", counts steps. An empty string means never, or none.
"""

import functools
import logging

from ml_collections import ConfigDict

from configs.base_evals import (
    EVALUATIONS,
    FEWSHOT,
    SUITE,
    FewShot,
    add_evals,
    classify,
    evaluation,
    fewshot,
    fewshot_on,
    fewshot_splits,
    fewshot_suite,
    knn,
    masked,
    prepared,
    probe,
    regress,
    set_evals,
)

__all__ = [
    "EVALUATIONS",
    "FEWSHOT",
    "SUITE",
    "FewShot",
    "add_evals",
    "classify",
    "evaluation",
    "fewshot",
    "fewshot_on",
    "fewshot_splits",
    "fewshot_suite",
    "get_config",
    "knn",
    "masked",
    "note",
    "prepared",
    "probe",
    "regress",
    "set_evals",
]


def get_config() -> ConfigDict:
    """Returns the locked default configuration."""
    config = ConfigDict()
    _run(config)
    _model(config)
    _data(config)
    _optimizer(config)
    _lora(config)
    _mesh(config)
    # What is evaluated, by name. Flags change, add and remove: --config.evals.val.
    # split=test, --config.evals.few=fewshot:pets, --config.evals.val=none.
    config.evals = ConfigDict()
    config.evals.val = classify("validation")
    return config.lock()


def _run(config: ConfigDict) -> None:
    """Adds the keys of the run as a whole, and of what it trains."""
    config.seed = 0
    config.total = "300 epochs"  # length; "0 steps": evaluate init_from and end
    config.batch_size = 4096  # examples a step, over all devices and hosts
    # Gradient accumulation: parts of a batch. 0: 1, but of a ViT as many as are fastest
    # on TPUs, with at most 32 images on a device at a time (v6e: 16), and on CPUs, with
    # 2 to 4 for every two cores, more of small models. Masks of dropout depend on
    # their number.
    config.microbatches = 0
    # Steps in a row whose loss or gradients are not finite that leave the state as it
    # was; one more ends the run with exit code 4. 0: the first one does.
    config.skip_bad_steps = 0
    # Times that it goes back to the checkpoint before them instead, and past their data
    config.roll_back = 0
    # classification | distillation | flexible | masked_patches (B.1.2) | regression
    config.objective = "classification"
    # sigmoid (summed over classes) | softmax | bce (a mean; targets above 0 are 1); of
    # regression: squared | absolute
    config.loss = "sigmoid"
    config.label_smoothing = 0.0
    config.ema = 0.0  # factor of the Polyak average, evaluated and saved; 0: none
    # Lower at first, (1 + n) / (10 + n) after n steps, so that it forgets the start
    config.ema_warmup = False
    config.init_from = ""  # checkpoint to fine-tune: whatever vit_jax.load takes
    config.keep_head = False  # keep its head when the number of classes is the same
    # How its classes and those of evaluations are matched with the data's: auto: by
    # name where both have names | names | order
    config.labels = "auto"
    config.log_every = "50 steps"
    config.eval_every = "5%"
    config.save_every = "1000 steps"
    config.keep = 2  # newest checkpoints to keep
    # "val/top1": beside them that of the best figure (loss, mse, mae: the least), which
    # readers take as WORKDIR:best; "": none
    config.keep_best = ""
    config.stop_after = 0  # the run ends after so many in a row no better; 0: never

    config.log = ConfigDict()
    # Beside metrics.jsonl, by commas: tensorboard, csv, wandb, mlflow; "": nothing
    config.log.writers = "tensorboard"

    config.distill = ConfigDict()  # of distillation
    config.distill.teacher = ""  # checkpoint with a head for the same classes
    config.distill.kind = "soft"  # soft: its probabilities | hard: its best class
    config.distill.temperature = 1.0  # of soft
    config.distill.share = 1.0  # of the loss; the rest is that of the labels

    config.flexible = ConfigDict()  # of flexible
    config.flexible.patches = ()  # pixels, of which each step draws one

    config.masked = ConfigDict()  # of masked_patches: no head, what patches were
    config.masked.target = "mean_color"  # mean_color | downsampled (4x4) | pixels
    config.masked.rate = 0.5  # share of an image's patches that are corrupted
    config.masked.mask = 0.8  # of those: the mask token
    config.masked.replace = 0.1  # of those: another patch; the rest stays as it is


def _model(config: ConfigDict) -> None:
    """Adds those of the model."""
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
    # ours: corners) | corners | centers | nearest | bicubic | fresh (drawn anew) | ...
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
    config.model.patch_dropout = 0.0  # share of the patches that a step leaves out
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


def _data(config: ConfigDict) -> None:
    """Adds those of images, and of how they are prepared and changed."""
    config.data = ConfigDict()
    # TFDS name, digits, folder:PATH, parquet:GLOB, hf:NAME_OR_PATH, wds:SHARDS,
    # csv:FILE, py:MODULE:FUNCTION, real:FILE, imagenetv2:FOLDER, objectnet:FOLDER
    # predicted:FILE (of vit_jax predict); several by weights: mix:0.7*A,0.3*folder:PATH
    config.data.dataset = "imagenet2012"
    config.data.image_column = ""  # of these and of TFDS; "": the only one that can be
    # likewise; of one class or several, or rule:NAME, or number:COLUMN (regression)
    config.data.label_column = ""
    config.data.class_names = ""  # TXT or CSV file; "": as the data has them
    config.data.data_dir = ""  # of TFDS; "": $TFDS_DATA_DIR, else ~/tensorflow_datasets
    config.data.train_split = "train"
    config.data.classes = ""  # that are kept: names by commas, or a file; "": all
    config.data.balance = 0.0  # 1: classes equally often; 0.5: by the root of sizes
    config.data.repeats = 1  # of an image in a batch, each augmented anew (DeiT: 3)
    config.data.cache = "auto"  # none | ram | device | auto
    config.data.threads = 0  # decoding threads; 0: one a core
    # Unreadable images beyond it stop the run: a share; above 1 their number
    config.data.max_corrupt = 0.02
    config.data.read_timeout = 0.0  # seconds for a batch's images, else 42; 0: any
    config.data.damaged = "use"  # JPEGs that libjpeg warns of: use | corrupt
    config.data.exif = "turn"  # photographs as they say | stored, as TensorFlow reads
    config.data.flip = True  # random horizontal flip
    # On the device as well, for images that are kept there (cache): one of 13 changes
    # an image, in the manner of TrivialAugment; 1: as strong as RandAugment's. 0: none
    config.data.device_trivial = 0.0
    config.data.device_erase = 0.0  # share of images with a rectangle of noise
    # Images and labels of the global batch mixed with each other, on the device
    config.data.mix = ConfigDict()
    config.data.mix.mixup = 0.0  # p of Beta(p, p) that the weight is from; 0: none
    config.data.mix.cutmix = 0.0  # the same of the share outside of the box; 0: none
    # big_vision: one weight of 1/2 and more, with the row before; timm: with the row as
    # far from the other end, mixup and cutmix, and what follows
    config.data.mix.form = "big_vision"
    config.data.mix.switch = 0.5  # with both, the share of cutmix
    config.data.mix.share = 1.0  # of what is mixed at all
    config.data.mix.each = "batch"  # batch | image: what has a weight of its own
    # (x - mean) / std, x in 0..255; (): as init_from wants them, else (127.5,) * 3
    config.data.mean = ()
    config.data.std = ()
    config.data.train = ConfigDict()
    config.data.train.transform = "inception_crop"  # see vit_jax/data/transforms.py
    config.data.train.area = (0.05, 1.0)  # inception_crop: share of the image
    config.data.train.aspect = (0.75, 4 / 3)  # inception_crop
    config.data.train.resize = 448  # resize_crop, resize_small_crop: pixels (4.1)
    # Of all but random_crop_pad: as of eval below; random: bilinear or bicubic, as timm
    config.data.train.filter = ""
    # On the pixels of the crop. randaug(2,15): operations and level, as big_vision;
    # rand-m9-mstd0.5-inc1: as timm reads it; 3a: the 3-Augment of DeiT III
    config.data.train.auto_augment = ""
    # Spread of brightness, contrast and saturation: one number or three; a fourth: hue
    config.data.train.color_jitter = ()
    config.data.train.erase = 0.0  # share of images of which a box is erased
    config.data.train.erase_mode = "pixel"  # noise | rand: of a box | const: the mean
    config.data.train.erase_count = 1  # boxes of one image at most
    config.data.train.pad = 4  # random_crop_pad: pixels
    config.data.eval = ConfigDict()
    # resize | resize_small_crop | none; "": as init_from wants them, else resize
    config.data.eval.transform = ""
    config.data.eval.resize = 0  # resize_small_crop: pixels of the short side
    # area: big_vision's; with antialiasing bilinear, bicubic, lanczos, box, hamming:
    # Pillow's; default: bilinear as TensorFlow's; "": that of init_from, else default
    config.data.eval.filter = ""


def _optimizer(config: ConfigDict) -> None:
    """Adds those of the optimizer and of its rates."""
    config.optimizer = ConfigDict()
    # With skip_bad_steps: a loss so many standard deviations above the mean of the last
    # 128 steps is bad, too; 6 for instance. 0: every finite one is good
    config.optimizer.skip_spikes = 0.0
    config.optimizer.name = "adam"  # adam | lamb | muon | sgd | adafactor
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
    config.optimizer.epsilon = 1e-8  # adam, lamb
    config.optimizer.momentum = 0.9  # sgd, muon (0.95 there)
    config.optimizer.factor_from = 32  # adafactor: axes as long are factored
    config.optimizer.update_clip = 0.0  # adafactor: RMS of a leaf's update; 0: any
    config.optimizer.accumulator_dtype = (
        "float32"  # of the momentum; bfloat16 halves it
    )


def _lora(config: ConfigDict) -> None:
    """Adds those of what is trained in the place of the model's own weights."""
    # Low-rank changes of frozen weights (LoRA): W + alpha / rank * A B. The head is
    # trained as well; optimizer.freeze says it otherwise. --dialect=peft saves them.
    config.lora = ConfigDict()
    config.lora.rank = 0  # 0: none
    config.lora.alpha = 8.0
    config.lora.targets = ("query", "value")  # query, key, value, out, mlp


def _mesh(config: ConfigDict) -> None:
    """Adds those of the devices, and of how the state lies on them."""
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


@functools.cache
def note(text: str) -> None:
    """Says once what a recipe's user should know of where its numbers are from."""
    logging.getLogger(__name__).warning("%s", text)
