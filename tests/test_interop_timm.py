"""timm's names and configs: against timm itself where it is installed, else by name."""

import json

import numpy as np
import pytest
import safetensors.numpy
from torch_peers import images_of, model_of

from vit_jax import errors, models, tree
from vit_jax.weights import files


def random_weights(name="mu/8", dialect="timm", **options):
    own = {} if name.startswith("BiT-") else {"gelu": "erf"}
    options = {"num_classes": 5, "image_size": 32} | own | options
    arch = models.architecture(name, **options)
    rng = np.random.default_rng(0)
    params = {
        name: 0.2 * rng.standard_normal(leaf.shape).astype(np.float32)
        for name, leaf in tree.named_leaves(models.abstract(arch)[1])
    }
    return files.Weights(arch, tree.from_named(params), None, dialect)


REGISTERS = {"registers": 3, "layer_scale": 1e-5, "depth": 2}
OPTIONS = {
    "plain": {"depth": 2},
    "gap": {"pool": "mean", "final_norm": "pooled"},
    "gap, norm first": {"pool": "mean", "class_token": "yes"},
    "registers": REGISTERS | {"prefix_positions": 4},
    "dinov2": REGISTERS | {"prefix_positions": 0},
    "map": {"pool": "map", "registers": 2, "prefix_positions": 2},
    "qk_norm": {"qk_norm": True, "qkv_bias": False},
    "swiglu": {"mlp": "swiglu", "mlp_width": 40, "depth": 2},
    "post": {"norm": "post", "pool": "mean", "final_norm": "pooled"},
    "tanh": {"gelu": "tanh"},
    "no pool": {"pool": "none"},
    "no positions": {"posemb": "none"},
    "sincos": {"posemb": "sincos_2d", "pool": "mean", "class_token": "yes"},
    "wide": {"image_size": (16, 32), "patch": (8, 4), "registers": 1},
    "no head": {"num_classes": 0},
    "clip": {"stem_norm": True, "patch_bias": False, "norm_epsilon": 1e-5},
    "clip, quick": {
        **{"stem_norm": True, "patch_bias": False, "norm_epsilon": 1e-5},
        **{"gelu": "quick", "pool": "mean", "final_norm": "pooled"},
    },
    "quick": {"gelu": "quick"},
    "distilled": {"pool": "distilled", "registers": 1, "prefix_positions": 2},
    "no last norm": {"final_norm": "none", "registers": 1, "prefix_positions": 0},
    "four channels": {"channels": 4},
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_reading_back_is_exact(tmp_path, kind):
    weights = random_weights(**OPTIONS[kind])
    files.write(weights, tmp_path / "a")
    again = files.read(tmp_path / "a")
    wanted = weights.architecture
    if kind == "sincos":  # the same, as a table
        images = images_of(wanted)
        logits = [model_of(w)(images) for w in (weights, again)]
        np.testing.assert_allclose(*logits, atol=1e-6)
        return
    if kind == "wide":  # registers without and with positions: one way is written
        assert again.architecture.prefix_positions == 0
        files.write(again, tmp_path / "b")
        assert same_files(tmp_path / "a", tmp_path / "b")
        return
    kept = ("name", "layer_scale", "posemb_resample")
    found = again.architecture.replace(**{key: getattr(wanted, key) for key in kept})
    if kind == "swiglu":
        assert found.gelu == "erf"
    assert found.positioned == wanted.positioned
    found = found.replace(prefix_positions=wanted.prefix_positions)
    assert found == wanted
    theirs = dict(tree.named_leaves(again.params))
    for name, leaf in tree.named_leaves(weights.params):
        assert np.array_equal(theirs[name], leaf), name
    files.write(again, tmp_path / "b")
    assert same_files(tmp_path / "a", tmp_path / "b")


def same_files(a, b):
    a, b = (safetensors.numpy.load_file(p / "model.safetensors") for p in (a, b))
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)


def renamed(folder, change):
    """A written model under other names."""
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(change(tensors), path)


def test_other_spellings_are_read(tmp_path):
    weights = random_weights(layer_scale=1e-5, registers=2, mlp="swiglu", mlp_width=40)
    files.write(weights, tmp_path)
    original = files.read(tmp_path).params
    spellings = {
        ".ls1.gamma": ".gamma_1",
        ".ls2.gamma": ".gamma_2",
        "reg_token": "register_tokens",
        "mlp.fc1.": "mlp.w12.",
        "mlp.fc2.": "mlp.w3.",
    }

    def spelled(tensors):
        names = {}
        for name in tensors:
            new = name
            for ours, other in spellings.items():
                new = new.replace(ours, other)
            names[name] = f"timm_model.{new}"
        return {names[name]: tensor for name, tensor in tensors.items()}

    renamed(tmp_path, spelled)
    again = files.read(tmp_path)
    for (name, a), (_, b) in zip(
        tree.named_leaves(original), tree.named_leaves(again.params)
    ):
        assert np.array_equal(a, b), name


def test_separate_swiglu_halves_are_read(tmp_path):
    weights = random_weights(mlp="swiglu", mlp_width=40)
    files.write(weights, tmp_path)
    original = files.read(tmp_path).params

    def apart(tensors):
        for name in [name for name in tensors if ".fc1." in name]:
            gate, up = np.split(tensors.pop(name), 2)
            tensors[name.replace("fc1", "fc1_g")] = gate
            tensors[name.replace("fc1", "fc1_x")] = up
        return tensors

    renamed(tmp_path, apart)
    again = files.read(tmp_path).params
    assert np.array_equal(
        again["blocks"]["mlp"]["gate"]["kernel"],
        original["blocks"]["mlp"]["gate"]["kernel"],
    )


def with_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        part = config["model_args"] if key in config["model_args"] else config
        part[key] = value
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"act_layer": "relu"}, "act_layer='relu'"),
        ({"act_layer": "silu"}, "act_layer='silu'"),
        ({"norm_layer": "rmsnorm"}, "norm_layer='rmsnorm'"),
        ({"global_pool": "avgmax"}, "global_pool='avgmax'"),
        ({"pool_include_prefix": True, "global_pool": "avg"}, "tokens before them"),
        ({"architecture": "vit_pe_core_base_patch16_224"}, "rotary"),
        ({"architecture": "vit_small_patch16_dinov3", "rope_type": "mrope"}, "rotary"),
        ({"num_heads": "two"}, "num_heads='two'; want a whole number"),
        ({"num_heads": 5}, "heads|cannot be made of"),
        ({"img_size": [32]}, r"img_size=\[32\]; want pixels"),
    ],
)
def test_what_ours_cannot_be_is_refused(tmp_path, changes, message):
    files.write(random_weights(), tmp_path)
    with_config(tmp_path, **changes)
    with pytest.raises(errors.UserError, match=message) as caught:
        files.read(tmp_path)
    assert len(str(caught.value).splitlines()) <= 10


@pytest.mark.parametrize(
    ("name", "message"),
    [("dist_tokens", "have no place"), ("blocks.0.ls3.gamma", "have no place")],
)
def test_tensors_without_a_place_are_refused(tmp_path, name, message):
    files.write(random_weights(), tmp_path)
    renamed(tmp_path, lambda tensors: tensors | {name: np.zeros(32, np.float32)})
    with pytest.raises(errors.UserError, match=message):
        files.read(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pre_logits": True}, "pre_logits"),
        ({"pool": "token_mean"}, "pool='token_mean': it would be"),
        ({"posemb_at": "every"}, "no name for.*blocks/posemb"),
        ({"posemb": "learned_2d"}, "no name for.*posemb/"),
        ({"norm_epsilon": 1e-12}, "norm_epsilon=1e-12: it would be 1e-06"),
        ({"patch_outputs": 3}, "no name for.*patch_head"),
        ({"name": "Mixer-S/8", "gelu": "tanh"}, "gelu='tanh': it would be 'erf'"),
    ],
)
def test_what_timm_cannot_be_is_not_written(tmp_path, options, message):
    dialect = "timm_mixer" if "name" in options else "timm"
    weights = random_weights(**{"dialect": dialect} | options)
    with pytest.raises(errors.UserError, match=f"(?s){message}"):
        files.write(weights, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_heads_come_from_the_config_the_size_or_the_caller(tmp_path):
    weights = random_weights("Ti/16", depth=1, image_size=32)
    files.write(weights, tmp_path)
    (tmp_path / "config.json").unlink()
    assert files.read(tmp_path).architecture.heads == 3
    other = tmp_path / "other"
    files.write(random_weights(width=48, heads=4), other)
    assert files.read(other).architecture.heads == 4
    (other / "config.json").unlink()
    with pytest.raises(errors.UserError, match="pass heads="):
        files.read(other)
    assert files.read(other, heads=2).architecture.heads == 2


def test_preprocessing_and_labels_come_from_the_config(tmp_path):
    weights = random_weights(image_size=64)
    files.write(weights, tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "architecture": "vit_tiny_patch16_224.augreg_in21k",
                "label_names": ["n1", "n2", "n3", "n4", "n5"],
                "label_descriptions": {"n1": "tench, Tinca", "n3": "shark"},
                "pretrained_cfg": {
                    "input_size": [3, 64, 64],
                    "crop_pct": 0.875,
                    "interpolation": "bilinear",
                    "mean": [0.485, 0.456, 0.406],
                    "std": [0.229, 0.224, 0.225],
                },
                "model_args": {"num_heads": 2},
            }
        )
    )
    again = files.read(tmp_path)
    assert again.label_names == ("tench, Tinca", "n2", "shark", "n4", "n5")
    assert again.label_ids == ("n1", "n2", "n3", "n4", "n5")
    wanted = again.preprocessing
    assert (wanted.transform, wanted.resize) == ("resize_small_crop", 73)
    assert wanted.filter == "bilinear"
    assert wanted.mean == (123.675, 116.28, 103.53)
    assert wanted.std == (58.395, 57.12, 57.375)
    files.write(again, tmp_path / "b")
    back = files.read(tmp_path / "b")
    assert (back.label_names, back.preprocessing) == (again.label_names, wanted)


def test_another_image_size_is_another_table(tmp_path):
    files.write(random_weights(image_size=32), tmp_path)
    larger = files.read(tmp_path, image_size=64)
    assert larger.architecture.image_size == larger.preprocessing.image_size == (64, 64)
    assert larger.leaves.shapes["posemb"] == (1, 65, 32)


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({"label_names": list("abcde")}, tuple("abcde")),
        ({"labels": list("abcde")}, tuple("abcde")),  # its older name
        ({"label_names": dict(zip("40213", "eacbd"))}, tuple("abcde")),
        ({"pretrained_cfg": {"label_names": list("abcde")}}, tuple("abcde")),
        ({"label_names": list("abc")}, None),
        ({"label_names": {"0": "a", "4": "e"}}, None),
        ({"label_names": [1, 2, None, 4, 5]}, None),
        ({"label_names": "abcde"}, None),
        ({}, None),
    ],
)
def test_names_are_one_for_each_output_or_none(tmp_path, said, names, caplog):
    files.write(random_weights(), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | said))
    again = files.read(tmp_path)
    assert again.label_names == again.label_ids == names
    warned = [r for r in caplog.records if "config.json" in r.getMessage()]
    assert len(warned) == (names is None and bool(said))
