"""transformers itself reads what we write, and computes what we compute."""

import importlib.util

import numpy as np
import pytest
from test_interop_huggingface import random_weights, same
from torch_peers import images_of, model_of, randomized

from vit_jax import tree
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.weights import files, pretrained

if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
    pytest.skip("transformers is not installed", allow_module_level=True)


@pytest.fixture(scope="session")
def transformers():
    import transformers

    transformers.logging.set_verbosity_error()
    return transformers


def torch_outputs(model, images):
    """Logits, or what the model without a head pools."""
    import torch

    with torch.no_grad():
        found = model.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    names = ("logits", "image_embeds", "pooler_output")
    return next(found[name] for name in names if name in found).numpy()


SIZES = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"image_size": 32, "patch_size": 8, "num_labels": 5},
}


MLP = {"intermediate_size": 48}


RATIO = {"mlp_ratio": 2}


SWIGLU = RATIO | {"use_swiglu_ffn": True}


# Class, options of its config, dialect.
KINDS = {
    "vit": ("ViTForImageClassification", MLP, "hf_vit"),
    "vit, tanh": (
        "ViTForImageClassification",
        MLP | {"hidden_act": "gelu_new", "layer_norm_eps": 1e-6},
        "hf_vit",
    ),
    "vit, no bias": ("ViTForImageClassification", MLP | {"qkv_bias": False}, "hf_vit"),
    "vit, wide": (
        "ViTForImageClassification",
        MLP | {"image_size": [16, 32], "patch_size": [8, 4]},
        "hf_vit",
    ),
    "vit, pooler": ("ViTModel", MLP, "hf_vit"),
    "vit, quick": (
        *("ViTForImageClassification", MLP | {"hidden_act": "quick_gelu"}, "hf_vit"),
    ),
    "deit": ("DeiTForImageClassification", MLP, "hf_deit"),
    "deit, distilled": (
        *("DeiTForImageClassificationWithTeacher", MLP, "hf_deit_distilled"),
    ),
    "clip": ("CLIPVisionModel", MLP, "hf_clip"),
    "clip, projected": (
        *("CLIPVisionModelWithProjection", MLP | {"projection_dim": 6}, "hf_clip"),
    ),
    "siglip": ("SiglipVisionModel", MLP, "hf_siglip"),
    "dinov2": ("Dinov2ForImageClassification", RATIO, "hf_dinov2"),
    "dinov2, bare": ("Dinov2Model", RATIO, "hf_dinov2"),
    "dinov2, swiglu": ("Dinov2ForImageClassification", SWIGLU, "hf_dinov2"),
    "dinov2, registers": (
        "Dinov2WithRegistersForImageClassification",
        SWIGLU | {"num_register_tokens": 3},
        "hf_dinov2_with_registers",
    ),
}


def made(transformers, kind):
    name, options, dialect = KINDS[kind]
    cls = getattr(transformers, name)
    return randomized(cls(cls.config_class(**SIZES | options))), dialect


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_transformers(transformers, tmp_path, kind):
    theirs, dialect = made(transformers, kind)
    theirs.save_pretrained(tmp_path / "a")
    weights = files.read(tmp_path / "a")
    assert weights.dialect == dialect
    images = images_of(weights.architecture)
    outputs = torch_outputs(theirs, images)
    np.testing.assert_allclose(model_of(weights)(images), outputs, atol=1e-4)

    # And back, to a file that transformers reads.
    files.write(weights, tmp_path / "b")
    back, report = type(theirs).from_pretrained(
        tmp_path / "b", output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys"))
    # The two spellings of the tanh GELU round differently.
    np.testing.assert_allclose(torch_outputs(back, images), outputs, atol=1e-5)
    if theirs.base_model is not theirs:  # one without a head is named as with one
        assert same(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("kind", KINDS)
def test_names_in_memory_are_read_as_those_on_the_hub(transformers, tmp_path, kind):
    from safetensors.torch import save_file

    theirs, dialect = made(transformers, kind)
    theirs.save_pretrained(tmp_path)
    hub = files.read(tmp_path)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    memory = files.read(tmp_path)
    assert (memory.dialect, memory.architecture) == (dialect, hub.architecture)
    for (name, a), (_, b) in zip(
        tree.named_leaves(memory.params), tree.named_leaves(hub.params)
    ):
        assert np.array_equal(a, b), name


def test_processors_of_transformers_prepare_as_ours_say(transformers, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (50, 70, 3)).astype(np.uint8)
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    options = {"filter": "bicubic", "mean": mean, "std": std}
    crop = {"transform": "resize_small_crop", "resize": 36}
    for number, more in enumerate(({}, crop)):
        wanted = Preprocessing((32, 32), **options, **more)
        weights = random_weights("hf_vit")
        weights = files.Weights(weights.architecture, weights.leaves, wanted, "hf_vit")
        folder = tmp_path / str(number)
        files.write(weights, folder)
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
        found = processor(Image.fromarray(image), return_tensors="np")["pixel_values"]
        ours = wanted.eval_transform()(image).astype(np.float32)
        ours = (ours - np.float32(mean)[None, None]) / np.float32(std)[None, None]
        difference = np.abs(found[0].transpose(1, 2, 0) - ours)
        assert difference.max() < 2.5 / 57  # a rounding of uint8 apart


def test_tokens_and_attention_are_those_of_transformers(transformers, tmp_path):
    import torch

    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype("float32")
    config = transformers.ViTConfig(
        **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"intermediate_size": 64, "image_size": 32, "patch_size": 8},
        **{"num_labels": 3, "attn_implementation": "eager"},
    )
    torch.manual_seed(0)
    theirs = transformers.ViTForImageClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    pixels = torch.tensor(images).permute(0, 3, 1, 2)
    with torch.no_grad():
        out = theirs(pixels, output_hidden_states=True, output_attentions=True)
    found = pretrained.load(tmp_path).model.intermediates(images)
    for i in range(2):
        tokens, weights = out.hidden_states[i + 1].numpy(), out.attentions[i].numpy()
        assert np.allclose(found[f"blocks/{i}"], tokens, atol=1e-5)
        assert np.allclose(found[f"attention/{i}"], weights, atol=1e-5)
