"""The rule mechanism and the resampling of position tables, by their equations."""

import logging

import jax
import numpy as np
import pytest

from vit_jax import errors
from vit_jax.weights import posemb, rules
from vit_jax.weights.rules import Rule
from vit_jax.weights.source import Tensors


def turned(array, sizes):
    return array.T


def turned_back(array, *, sizes):
    return array.T


def split(array, sizes):
    """[3 * heads * e, d] to three of [d, heads, e]."""
    return tuple(
        part.T.reshape(part.shape[1], sizes.heads, -1) for part in np.split(array, 3)
    )


def joined(*arrays, sizes):
    return np.concatenate([array.reshape(len(array), -1).T for array in arrays])


TABLE = [
    Rule("a/{leaf}", "first/{leaf}", load=turned, save=turned_back),
    Rule(("blocks/q", "blocks/k", "blocks/v"), "layer_{layer}/qkv", split, joined),
    Rule("blocks/{leaf}", "layer_{layer}/{leaf}"),
    Rule("stage/unit{unit}/{leaf}", "unit{unit:02}/{leaf}"),
]


def test_rules_are_inverse_and_stack_layers():
    theirs = {"first/w": np.arange(6.0, dtype=np.float32).reshape(2, 3)}
    theirs |= {f"layer_{i}/w": np.full(4, i, np.float32) for i in range(11)}
    theirs |= {f"unit{i:02}/w": np.full(2, i, np.float32) for i in (1, 12)}
    ours = rules.load(TABLE, theirs)
    assert ours["a/w"].shape == ours.shapes["a/w"] == (3, 2)
    assert ours["blocks/w"][:, 0].tolist() == list(range(11))
    assert ours["stage/unit1/w"][0] == 1 and ours["stage/unit12/w"][0] == 12
    back = rules.save(TABLE, ours)
    assert back.keys() == theirs.keys()
    assert all(np.array_equal(back[name], theirs[name]) for name in theirs)


def test_one_tensor_may_hold_several_leaves():
    rng = np.random.default_rng(0)
    theirs = {f"layer_{i}/qkv": rng.standard_normal((18, 5)) for i in range(2)}
    theirs = {name: array.astype(np.float32) for name, array in theirs.items()}
    sizes = rules.Sizes(heads=3)
    ours = rules.load(TABLE, theirs, sizes)
    assert ours.shapes == dict.fromkeys(
        ["blocks/q", "blocks/k", "blocks/v"], (2, 5, 3, 2)
    )
    q, x = ours["blocks/q"][1], rng.standard_normal(5).astype(np.float32)
    np.testing.assert_allclose(
        np.einsum("d,dhe->he", x, q),
        (theirs["layer_1/qkv"][:6] @ x).reshape(3, 2),
        rtol=1e-5,
    )
    back = rules.save(TABLE, ours, sizes)
    assert all(np.array_equal(back[name], theirs[name]) for name in theirs)
    with pytest.raises(errors.UserError, match=r"no name for 1 leaves:\n  blocks/v"):
        rules.save(TABLE, {n: ours[n] for n in ("blocks/q", "blocks/k")}, sizes)


def test_shapes_are_known_without_a_read():
    def read(name):
        raise AssertionError("read")

    shapes = {f"layer_{i}/qkv": (3 * 2**20, 2**20) for i in range(4)}
    ours = rules.load(TABLE, Tensors(shapes, read), rules.Sizes(heads=2**4))
    assert ours.shapes["blocks/k"] == (4, 2**20, 2**4, 2**16)


def test_what_a_dialect_ignores_is_logged(caplog):
    theirs = {"first/w": np.zeros((1, 1)), "first/position_ids": np.arange(3)}
    with caplog.at_level(logging.INFO):
        ours = rules.load(TABLE, theirs, ignore=[r".*/position_ids"])
    assert list(ours) == ["a/w"]
    assert "first/position_ids" in caplog.text


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({f"layer_0/w{i}/x": (1,) for i in range(20)}, "20 of its 20.*and 15 more"),
        ({"layer_0/w": (1,), "layer_2/w": (1,)}, r"layer \[1\] is missing of 3"),
        ({"layer_9999/w": (1,)}, "is missing of 10000"),
        ({"layer_12345/w": (1,)}, "no place in our"),
        ({"layer_0/w": (1,), "layer_1/w": (2,)}, "different shapes"),
        ({"layer_0/w": (1,), "layer_00/w": (1,)}, "two tensors claim"),
        ({"layer_0/qkv": (6, 1), "layer_0/q": (1,)}, "two tensors claim"),
        ({"layer_0/qkv": (7, 1)}, "layer_0/qkv has shape.*blocks/q cannot be made"),
    ],
)
def test_every_tensor_is_claimed_exactly_once(theirs, message):
    with pytest.raises(errors.UserError, match=f"(?s){message}") as caught:
        rules.load(TABLE, {name: np.zeros(shape) for name, shape in theirs.items()})
    assert len(str(caught.value).splitlines()) <= 10


def test_a_leaf_without_a_name_in_the_dialect_is_an_error():
    with pytest.raises(errors.UserError, match="no name for 1 leaves:\n  c "):
        rules.save(TABLE, {"c": np.zeros(1)})


def table(rows, columns, prefix=1, seed=0):
    rng = np.random.default_rng(seed)
    shape = (1, prefix + rows * columns, 5)
    return rng.standard_normal(shape).astype(np.float32)


def resample(old, old_grid, new_grid, **options):
    return posemb.resample_posemb(
        old, old_grid=old_grid, new_grid=new_grid, prefix=1, **options
    )


@pytest.mark.parametrize("method", ["corners", "centers"])
def test_the_same_grid_is_the_identity_and_the_class_entry_is_kept(method):
    old = table(3, 5)
    assert np.array_equal(resample(old, (3, 5), (3, 5), method=method), old)
    new = resample(old, (3, 5), (7, 2), method=method)
    assert new.shape == (1, 15, 5) and new.dtype == np.float32
    assert np.array_equal(new[:, :1], old[:, :1])


def test_corners_keep_their_places_and_planes_stay_planes():
    rows, columns = np.mgrid[0:4, 0:6]
    plane = (2.0 * rows - 3.0 * columns + 1.0).reshape(1, -1, 1)
    new = posemb.resample_posemb(plane, old_grid=(4, 6), new_grid=(7, 3), prefix=0)
    rows, columns = np.mgrid[0 : 3 : 7 * 1j, 0 : 5 : 3 * 1j]
    expected = 2.0 * rows - 3.0 * columns + 1.0
    np.testing.assert_allclose(new.reshape(7, 3), expected, atol=1e-12)
    assert posemb.resample_posemb(
        plane, old_grid=(4, 6), new_grid=(1, 1), prefix=0
    ) == pytest.approx(plane[0, 0, 0])


@pytest.mark.parametrize("grid", [(8, 9), (3, 2), (2, 12)])
def test_centers_is_jax_image_resize(grid):
    old = table(4, 6)
    new = resample(old, (4, 6), grid, method="centers")[0, 1:].reshape(*grid, 5)
    image = old[0, 1:].reshape(4, 6, 5)
    expected = jax.image.resize(image, (*grid, 5), "bilinear")
    np.testing.assert_allclose(new, expected, atol=1e-5)


def test_a_wrong_table_or_method_is_an_error():
    with pytest.raises(errors.UserError, match="not that of 3x4 patches"):
        resample(table(3, 5), (3, 4), (3, 3))
    with pytest.raises(errors.UserError, match='mean "corners"'):
        resample(table(3, 5), (3, 5), (3, 3), method="corner")
