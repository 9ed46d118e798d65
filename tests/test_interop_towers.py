"""Distilled DeiTs, CLIP, SigLIP, EVA, DINOv3, a hybrid and stems, by stored outputs.

`benchmarks/golden_towers.py` made them with timm and transformers.
"""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from torch_peers import model_of

import vit_jax
from vit_jax import convert, errors, evaluate, experiment, models, predict, tree
from vit_jax.weights import files, pretrained, stem
from vit_jax.weights.source import Tensors

GOLDEN = Path(__file__).parent / "golden/towers"
# Name -> dialect, and what the architecture has that a plain ViT has not.
CASES = {
    "timm_deit_distilled": ("timm", {"pool": "distilled", "prefix_positions": 2}),
    "timm_clip": ("timm", {"stem_norm": True, "gelu": "erf", "norm_epsilon": 1e-5}),
    "timm_clip_quickgelu": ("timm", {"gelu": "quick", "patch_bias": False}),
    "timm_eva": ("timm", {"final_norm": "pooled", "pool": "mean", "heads": 2}),
    "timm_radio": ("timm", {"final_norm": "none", "registers": 1}),
    "timm_hybrid": ("timm", {"resnet": (), "resnet_style": "timm"}),
    "timm_grey": ("timm", {"channels": 1}),
    "timm_four": ("timm", {"channels": 4}),
    # Grids of 3 x 5 patches.
    "timm_dinov3": ("timm", {"rope": "dinov3", "mlp": "swiglu", "key_bias": False}),
    "timm_rope_ape": ("timm", {"rope": "axial", "posemb": "learned", "pool": "token"}),
    "timm_rope_mixed": ("timm", {"rope": "mixed", "posemb": "none"}),
    "timm_eva02": ("timm", {"rope": "eva02", "rope_grid": 16, "rope_base": 10_000}),
    "hf_dinov3": ("hf_dinov3", {"rope": "dinov3", "grid": (3, 5), "registers": 2}),
    "hf_clip_vision": ("hf_clip", {"num_classes": 0, "gelu": "quick"}),
    "hf_clip_projection": ("hf_clip", {"num_classes": 4, "pool": "token"}),
    "hf_clip_both": ("hf_clip", {"num_classes": 4, "norm_epsilon": 1e-5}),
    "hf_clip_classifier": ("hf_clip", {"final_norm": "none", "pool": "mean"}),
    "hf_siglip_vision": ("hf_siglip", {"pool": "map", "class_token": "no"}),
    "hf_siglip_both": ("hf_siglip", {"pool": "map", "gelu": "tanh"}),
    "hf_siglip_classifier": ("hf_siglip", {"pool": "mean", "num_classes": 3}),
    "hf_deit_distilled": ("hf_deit_distilled", {"pool": "distilled"}),
}


def test_every_stored_model_is_tried():
    assert {path.name for path in GOLDEN.iterdir()} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_the_stored_ones(name):
    dialect, fields = CASES[name]
    weights = files.read(GOLDEN / name)
    assert weights.dialect == dialect
    found = {field: getattr(weights.architecture, field) for field in fields}
    assert found == fields
    images = np.load(GOLDEN / name / "images.npy")
    outputs = np.load(GOLDEN / name / "outputs.npy")
    assert outputs.std() > 0.1
    np.testing.assert_allclose(model_of(weights)(images), outputs, atol=2e-5)


UNWRITTEN = {"timm_hybrid": "no name for"}


@pytest.mark.parametrize("name", CASES)
def test_writing_back_loses_nothing(name, tmp_path):
    weights = files.read(GOLDEN / name)
    if name in UNWRITTEN:
        with pytest.raises(errors.UserError, match=UNWRITTEN[name]):
            files.write(weights, tmp_path / "a")
        assert not (tmp_path / "a").exists()
        return
    files.write(weights, tmp_path / "a")
    again = files.read(tmp_path / "a")
    assert again.dialect == weights.dialect
    assert again.architecture == weights.architecture
    theirs = dict(tree.named_leaves(again.params))
    for leaf, value in tree.named_leaves(weights.params):
        assert np.array_equal(theirs[leaf], value), leaf
    assert again.preprocessing == weights.preprocessing


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_text_tower_is_left_aside_with_one_line(kind, caplog):
    with caplog.at_level(logging.INFO):
        files.read(GOLDEN / f"hf_{kind}_both")
    lines = [m for m in caplog.messages if "text_model." in m]
    assert len(lines) == 1 and "not of this model and are not read" in lines[0]


@pytest.mark.parametrize("name", ["hf_clip_projection", "hf_clip_both"])
def test_embeddings_are_numbers_and_no_classes(name):
    loaded = vit_jax.load(GOLDEN / name)
    assert loaded.problem == "regression" and "regression" in repr(loaded)
    assert vit_jax.load(GOLDEN / "hf_clip_classifier").problem == "single_label"


def test_what_a_classifier_does_not_use_is_named(caplog):
    with caplog.at_level(logging.INFO):
        files.read(GOLDEN / "hf_siglip_classifier")
        files.read(GOLDEN / "hf_clip_classifier")
        files.read(GOLDEN / "hf_clip_projection")
    for part in ("15 tensors (map/)", "2 tensors (norm/)", "embeddings of images"):
        assert len([m for m in caplog.messages if part in m]) == 1


def changed(name, folder, *, tensors=lambda t: t, config=lambda c: c):
    """A copy of a stored model with other tensors or another config (None: none)."""
    folder = shutil.copytree(GOLDEN / name, folder)
    path = folder / "model.safetensors"
    safetensors.numpy.save_file(tensors(safetensors.numpy.load_file(path)), path)
    said = config(json.loads((folder / "config.json").read_text()))
    (folder / "config.json").unlink()
    if said is not None:
        (folder / "config.json").write_text(json.dumps(said))
    return folder


def without(name):
    return lambda tensors: {n: t for n, t in tensors.items() if n != name}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "hf_siglip_vision",
            {
                "tensors": lambda t: (
                    t | {"embeddings.patch_embedding.weight": np.zeros((16, 48), "f")}
                )
            },
            "SigLIP 2",
        ),
        (
            "hf_siglip_vision",
            {"config": lambda c: c | {"model_type": "siglip2_vision_model"}},
            "model_type='siglip2_vision_model'",
        ),
        (
            "hf_clip_both",
            {"config": lambda c: c | {"model_type": "chinese_clip"}},
            "model_type='chinese_clip'",
        ),
        (
            "hf_clip_both",
            {"config": lambda c: c | {"vision_config": {"hidden_act": "relu"}}},
            "hidden_act='relu'",
        ),
        (
            "timm_eva",
            {"config": lambda c: c | {"architecture": "eva02_base_patch14_224"}},
            "rotary positions",
        ),
        (
            "timm_clip",
            {"config": lambda c: c | {"architecture": "vit_pe_core_base_patch16_224"}},
            "rotary positions",
        ),
        ("timm_eva", {"config": lambda c: None}, "rotary positions"),
    ],
)
def test_what_is_another_function_is_refused_by_name(name, change, message, tmp_path):
    folder = changed(name, tmp_path / "a", **change)
    with pytest.raises(errors.UserError, match=message) as caught:
        files.read(folder)
    assert len(str(caught.value).splitlines()) <= 10


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        ("blocks.0.attn.lambda_q1", "differential attention"),
        ("blocks.0.in_proj.weight", "side by side"),
        ("blocks.0.attns.0.attn.qkv.weight", "side by side"),
        ("blocks.0.mlp.norm.weight", "norms inside"),
        ("blocks.0.attn.relative_position_bias_table", "relative positions"),
        ("blocks.0.attn.rel_pos.mlp.fc1.weight", "relative positions"),
        ("shared_rel_pos.mlp.fc1.weight", "relative positions"),
        ("rope.freqs", "rotary positions"),
        ("patch_embed.backbone.bn1.running_mean", "batch norms"),
    ],
)
def test_other_blocks_of_timm_are_refused_by_name(tensor, says, tmp_path):
    extra = {tensor: np.zeros(16, np.float32)}
    folder = changed("timm_grey", tmp_path / "a", tensors=lambda t: t | extra)
    with pytest.raises(errors.UserError, match=says):
        files.read(folder)


def test_a_config_of_the_hub_that_leaves_the_defaults_out(tmp_path):
    """The hub's SigLIP says its vision model_type alone: 12 heads, the tanh GELU."""
    bare = {"model_type": "siglip", "vision_config": {"image_size": 8}}
    folder = changed("hf_siglip_both", tmp_path / "a", config=lambda c: bare)
    with pytest.raises(errors.UserError, match="heads=12|cannot be made of"):
        files.read(folder)
    arch = files.read(folder, heads=2).architecture
    assert (arch.gelu, arch.norm_epsilon) == ("tanh", 1e-6)
    bare = {"model_type": "clip", "vision_config": {"num_attention_heads": 2}}
    folder = changed("hf_clip_both", tmp_path / "b", config=lambda c: bare)
    arch = files.read(folder).architecture
    assert (arch.gelu, arch.norm_epsilon, arch.heads) == ("quick", 1e-5, 2)


@pytest.mark.parametrize("name", ["timm_clip", "hf_clip_vision"])
def test_a_clip_without_a_config_says_which_gelu_it_takes(name, tmp_path, caplog):
    folder = changed(name, tmp_path / "a", config=lambda c: None)
    arch = files.read(folder, heads=2).architecture
    assert arch.gelu == ("erf" if name == "timm_clip" else "quick")
    assert arch.norm_epsilon == 1e-5
    assert len([m for m in caplog.messages if "GELU" in m]) == 1


def test_another_number_of_classes_starts_both_heads_anew():
    loaded = pretrained.load(GOLDEN / "timm_deit_distilled", num_classes=5)
    images = np.load(GOLDEN / "timm_deit_distilled/images.npy")
    assert not np.asarray(loaded.model(images)).any()
    assert loaded.params["head_dist"]["kernel"].shape == (16, 5)
    bare = pretrained.load(GOLDEN / "timm_deit_distilled", num_classes=0)
    tokens = np.asarray(bare.model.features(images))
    assert tokens.shape == (2, 32)
    wanted = (tokens[:, :16] + tokens[:, 16:]) / 2
    np.testing.assert_allclose(bare.model(images), wanted, atol=1e-6)


def test_a_projection_with_a_bias_has_no_place_in_a_clip(tmp_path):
    weights = files.read(GOLDEN / "hf_clip_projection")
    params = weights.params
    params["head"]["bias"] = params["head"]["bias"] + 1
    biased = files.Weights(weights.architecture, params, None, "hf_clip")
    with pytest.raises(errors.UserError, match="no bias"):
        files.write(biased, tmp_path / "a")


@pytest.mark.parametrize(
    ("dialect", "options", "message"),
    [
        ("hf_clip", {}, "stem_norm=True"),
        ("hf_siglip", {}, "class_token='no'"),
        ("hf_deit_distilled", {"num_classes": 0}, "two heads"),
        ("hf_deit", {"pool": "distilled", "registers": 1}, "head_dist"),
        ("hf_vit", {"stem_norm": True}, "stem_norm"),
        ("google", {"pool": "distilled", "registers": 1}, "no name for"),
        ("timm", {"stem_norm": True}, "patch_bias=True"),
        ("timm", {"pool": "distilled", "registers": 2}, "registers=2"),
    ],
)
def test_what_a_dialect_cannot_say_is_not_written(dialect, options, message, tmp_path):
    options = {"num_classes": 3, "image_size": 16, "gelu": "erf"} | options
    arch = models.architecture("mu/8", **options)
    like = tree.named_leaves(models.abstract(arch)[1])
    params = tree.from_named({n: np.zeros(leaf.shape, "f") for n, leaf in like})
    weights = files.Weights(arch, params, None, dialect)
    with pytest.raises(errors.UserError, match=message):
        files.write(weights, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_three_channels_become_one_and_four_by_timms_rule():
    """To one: the sum of the kernels; to four: repeated and scaled by 3 / 4."""
    name = GOLDEN / "timm_clip"
    kernel = pretrained.load(name).params["patch_embed"]["kernel"]
    one = pretrained.load(name, channels=1)
    assert one.architecture.channels == 1
    found = one.params["patch_embed"]["kernel"]
    np.testing.assert_allclose(found, kernel.sum(2, keepdims=True), atol=1e-6)
    four = pretrained.load(name, channels=4).params["patch_embed"]["kernel"]
    order = [0, 1, 2, 0]
    np.testing.assert_allclose(four, 0.75 * kernel[:, :, order], atol=1e-6)


def test_one_channel_and_the_same_three_times_are_one_function():
    grey = np.load(GOLDEN / "timm_grey/images.npy")
    outputs = np.load(GOLDEN / "timm_grey/outputs.npy")
    color = pretrained.load(GOLDEN / "timm_grey", channels=3)
    images = np.repeat(grey, 3, axis=3)
    np.testing.assert_allclose(color.model(images), outputs, atol=2e-5)
    assert color.preprocessing.mean == (127.5,) * 3


@pytest.mark.parametrize("name", ["resnet/root/conv/kernel", "root/conv/kernel"])
def test_the_root_of_a_resnet_is_its_first_layer(name):
    kernel = np.ones((7, 7, 3, 64), np.float32)
    leaves = {name: kernel, "patch_embed/kernel": np.ones((1, 1, 64, 32))}
    arch = models.architecture("R+Ti/16", num_classes=0, image_size=32)
    changed, _ = stem.with_channels(Tensors.of(leaves), arch, 1)
    assert changed.shapes[name] == (7, 7, 1, 64)
    assert (changed.read(name) == 3).all()
    assert changed.shapes["patch_embed/kernel"] == (1, 1, 64, 32)


@pytest.mark.parametrize("channels", [0, "3", True, 1.0])
def test_channels_are_a_whole_number(channels):
    with pytest.raises(errors.UserError, match="want a whole number from 1"):
        pretrained.load(GOLDEN / "timm_clip", channels=channels)


def test_nothing_says_which_of_four_channels_to_leave_out():
    with pytest.raises(errors.UserError, match="4 channels"):
        pretrained.load(GOLDEN / "timm_four", channels=3)


@pytest.mark.parametrize("name", ["timm_grey", "timm_four"])
def test_files_of_images_are_for_models_of_color(name, tmp_path):
    path = str(GOLDEN / name)
    message = "images are read as red, green and blue"
    with pytest.raises(errors.UserError, match=message):
        pretrained.load(path).images([np.zeros((8, 8, 3), np.uint8)])
    with pytest.raises(errors.UserError, match=message):
        predict.run(path, ["a.jpg"])
    with pytest.raises(errors.UserError, match=message):
        evaluate.run(path, "digits")
    with pytest.raises(errors.UserError, match=message):
        config = {"init_from": path, "model": {"name": "checkpoint", "remat": "none"}}
        config["model"] |= {"image_size": (8, 8), "pre_logits": False}
        start = pretrained.describe(path)
        experiment._architecture(config, type("Info", (), {"num_classes": 3}), start)


def test_a_converted_model_of_one_channel_takes_color_images(tmp_path):
    target = tmp_path / "color"
    convert.run(str(GOLDEN / "timm_grey"), target, "vit_jax", channels=3)
    loaded = pretrained.load(target)
    assert loaded.architecture.channels == 3
    images = loaded.images([np.zeros((8, 8, 3), np.uint8)] * 2)
    assert loaded.model(images).shape == (2, 3)
