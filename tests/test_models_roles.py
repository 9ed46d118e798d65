"""What fields of architectures are, said at the fields."""

import dataclasses

import pytest

from configs import base
from vit_jax import errors, models
from vit_jax.models import families, roles

RUN, TASK, MEANING = roles.Role.RUN, roles.Role.TASK, roles.Role.MEANING

CLASSES = [families.named(name).architecture for name in families.FAMILIES]
NAMES = {"vit": "mu/8", "mixer": "Mixer-S/16", "bit": "BiT-R50x1"}
NAMES["axial_resnet"] = "AxialResNet50"


def small(family):
    return models.architecture(NAMES[family], num_classes=3, image_size=32)


def test_the_fields_of_a_run_and_of_a_task_are_what_a_checkpoint_leaves_open():
    assert set(roles.names(models.VitArchitecture, RUN)) == {
        *("image_size", "head_bias", "crop", "posemb_std", "posemb_resample"),
        *("dropout", "attention_dropout", "drop_path", "patch_dropout"),
        *("compute_dtype", "attention", "logits_dtype", "unroll", "remat"),
    }
    assert set(roles.names(models.VitArchitecture, TASK)) == {
        *("num_classes", "pre_logits"),
    }
    for family in NAMES:
        decided = set(models.decided_by_run(small(family)))
        assert decided == set(roles.names(models.VitArchitecture, RUN, TASK))
        assert decided <= {"num_classes", *base.get_config().model}


def test_what_is_compared_is_what_decides_the_function():
    compared = [set(roles.compared(cls, MEANING)) for cls in CLASSES]
    assert set.union(*compared) == {
        *("pool", "class_token", "positioned", "posemb", "posemb_at", "norm"),
        *("final_norm", "norm_epsilon", "gelu", "mlp", "attention_mask"),
        *("attention_window", "form", "pool_padding", "resnet_style"),
        *("rope", "rope_fixed_base", "rope_grid"),
    }


@pytest.mark.parametrize("family", NAMES)
def test_the_base_answers_for_every_family(family):
    arch = small(family)
    assert arch.family == family
    assert arch.depth >= 1 and arch.heads >= 1 and arch.unroll == 0
    assert arch.remat == "none" and arch.crop == "error"
    assert arch.tokens == (0 if family in ("bit", "axial_resnet") else arch.tokens)
    rows, columns = arch.grid
    assert arch.tokens in (0, rows * columns, rows * columns + 1)
    assert arch.replace_known(remat="full", unknown=1) == arch.replace(remat="full")


@pytest.mark.parametrize("family", NAMES)
def test_a_field_is_what_it_says(family):
    """Required fields stay required although the base has attributes of their names."""
    arch = small(family)
    stored = arch.to_dict()
    for own in dataclasses.fields(arch):
        less = {key: value for key, value in stored.items() if key != own.name}
        if own.default is not dataclasses.MISSING:
            models.from_dict(less)
            continue
        with pytest.raises(errors.UserError, match=f"no value for {own.name}"):
            models.from_dict(less)


@pytest.mark.parametrize("key", families.FAMILIES)
def test_a_family_is_found_by_its_names_and_by_its_models(key):
    family = families.FAMILIES[key].load()
    assert family.architecture.family == key
    assert families.named(key) is family and family.names
    for name in family.names:
        assert families.family_of_name(name) is family
