"""Names of other codes, each with the nearest of ours."""

import pytest

import vit_jax
from vit_jax import errors, models
from vit_jax.models import names
from vit_jax.weights import pretrained

OTHERS = {
    "vit_base_patch16_224": ("B/16", 224),
    "vit_small_patch16_224.augreg_in21k": ("S/16", 224),
    "timm/vit_large_patch14_clip_336.openai": ("L/14", 336),
    "vit_tiny_patch16_384": ("Ti/16", 384),
    "vit_huge_patch14_224": ("H/14", 224),
    "vit_giant_patch14_224": ("g/14", 224),
    "vit_gigantic_patch14_224": ("G/14", 224),
    "vit_giantopt_patch16_siglip_256": ("g-opt/16", 256),
    "vit_so400m_patch14_siglip_384": ("So400m/14", 384),
    "vit_base_patch8_224": ("B/8", 224),
    "vit_medium_patch16_gap_240": ("M/16", 240),
    "deit_base_distilled_patch16_224": ("B/16", 224),
    "deit3_small_patch16_384": ("S/16", 384),
    "facebook/deit-tiny-distilled-patch16-224": ("Ti/16", 224),
    "beit_base_patch16_224": ("B/16", 224),
    "flexivit_small.300ep_in1k": ("S/16", None),
    "google/vit-base-patch16-224": ("B/16", 224),
    "google/vit-base-patch16-224-in21k": ("B/16", 224),
    "google/vit-large-patch32-384": ("L/32", 384),
    "google/siglip-base-patch16-224": ("B/16", 224),
    "openai/clip-vit-base-patch32": ("B/32", None),
    "facebook/dinov2-base": ("B/14", None),
    "facebook/dinov2-with-registers-large": ("L/14", None),
    "facebook/vit-mae-base": ("B/16", None),
    "google/vit-hybrid-base-bit-384": ("R50+B/16", 384),
    "dinov2_vits14": ("S/14", None),
    "dinov2_vitg14": ("g/14", None),
    "dino_vitb16": ("B/16", None),
    "ViT-B_16": ("B/16", None),
    "ViT-Ti_16": ("Ti/16", None),
    "ViT-B/16": ("B/16", None),
    "ViT-L-14": ("L/14", None),
    "ViT-g-14": ("g/14", None),
    "ViT-G_14": ("G/14", None),
    "ViT-SO400M-14": ("So400m/14", None),
    "vit_b_16": ("B/16", None),
    "vit_l_32": ("L/32", None),
    "vit_h_14": ("H/14", None),
    "R50+ViT-B_16": ("R50+B/16", None),
    "R26_S_32": ("R26+S/32", None),
    "R_Ti_16": ("R+Ti/16", None),
    "vit_base_r50_s16_224": ("R50+B/16", 224),
    "vit_small_r26_s32_384.augreg_in1k": ("R26+S/32", 384),
    "vit_tiny_r_s16_p8_224": ("R+Ti/16", 224),
    "vit_large_r50_s32_224": ("R50+L/32", 224),
    "mixer_b16_224": ("Mixer-B/16", 224),
    "mixer_s32_224.goog_in21k": ("Mixer-S/32", 224),
    "Mixer-B_16": ("Mixer-B/16", None),
    "resnetv2_50x1_bit": ("BiT-R50x1", None),
    "resnetv2_152x4_bit.goog_in21k_ft_in1k": ("BiT-R152x4", None),
    "BiT-M-R101x3": ("BiT-R101x3", None),
    "google/bit-50": ("BiT-R50x1", None),
    "resnet50": None,
    "swin_tiny_patch4_window7_224": None,
    "samvit_base_patch16": None,
    "convnext_base": None,
    "hello": None,
}


@pytest.mark.parametrize("name", OTHERS)
def test_names_of_other_codes_have_a_nearest_of_ours(name):
    assert names.of_ours(name) == OTHERS[name]
    if OTHERS[name] is None:
        return
    ours, size = OTHERS[name]
    models.architecture(ours, num_classes=3, crop="valid")  # which we have
    with pytest.raises(errors.UserError) as caught:
        vit_jax.create_model(name, num_classes=3)
    assert f"the nearest here is '{ours}'" in str(caught.value)
    assert (f"image_size={size}" in str(caught.value)) == (size is not None)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("name", models.list_names())
def test_names_of_ours_need_no_advice(name):
    assert models.architecture(name, num_classes=3, crop="valid").name == name


def test_a_path_that_is_a_name_says_where_its_weights_are():
    for path, advice in {
        "somebody/vit-base-patch16-224": "hf://somebody/vit-base-patch16-224",
        "vit_base_patch16_224.somebody": "hf://timm/vit_base_patch16_224.somebody",
        "B/16": "augreg:B/16",
        "./none/x": "",
    }.items():
        with pytest.raises(errors.UserError, match="does not exist") as caught:
            pretrained.load(path)
        assert advice in str(caught.value)
        assert ("://" in str(caught.value)) == ("://" in advice)
