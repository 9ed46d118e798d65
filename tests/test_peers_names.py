"""The table of published models beside timm and transformers themselves."""

import fnmatch
import importlib.util
import math
import types

import numpy as np
import pytest

from vit_jax import errors, models
from vit_jax.weights import dialects, files, names
from vit_jax.weights.dialects import DIALECTS
from vit_jax.weights.source import Tensors

if not all(
    importlib.util.find_spec(name) for name in ("torch", "timm", "transformers")
):
    pytest.skip("one of torch, timm, transformers is missing", allow_module_level=True)

ROWS = names.rows()
GLOBS = ("vit_*", "deit*", "flexivit*", "eva*", "mixer*", "beit*", "test_vit*")


def of_timm(timm, architecture, **size):
    """Names and shapes of a model of timm's zoo, and what the hub's config says."""
    import torch

    with torch.device("meta"):
        theirs = timm.create_model(architecture, **size)
    config = {
        "architecture": architecture,
        "num_classes": theirs.num_classes,
        "pretrained_cfg": {"input_size": theirs.pretrained_cfg["input_size"]},
    }
    if not architecture.startswith("mixer"):
        config["global_pool"] = theirs.global_pool
    shapes = {name: tuple(v.shape) for name, v in theirs.state_dict().items()}
    return theirs, Tensors(shapes, lambda name: None, config=config)


def compare(timm, architecture, row, **size):
    """Whether a row and our reading of timm's model are that model."""
    theirs, tensors = of_timm(timm, architecture, **size)
    leaves, found = files.interpret(tensors, DIALECTS[row.dialect], {}, None)
    files.check_shapes(leaves.shapes, found)
    assert found.image_size == (row.image_size, row.image_size), row
    assert found.num_classes == theirs.num_classes, row
    block = theirs.blocks[0]
    if row.dialect == "timm":
        pools = {"avg": "mean", "": "none"} | {n: n for n in ("token", "map")}
        distilled = "dist" in architecture
        pool = "distilled" if distilled else pools[theirs.global_pool]
        assert found.pool == pool, row
        assert found.norm_epsilon == block.norm1.eps, row
        assert found.heads == block.attn.num_heads, row
        assert found.prefix == theirs.num_prefix_tokens, row
        assert bool(found.layer_scale) == ("blocks.0.ls1.gamma" in tensors.shapes), row
        assert found.has_class_token == ("cls_token" in tensors.shapes), row
    if row.model:
        named = models.architecture(row.model, num_classes=0, crop="valid")
        assert (found.width, found.patch) == (named.width, named.patch), row
    return found


ARCHITECTURES = {
    row.name.partition("/")[2].partition(".")[0]: row
    for row in ROWS.values()
    if row.name.startswith("timm/")
}


def test_the_rows_are_timms():
    """Name, repository, file and size of images, tag by tag."""
    import timm
    from timm.models import _registry

    for name, row in ROWS.items():
        if not name.startswith("timm/"):
            continue
        said = timm.get_pretrained_cfg(name.removeprefix("timm/"))
        assert (said.hf_hub_id, said.hf_hub_filename) == (row.repository, None)
        assert said.input_size == (3, row.image_size, row.image_size)
    # Nothing that is read is left out: what is not in the table is refused.
    listed = {n for n in timm.list_pretrained() if n.partition(".")[0] in ARCHITECTURES}
    has_home = {n for n in listed if _registry._model_pretrained_cfgs[n].hf_hub_id}
    assert {f"timm/{name}" for name in has_home} == {n for n in ROWS if n[:4] == "timm"}


def test_small_models_of_the_rows_are_what_the_table_says():
    import timm

    for architecture in (
        *("vit_tiny_patch16_384", "deit_tiny_distilled_patch16_224"),
        *("vit_small_patch14_reg4_dinov2", "vit_little_patch16_reg4_gap_256"),
        *("vit_tiny_r_s16_p8_224", "mixer_b16_224", "vit_base_patch16_siglip_224"),
        *("vit_base_patch32_clip_quickgelu_224", "flexivit_small", "test_vit"),
    ):
        row = ARCHITECTURES[architecture]
        found = compare(timm, architecture, row)
        assert found.name == row.model or not row.model


@pytest.mark.slow
def test_all_models_of_the_rows_are_what_the_table_says():
    """And what no row has is refused."""
    import timm

    every = {
        name.partition(".")[0]
        for name in timm.list_pretrained()
        if timm.get_pretrained_cfg(name).hf_hub_id
    }
    for architecture in sorted(
        name for name in every if any(fnmatch.fnmatch(name, g) for g in GLOBS)
    ):
        if architecture in ARCHITECTURES:
            row = ARCHITECTURES[architecture]
            found = compare(timm, architecture, row)
            assert found.name == row.model or not row.model, row
            continue
        dialect = "timm_mixer" if architecture.startswith("mixer") else "timm"
        with pytest.raises(errors.UserError):
            files.interpret(of_timm(timm, architecture)[1], DIALECTS[dialect], {}, None)


def of_transformers(row, size):
    """Names and shapes of transformers' model of a row with one block."""
    import torch
    import transformers as hf

    dino = {"use_swiglu_ffn": not row.model, "image_size": 518}
    gated = {"use_gated_mlp": not row.model, "num_register_tokens": 4}
    gated |= {} if row.model else {"hidden_act": "silu"}
    kinds = {
        "hf_vit": (hf.ViTConfig, hf.ViTForImageClassification, {}),
        "hf_deit_distilled": (
            *(hf.DeiTConfig, hf.DeiTForImageClassificationWithTeacher),
            {},
        ),
        "hf_dinov2": (hf.Dinov2Config, hf.Dinov2ForImageClassification, dino),
        "hf_dinov2_with_registers": (
            *(
                hf.Dinov2WithRegistersConfig,
                hf.Dinov2WithRegistersForImageClassification,
            ),
            dino,
        ),
        "hf_dinov3": (hf.DINOv3ViTConfig, hf.DINOv3ViTModel, gated),
        "hf_clip": (hf.CLIPVisionConfig, hf.CLIPVisionModelWithProjection, {}),
        "hf_siglip": (hf.SiglipVisionConfig, hf.SiglipVisionModel, {}),
    }
    config, build, more = kinds[row.dialect]
    said = config(
        hidden_size=size.width,
        num_attention_heads=size.heads,
        intermediate_size=size.mlp_width,
        num_hidden_layers=1,
        patch_size=size.patch[0],
        **{"image_size": row.image_size, **more},
    )
    with torch.device("meta"):
        state = build(said).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    return Tensors(shapes, lambda name: None, config=said.to_dict())


def test_models_of_transformers_are_what_the_table_says():
    seen = set()
    for row in ROWS.values():
        kind = (row.dialect, row.model, row.image_size)
        if not row.dialect.startswith("hf_") or kind in seen:
            continue
        seen.add(kind)
        giant = models.architecture(
            *("g-opt/14",), num_classes=0, image_size=224, mlp_width=4096, heads=24
        )
        size = (
            models.architecture(
                row.model, num_classes=0, image_size=row.image_size, crop="valid"
            )
            if row.model
            else giant
        )
        tensors = of_transformers(row, size)
        assert dialects.recognise(tensors.names) == row.dialect, row
        entry = DIALECTS[row.dialect]
        _, found = files.interpret(tensors, entry, {}, None)
        assert (found.width, found.heads, found.patch, found.mlp_width) == (
            *(size.width, size.heads, size.patch),
            size.mlp_width,
        ), row
        side = 518 if "dinov2" in row.name else row.image_size
        assert found.image_size == (side, side), row
    assert len(seen) > 40


def test_bits_of_the_rows_are_what_the_table_says():
    import timm
    import torch

    bits = {n: row for n, row in ROWS.items() if row.dialect == "timm_bit"}
    assert len(bits) == 15
    for architecture in {name[5:].partition(".")[0] for name in bits}:
        with torch.device("meta"):
            state = timm.create_model(architecture).state_dict()
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        config = {"architecture": architecture}
        config["pretrained_cfg"] = {"input_size": [3, 480, 480]}
        tensors = Tensors(shapes, lambda name: None, config=config)
        assert dialects.recognise(tensors.names) == "timm_bit"
        entry = DIALECTS["timm_bit"]
        leaves, found = files.interpret(tensors, entry, {}, None)
        files.check_shapes(leaves.shapes, found)
        of_it = [n for n in bits if n[5:].partition(".")[0] == architecture]
        assert {bits[name].model for name in of_it} == {found.name}
        assert (found.num_classes, found.image_size) == (1000, (480, 480))


def test_images_are_prepared_as_timm_says_of_each_name():
    import timm
    from timm.data import resolve_data_config

    for name, row in ROWS.items():
        if not name.startswith("timm/"):
            continue
        said = timm.get_pretrained_cfg(name.removeprefix("timm/")).to_dict()
        wanted = resolve_data_config(pretrained_cfg=said)
        size = (row.image_size, row.image_size)
        arch = types.SimpleNamespace(image_size=size)
        found = DIALECTS[row.dialect].preprocessing(arch, {"pretrained_cfg": said})
        assert found.image_size == wanted["input_size"][1:] == size, name
        for ours, theirs in ((found.mean, "mean"), (found.std, "std")):
            assert np.allclose(np.divide(ours, 255), wanted[theirs], atol=1e-7), name
        assert found.filter == wanted["interpolation"], name
        scaled = math.floor(row.image_size / wanted["crop_pct"])
        if found.transform == "resize":
            assert wanted["crop_mode"] == "squash" and scaled == row.image_size, name
        elif found.transform == "resize_small_crop":
            assert wanted["crop_mode"] == "center" and found.resize == scaled, name
        else:
            assert found.transform == "resize_crop", name
            assert wanted["crop_mode"] == "squash", name
            assert found.resize == (scaled, scaled), name


# Dialect -> the class of transformers that prepares its images.
PROCESSORS = {
    "hf_vit": "ViT",
    "hf_deit_distilled": "DeiT",
    "hf_dinov2": "Bit",
    "hf_dinov2_with_registers": "Bit",
    "hf_dinov3": "DINOv3ViT",
    "hf_clip": "CLIP",
    "hf_siglip": "Siglip",
}


def test_images_are_prepared_as_the_classes_of_transformers_do():
    """Of a file that says nothing, and without one."""
    import transformers as hf

    of_rows = {row.dialect for row in ROWS.values() if row.dialect.startswith("hf_")}
    assert set(PROCESSORS) == of_rows
    for dialect, kind in PROCESSORS.items():
        theirs = getattr(hf, f"{kind}ImageProcessor")
        prepares = DIALECTS[dialect].preprocessing
        cropped = getattr(theirs, "do_center_crop", None)
        arch = types.SimpleNamespace(image_size=(224, 224))  # that of all of them
        found = prepares(arch, {"preprocessor_config": {}})
        for ours, named in ((found.mean, "image_mean"), (found.std, "image_std")):
            said = getattr(theirs, named)
            assert np.allclose(np.divide(ours, 255), said, atol=1e-6), kind
        filters = {"bilinear": 2, "bicubic": 3}
        assert filters[found.filter.removeprefix("tensor_")] == theirs.resample, kind
        size = dict(theirs.size)
        if cropped:
            sides = tuple(size.values())
            wanted = sides if len(sides) == 2 else sides[0]
            same = sides == found.image_size  # then there is nothing to cut
            assert same or found.resize == wanted, kind
            assert found.image_size == (theirs.crop_size["height"],) * 2, kind
        else:
            assert found.transform == "resize", kind
            assert found.image_size == (size["height"], size["width"]), kind
