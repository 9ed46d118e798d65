"""Rotary positions beside timm and transformers: the same outputs on any grid."""

import importlib.util
import json

import numpy as np
import pytest
import safetensors.numpy
from test_peers_timm import timm, torch_logits  # noqa: F401
from torch_peers import images_of, model_of, randomized

import vit_jax
from vit_jax import tree
from vit_jax.weights import files
from vit_jax.weights.dialects import dinov3

if not all(
    importlib.util.find_spec(name) for name in ("torch", "timm", "transformers")
):
    pytest.skip("one of torch, timm, transformers is missing", allow_module_level=True)

SIZES = ((32, 32), (48, 64), (40, 24))
SWIGLU = {"use_gated_mlp": True, "hidden_act": "silu"}
DINOV3 = {
    "plain": {},
    "plus": SWIGLU,
    "7b": SWIGLU | {"query_bias": False, "value_bias": False},
    "key bias": {"key_bias": True, "num_register_tokens": 0},
}


def same_files(a, b):
    a, b = (safetensors.numpy.load_file(p / "model.safetensors") for p in (a, b))
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("kind", DINOV3)
def test_tokens_of_a_dinov3_are_those_of_transformers(tmp_path, kind):
    import torch
    import transformers as hf

    hf.logging.set_verbosity_error()
    config = hf.DINOv3ViTConfig(
        **{"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4},
        **{"intermediate_size": 48, "patch_size": 8, "image_size": 32},
        **{"num_register_tokens": 4} | DINOV3[kind],
    )
    theirs = randomized(hf.DINOv3ViTModel(config)).eval()
    theirs.save_pretrained(tmp_path / "a")
    for size in SIZES:
        weights = files.read(tmp_path / "a", image_size=size)
        assert weights.dialect == "hf_dinov3"
        model, images = model_of(weights), images_of(weights.architecture)
        with torch.no_grad():
            found = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2)))
        tokens = model.encode(model.embed(images))
        np.testing.assert_allclose(tokens, found.last_hidden_state, atol=1e-5)
        np.testing.assert_allclose(model(images), found.pooler_output, atol=1e-5)
    weights = files.read(tmp_path / "a")
    files.write(weights, tmp_path / "b")
    assert same_files(tmp_path / "a", tmp_path / "b")
    _, report = hf.DINOv3ViTModel.from_pretrained(
        tmp_path / "b", output_loading_info=True
    )
    assert not any(report.values())
    # As they are in memory.
    from safetensors.torch import save_file

    save_file(theirs.state_dict(), tmp_path / "a/model.safetensors")
    memory = files.read(tmp_path / "a")
    assert memory.architecture == weights.architecture
    ours = dict(tree.named_leaves(weights.params))
    for name, leaf in tree.named_leaves(memory.params):
        assert np.array_equal(leaf, ours[name]), name


def test_a_dinov3_takes_a_head_and_another_size(tmp_path):
    import transformers as hf

    config = hf.DINOv3ViTConfig(
        **{"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1},
        **{"intermediate_size": 48, "image_size": 32, "num_register_tokens": 4},
    )
    hf.DINOv3ViTModel(config).save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()  # heads of 64, base 100: as all but the 7B
    loaded = vit_jax.load(tmp_path, num_classes=3, image_size=(32, 48))
    assert loaded.model(np.zeros((1, 32, 48, 3), np.float32)).shape == (1, 3)
    assert (loaded.architecture.heads, loaded.architecture.rope_base) == (1, 100.0)
    size = (4096, 1, 48, 32)
    width = dinov3.DIALECT.says(
        files.Tensors({"embeddings.cls_token": (1, 1, size[0])}, lambda name: None)
    )
    assert width["heads"] == 32


# Name -> whether what is written is what was read, tensor by tensor.
ZOO = {
    "vit_small_patch16_dinov3": True,
    "vit_small_patch16_dinov3_qkvb": True,
    "vit_small_plus_patch16_dinov3_qkvb": True,
    "vit_7b_patch16_dinov3": True,
    "vit_giant_patch16_lingbot": True,
    "vit_base_patch16_rope_224": True,
    "vit_small_patch16_rope_ape_224": True,
    "vit_small_patch16_rope_mixed_224": True,
    "vit_small_patch16_rope_mixed_ape_224": True,
    "vit_medium_patch16_rope_reg1_gap_256": True,
    "vit_mediumd_patch16_rope_reg1_gap_256": True,
    "eva02_tiny_patch14_224": False,  # gate and value are written apart
}


@pytest.mark.parametrize("name", ZOO)
def test_outputs_of_the_rotary_zoo_are_timms(timm, tmp_path, name):  # noqa: F811
    from safetensors.torch import save_file
    from timm.layers import resample_abs_pos_embed

    small = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
    small |= {"num_classes": 5}
    theirs = randomized(timm.create_model(name, img_size=32, **small)).eval()
    state = dict(theirs.state_dict())
    (tmp_path / "a").mkdir()
    save_file(
        {key: value.contiguous() for key, value in state.items()},
        tmp_path / "a/model.safetensors",
    )
    said = {"architecture": name, "global_pool": theirs.global_pool}
    said |= {"model_args": {"num_heads": 2, "img_size": 32}}
    (tmp_path / "a/config.json").write_text(json.dumps(said))
    for size in SIZES:
        other = timm.create_model(name, img_size=size, **small)
        table = state.get("pos_embed")
        if table is not None:
            resampled = resample_abs_pos_embed(
                table,
                new_size=other.patch_embed.grid_size,
                old_size=theirs.patch_embed.grid_size,
                num_prefix_tokens=0 if other.no_embed_class else 1,
            )
            other.load_state_dict(state | {"pos_embed": resampled})
        else:
            other.load_state_dict(state)
        weights = files.read(tmp_path / "a", image_size=size)
        images = images_of(weights.architecture)
        found = model_of(weights)(images)
        np.testing.assert_allclose(found, torch_logits(other, images), atol=1e-5)
        assert np.ptp(found) > 0.1
    weights = files.read(tmp_path / "a")
    files.write(weights, tmp_path / "b")
    assert same_files(tmp_path / "a", tmp_path / "b") == ZOO[name]
    back = timm.create_model(f"local-dir:{tmp_path}/b", pretrained=True)
    images = images_of(weights.architecture)
    logits = model_of(weights)(images)
    np.testing.assert_allclose(torch_logits(back, images), logits, atol=1e-5)
