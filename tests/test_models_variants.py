"""Names, parameter counts, multiply-adds and the errors of wrong descriptions."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import errors, models

# name -> (1000 classes, backbone, 21,843 classes and pre_logits, GMAC 224, GMAC 384)
PUBLISHED = {
    "mu/16": (76_712, 43_712, None, 0.01, 0.04),
    "Ti/16": (5_717_416, 5_524_416, 9_777_171, 1.25, 4.68),
    "S/32": (22_878_952, 22_493_952, 31_051_347, 1.14, 3.44),
    "S/16": (22_050_664, 21_665_664, 30_223_059, 4.60, 15.49),
    "b/32": (22_878_952, 22_493_952, None, 1.14, 3.44),
    "B/32": (88_224_232, 87_455_232, 104_843_091, 4.41, 13.04),
    "B/16": (86_567_656, 85_798_656, 103_186_515, 17.56, 55.48),
    "B/8": (86_576_872, 85_807_872, 103_195_731, 78.15, 294.04),
    "L/32": (306_535_400, 305_510_400, 328_949_075, 15.38, 45.28),
    "L/16": (304_326_632, 303_301_632, 326_740_307, 61.55, 191.07),
    "H/14": (632_045_800, 630_764_800, 660_385_363, 167.30, 503.48),
    "g/14": (1_012_611_432, 1_011_202_432, None, 267.03, 797.4),
    "G/14": (1_844_440_680, 1_842_775_680, None, 483.75, 1429.2),
    "R+Ti/16": (6_337_704, None, None, 0.43, 1.33),
    "R26+S/32": (36_431_912, None, None, 3.46, 10.26),
    "R26+B/32": (101_383_976, None, None, 6.71, 19.81),
    "R50+B/32": (110_945_832, None, None, 8.46, 24.94),
    "R50+B/16": (98_659_112, None, None, 21.54, 67.16),
    "R50+L/32": (328_994_856, None, None, 19.41, 57.14),
    "R50+L/16": (316_483_624, None, None, 65.54, 202.78),
}
# The paper's Table 6: name -> exaFLOPs of seven epochs of JFT-300M.
EXAFLOPS = {
    # Not in the table: counted from the definition of appendix D.6.
    "Axial-B/32": 107.6,
    "Axial-B/16": 426.5,
    "B/32": 55,
    "B/16": 224,
    "L/32": 196,
    "L/16": 783,
    "H/14": 4262 / 2,
    "R50+B/32": 106,
    "R50+B/16": 274,
    "R50+L/32": 246,
    "R50+L/16": 859,
}


def count(name, **options):
    return models.count_parameters(models.architecture(name, **options))


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    classes, backbone, pretraining, _, _ = PUBLISHED[name]
    assert count(name, num_classes=1000) == classes
    if backbone:
        assert count(name, num_classes=0) == backbone
    if pretraining:
        assert count(name, num_classes=21_843, pre_logits=True) == pretraining


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("B/16", {"image_size": 384}, 86_859_496),
        ("B/32", {"image_size": 384}, 88_297_192),
        ("L/16", {"image_size": 384}, 304_715_752),
        ("L/32", {"image_size": 384}, 306_632_680),
        ("S/16", {"image_size": 384}, 22_196_584),
        ("Ti/16", {"image_size": 384}, 5_790_376),
        ("H/14", {"image_size": 518}, 633_470_440),
        ("L/16", {"image_size": 512}, 305_174_504),
        ("R50+B/16", {"image_size": 384}, 98_950_952),
        ("B/16", {"pool": "mean"}, 86_566_120),
        ("S/16", {"pool": "mean"}, 22_049_896),
        ("S/32", {"pool": "mean"}, 22_878_184),
        ("B/32", {"pool": "mean"}, 88_222_696),
        ("B/16", {"prefix_positions": 0}, 86_566_888),
        ("L/16", {"prefix_positions": 0}, 304_325_608),
        ("H/14", {"prefix_positions": 0}, 632_044_520),
        ("G/14", {"prefix_positions": 0}, 1_844_439_016),
        ("L/16", {"pool": "mean"}, 304_324_584),
        ("H/14", {"pool": "mean"}, 632_043_240),
        ("B/16", {"pool": "map"}, 93_653_224),
        ("L/16", {"pool": "map"}, 316_919_784),
        ("H/14", {"pool": "map"}, 651_719_400),
        ("g/14", {"pool": "map"}, 1_037_857_384),
        ("G/14", {"pool": "map"}, 1_882_797_416),
        ("Axial-B/16", {}, 171_620_584),
        ("Axial-B/32", {}, 173_277_160),
        ("B/16", {"pool": "token_mean"}, 86_567_656 + 768_000),
        ("B/16", {"registers": 4}, 86_567_656 + 4 * 768),
        ("B/16", {"qkv_bias": False}, 86_567_656 - 12 * 3 * 768),
        ("B/16", {"layer_scale": 1e-5}, 86_567_656 + 12 * 2 * 768),
        ("B/16", {"qk_norm": True}, 86_567_656 + 12 * 4 * 64),
        ("B/16", {"pre_logits": True}, 87_158_248),
        ("B/16", {"pre_logits": 2304}, 86_567_656 - 769_000 + 769 * 2304 + 2_305_000),
        ("B/16", {"pre_logits": True, "num_classes": 18_291}, 100_455_027),
        ("H/14", {"pre_logits": True, "num_classes": 18_291}, 655_835_251),
    ],
)
def test_parameter_counts_of_other_sizes_heads_and_pools(name, options, expected):
    assert count(name, **{"num_classes": 1000, **options}) == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_multiply_adds_are_the_published_ones(name):
    *_, at224, at384 = PUBLISHED[name]
    for size, published in ((224, at224), (384, at384)):
        if name == "mu/16":  # printed with one digit
            continue
        arch = models.architecture(
            name, num_classes=1000, image_size=size, crop="valid"
        )
        assert models.forward_macs(arch) / 1e9 == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(
    ("name", "gmac"), [("Axial-B/32", 8.45), ("Axial-B/16", 33.51)]
)
def test_multiply_adds_of_axial_models(name, gmac):
    arch = models.architecture(name, num_classes=1000)
    assert models.forward_macs(arch) / 1e9 == pytest.approx(gmac, abs=0.005)


def test_multiply_adds_of_options():
    def macs(**options):
        return models.forward_macs(
            models.architecture("B/16", num_classes=1000, **options)
        )

    def extra(**options):
        return macs(**options) - macs()

    n, d, m = 197, 768, 3072
    assert extra(mlp="swiglu") == 12 * n * d * m
    assert extra(posemb="relative") == 12 * 196 * 391 * d
    assert extra(patch_outputs=512) == 196 * d * 512
    token = 12 * (4 * d * d + 2 * d * m)
    assert extra(registers=4) == 4 * token + 12 * 2 * d * (201**2 - 197**2)
    pairs = 2 * d * (197**2 - 196**2)
    probe = 2 * d * d + 2 * d * m + 196 * (2 * d * d + 2 * d)
    assert extra(pool="map") == probe - token - 12 * pairs
    assert extra(pool="token_mean") == d * 1000


@pytest.mark.parametrize("name", EXAFLOPS)
def test_pretraining_cost_is_that_of_table_6(name):
    pre_logits = not name.startswith("Axial")  # without a class token no tanh layer
    arch = models.architecture(name, num_classes=18_291, pre_logits=pre_logits)
    exaflops = 6 * models.forward_macs(arch) * 303e6 * 7 / 1e18
    assert exaflops == pytest.approx(EXAFLOPS[name], rel=0.05)


@pytest.mark.slow
def test_every_named_model_has_an_abstract_form():
    for name in models.list_names():
        size = 224 if "14" not in name else 518
        _, params = models.abstract(
            models.architecture(name, num_classes=10, image_size=size)
        )
        assert params["head"]["kernel"].shape[1] == 10
    assert models.list_names("R50*") == [
        *("R50+B/16", "R50+B/32", "R50+L/16", "R50+L/32")
    ]


def test_names_give_any_patch_and_options_override_the_table():
    arch = models.architecture("S/16x8", num_classes=3, image_size=(32, 48))
    assert (arch.patch, arch.grid, arch.tokens) == ((16, 8), (2, 6), 13)
    small = models.architecture("B/16", num_classes=3, width=96, depth=2, heads=0)
    assert (small.width, small.depth, small.heads) == (96, 2, 12)
    valid = models.architecture("H/14", num_classes=3, image_size=384, crop="valid")
    assert valid.grid == (27, 27)


def test_an_architecture_survives_json():
    arch = models.architecture("R50+B/16", num_classes=7, pool="mean", dropout=0.1)
    text = json.dumps(arch.to_dict())
    assert models.from_dict(json.loads(text)) == arch
    with pytest.raises(errors.UserError, match='mean "depth"'):
        models.from_dict(arch.to_dict() | {"deepth": 3})
    with pytest.raises(errors.UserError, match="no value for name, heads"):
        models.from_dict(
            {k: v for k, v in arch.to_dict().items() if k not in ("name", "heads")}
        )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("b16", {}, "SIZE/PATCH"),
        ("Big/16", {}, "model size='Big' is unknown"),
        ("R51+B/16", {}, "hybrid ResNet='R51/16' is unknown.*R50/16"),
        ("B/16", {"drop_out": 0.1}, 'Did you mean "dropout"'),
        (
            "B/16",
            {"pool": "tokens"},
            "pool='tokens' is unknown; known: distilled, map, mean, none",
        ),
        ("B/16", {"heads": 7}, "heads=7 must divide width=768"),
        ("B/16", {"dropout": 1.0}, r"dropout=1.0 must be in \[0, 1\)"),
        ("H/14", {"image_size": 384}, "378x378, 392x392.*crop='valid'"),
        ("B/16", {"image_size": (100, 8)}, "112x16"),
        ("R50+B/16", {"image_size": 0}, "two positive numbers"),
        ("R+Ti/16", {"image_size": 240}, "224x224, 256x256"),
        (
            "B/16",
            {"attention": "dot_product", "attention_dropout": 0.1},
            "attention='einsum'",
        ),
        ("B/16", {"block": "axial"}, "pool='token' does not fit it.*pool='mean'"),
        ("Axial-B/16", {"registers": 2}, "registers=2 does not fit it"),
        ("B/16", {"attention_mask": "local"}, "needs a window of 1 or more"),
        ("B/16", {"pool": "token", "class_token": "no"}, "needs class_token='yes'"),
        ("mu/16", {"posemb": "sincos_2d", "width": 6}, "that 4 divides"),
    ],
)
def test_wrong_descriptions_say_what_to_do(name, options, message):
    with pytest.raises(errors.UserError) as caught:
        models.architecture(name, num_classes=10, **options)
    assert re.search(message, str(caught.value), flags=re.DOTALL)


def test_types_are_checked_and_numbers_and_dtypes_of_others_taken():
    made = models.architecture(
        "Ti/16",
        num_classes=np.int64(3),
        image_size="32x48",
        dropout=0,
        compute_dtype=jnp.bfloat16,
    )
    same = models.architecture(
        "Ti/16", num_classes=3, image_size=(32, 48), compute_dtype="bfloat16"
    )
    assert made == same and type(made.num_classes) is int
    for wrong in ({"num_classes": "3"}, {"qk_norm": 1}, {"compute_dtype": jnp.int8}):
        with pytest.raises(errors.UserError, match=next(iter(wrong))):
            models.architecture("Ti/16", **{"num_classes": 3} | wrong)
