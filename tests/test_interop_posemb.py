"""Position tables at other sizes: as PyTorch, transformers, timm and Google do it."""

import json
import logging
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import vit_jax
from configs import base
from vit_jax import errors, models, tree
from vit_jax.checkpoints import checkpoint
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.models.vit_architecture import VitArchitecture
from vit_jax.weights import adapting, files, posemb, pretrained
from vit_jax.weights.source import Tensors

GOLDEN = Path(__file__).parent / "golden"
POSITIONS = GOLDEN / "positions"
KINDS = sorted(path.name for path in POSITIONS.iterdir() if path.is_dir())


def grid_of(text):
    rows, columns = text.split("x")
    return int(rows), int(columns)


def test_every_method_can_be_asked_for():
    known = VitArchitecture.CHOICES["posemb_resample"]
    assert set(known) == {"auto", posemb.FRESH, *posemb.METHODS}


def test_tables_are_those_of_pytorch():
    """Values of `torch.nn.functional.interpolate`, by `benchmarks/positions.py`."""
    with np.load(POSITIONS / "tables.npz") as archive:
        values = dict(archive)
    results = [key for key in values if " " in key]
    assert {key.split()[0] for key in results} == set(posemb.METHODS) - {"corners"}
    for key in results:
        method, old, new = key.split()
        found = posemb.resample_posemb(
            values[old],
            old_grid=grid_of(old),
            new_grid=grid_of(new),
            prefix=0,
            method=method,
        )
        np.testing.assert_allclose(found, values[key], atol=1e-6, rtol=0, err_msg=key)


@pytest.mark.parametrize("method", posemb.METHODS)
def test_what_is_everywhere_the_same_stays(method):
    for old, new in ((1, 5), (5, 1), (4, 4), (3, 7), (7, 3), (37, 16)):
        weights = posemb.METHODS[method](old, new)
        assert weights.shape == (new, old)
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)
        if old == new and method != "bicubic_offset":
            np.testing.assert_allclose(weights, np.eye(old), atol=1e-12)
        if old == 1 or new == 1 or method == "bicubic_offset":
            continue
        # Nothing prefers left to right.
        np.testing.assert_allclose(weights[::-1, ::-1], weights, atol=1e-9)


def test_corners_is_scipys_zoom():
    scipy = pytest.importorskip("scipy.ndimage")
    table = np.random.default_rng(0).standard_normal((4, 6, 3))
    for new in ((7, 3), (2, 2), (12, 9)):
        zoom = (new[0] / 4, new[1] / 6, 1)
        found = posemb.resample_posemb(
            table.reshape(1, 24, 3), old_grid=(4, 6), new_grid=new, prefix=0
        )
        expected = scipy.zoom(table, zoom, order=1).reshape(1, -1, 3)
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_case_of_a_transformers_vit():
    case = GOLDEN / "cases/posemb_hf"
    for size, logits in json.loads((case / "expected.json").read_text())[
        "logits"
    ].items():
        shape = (2, *grid_of(size), 3)
        images = np.random.default_rng(5).normal(size=shape).astype(np.float32)
        found = pretrained.load(case / "hf", image_size=size).model(images)
        np.testing.assert_allclose(found, logits, atol=1e-4, err_msg=size)


def images_at(size):
    """As `benchmarks/positions.py` makes them."""
    rng = np.random.default_rng(size[0] * 1000 + size[1])
    return rng.standard_normal((2, *size, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_at_other_sizes_are_those_of_the_code(kind):
    """Logits by transformers and timm, stored by `benchmarks/positions.py`."""
    with np.load(POSITIONS / kind / "logits.npz") as archive:
        expected = dict(archive)
    assert len(expected) == 2
    for size, logits in expected.items():
        model = pretrained.load(POSITIONS / kind, image_size=size, unroll=1).model
        found = model(images_at(grid_of(size)))
        np.testing.assert_allclose(found, logits, atol=1e-4, err_msg=size)


def position_table(weights):
    return dict(tree.named_leaves(weights.params))["posemb"]


def test_one_key_overrides():
    path = POSITIONS / "transformers_vit"
    old = position_table(files.read(path))
    assert files.read(path).architecture.posemb_resample == "bicubic"
    for asked, method in {"auto": "bicubic", "corners": "corners"}.items():
        new = files.read(path, image_size=(24, 12), posemb_resample=asked)
        assert new.architecture.posemb_resample == method
        expected = posemb.resample_posemb(
            old, old_grid=(4, 4), new_grid=(6, 3), prefix=1, method=method
        )
        assert np.array_equal(position_table(new), expected)
    with pytest.raises(errors.UserError, match='mean "bicubic"'):
        files.read(path, posemb_resample="bicubi")


def test_a_checkpoint_of_ours_keeps_its_codes_way(tmp_path):
    weights = files.read(POSITIONS / "timm_vit")
    described = checkpoint.Description(
        weights.architecture, Preprocessing((16, 16)), None, {}, 0
    )
    checkpoint.write_params(tmp_path / "ours", weights.params, described)
    old = position_table(weights)
    for asked, method in {"auto": "bicubic_antialias", "centers": "centers"}.items():
        loaded = pretrained.load(
            tmp_path / "ours", image_size="24x12", posemb_resample=asked
        )
        expected = posemb.resample_posemb(
            old, old_grid=(4, 4), new_grid=(6, 3), prefix=1, method=method
        )
        assert np.array_equal(loaded.params["posemb"], expected)
    with pytest.raises(errors.UserError, match="leave grid out"):
        pretrained.load(tmp_path / "ours", grid=(2, 8))


def test_a_runs_key_is_the_checkpoints_by_default():
    arch = files.read(POSITIONS / "transformers_vit").architecture
    for asked, method in {"auto": "bicubic", "corners": "corners"}.items():
        found = models.with_options(arch, {"posemb_resample": asked})
        assert found.posemb_resample == method
    assert "posemb_resample" in models.decided_by_run(arch)
    assert base.get_config().model.posemb_resample == "auto"


def test_what_was_stored_before_the_key_is_read():
    arch = models.architecture("mu/8", num_classes=3, image_size=32)
    stored = arch.to_dict()
    assert (stored.pop("posemb_resample"), stored.pop("posemb_std")) == ("auto", 0.02)
    assert models.from_dict(stored) == arch
    assert posemb.method_of(arch) == "corners"


def test_fine_tuning_resamples_as_the_checkpoint_unless_told():
    source = models.architecture(
        "mu/8", num_classes=3, image_size=32, posemb_resample="bicubic"
    )
    leaves = {
        name: np.random.default_rng(0).standard_normal(leaf.shape).astype(np.float32)
        for name, leaf in tree.named_leaves(models.abstract(source)[1])
    }
    for asked, method in {"auto": "bicubic", "centers": "centers"}.items():
        target = models.architecture(
            "mu/8", num_classes=3, image_size=(48, 16), posemb_resample=asked
        )
        params, _ = adapting.adapt(
            Tensors.of(leaves), source, target, models.abstract(target)[1]
        )
        expected = posemb.resample_posemb(
            leaves["posemb"], old_grid=(4, 4), new_grid=(6, 2), prefix=1, method=method
        )
        assert np.array_equal(params["posemb"], expected)


@pytest.mark.parametrize("kind", ["learned", "learned_2d"])
def test_positions_may_be_drawn_anew_for_another_grid(kind):
    """By a run, which has initial values; nobody else makes them up."""
    options = {"num_classes": 3, "posemb": kind, "posemb_resample": "fresh"}
    source, target = (
        models.architecture("mu/8", image_size=size, **options) for size in (32, 48)
    )
    leaves, drawn = (
        {
            name: np.random.default_rng(0).standard_normal(leaf.shape)
            for name, leaf in tree.named_leaves(models.abstract(arch)[1])
        }
        for arch in (source, target)
    )
    like = models.abstract(target)[1]
    adapting.check_adapt(Tensors.of(leaves), source, target, like)
    drawn = {name: jnp.asarray(leaf) for name, leaf in drawn.items()}
    params, report = adapting.adapt(
        Tensors.of(leaves), source, target, like, fresh=drawn
    )
    tables = leaves.keys() & set(posemb.TABLES)
    assert {text.split()[0] for text in report.made_new} == tables
    for name, leaf in tree.named_leaves(params):
        assert np.array_equal(leaf, (drawn if name in tables else leaves)[name])
    with pytest.raises(errors.UserError, match="run with init_from"):
        adapting.adapt(Tensors.of(leaves), source, target, like)
    same, _ = adapting.adapt(
        Tensors.of(leaves), source, source, models.abstract(source)[1], fresh=drawn
    )
    for name, leaf in tree.named_leaves(same):
        assert np.array_equal(leaf, leaves[name])


def rectangular(path, dialect, grid, **options):
    """Writes a model of a grid of patches; returns its weights."""
    size = (8 * grid[0], 8 * grid[1])
    arch = models.architecture(
        "mu/8", num_classes=3, image_size=size, depth=1, heads=2, **options
    )
    rng = np.random.default_rng(0)
    leaves = {
        name: rng.standard_normal(leaf.shape).astype(np.float32)
        for name, leaf in tree.named_leaves(models.abstract(arch)[1])
    }
    weights = files.Weights(arch, leaves, Preprocessing(size), dialect)
    files.write(weights, path, dialect)
    return weights


@pytest.mark.parametrize("pool", ["token", "mean"])
@pytest.mark.parametrize("grid", [(2, 8), (2, 5), (1, 17), (3, 5)])
@pytest.mark.parametrize("dialect", ["google", "google_old", "big_vision"])
def test_a_rectangular_table_can_be_said(tmp_path, caplog, dialect, grid, pool):
    """Also where a square, or a square and a class token, has as many entries."""
    path = tmp_path / "x.npz"
    weights = rectangular(path, dialect, grid, pool=pool)
    assert f"load it with grid={grid}" in caplog.text
    again = files.read(path, heads=2, grid=grid)
    assert again.architecture.grid == grid
    table = position_table(weights)[:, -grid[0] * grid[1] :]
    assert np.array_equal(position_table(again)[:, -table.shape[1] :], table)
    larger = files.read(path, heads=2, grid=grid, image_size=(24, 40))
    expected = posemb.resample_posemb(table, old_grid=grid, new_grid=(3, 5), prefix=0)
    assert np.array_equal(position_table(larger)[:, -15:], expected)


def test_a_rectangular_table_is_found_where_the_config_says_it(tmp_path):
    options = {"gelu": "erf", "norm_epsilon": 1e-12}
    for dialect, more in {"hf_vit": {}, "timm": {"norm_epsilon": 1e-6}}.items():
        weights = rectangular(tmp_path / dialect, dialect, (2, 8), **options | more)
        again = files.read(tmp_path / dialect)
        assert again.architecture.grid == (2, 8)
        assert np.array_equal(position_table(again), position_table(weights))


def test_a_grid_that_the_table_does_not_have_is_an_error(tmp_path):
    rectangular(tmp_path / "x.npz", "google", (2, 8))
    for grid, message in {
        (3, 8): "has 17 entries for patches and up to 1 more",
        (4, 8): "grid=4x8 is 32 patches",
        (2, 8, 1): "is no size",
        "2x": "is no size",
    }.items():
        with pytest.raises(errors.UserError, match=message) as caught:
            files.read(tmp_path / "x.npz", heads=2, grid=grid)
        assert len(str(caught.value).splitlines()) <= 10


def test_dinov2_takes_every_table_for_square(tmp_path, caplog):
    """transformers resamples it from a square even at its config's own size."""
    kind = POSITIONS / "transformers_dinov2"
    config = json.loads((kind / "config.json").read_text()) | {"image_size": [8, 32]}
    tensors = safetensors.numpy.load_file(kind / "model.safetensors")
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    own, asked = files.read(tmp_path), files.read(kind, image_size=(8, 32))
    assert own.architecture == asked.architecture
    assert np.array_equal(position_table(own), position_table(asked))
    assert own.architecture.grid == (2, 8)
    with pytest.raises(errors.UserError, match="takes a table of 16 positions for 4x4"):
        files.write(own, tmp_path / "again")
    with caplog.at_level(logging.WARNING):
        files.write(files.read(kind, image_size=(24, 32)), tmp_path / "b")
    assert "runs only with square position tables, not with 6x8" in caplog.text
    assert files.read(tmp_path / "b").architecture.grid == (6, 8)


def test_dinov2s_own_file_is_resampled_as_its_own_code_does(tmp_path):
    kind = POSITIONS / "timm_vit"
    tensors = safetensors.numpy.load_file(kind / "model.safetensors")
    tensors["mask_token"] = np.zeros((1, 16), np.float32)
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    found = files.read(tmp_path, heads=2).architecture
    assert (found.posemb_resample, found.mask_token) == ("bicubic_offset", False)


def test_converting_says_what_readers_do_otherwise(tmp_path, caplog):
    files.write(files.read(POSITIONS / "timm_vit"), tmp_path / "a", "timm")
    assert not caplog.records
    weights = files.read(POSITIONS / "timm_vit", norm_epsilon=1e-12)
    files.write(weights, tmp_path / "b", "hf_vit")
    assert "readers take 'bicubic', this model 'bicubic_antialias'" in caplog.text


def test_sizes_are_read_as_people_write_them():
    for size in (
        "48x64",
        "48,64",
        "(48, 64)",
        "[48, 64]",
        [48, 64],
        np.array([48, 64]),
    ):
        assert models.pair(size) == (48, 64)
    for size in (48, "48", "(48,)", (48,), np.int64(48)):
        assert models.pair(size) == (48, 48)
    for size in ("48x", "4x5x6", "-3", "", 3.5, True, None, (1, 2, 3), (2.0, 3)):
        with pytest.raises(errors.UserError, match="is no size"):
            models.pair(size)


@pytest.mark.parametrize("size", [(8, 32), (24, 24), (16, 16), (12, 28)])
def test_a_table_that_is_read_as_square_is_resampled_once(size, tmp_path):
    """transformers' DINOv2 takes a table of 16 for 4x4, whatever its config says."""
    shutil.copytree(POSITIONS / "transformers_dinov2", tmp_path / "x")
    config = json.loads((tmp_path / "x/config.json").read_text())
    square = vit_jax.load(tmp_path / "x", image_size=config["image_size"])
    config["image_size"] = [8, 32]
    (tmp_path / "x/config.json").write_text(json.dumps(config))
    found = vit_jax.load(tmp_path / "x", image_size=size).params["posemb"]
    grid = (size[0] // 4, size[1] // 4)
    wanted = posemb.resample_posemb(
        square.params["posemb"],
        old_grid=(4, 4),
        new_grid=grid,
        prefix=1,
        method="bicubic",
    )
    np.testing.assert_allclose(found, wanted, atol=1e-6)
