"""timm's names and configs: against timm itself where it is installed, else by name."""

import contextlib
import functools
import importlib.machinery
import importlib.util
import json
import sys
import types

import numpy as np
import pytest
import safetensors.numpy
from torch_peers import images_of, model_of, randomized

from vit_jax import errors, models, tree
from vit_jax.weights import files
from vit_jax.weights.dialects import DIALECTS
from vit_jax.weights.source import Tensors

TORCHVISION = (
    *("torchvision", "torchvision.transforms", "torchvision.transforms.functional"),
    *("torchvision.ops", "torchvision.ops.misc", "torchvision.datasets"),
    *("torchvision.models", "torchvision.models.feature_extraction"),
)


class _Names(type):
    """A class all of whose attributes are their names."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Module(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Names(name, (), {})


@contextlib.contextmanager
def _without_torchvision():
    """timm imports torchvision and needs none of it to make a model."""
    if importlib.util.find_spec("torchvision"):
        yield
        return
    for name in TORCHVISION:
        module = _Module(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__path__ = []
        sys.modules[name] = module
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
    try:
        yield
    finally:
        for name in TORCHVISION:
            del sys.modules[name]


@pytest.fixture(scope="session")
def timm():
    pytest.importorskip("torch")
    if not importlib.util.find_spec("timm"):
        pytest.skip("timm is not installed")
    with _without_torchvision():
        import timm

        return timm


def torch_logits(model, images):
    import torch

    with torch.no_grad():
        return model.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()


def saved(model, folder, config):
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


TINY = {
    **{"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2},
    **{"num_heads": 4, "num_classes": 5},
}
GAP = {"global_pool": "avg", "class_token": False}
# Options of timm's class, and what its hub's config would say beside the heads.
KINDS = {
    "plain": ({}, {}),
    "gap": (GAP, {}),
    "gap with a class token": ({"global_pool": "avg"}, {}),
    "gap, norm first": (GAP | {"fc_norm": False}, {}),
    "registers": ({"reg_tokens": 2}, {}),
    "dinov2": ({"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5}, {}),
    "map": ({"global_pool": "map", "class_token": False}, {}),
    "map, registers": (
        GAP | {"global_pool": "map", "reg_tokens": 3, "pool_include_prefix": True},
        {"pool_include_prefix": True},
    ),
    "qk_norm": ({"qk_norm": True, "qkv_bias": False}, {}),
    "swiglu packed": ({"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}, {}),
    "swiglu": ({"mlp_layer": "SwiGLU", "act_layer": "silu"}, {}),
    "post": (
        GAP | {"block_fn": "ResPostBlock"},
        {"architecture": "vit_base_patch16_rpn_224"},
    ),
    "tanh": ({"act_layer": "gelu_tanh"}, {"act_layer": "gelu_tanh"}),
    "no pool": ({"global_pool": ""}, {"global_pool": ""}),
    "no positions": ({"pos_embed": "none"}, {"pos_embed": "none", "img_size": 32}),
    "wide": ({"img_size": (16, 32), "reg_tokens": 1}, {"img_size": [16, 32]}),
    "no head": ({"num_classes": 0}, {}),
    "clip": (
        {"pre_norm": True, "norm_layer": "LayerNormOfClip"},
        {"architecture": "vit_base_patch16_clip_224"},
    ),
    "quick": ({"act_layer": "quick_gelu"}, {"act_layer": "quick_gelu"}),
    "no last norm": ({"final_norm": False}, {}),
    "one channel": ({"in_chans": 1}, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_timms(timm, tmp_path, kind):
    from timm import layers
    from timm.models import vision_transformer as vit

    options, said = KINDS[kind]
    options = {
        key: getattr(layers, str(value), None) or getattr(vit, str(value), value)
        if key in ("mlp_layer", "block_fn")
        else value
        for key, value in options.items()
    }
    if "norm_layer" in options:
        options["norm_layer"] = functools.partial(layers.LayerNorm, eps=1e-5)
    theirs = randomized(vit.VisionTransformer(**TINY | options))
    name = said.get("architecture", "vit_base_patch16_224")
    config = {"architecture": name, "model_args": {"num_heads": 4} | said}
    weights = files.read(saved(theirs, tmp_path, config))
    assert weights.dialect == "timm"
    images = images_of(weights.architecture)
    logits = model_of(weights)(images)
    np.testing.assert_allclose(logits, torch_logits(theirs, images), atol=1e-4)


def random_weights(name="mu/8", dialect="timm", **options):
    options = {"num_classes": 5, "image_size": 32, "gelu": "erf"} | options
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
def test_timm_reads_what_is_written(timm, tmp_path, kind):
    weights = random_weights(**OPTIONS[kind])
    files.write(weights, tmp_path / "model")
    theirs = timm.create_model(f"local-dir:{tmp_path}/model", pretrained=True)
    images = images_of(weights.architecture)
    logits = model_of(weights)(images)
    np.testing.assert_allclose(torch_logits(theirs, images), logits, atol=1e-4)


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


def test_published_names_and_checkpoint_path_work(timm, tmp_path):
    weights = random_weights("Ti/16", image_size=224, depth=12, num_classes=7)
    files.write(weights, tmp_path / "tiny.safetensors")
    theirs = timm.create_model(
        "vit_tiny_patch16_224",
        num_classes=7,
        checkpoint_path=str(tmp_path / "tiny.safetensors"),
    )
    images = images_of(weights.architecture)
    logits = model_of(weights)(images)
    np.testing.assert_allclose(torch_logits(theirs, images), logits, atol=1e-4)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "vit_tiny_patch16_224"


@pytest.mark.parametrize("dialect", ["google_old", "big_vision", "big_vision_scan"])
@pytest.mark.parametrize("pool", ["token", "map"])
def test_timms_reader_of_npz_files_reads_ours(timm, tmp_path, dialect, pool):
    from timm.models.vision_transformer import VisionTransformer

    if pool == "map" and dialect == "google_old":
        pytest.skip("Google's first models have no such head")
    weights = random_weights(pool=pool, depth=2, gelu="tanh", dialect=dialect)
    files.write(weights, tmp_path / "x.npz")
    theirs = VisionTransformer(
        **{"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2},
        **{"num_heads": 2, "num_classes": 5, "act_layer": "gelu_tanh"},
        global_pool=pool,
        class_token=pool == "token",
        no_embed_class=dialect != "google_old",
    )
    theirs.load_pretrained(str(tmp_path / "x.npz"))
    images = images_of(weights.architecture)
    logits = model_of(weights)(images)
    np.testing.assert_allclose(torch_logits(theirs, images), logits, atol=1e-4)


def test_mixers_both_ways(timm, tmp_path, caplog):
    from timm.models.mlp_mixer import MlpMixer

    sizes = {"depth": 2, "tokens_mlp_width": 24, "channels_mlp_width": 64}
    weights = random_weights("Mixer-S/8", "timm_mixer", width=32, **sizes)
    files.write(weights, tmp_path / "a")
    assert "MlpMixer(**model_args)" in caplog.text
    config = json.loads((tmp_path / "a/config.json").read_text())
    theirs = MlpMixer(num_classes=5, **config["model_args"])
    timm.models.load_checkpoint(theirs, str(tmp_path / "a/model.safetensors"))
    images = images_of(weights.architecture)
    logits = torch_logits(theirs, images)
    np.testing.assert_allclose(logits, model_of(weights)(images), atol=1e-4)
    again = files.read(saved(randomized(theirs), tmp_path / "b", {}))
    logits = torch_logits(theirs, images)
    np.testing.assert_allclose(logits, model_of(again)(images), atol=1e-4)


def test_named_mixers_are_made_by_name(timm, tmp_path):
    weights = random_weights("Mixer-S/16", "timm_mixer", image_size=32)
    files.write(weights, tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    images = images_of(weights.architecture)
    logits = model_of(weights)(images)
    np.testing.assert_allclose(torch_logits(theirs, images), logits, atol=1e-3)
    assert files.read(tmp_path).architecture == weights.architecture


def abstract(model, architecture):
    """Names and shapes of a model of the zoo, and what the hub's config says."""
    pool = {"architecture": architecture, "global_pool": model.global_pool}
    size = [3, *model.patch_embed.img_size]
    return Tensors(
        {name: tuple(value.shape) for name, value in model.state_dict().items()},
        lambda name: None,
        config=pool | {"pretrained_cfg": {"input_size": size}},
    )


ACTS = {"GELU": "erf", "GELUTanh": "tanh", "SiLU": "erf", "QuickGELU": "quick"}


def test_the_whole_zoo_is_read_as_it_is_or_refused(timm):
    """timm's own modules say what their tensors and configs leave out."""
    import torch
    from timm.models.vision_transformer import ResPostBlock, VisionTransformer

    entry, read, refused = DIALECTS["timm"], [], []
    for name in timm.list_models(["vit_*", "deit*", "flexivit*", "test_vit*"]):
        if any(part in name for part in ("_7b_", "_sapiens2", "gigantic")):
            continue
        with torch.device("meta"):
            model = timm.create_model(name, depth=1)
        if not any(part.endswith("attn.qkv.weight") for part in model.state_dict()):
            continue
        plain = isinstance(model, VisionTransformer)
        try:
            tensors = abstract(model, name)
            leaves, arch = files.interpret(tensors, entry, {}, None)
            files.check_shapes(leaves.shapes, arch)
        except errors.UserError:
            refused.append(name)
            continue
        block = model.blocks[0]
        assert plain, name
        assert arch.heads == block.attn.num_heads, name
        assert arch.gelu == ACTS[type(block.mlp.act).__name__], name
        assert arch.norm_epsilon == block.norm1.eps, name
        post = isinstance(block, ResPostBlock)
        assert arch.norm == ("post" if post else "pre"), name
        assert arch.image_size == tuple(model.patch_embed.img_size), name
        assert arch.grid == tuple(model.patch_embed.grid_size), name
        assert arch.prefix == model.num_prefix_tokens, name
        assert arch.stem_norm == ("norm_pre.weight" in model.state_dict()), name
        assert (arch.positioned == 0) == (model.no_embed_class or not arch.prefix)
        read.append(name)
    assert {"deit3_base_patch16_224", "vit_base_patch14_reg4_dinov2"} <= set(read)
    assert {"vit_base_patch16_siglip_224", "vit_huge_patch14_224"} <= set(read)
    assert {"vit_base_patch32_clip_quickgelu_224", "vit_base_r50_s16_224"} <= set(read)
    assert "deit_tiny_distilled_patch16_224" in read
    for part in ("_pe_", "_rope_", "dinov3", "reg4_map", "resnet50d", "relpos"):
        assert not [name for name in read if part in name]
    assert len(read) > 130


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("vit_xsmall_patch16_clip_224", "matched"),
        ("vit_small_patch16_rope_ape_224", "not a plain ViT"),
        ("vit_dwee_patch16_reg1_gap_256", "refused"),
    ],
)
def test_a_row_of_the_sweep(timm, name, outcome):
    from benchmarks import timm_zoo

    row = timm_zoo.compare(name)
    assert row["outcome"] == outcome, row
    assert timm_zoo.line_of(name, row) in timm_zoo.table({name: row})


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
        ({"architecture": "vit_small_patch16_rope_ape_224"}, "rotary"),
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
