"""Pre-trained models by name: the tables, what they open, and what they refuse."""

import numpy as np
import pytest
from test_hub_cache import cache, model, same  # noqa: F401
from test_interop_timm import random_weights

import vit_jax
from vit_jax import errors, models
from vit_jax.weights import files, names, pretrained
from vit_jax.weights.dialects import DIALECTS
from vit_jax.weights.remote import hub

ROWS = names.rows()


def content(dialect, **options):
    """The files of a small model."""

    def write(folder):
        files.write(random_weights("mu/4", dialect, image_size=8, **options), folder)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    return write


def test_every_row_is_whole():
    for name, row in ROWS.items():
        assert name == row.name and row.dialect in DIALECTS
        assert hub.parse(row.url).repository == row.repository
        if row.model:
            found = models.architecture(row.model, num_classes=0, crop="valid")
            assert found.family == DIALECTS[row.dialect].family
    assert len(ROWS) > 460
    assert len({row.url for row in ROWS.values()}) > 440


@pytest.mark.parametrize(
    "name",
    [
        *("timm/vit_base_patch16_224.augreg_in21k", "facebook/dinov2-base"),
        *("google/vit-base-patch16-224-in21k", "facebook/deit-base-patch16-224"),
        *(
            "timm/deit_base_distilled_patch16_224.fb_in1k",
            "timm/flexivit_base.1200ep_in1k",
        ),
        *("google/siglip-base-patch16-224", "google/siglip2-so400m-patch14-384"),
        *("openai/clip-vit-large-patch14-336", "timm/resnetv2_50x1_bit.goog_in21k"),
        "timm/vit_base_patch16_siglip_224.webli",
        "facebook/dinov3-vits16plus-pretrain-lvd1689m",
        "timm/vit_huge_plus_patch16_dinov3.lvd1689m",
        *("timm/mixer_b16_224.goog_in21k", "timm/vit_base_r50_s16_224.orig_in21k"),
    ],
)
def test_these_have_names(name):
    assert name in vit_jax.list_models(pretrained=True)


def test_names_are_listed_by_pattern_and_by_size():
    assert vit_jax.list_models("google/*-in21k", pretrained=True)[0].startswith("goog")
    of_size = vit_jax.list_models("B/16", pretrained=True)
    assert "timm/vit_base_patch16_224.augreg_in21k" in of_size
    assert "google/vit-base-patch16-224" in of_size and len(of_size) > 50
    assert {ROWS[name].model for name in of_size} == {"B/16"}
    assert vit_jax.list_models("none*", pretrained=True) == []
    assert "B/16" in vit_jax.list_models() and "B/16" not in ROWS


def test_names_are_loaded_from_the_cache(cache, model, tmp_path):  # noqa: F811
    cache.add("google/vit-base-patch16-224", model)
    loaded = vit_jax.load("google/vit-base-patch16-224")
    assert same(loaded, model) and loaded.source == "google/vit-base-patch16-224"
    for path in ("hf:google/vit-base-patch16-224", "hf://google/vit-base-patch16-224"):
        assert same(vit_jax.load(path), model)
    cache.add(
        "timm/vit_base_patch16_224.augreg_in21k", content("timm")(tmp_path / "timm")
    )
    for prefix in ("timm/", ""):
        name = f"{prefix}vit_base_patch16_224.augreg_in21k"
        assert vit_jax.load(name).dialect == "timm"
        assert pretrained.describe(name).architecture.num_classes == 5


@pytest.mark.parametrize(
    ("name", "dialect", "size", "pretrained"),
    [
        ("google/siglip-base-patch16-224", "hf_siglip", "B/16", None),
        ("google/siglip2-large-patch16-256", "hf_siglip", "L/16", None),
        ("openai/clip-vit-base-patch32", "hf_clip", "B/32", None),
        ("facebook/dinov3-vitb16-pretrain-lvd1689m", "hf_dinov3", "B/16", None),
        ("timm/vit_base_patch16_siglip_224.webli", "timm", "B/16", None),
        ("timm/resnetv2_50x1_bit.goog_in21k", "timm_bit", "BiT-R50x1", "goog_in21k"),
    ],
)
def test_towers_and_bits_are_loaded_by_name(
    cache,  # noqa: F811
    tmp_path,
    name,
    dialect,
    size,
    pretrained,
):
    options = {
        "hf_siglip": {"pool": "map", "num_classes": 0, "gelu": "tanh"},
        "hf_clip": {"num_classes": 0, "stem_norm": True, "patch_bias": False}
        | {"gelu": "quick", "norm_epsilon": 1e-5},
        "hf_dinov3": {"num_classes": 0, "posemb": "none", "rope": "dinov3"}
        | {"layer_scale": 1e-5, "key_bias": False, "norm_epsilon": 1e-5},
        "timm": {"pool": "map"},
    }
    if dialect == "timm_bit":
        weights = random_weights("BiT-R26x0.5", dialect, image_size=8)
        files.write(weights, tmp_path / "x")
        held = {p.name: p.read_bytes() for p in (tmp_path / "x").iterdir()}
    else:
        held = content(dialect, **options[dialect])(tmp_path / "x")
    cache.add(names.find(name).repository, held)
    loaded = vit_jax.load(name)
    assert (loaded.dialect, loaded.source) == (dialect, name)
    made = vit_jax.create_model(size, pretrained=pretrained or name)
    assert made.architecture == loaded.architecture
    assert made.architecture.image_size == (8, 8)


def test_a_file_of_that_name_comes_first(cache, model, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "facebook" / "dinov2-base"
    content("timm")(folder)
    assert vit_jax.load("facebook/dinov2-base").dialect == "timm"


def test_models_are_created_with_weights_of_a_tag(cache, tmp_path):  # noqa: F811
    held = content("timm")(tmp_path / "timm")
    cache.add("timm/vit_base_patch16_224.augreg_in21k_ft_in1k", held)
    cache.add("timm/vit_base_patch16_clip_224.openai", held)
    made = vit_jax.create_model("B/16", pretrained="augreg_in21k_ft_in1k")
    wanted = random_weights("mu/4", "timm", image_size=8).params
    images = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
    graphdef, _ = models.abstract(made.architecture)
    assert np.array_equal(made(images), models.merge(graphdef, wanted)(images))
    headless = vit_jax.create_model(
        "B/16", pretrained="augreg_in21k_ft_in1k", num_classes=0, image_size=12
    )
    assert headless.architecture.image_size == (12, 12)
    assert headless(np.zeros((1, 12, 12, 3), np.float32)).shape == (
        1,
        made.architecture.width,
    )
    clip = "vit_base_patch16_clip{}_224.openai"
    gelus = [
        vit_jax.load(clip.format(kind)).architecture.gelu for kind in ("", "_quickgelu")
    ]
    assert gelus == ["erf", "quick"]  # of one repository


def test_a_tag_is_the_one_of_the_nearest_size():
    def of(size):
        row = names.of_model("B/16", "augreg_in21k_ft_in1k", size and (size, size))
        return row.name.partition(".")[0].removeprefix("timm/vit_base_patch16_")

    assert [of(s) for s in (None, 100, 224, 384, 512)] == [
        *("224", "224", "224"),
        *("384", "384"),
    ]
    whole = "timm/vit_base_patch16_384.augreg_in21k_ft_in1k"
    assert names.of_model("B/16", whole).name == whole
    assert names.of_model("B/14", "facebook/dinov2-base").dialect == "hf_dinov2"


@pytest.mark.parametrize(
    ("model_name", "tag", "says"),
    [
        ("B/16", "augreg_in21", "the nearest are: augreg_in21k"),
        ("B/16", True, "list_models('B/16', pretrained=True)"),
        ("B/16", "", "the nearest are"),
        ("B/16", "x" * 5000, "is no B/16"),
        ("B/16", "webli", "is several B/16"),
        ("B/16", "lvd142m", "is no B/16"),
        ("B/16", "facebook/dinov2-base", "is no B/16"),
        ("B/17", "augreg_in21k", "no pre-trained model of the size"),
        ("../x", "augreg_in21k", "no pre-trained model of the size"),
    ],
)
def test_other_tags_are_one_error(model_name, tag, says):
    with pytest.raises(errors.UserError) as caught:
        vit_jax.create_model(model_name, pretrained=tag)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 10 and len(str(caught.value)) < 2500


def test_a_new_model_wants_its_outputs():
    with pytest.raises(errors.UserError, match="num_classes=10"):
        vit_jax.create_model("B/16")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("google/vit-base-patch16-244", "google/vit-base-patch16-224"),
        ("timm/vit_base_patch16_224.augreg_in12k", "vit_base_patch16_224.augreg_in21k"),
        ("facebook/dino2-base", "facebook/dinov2-base"),
        ("timm/../../etc/passwd", "does not exist"),
        ("timm/vit base", "does not exist"),
        ("n" * 5000, "is no path"),
        ("timm/" + "n" * 5000, "is no path"),
        ("a\0b", "does not exist"),
        ("hf:", "no file of the hub"),
        ("hf:a b/c", "is no URL"),
        ("hf:" + "n" * 5000, "is no URL"),
        ("hf:/etc/passwd", "no file of the hub"),
    ],
)
def test_unknown_and_hostile_names_are_one_error(cache, path, says):  # noqa: F811
    with pytest.raises(errors.UserError) as caught:
        vit_jax.load(path)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 10 and len(str(caught.value)) < 1000
