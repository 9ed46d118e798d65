"""Logical axes of leaves, and where they live on a mesh."""

import math
import re

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from vit_jax import models, tree
from vit_jax.learning import optim, step
from vit_jax.parallel import axes, layouts, mesh

FSDP = layouts.LAYOUTS["fsdp"].rules

# Sizes of (data, fsdp, tensor): 1, 2, 8 and 32 devices.
MESHES = (
    *((1, 1, 1), (1, 2, 1), (1, 1, 2), (2, 4, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)),
    *((1, 32, 1), (4, 8, 1), (1, 16, 2), (2, 4, 4), (1, 4, 8)),
)


def abstract_mesh(*sizes: int) -> AbstractMesh:
    return AbstractMesh(sizes, mesh.AXES)


# By index of the dimension, the rule before leaves had logical axes: what the layouts
# of published models have to stay.
BY_INDEX = {
    "fsdp": (
        (r"/v_(row|col)/", None),
        (r"qkv/kernel$", 1),
        (r"map/attn/(query|key|value)/kernel$", 0),
        (r"map/attn/out/kernel$", 2),
        (r"map/mlp/up/kernel$", 1),
        (r"map/mlp/down/kernel$", 0),
        (r"attn/(query|key|value)/kernel$", 1),
        (r"attn/out/kernel$", 3),
        (r"(mlp|tokens|channels)/(up|gate)/kernel$", 2),
        (r"(mlp|tokens|channels)/down/kernel$", 1),
        (r"(patch_embed|conv\w*)/kernel$", 3),
        (r"(pre_logits|head|head_dist|patch_head)/kernel$", 0),
        (r"blocks/posemb$", 3),
        (r"posemb$", 2),
        (r".*", None),
    ),
    "tensor": (
        (r"/v_(row|col)/", None),
        (r"blocks/.*attn/(query|key|value)/kernel$", 2),
        (r"blocks/.*attn/(query|key|value)/bias$", 1),
        (r"blocks/.*attn/frequencies$", 2),
        (r"blocks/.*attn/out/kernel$", 1),
        (r"blocks/.*(mlp|channels)/(up|gate)/kernel$", 2),
        (r"blocks/.*(mlp|channels)/(up|gate)/bias$", 1),
        (r"blocks/.*(mlp|channels)/down/kernel$", 1),
        (r".*", None),
    ),
}


def spec_by_index(name: str, shape: tuple[int, ...], sizes: dict[str, int]) -> P:
    cuts: list[tuple[str, ...]] = [()] * len(shape)
    for axis in ("tensor", "fsdp"):
        dimension = tree.first_match(BY_INDEX[axis], name)
        if sizes[axis] == 1 or dimension is None or dimension >= len(shape):
            continue
        parts = sizes[axis] * math.prod(sizes[a] for a in cuts[dimension])
        if shape[dimension] % parts == 0:
            cuts[dimension] += (axis,)
    return mesh.partition(cuts)


def check_as_by_index(abstract) -> int:
    """Every leaf lies where it did, on every mesh; returns how many are cut."""
    leaves, cut = tree.named_leaves(abstract), 0
    for sizes in MESHES:
        on = abstract_mesh(*sizes)
        for name, kind in layouts.LAYOUTS.items():
            placed = axes.shardings(abstract, on, kind.rules, quiet=True)
            counted = dict(on.shape) | ({"fsdp": 1} if name == "dp" else {})
            for (leaf, value), sharding in zip(leaves, jax.tree.leaves(placed)):
                wanted = spec_by_index(leaf, value.shape, counted)
                assert sharding.spec == wanted, (leaf, value.shape, name, sizes)
                cut += wanted != P()
    return cut


FAST = ("mu/16", "Ti/16", "L/16", "G/14", "So400m/14", "R+Ti/16", "Axial-B/16")
FAST += ("Mixer-S/32", "BiT-R50x1", "AxialResNet50")


@pytest.mark.parametrize(
    "name",
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in models.list_names()
    ],
)
def test_every_published_model_lies_where_it_did(name):
    arch = models.architecture(name, num_classes=1000, crop="valid")
    assert check_as_by_index(models.abstract(arch)[1]) > 100


def small(**options):
    return models.architecture("mu/16", num_classes=10, depth=2, heads=4, **options)


OPTIONS = {
    "map": {"pool": "map", "pre_logits": True},
    "learned_2d": {"posemb": "learned_2d", "registers": 4, "qk_norm": True},
    "prefix 2d": {"posemb": "learned_2d", "class_token": "yes"},
    "every": {"posemb_at": "every", "mlp": "swiglu", "layer_scale": 1e-5},
    "every 2d": {"posemb_at": "every", "posemb": "learned_2d"},
    "relative": {"posemb": "relative", "stem_norm": True, "mask_token": True},
    "shared relative": {"posemb": "relative", "posemb_at": "shared"},
    "sincos": {"posemb": "sincos_2d", "patch_outputs": 64, "mask_token": True},
    "mixed": {"posemb": "none", "rope": "mixed", "key_bias": False, "image_size": 32},
    "distilled": {"pool": "distilled", "registers": 1},
    "axial": {"block": "axial", "pool": "mean", "posemb_at": "every"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_has_its_rows(options):
    assert check_as_by_index(models.abstract(small(**options))[1]) > 100


@pytest.mark.parametrize("name", ["adam", "sgd", "adafactor", "muon"])
def test_the_state_of_every_optimizer_lies_with_its_parameters(name):
    params = models.abstract(small(pool="map", posemb="learned_2d"))[1]
    tx = optim.make_optimizer(name, schedule=lambda count: 0.1, factor_from=8)
    state = jax.eval_shape(lambda p: step.init_state(p, tx, ema=True), params)
    assert check_as_by_index(state) > 100


def test_a_leaf_without_a_row_is_named():
    on = abstract_mesh(1, 2, 1)
    leaf = jax.ShapeDtypeStruct((3, 16), np.float32)
    with pytest.raises(ValueError, match=r"s/blocks/gadget/kernel \(3, 16\) matches"):
        axes.shardings({"params": {"blocks": {"gadget": {"kernel": leaf}}}}, on, FSDP)
    with pytest.raises(ValueError, match=r"head/kernel \(3, 16, 16\) has 3 dimensions"):
        axes.of_leaf("head/kernel", (3, 16, 16))


def test_every_row_is_somebodys():
    """A row that no leaf of any family uses is a relic, or hidden by one above it."""
    found = set()
    names = [models.architecture(n, num_classes=9, crop="valid") for n in FAST]
    for arch in (*names, *(small(**options) for options in OPTIONS.values())):
        for leaf, _ in tree.named_leaves(models.abstract(arch)[1]):
            found.add(next(r for r, _ in axes.LEAVES if re.search(r, leaf)))
    assert [r for r, _ in axes.LEAVES if r not in found] == [
        r"/v_(row|col)/",
        r"/count$",
        r"lora/.*/a$",  # of runs that have it, tests/test_lora.py
        r"lora/.*/b$",
    ]


@pytest.mark.parametrize(
    "row", [("heds", "tensor"), ("heads", "tensr"), ("layer", "fsdp")]
)
def test_a_rule_that_no_layout_can_have_is_named(row):
    with pytest.raises(ValueError, match=re.escape(repr(row[0]))):
        axes.shardings({}, abstract_mesh(1, 2, 1), (row,))


def test_rules_shard_weights_and_their_moments_alike():
    device_mesh = mesh.make_mesh(fsdp=4)
    leaf = jax.ShapeDtypeStruct((3, 16, 4, 4), np.float32)
    odd = jax.ShapeDtypeStruct((3, 18, 4, 4), np.float32)
    tree = {
        "params": {"blocks": {"attn": {"query": {"kernel": leaf}}}},
        "opt_state": {"0": {"mu": {"blocks": {"attn": {"query": {"kernel": leaf}}}}}},
        "odd": {"attn": {"query": {"kernel": odd}}},
        "count": jax.ShapeDtypeStruct((), np.int32),
    }
    specs = jax.tree.map(lambda s: s.spec, axes.shardings(tree, device_mesh, FSDP))
    assert specs["params"]["blocks"]["attn"]["query"]["kernel"] == P(None, "fsdp")
    moments = specs["opt_state"]["0"]["mu"]["blocks"]
    assert moments["attn"]["query"]["kernel"] == P(None, "fsdp")
    assert specs["odd"]["attn"]["query"]["kernel"] == P()
    assert specs["count"] == P()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("H/14", {"pre_logits": True}),
        ("g/14", {"pool": "map", "posemb": "learned_2d", "posemb_at": "every"}),
        ("B/16", {"mlp": "swiglu", "patch_outputs": 512, "posemb_at": "every"}),
        ("R50+L/16", {}),
        ("Axial-B/16", {}),
        ("Mixer-B/16", {}),
        ("BiT-R152x4", {}),
        ("BiT-R50x1-post", {}),
        ("AxialResNet50", {}),
    ],
)
def test_what_stays_whole_is_small_in_every_family(name, options):
    arch = models.architecture(name, num_classes=1000, **options)
    leaves = dict(tree.named_leaves(models.abstract(arch)[1]))
    layout = axes.shardings(models.abstract(arch)[1], mesh.make_mesh(fsdp=8), FSDP)
    whole = {
        leaf: leaves[leaf].size
        for leaf, sharding in tree.named_leaves(layout)
        if sharding.is_fully_replicated
    }
    total = sum(leaf.size for leaf in leaves.values())
    assert sum(whole.values()) < 0.01 * total, whole


def test_tensor_cuts_heads_and_hidden_widths_and_shares_an_axis_with_fsdp():
    device_mesh = mesh.make_mesh(fsdp=2, tensor=2)
    arch = models.architecture("Ti/16", num_classes=10, heads=4, depth=2)
    placed = dict(
        tree.named_leaves(axes.shardings(models.abstract(arch)[1], device_mesh, FSDP))
    )
    wanted = {
        "blocks/attn/query/kernel": P(None, "fsdp", "tensor"),
        "blocks/attn/query/bias": P(None, "tensor"),
        "blocks/attn/out/kernel": P(None, "tensor", None, "fsdp"),
        "blocks/attn/out/bias": P(),
        "blocks/mlp/up/kernel": P(None, None, ("tensor", "fsdp")),
        "blocks/mlp/up/bias": P(None, "tensor"),
        "blocks/mlp/down/kernel": P(None, ("tensor", "fsdp")),
        "blocks/norm1/scale": P(),
        "head/kernel": P("fsdp"),
    }
    assert {name: placed[name].spec for name in wanted} == wanted
    whole = axes.shardings(
        models.abstract(arch)[1], device_mesh, layouts.LAYOUTS["dp"].rules
    )
    specs = [tuple(sharding.spec) for sharding in jax.tree.leaves(whole)]
    used = set(jax.tree.leaves(specs))
    assert used == {"tensor"}


def test_heads_that_tensor_does_not_divide_stay_whole():
    device_mesh = mesh.make_mesh(tensor=2)
    arch = models.architecture("Ti/16", num_classes=10, depth=2)  # 3 heads
    placed = axes.shardings(models.abstract(arch)[1], device_mesh, FSDP)
    assert placed["blocks"]["attn"]["query"]["kernel"].is_fully_replicated
    assert not placed["blocks"]["mlp"]["up"]["kernel"].is_fully_replicated
