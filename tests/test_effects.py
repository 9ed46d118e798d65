"""Keys that nothing comes of are said: an error, or one line at the start."""

import logging

import pytest

from configs import deit, finetune, mae_finetune, quickstart
from vit_jax import errors, train
from vit_jax.parallel import mesh
from vit_jax.runs import overview
from vit_jax.settings import effects, packaged, validation

# A key and another value of it -> what it needs beside it to have an effect.
CASES = {
    ("distill.kind", "hard"): {"objective": "distillation", "distill.teacher": "T"},
    ("distill.temperature", 2.0): {**{"objective": "flexible", "distill.teacher": "T"}},
    ("masked.rate", 0.3): {"objective": "masked_patches"},
    ("ema_warmup", True): {"ema": 0.99},
    ("keep_head", True): {"init_from": "C"},
    ("optimizer.layer_decay", 0.7): {"init_from": "C"},
    ("lora.alpha", 2.0): {"lora.rank": 2, "init_from": "C"},
    ("data.mix.form", "timm"): {"data.mix.cutmix": 1.0},
    ("data.mix.share", 0.3): {"data.mix.mixup": 1.0},
    ("data.mix.switch", 0.3): {"data.mix.mixup": 1.0, "data.mix.cutmix": 1.0},
    ("data.train.erase_mode", "rand"): {"data.train.erase": 0.2},
    ("data.train.area", (0.3, 1.0)): {"data.train.transform": "inception_crop"},
    ("data.train.resize", 99): {"data.train.transform": "resize_crop"},
    ("data.train.pad", 9): {"data.train.transform": "random_crop_pad"},
    ("data.train.filter", "bicubic"): {"data.train.transform": "resize_crop"},
    ("data.eval.resize", 99): {"data.eval.transform": "resize_small_crop"},
    ("data.read_timeout", 9.0): {"data.cache": "none"},
    ("optimizer.decay", "kernels"): {"optimizer.weight_decay": 0.1},
    ("optimizer.lr_rules_scale_decay", False): {"optimizer.lr_rules": (("a", 1.0),)},
    ("optimizer.beta1", 0.8): {"optimizer.name": "adam"},
    ("optimizer.beta2", 0.8): {"optimizer.name": "adafactor"},
    ("optimizer.epsilon", 1e-6): {"optimizer.name": "lamb"},
    ("optimizer.momentum", 0.8): {"optimizer.name": "muon"},
    ("optimizer.update_clip", 1.0): {"optimizer.name": "adafactor"},
    ("optimizer.end", 0.0): {"optimizer.schedule": "linear"},
    ("optimizer.timescale", 9): {"optimizer.schedule": "rsqrt"},
    ("optimizer.drop_at", (0.5,)): {"optimizer.schedule": "stairs"},
    ("label_smoothing", 0.1): {"objective": "classification"},
    ("distill.teacher", "T"): {"objective": "flexible"},
    ("flexible.patches", (8,)): {"objective": "flexible"},
    ("lora.rank", 2): {"init_from": "C"},
    ("optimizer.skip_spikes", 6.0): {"skip_bad_steps": 9},
}
# In which none of them has an effect.
NOWHERE = {
    **{"objective": "regression", "data.train.transform": "none"},
    **{"data.cache": "ram", "optimizer.name": "sgd", "optimizer.schedule": "cosine"},
    **{"optimizer.weight_decay": 0.0, "data.eval.transform": "resize"},
}
# Where another one hides it.
ELSEWHERE = {
    "optimizer.momentum": {"optimizer.name": "adafactor"},
    "distill.temperature": {"distill.teacher": "T", "distill.kind": "hard"},
}


def nowhere(key, value):
    return NOWHERE | (ELSEWHERE[key] if key in ELSEWHERE else {}) | {key: value}


def config_with(**changes):
    config = packaged.defaults()
    for key, value in changes.items():
        section = config
        *path, name = key.split(".")
        for part in path:
            section = section[part]
        section[name] = value
    return config


def unmet(config):
    return list(effects.unmet(*validation.beside_defaults(config)))


def without_effect(**changes):
    return {key for key, *_ in unmet(config_with(**changes))}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_a_key_is_said_where_what_it_needs_is_not_there(case):
    key, value = case
    assert key in without_effect(**nowhere(key, value))
    assert key not in without_effect(**(NOWHERE | {key: value} | CASES[case]))
    assert key not in without_effect(**NOWHERE)


def test_every_row_is_tried():
    needs = {need.keys for need in effects.NEEDS}
    tried = set()
    for key, value in CASES:
        found = unmet(config_with(**nowhere(key, value)))
        tried |= {need.keys for name, need, _ in found if name == key}
    assert tried == needs


def test_what_makes_it_another_run_is_an_error():
    for key, value, words in (
        ("distill.teacher", "T", "want --config.objective=distillation"),
        ("flexible.patches", (8, 16), "want --config.objective=flexible"),
        ("lora.rank", 4, "want --config.init_from=CHECKPOINT"),
        ("optimizer.skip_spikes", 6.0, "with skip_bad_steps=0"),
    ):
        with pytest.raises(errors.UserError, match=words):
            validation.check_values(config_with(**{key: value}))
    validation.check_values(config_with(**NOWHERE, ema_warmup=True))


class Started(Exception):
    """Ends a run that is about to compile."""


def test_a_run_says_it_in_one_message_at_its_start(tmp_path, caplog, monkeypatch):
    def started(exp, *, parameters):
        assert overview.overview(exp, parameters=False).endswith("with random weights")
        raise Started

    monkeypatch.setattr(train.overview, "log", started)
    config = quickstart.get_config()
    config.update_from_flattened_dict(
        {
            **{"total": "1 steps", "model.depth": 1, "model.width": 16},
            **{"model.heads": 2, "model.mlp_width": 16, "batch_size": 8},
            **{"data.mix.form": "timm", "data.mix.switch": 0.3, "ema_warmup": True},
        }
    )
    config.evals = {}
    with caplog.at_level(logging.WARNING), pytest.raises(Started):
        train.run(config, tmp_path, mesh.make_mesh())
    [said] = [r.message for r in caplog.records if "without effect" in r.message]
    for line in (
        "ema_warmup=True is without effect with ema=0.0; want an average",
        "data.mix.form='timm' is without effect with data.mix.mixup=0.0, data.mix.cut",
        "data.mix.switch=0.3 is without effect",
    ):
        assert line in said
    assert said.count("\n") == 2


def test_recipes_that_fine_tune_say_that_nothing_is_there_to_start_from():
    for config, wanted in (
        (mae_finetune.get_config(), {"optimizer.layer_decay"}),
        (finetune.get_config("Mixer-B/16,cifar10"), set()),
        (deit.get_config(), set()),
    ):
        assert {key for key, *_ in unmet(config.to_dict())} == wanted
        config.data.mix.mixup = config.data.mix.cutmix = 0.0
        found = {key for key, *_ in unmet(config.to_dict())} - wanted
        assert found <= {"data.mix.form"}
