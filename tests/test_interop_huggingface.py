"""transformers' ViT, DeiT and DINOv2: the golden file, both directions, refusals."""

import json

import numpy as np
import pytest
import safetensors.numpy
from torch_peers import images_of, model_of

from vit_jax import errors, models, tree
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.weights import files


def test_logits_of_the_golden_file(golden):
    weights = files.read(golden / "hf_vit")
    expected = np.load(golden / "hf_vit_io.npz")
    logits = model_of(weights)(expected["images"])
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4, rtol=0)
    arch = weights.architecture
    assert (arch.gelu, arch.norm_epsilon, arch.heads) == ("erf", 1e-12, 4)
    assert weights.label_names is None  # LABEL_0 ... are none


def test_writing_the_golden_file_back_is_exact(golden, tmp_path):
    files.write(files.read(golden / "hf_vit"), tmp_path)
    assert same(golden / "hf_vit", tmp_path)
    again = json.loads((tmp_path / "config.json").read_text())
    original = json.loads((golden / "hf_vit/config.json").read_text())
    shared = set(again) & set(original)
    assert len(shared) > 12
    assert all(again[key] == original[key] for key in shared)


def same(a, b):
    a, b = (safetensors.numpy.load_file(p / "model.safetensors") for p in (a, b))
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)


def random_weights(dialect, **options):
    options = {"num_classes": 5, "image_size": 32, "gelu": "erf", "depth": 2} | options
    options = {"heads": 4, "norm_epsilon": 1e-12} | options
    arch = models.architecture("mu/8", **options)
    rng = np.random.default_rng(0)
    params = {
        name: 0.2 * rng.standard_normal(leaf.shape).astype(np.float32)
        for name, leaf in tree.named_leaves(models.abstract(arch)[1])
    }
    return files.Weights(arch, tree.from_named(params), None, dialect)


DINOV2 = {"layer_scale": 1.0, "pool": "token_mean", "norm_epsilon": 1e-6}
DINOV2 |= {"mask_token": True}
OURS = {
    "plain": ("hf_vit", {}),
    "tanh": ("hf_vit", {"gelu": "tanh", "norm_epsilon": 1e-6}),
    "pooler": ("hf_vit", {"num_classes": 0, "pre_logits": True}),
    "mask": ("hf_vit", {"mask_token": True}),
    "wide": ("hf_vit", {"image_size": (16, 32), "patch": (8, 4)}),
    "deit": ("hf_deit", {"registers": 1, "prefix_positions": 2}),
    "dinov2": ("hf_dinov2", DINOV2),
    "dinov2, no mask": ("hf_dinov2", DINOV2 | {"mask_token": False}),
    "dinov2, bare": ("hf_dinov2", DINOV2 | {"num_classes": 0, "pool": "token"}),
    "registers": (
        "hf_dinov2_with_registers",
        DINOV2 | {"registers": 3, "mlp": "swiglu", "mlp_width": 88},
    ),
}


@pytest.mark.parametrize("kind", OURS)
def test_reading_back_is_exact(tmp_path, kind):
    dialect, options = OURS[kind]
    weights = random_weights(dialect, **options)
    files.write(weights, tmp_path / "a")
    again = files.read(tmp_path / "a")
    wanted = weights.architecture
    assert again.dialect == dialect
    assert wanted == again.architecture.replace(
        name=wanted.name,
        layer_scale=wanted.layer_scale,
        posemb_resample=wanted.posemb_resample,
    )
    found = dict(tree.named_leaves(again.params))
    for name, leaf in tree.named_leaves(weights.params):
        assert np.array_equal(found[name], leaf), name
    files.write(again, tmp_path / "b")
    assert same(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("dialect", "options"),
    [
        ("hf_vit", {"prefix_positions": 0}),
        ("hf_vit", {"posemb": "sincos_2d"}),
        ("hf_deit", {"registers": 1, "prefix_positions": 1}),
        (
            "hf_dinov2_with_registers",
            DINOV2 | {"registers": 2, "prefix_positions": 3, "mask_token": False},
        ),
    ],
)
def test_positions_are_put_where_their_readers_look(tmp_path, dialect, options):
    weights = random_weights(dialect, **options)
    files.write(weights, tmp_path)
    again = files.read(tmp_path)
    images = images_of(weights.architecture)
    logits = [model_of(w)(images) for w in (weights, again)]
    np.testing.assert_allclose(*logits, atol=1e-5)


@pytest.mark.parametrize(
    ("dialect", "options", "message"),
    [
        ("hf_vit", {"pre_logits": True}, "both a layer before the head"),
        ("hf_vit", {"pool": "mean"}, "pool"),
        ("hf_vit", {"registers": 2}, "no name for.*registers"),
        ("hf_vit", {"layer_scale": 1e-5}, "no name for.*blocks/scale1"),
        ("hf_vit", {"qk_norm": True}, "no name for.*query_norm"),
        ("hf_deit", {"registers": 2}, "one token beside the class token"),
        ("hf_deit", {}, "one token beside the class token"),
        ("hf_dinov2", {"mlp_width": 33}, "a whole number of times the width"),
        ("hf_dinov2", {"pool": "map"}, "no name for.*map/"),
        ("hf_dinov2", {"pool": "token"}, "pool='token': it would be 'token_mean'"),
        ("hf_dinov2", {"norm": "post"}, "norm='post': it would be 'pre'"),
    ],
)
def test_what_they_cannot_be_is_not_written(tmp_path, dialect, options, message):
    if dialect == "hf_dinov2":
        options = DINOV2 | options
    with pytest.raises(errors.UserError, match=f"(?s){message}"):
        files.write(random_weights(dialect, **options), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def with_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act='relu'; ours: gelu"),
        ({"model_type": "vit_mae"}, "model_type='vit_mae'"),
        ({"layer_norm_eps": -1}, "layer_norm_eps='-1'; want a number above 0"),
        ({"layer_norm_eps": 1e999}, "want a number above 0"),
        ({"num_attention_heads": 0}, "num_attention_heads='0'"),
        ({"num_attention_heads": 5}, "cannot be made of"),
        ({"image_size": "32"}, "image_size=32; want pixels"),
    ],
)
def test_configs_that_ours_cannot_follow_are_refused(tmp_path, changes, message):
    files.write(random_weights("hf_vit"), tmp_path)
    with_config(tmp_path, **changes)
    with pytest.raises(errors.UserError, match=message) as caught:
        files.read(tmp_path)
    assert len(str(caught.value).splitlines()) <= 10


def test_a_teachers_student_has_both_heads(tmp_path):
    weights = random_weights("hf_deit", registers=1, prefix_positions=2)
    files.write(weights, tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    for part in ("weight", "bias"):
        tensors[f"cls_classifier.{part}"] = tensors.pop(f"classifier.{part}")
        tensors[f"distillation_classifier.{part}"] = tensors[f"cls_classifier.{part}"]
    safetensors.numpy.save_file(tensors, path)
    again = files.read(tmp_path)
    assert again.dialect == "hf_deit_distilled"
    assert again.architecture.pool == "distilled"
    for part in ("kernel", "bias"):
        found = again.params["head_dist"][part]
        assert np.array_equal(found, weights.params["head"][part])


def test_without_a_config_the_defaults_are_transformers(tmp_path):
    for dialect, options, epsilon in (
        ("hf_vit", {"width": 192, "mlp_width": 768, "heads": 3}, 1e-12),
        ("hf_dinov2", DINOV2 | {"width": 64, "heads": 1}, 1e-6),
    ):
        weights = random_weights(dialect, **options)
        files.write(weights, tmp_path / dialect)
        (tmp_path / dialect / "config.json").unlink()
        arch = files.read(tmp_path / dialect).architecture
        assert (arch.heads, arch.norm_epsilon) == (options["heads"], epsilon)
    files.write(random_weights("hf_vit"), tmp_path / "odd")
    (tmp_path / "odd/config.json").unlink()
    (tmp_path / "odd/preprocessor_config.json").unlink()
    assert files.read(tmp_path / "odd", heads=4).architecture.heads == 4


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({}, {"filter": "bilinear"}),
        ({"size": 32, "resample": 3}, {"filter": "bicubic"}),
        (
            {
                **{"size": {"shortest_edge": 40}, "do_center_crop": True},
                **{"crop_size": {"height": 32, "width": 32}, "resample": 3},
                **{"image_mean": [0.485, 0.456, 0.406]},
                **{"image_std": [0.229, 0.224, 0.225]},
            },
            {
                **{"transform": "resize_small_crop", "resize": 40},
                **{"filter": "bicubic", "mean": (123.675, 116.28, 103.53)},
                **{"std": (58.395, 57.12, 57.375), "rounding": "transformers"},
            },
        ),
        (
            {"do_normalize": False},
            {"filter": "bilinear", "mean": (0, 0, 0), "std": (255, 255, 255)},
        ),
        ({"do_resize": False}, {"transform": "none"}),
    ],
)
def test_preprocessing_is_that_of_its_file(tmp_path, said, wanted):
    files.write(random_weights("hf_vit"), tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    weights = files.read(tmp_path)
    assert weights.preprocessing == Preprocessing((32, 32), **wanted)
    files.write(weights, tmp_path / "b")
    assert files.read(tmp_path / "b").preprocessing == weights.preprocessing


def test_names_of_classes_are_read_and_written(tmp_path):
    weights = random_weights("hf_vit")
    names = ("tench", "goldfish", "shark", "ray", "cock")
    named = files.Weights(weights.architecture, weights.leaves, None, "hf_vit", names)
    files.write(named, tmp_path)
    assert files.read(tmp_path).label_names == names
    with_config(tmp_path, id2label={"1": "a", "7": "b"})
    assert files.read(tmp_path).label_names is None
