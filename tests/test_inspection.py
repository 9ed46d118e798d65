"""What is inside a Vision Transformer: equations of the arithmetic, and real models."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from vit_jax import errors, models, tree
from vit_jax.data import preprocessing
from vit_jax.inspection import (
    attention,
    distance,
    filters,
    looking,
    payload,
    posemb,
    rollout,
    similarity,
)
from vit_jax.models import posemb as added_lib
from vit_jax.models.mixer import MixerArchitecture
from vit_jax.weights import loaded as loaded_lib

RNG = np.random.default_rng(0)


def probabilities(*shape):
    values = RNG.exponential(1.0, shape)
    return values / values.sum(axis=-1, keepdims=True)


@functools.cache
def filled(**options):
    """A model with random weights, images of 24 x 32 pixels, patches of 8 x 8."""
    given = {"num_classes": 5, "image_size": (24, 32), "depth": 2, "width": 16}
    given |= {"heads": 2, "mlp_width": 16, "unroll": 1} | options
    arch = models.architecture("mu/8", **given)
    graphdef, params = models.abstract(arch)
    random = np.random.default_rng(1)
    leaves = {
        name: jax.numpy.asarray(random.normal(0, 0.3, leaf.shape), "float32")
        for name, leaf in tree.named_leaves(params)
    }
    return loaded_lib.Loaded(
        models.merge(graphdef, tree.from_named(leaves)),
        arch,
        preprocessing.Preprocessing(arch.image_size),
        label_names=tuple("abcde"),
        source="here",
        dialect="vit_jax",
    )


PHOTOGRAPH = RNG.integers(0, 256, (40, 50, 3), np.uint8)


def test_rows_of_rollout_sum_to_1():
    layers = [probabilities(3, 7, 7) for _ in range(4)]
    flow = rollout.rollout(layers)
    np.testing.assert_allclose(flow.sum(axis=1), 1, rtol=1e-12)
    assert (flow > 0).all()


def test_rollout_of_one_layer_is_its_attention_mixed_with_the_identity():
    layer = probabilities(3, 7, 7)
    expected = (layer.mean(axis=0) + np.eye(7)) / 2
    np.testing.assert_allclose(rollout.rollout([layer]), expected, rtol=1e-12)


def test_rollout_of_a_readout_is_the_weighted_rows_of_all():
    layers = [probabilities(2, 6, 6) for _ in range(3)]
    first, second, third = (rollout.rollout([layer]) for layer in layers)
    np.testing.assert_allclose(rollout.rollout(layers), third @ second @ first)
    weights = probabilities(6)
    np.testing.assert_allclose(
        rollout.rollout(layers, weights), weights @ third @ second @ first
    )


def test_the_mask_of_an_image_is_bright_where_the_values_are():
    size = (30, 33)  # two rows and a column of pixels more than the patches cover
    assert (rollout.mask(np.full((3, 4), 0.2), (8, 8), size) > 0.99).all()
    values = np.zeros((3, 4))
    values[2, 3] = 5
    mask = rollout.mask(values, (8, 8), size)
    assert mask.shape == size and mask.argmax() >= 20 * 33
    assert mask[20, 28] > 5 * mask[4, 4]
    image = np.full((*size, 3), 200, np.uint8)
    assert rollout.masked(image, mask).max() == 200, "the brightest stays as it is"
    assert not rollout.mask(np.zeros((3, 4)), (8, 8), size).any()


@pytest.mark.parametrize("grid", [(1, 9), (4, 4), (3, 5)])
@pytest.mark.parametrize("prefix", [0, 2])
def test_uniform_attention_has_the_mean_distance_of_the_closed_form(grid, prefix):
    stride = (16, 12)
    tokens = grid[0] * grid[1] + prefix
    attention_ = np.full((2, 3, tokens, tokens), 1 / tokens)
    found = distance.mean(attention_, grid, stride, prefix=prefix)
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found, distance.uniform(grid, stride, prefix=prefix))
    if grid[0] == 1 and not prefix:  # on a line, (n^2 - 1) / 3n
        np.testing.assert_allclose(found, 12 * (81 - 1) / (3 * 9))


def test_attention_to_itself_has_distance_0_and_to_a_neighbour_a_stride():
    among = np.eye(6)
    assert distance.mean(among, (2, 3), (8, 8), prefix=0) == 0
    right = np.roll(np.eye(3), 1, axis=1)
    apart = distance.mean(right, (1, 3), (8, 5), prefix=0)
    np.testing.assert_allclose(apart, (5 + 5 + 10) / 3)


def test_a_table_is_like_itself():
    table = RNG.standard_normal((12, 8))
    table[3] = 0
    found = similarity.cosines(table)
    assert (np.diag(found) == 1).all()
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_allclose(
        found[0, 1],
        table[0] @ table[1] / np.linalg.norm(table[0]) / np.linalg.norm(table[1]),
        rtol=1e-6,
    )
    to_patch = similarity.to_patch(table.reshape(3, 4, 8), (1, 2))
    np.testing.assert_array_equal(to_patch.ravel(), found[6])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["stem"]),
        ({"posemb_at": "every"}, ["block 0", "block 1"]),
        ({"posemb": "learned_2d", "registers": 1}, ["stem"]),
        ({"posemb": "learned_2d", "posemb_at": "every"}, ["block 0", "block 1"]),
        ({"posemb": "sincos_2d"}, ["stem"]),
        ({"posemb": "relative"}, ["block 0", "block 1"]),
        ({"posemb": "relative", "posemb_at": "shared"}, ["all blocks"]),
    ],
    ids=str,
)
def test_similarity_of_positions_is_that_of_what_is_added(options, names):
    loaded = filled(**options)
    found = posemb.positions(loaded.params, loaded.architecture)
    assert list(found.similarity) == names
    for table in found.similarity.values():
        assert table.shape == (12, 12) and (np.diag(table) == 1).all()
    arch = loaded.architecture
    if names == ["stem"]:
        table = np.asarray(added_lib.embedding(arch, loaded.model.posemb))
        expected = similarity.cosines(table[0, arch.prefix :])
        np.testing.assert_allclose(found.similarity["stem"], expected, atol=1e-6)
    if options.get("posemb") == "relative":  # translation changes nothing
        np.testing.assert_array_equal(table[1:, 1:], table[:-1, :-1])


def test_principal_components_are_orthonormal_and_explain_the_filters():
    kernel = RNG.standard_normal((3, 4, 2, 50))
    components, variance = filters.principal(kernel, 24)
    flat = components.reshape(24, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(24), atol=1e-5)
    np.testing.assert_allclose(variance.sum(), 1)
    assert (np.diff(variance) <= 0).all()
    first = kernel.reshape(-1, 50).T
    first = first - first.mean(axis=0)
    share = ((first @ flat[0]) ** 2).sum() / (first**2).sum()
    np.testing.assert_allclose(share, variance[0], rtol=1e-6)
    images = filters.as_images(components)
    assert images.shape == (24, 3, 4, 3)
    assert (images.reshape(24, -1).min(axis=1) == 0).all()
    assert (images.reshape(24, -1).max(axis=1) == 255).all()


def heads_of(x, kernel, bias):
    return np.einsum("nd,dhe->hne", x, kernel) + bias[:, None]


def test_probabilities_are_the_softmax_of_queries_and_keys_in_numpy():
    loaded = filled()
    inside = jax.jit(loaded.model.intermediates)(loaded.images(PHOTOGRAPH))
    block = jax.tree.map(lambda leaf: leaf[1], loaded.params["blocks"])
    x = np.asarray(inside["blocks/0"][0], np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * block["norm1"]["scale"] + block["norm1"]["bias"]
    q, k = (heads_of(x, **block["attn"][name]) for name in ("query", "key"))
    logits = np.einsum("hqe,hke->hqk", q, k) / np.sqrt(8)
    expected = np.exp(logits - logits.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    found = attention.of_layers(inside)
    assert list(found) == ["0", "1"]
    np.testing.assert_allclose(found["1"][0], expected, atol=1e-5)


def test_layers_are_in_their_order_whatever_jit_made_of_it():
    inside = {f"attention/{i}": probabilities(1, 1, 2, 2) for i in (1, 10, 2, 0)}
    assert list(attention.of_layers(inside)) == ["0", "1", "2", "10"]


def test_axial_layers_are_rows_and_columns_of_all_tokens():
    rows, columns = probabilities(2, 3, 2, 4, 4), probabilities(2, 4, 2, 3, 3)
    found = attention.of_layers(
        {"attention/0/column": columns, "attention/0/row": rows, "features": rows}
    )
    assert list(found) == ["0/row", "0/column"]
    x = RNG.standard_normal((2, 12, 5)).astype(np.float32)
    on_grid = x.reshape(2, 3, 4, 5)
    along = np.einsum("brhqk,brkd->bhrqd", rows, on_grid).reshape(2, 2, 12, 5)
    down = np.einsum("bchqk,bkcd->bhqcd", columns, on_grid).reshape(2, 2, 12, 5)
    np.testing.assert_allclose(found["0/row"] @ x[:, None], along, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        found["0/column"] @ x[:, None], down, rtol=1e-4, atol=1e-6
    )
    through = rollout.rollout([found["0/row"][0], found["0/column"][0]])
    assert (through > 0).all(), "row, then column sees everything"


KINDS = {
    "map": {"pool": "map", "registers": 1},
    "axial": {"block": "axial", "pool": "mean"},
    "hybrid": {"resnet": (1,), "resnet_width": 32, "patch": 2, "image_size": (32, 40)},
    "left over": {"image_size": (30, 39), "crop": "valid", "pool": "none"},
}
MORE_KINDS = {
    "class token": {},
    "mean": {"pool": "mean", "posemb_at": "every"},
    "registers": {"registers": 3, "pool": "token_mean", "rope": "dinov3"},
    "distilled": {"registers": 1, "pool": "distilled", "posemb": "relative"},
    "dot product": {"attention": "dot_product", "compute_dtype": "bfloat16"},
}
ALL_KINDS = KINDS | MORE_KINDS


@pytest.mark.parametrize(
    "kind",
    [*KINDS, *(pytest.param(kind, marks=pytest.mark.slow) for kind in MORE_KINDS)],
)
def test_every_kind_of_vit_can_be_looked_into(kind):
    loaded = filled(**ALL_KINDS[kind])
    found = looking.inspect(loaded, [PHOTOGRAPH])
    arch, (seen,) = loaded.architecture, found.seen
    layers = 4 if kind == "axial" else 2
    assert seen.view.shape == (*arch.image_size, 3)
    assert seen.readout.shape == (layers, 2, arch.tokens)
    np.testing.assert_allclose(seen.weights.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(seen.readout.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(seen.rollout.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(seen.heads_mean.sum(axis=-1), 1, rtol=1e-5)
    assert found.distances.shape == (1, layers, 2) and (found.distances > 0).all()
    assert seen.tokens.shape == (2, arch.patches, 16)
    assert bool(seen.predictions) == (kind != "left over")
    mask = rollout.mask(
        seen.rollout[arch.prefix :].reshape(arch.grid), arch.strides, arch.image_size
    )
    assert mask.shape == arch.image_size and mask.min() >= 0 and mask.max() <= 1


@pytest.mark.slow
def test_a_map_head_reads_as_its_query_attends_to_the_encoded_tokens():
    loaded, taps = filled(pool="map"), {}
    model = loaded.model
    tokens = model.encode(model.embed(loaded.images(PHOTOGRAPH)))
    model.map.attn(tokens, queries=model.map.probe[...], taps=taps)
    (seen,) = looking.inspect(loaded, [PHOTOGRAPH]).seen
    expected = taps["attention"].mean(axis=1)[0, 0]
    np.testing.assert_allclose(seen.weights, expected, atol=1e-6)


def test_what_the_head_reads_is_what_it_pools():
    assert (attention.weights("token", 5, 2) == [1, 0, 0, 0, 0]).all()
    assert (attention.weights("mean", 4, 2) == [0, 0, 0.5, 0.5]).all()
    assert (attention.weights("distilled", 4, 2) == [0.5, 0.5, 0, 0]).all()
    assert (attention.weights("map", 2, 0, np.array([1.0, 3.0])) == [0.25, 0.75]).all()
    with pytest.raises(ValueError, match="learned"):
        attention.weights("map", 4, 0)


@pytest.mark.parametrize("name", ["Mixer-S/16", "BiT-R50x1", "AxialResNet50"])
def test_what_has_no_attention_between_patches_is_refused(name):
    with pytest.raises(errors.UserError, match="Want a Vision Transformer") as told:
        looking.checked(models.architecture(name, num_classes=2))
    assert name in str(told.value)


def test_a_family_of_others_is_refused_by_its_name():
    class Own(MixerArchitecture):
        family = "own"

    mixer = models.architecture("Mixer-S/32", num_classes=2)
    fields = {f.name: getattr(mixer, f.name) for f in dataclasses.fields(mixer)}
    with pytest.raises(errors.UserError, match="of the family 'own'. Want"):
        looking.checked(Own(**fields))


def test_too_much_for_the_memory_is_refused_before_it_is_computed(monkeypatch):
    loaded = filled()
    monkeypatch.setattr(looking.host, "available_memory", lambda: 2000)
    with pytest.raises(errors.UserError, match="an image.* --image_size"):
        looking.inspect(loaded, [PHOTOGRAPH])
    assert "No images" in looking.inspect(loaded).notes[0]
    monkeypatch.setattr(looking.host, "available_memory", lambda: 1000)
    with pytest.raises(errors.UserError, match="of positions.* --image_size"):
        looking.inspect(loaded)


def test_weights_that_are_not_finite_are_one_error(monkeypatch):
    nothing = {"pixels": np.zeros((1, 24, 32, 3))}
    nothing |= {f"attention/{i}": np.full((1, 2, 13, 13), np.nan) for i in range(2)}
    monkeypatch.setattr(looking, "_passes", lambda *_: iter([nothing]))
    with pytest.raises(errors.UserError, match="not finite"):
        looking.inspect(filled(), [PHOTOGRAPH])


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("no image")
    for images, names in ((str(path), ()), ([b"none"], ["b of a list"])):
        with pytest.raises(errors.UserError, match="notes.jpg|b of a list"):
            looking.inspect(filled(), images, names=names)


def test_the_payload_is_what_was_found_to_within_a_byte():
    loaded = filled(block="axial", pool="mean", posemb="none")
    found = looking.inspect(loaded, [PHOTOGRAPH, PHOTOGRAPH[:, ::-1]], detailed=1)
    assert any("no table of positions" in note for note in found.notes)
    packed = payload.payload(found)
    (image,), seen = packed["images"], found.seen[0]
    assert packed["model"]["layers"] == ["0/row", "0/column", "1/row", "1/column"]
    assert packed["posemb"] is None and packed["detail_layers"] == [0, 1, 2, 3]
    scale = image["readout_scale"][..., None]
    decoded = scale * (image["readout"] / 255.0) ** 2
    np.testing.assert_allclose(decoded, seen.readout, atol=0.005)
    decoded = image["rollout_scale"][:, None] * (image["rollout"] / 255.0) ** 2
    np.testing.assert_allclose(decoded[-1], seen.rollout, atol=0.005)
    first = rollout.rollout(seen.heads[:1], seen.weights)
    np.testing.assert_allclose(decoded[0], first, atol=0.005)
    decoded = image["patch_scale"][..., None, None] * (image["patch"] / 255.0) ** 2
    np.testing.assert_allclose(decoded, seen.heads, atol=0.005)
    low, high = image["similarity_low"], image["similarity_high"]
    cosines = low[-1] + (high[-1] - low[-1]) * image["similarity"][-1] / 255
    np.testing.assert_allclose(cosines, similarity.cosines(seen.tokens[1]), atol=0.01)
    np.testing.assert_allclose(
        packed["distance"], found.distances.mean(axis=0), rtol=1e-6
    )
    assert [row["name"] for row in image["predictions"]] != []


def test_every_head_is_kept_where_it_is_few_numbers(monkeypatch):
    loaded = filled(block="axial", pool="mean", posemb="none")
    found = looking.inspect(loaded, [PHOTOGRAPH])
    count = found.seen[0].heads.size
    means = found.seen[0].heads.mean(axis=1)
    np.testing.assert_allclose(found.seen[0].heads_mean, means, rtol=1e-6)
    monkeypatch.setattr(looking, "EVERY_HEAD", count - 1)
    found = looking.inspect(loaded, [PHOTOGRAPH])
    assert found.seen[0].heads is None
    (image,) = payload.payload(found)["images"]
    assert image["patch"].shape[:2] == (4, 1) == image["patch_scale"].shape


def test_layers_from_patch_to_patch_fit_the_budget():
    assert payload.detail_layers(12, 196, 8, payload.BUDGET) == list(range(12))
    few = payload.detail_layers(24, 576, 8, payload.BUDGET)
    assert few[-1] == 23 and len(few) < 24
    assert payload.detail_layers(24, 1369, 8, 1) == [23]
    assert payload.detail_layers(24, 1369, 0, 1) == []
