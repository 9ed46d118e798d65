"""Keys that are without effect, by what each needs: one table.

A key that differs from its default says something; where what it needs is not there,
nothing comes of it. That is an error where the run would be another one than was asked
for, else a line in the log at the start.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from vit_jax import errors


class Need(NamedTuple):
    """A row of the table.

    Attributes:
        keys: A regex of whole names.
        of: The keys that decide.
        met: From their values to whether these have an effect.
        want: What to say where not.
        fatal: Whether that is an error.
    """

    keys: str
    of: tuple[str, ...]
    met: Callable[..., Any]
    want: str
    fatal: bool = False


def _is(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def _either(*values: Any) -> bool:
    return any(values)


def _both(*values: Any) -> bool:
    return all(values)


_MIXING = ("data.mix.mixup", "data.mix.cutmix")
_CROP = ("data.train.transform",)
_OPTIMIZER, _SCHEDULE = ("optimizer.name",), ("optimizer.schedule",)
_WITH_CLASSES = _is("classification", "distillation", "flexible")

NEEDS = (
    Need(
        *("distill.teacher", ("objective",), _is("distillation", "flexible")),
        *("--config.objective=distillation, or no teacher", True),
    ),
    Need(
        *("flexible.patches", ("objective",), _is("flexible")),
        *("--config.objective=flexible, or no such patches", True),
    ),
    Need(
        *("lora.rank", ("init_from",), bool),
        *("--config.init_from=CHECKPOINT, whose weights it changes", True),
    ),
    Need(
        *("optimizer.skip_spikes", ("skip_bad_steps",), bool),
        *("both, as in --config.skip_bad_steps=10", True),
    ),
    Need("distill.(kind|temperature|share)", ("distill.teacher",), bool, "a teacher"),
    Need("distill.temperature", ("distill.kind",), _is("soft"), "soft"),
    Need("masked..*", ("objective",), _is("masked_patches"), "masked_patches"),
    Need("label_smoothing", ("objective",), _WITH_CLASSES, "labels that are classes"),
    Need("ema_warmup", ("ema",), bool, "an average, as in ema=0.9999"),
    Need("keep_head", ("init_from",), bool, "init_from=CHECKPOINT: it starts anew"),
    Need(
        *("optimizer.layer_decay", ("init_from",), bool),
        "init_from=CHECKPOINT: such rates are for weights that are there",
    ),
    Need("lora.(alpha|targets)", ("lora.rank",), bool, "a rank"),
    Need("data.mix.(form|share|each)", _MIXING, _either, "mixup or cutmix"),
    Need("data.mix.switch", _MIXING, _both, "mixup and cutmix"),
    Need("data.train.erase_(mode|count)", ("data.train.erase",), bool, "erase=0.25"),
    Need("data.train.(area|aspect)", _CROP, _is("inception_crop"), "inception_crop"),
    Need(
        *("data.train.resize", _CROP, _is("resize_crop", "resize_small_crop")),
        "resize_crop or resize_small_crop",
    ),
    Need("data.train.pad", _CROP, _is("random_crop_pad"), "random_crop_pad"),
    Need(
        *("data.train.filter", ("data.train.transform", "data.train.auto_augment")),
        lambda crop, policy: crop not in ("random_crop_pad", "none") or policy,
        "a crop that resizes",
    ),
    Need(
        *("data.eval.resize", ("data.eval.transform", "init_from")),
        lambda transform, start: "crop" in transform or (not transform and start),
        "resize_small_crop",
    ),
    Need("data.read_timeout", ("data.cache",), _is("none", "auto"), "cache='none'"),
    Need("optimizer.(decay|decay_rules)", ("optimizer.weight_decay",), bool, "a decay"),
    Need(
        "optimizer.lr_rules_scale_decay",
        ("optimizer.lr_rules", "optimizer.layer_decay"),
        *(lambda rules, layers: rules or layers != 1, "lr_rules"),
    ),
    Need(
        *("optimizer.beta[12]", _OPTIMIZER, lambda name: name != "sgd"),
        "adam, lamb, muon or adafactor",
    ),
    Need(
        *("optimizer.epsilon", _OPTIMIZER, _is("adam", "lamb", "muon")),
        "adam, lamb or muon",
    ),
    Need("optimizer.momentum", _OPTIMIZER, _is("sgd", "muon"), "sgd or muon"),
    Need(
        *("optimizer.(factor_from|update_clip)", _OPTIMIZER, _is("adafactor")),
        "adafactor",
    ),
    Need("optimizer.end", _SCHEDULE, _is("linear"), "linear"),
    Need("optimizer.timescale", _SCHEDULE, _is("rsqrt"), "rsqrt"),
    Need("optimizer.drop_at", _SCHEDULE, _is("stairs"), "stairs"),
)


Flat = Mapping[str, Any]  # by whole names, as `validation.beside_defaults` has them


def unmet(config: Flat, defaults: Flat) -> Iterator[tuple[str, Need, str]]:
    """Yields keys without effect, the row that says so, and a sentence of it."""
    for need in NEEDS:
        met = need.met(*(config[key] for key in need.of))
        for key in () if met else defaults:
            if re.fullmatch(need.keys, key) and config[key] != defaults[key]:
                where = ", ".join(f"{name}={config[name]!r}" for name in need.of)
                said = f"{key}={config[key]!r} is without effect with {where}"
                yield key, need, f"{said}; want {need.want}"


def check(config: Flat, defaults: Flat) -> None:
    """Raises `UserError` for a key without which the run would be another one."""
    for _, need, sentence in unmet(config, defaults):
        if need.fatal:
            raise errors.UserError(sentence)


def tell(config: Flat, defaults: Flat) -> None:
    """Logs one warning with the keys that nothing comes of, if there are any."""
    sentences = {key: sentence for key, _, sentence in unmet(config, defaults)}
    if sentences:
        logging.warning("%s", "\n".join(sentences.values()))
