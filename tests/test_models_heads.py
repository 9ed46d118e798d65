"""What feeds the head: pools, registers, the last norm and the pre-logits layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vit_jax import errors, models, tree
from vit_jax.models import heads


def small(**options):
    defaults = {
        "num_classes": 5,
        "image_size": (24, 32),
        "width": 16,
        "depth": 1,
        "heads": 2,
        "mlp_width": 32,
    }
    return models.architecture("mu/8", **(defaults | options))


def noisy(arch, seed=0):
    """A model with no leaf zero or one."""
    graphdef, params = models.abstract(arch)
    rng = np.random.default_rng(seed)
    leaves = {
        name: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32)
        for name, leaf in tree.named_leaves(params)
    }
    return models.merge(graphdef, tree.from_named(leaves))


def encoded(model, batch=2):
    shape = (batch, model.architecture.tokens, model.architecture.width)
    return jnp.asarray(np.random.default_rng(7).standard_normal(shape), jnp.float32)


def shapes(arch):
    _, params = models.abstract(arch)
    return {name: leaf.shape for name, leaf in tree.named_leaves(params)}


MAP = {
    "map/probe": (1, 1, 16),
    **{f"map/attn/{part}/kernel": (16, 2, 8) for part in ("query", "key", "value")},
    **{f"map/attn/{part}/bias": (2, 8) for part in ("query", "key", "value")},
    "map/attn/out/kernel": (2, 8, 16),
    "map/attn/out/bias": (16,),
    "map/norm/scale": (16,),
    "map/norm/bias": (16,),
    "map/mlp/up/kernel": (16, 32),
    "map/mlp/up/bias": (32,),
    "map/mlp/down/kernel": (32, 16),
    "map/mlp/down/bias": (16,),
}


def test_leaf_names_are_these_for_ever():
    token = shapes(small())
    found = shapes(small(pool="map"))
    assert set(found) == (set(token) | set(MAP)) - {"cls"}
    assert {name: found[name] for name in MAP} == MAP
    found = shapes(small(registers=3))
    assert found["registers"] == (1, 3, 16) and set(found) == {*token, "registers"}
    found = shapes(small(pool="mean", class_token="yes"))
    assert set(found) == set(token)
    found = shapes(small(pool="token_mean", pre_logits=True, final_norm="pooled"))
    assert found["pre_logits/kernel"] == (32, 16) and found["head/kernel"] == (16, 5)
    assert found["norm/scale"] == (32,)
    assert shapes(small(pool="token_mean"))["head/kernel"] == (32, 5)
    found = shapes(small(pool="distilled", registers=1))
    both = {"head/kernel": (16, 5), "head/bias": (5,)}
    both |= {name.replace("head", "head_dist"): s for name, s in both.items()}
    assert set(found) == {*token, "registers", *both}
    assert {name: found[name] for name in both} == both
    assert set(token) - set(shapes(small(final_norm="none"))) == {
        *("norm/scale", "norm/bias"),
    }


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("token", lambda x: x[:, 0]),
        ("mean", lambda x: x[:, 3:].mean(axis=1)),
        ("token_mean", lambda x: np.concatenate([x[:, 0], x[:, 3:].mean(1)], axis=1)),
        ("none", lambda x: x),
    ],
)
def test_pools_are_their_definition(pool, expected):
    model = noisy(small(pool=pool, class_token="yes", registers=2))
    x = encoded(model)
    pooled = model.pool(x)
    np.testing.assert_allclose(pooled, expected(np.asarray(x)), atol=1e-6)
    assert pooled.shape[-1] == model.architecture.pooled_width
    logits = model.classify(pooled)
    kernel, bias = model.head.kernel[...], model.head.bias[...]
    expected = np.asarray(pooled @ kernel) + np.asarray(bias)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_map_pool_is_attention_of_the_probe_to_all_tokens():
    model = noisy(small(pool="map", registers=2))
    p = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model.map)))
    x = np.asarray(encoded(model))
    attn, probe = p["attn"], p["probe"][0, 0]
    total = attn["out"]["bias"][None]
    for h in range(2):
        q = probe @ attn["query"]["kernel"][:, h] + attn["query"]["bias"][h]
        k, v = (
            x @ attn[part]["kernel"][:, h] + attn[part]["bias"][h][None, None]
            for part in ("key", "value")
        )
        weights = np.exp(k @ q / 8**0.5)
        weights /= weights.sum(-1, keepdims=True)
        head = np.einsum("bn,bne->be", weights, v)
        total = total + head @ attn["out"]["kernel"][h]
    centred = total - total.mean(-1, keepdims=True)
    normed = centred / np.sqrt(total.var(-1, keepdims=True) + 1e-6)
    normed = normed * p["norm"]["scale"][None] + p["norm"]["bias"][None]
    mlp = p["mlp"]
    hidden = normed @ mlp["up"]["kernel"] + mlp["up"]["bias"][None]
    hidden = jax.nn.gelu(hidden) @ mlp["down"]["kernel"] + mlp["down"]["bias"][None]
    np.testing.assert_allclose(model.pool(x), total + hidden, atol=1e-5)


def test_the_probe_starts_with_the_spread_of_a_matrix_of_one_row():
    head = heads.MapHead(small(width=512, heads=2), rngs=nnx.Rngs(0))
    assert abs(head.probe[...]).max() == pytest.approx((6 / 513) ** 0.5, rel=0.02)


def test_a_distilled_model_is_the_mean_of_two_heads():
    arch = small(pool="distilled", registers=2)
    model = noisy(arch)
    x = encoded(model)
    pooled = model.pool(x)
    assert pooled.shape == (2, arch.pooled_width) == (2, 2 * arch.width)
    token, distilled = (
        np.asarray(x[:, i] @ head.kernel[...]) + np.asarray(head.bias[...])
        for i, head in enumerate((model.head, model.head_dist))
    )
    np.testing.assert_allclose(
        model.classify(pooled), (token + distilled) / 2, atol=1e-5
    )
    bare = noisy(arch.replace(num_classes=0))
    assert bare.head is bare.head_dist is None
    np.testing.assert_allclose(bare.classify(pooled), x[:, :2].mean(1), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"registers": 0}, "registers=0 does not"),
        ({"registers": 1, "pre_logits": True}, "pre_logits=True does not"),
        ({"registers": 1, "final_norm": "pooled"}, "final_norm='pooled' does not"),
        ({"registers": 1, "class_token": "no"}, "class_token='yes'"),
    ],
)
def test_two_heads_need_their_tokens(options, message):
    with pytest.raises(errors.UserError, match=message):
        small(pool="distilled", **options)


def test_two_heads_cost_two():
    one = small(registers=1)
    two = one.replace(pool="distilled")
    extra = 16 * 5
    assert models.forward_macs(two) - models.forward_macs(one) == extra
    counts = [models.count_parameters(arch) for arch in (two, one)]
    assert counts[0] - counts[1] == extra + 5


@pytest.mark.parametrize("pool", ["mean", "token_mean", "map", "none"])
def test_features_are_pool_norm_and_tanh_layer(pool):
    arch = small(pool=pool, final_norm="pooled", pre_logits=True)
    model = noisy(arch)
    pixels = np.random.default_rng(3).uniform(-1, 1, (2, 24, 32, 3))
    images = jnp.asarray(pixels, jnp.float32)
    x = model.encode(model.embed(images))
    pooled = noisy(arch.replace(final_norm="tokens")).pool(x)
    if pool == "map":
        pooled = model.map(x)
    width = arch.pooled_width
    centred = pooled - pooled.mean(-1, keepdims=True)
    normed = centred / jnp.sqrt(pooled.var(-1, keepdims=True) + 1e-6)
    shape = (1,) * (pooled.ndim - 1) + (width,)
    normed = normed * model.norm.scale[...].reshape(shape)
    normed = normed + model.norm.bias[...].reshape(shape)
    expected = jnp.tanh(model.pre_logits(normed))
    features = model.features(images)
    assert features.shape[-1] == arch.feature_width == 16
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert model(images).shape == (*features.shape[:-1], 5)


def test_registers_come_between_class_token_and_patches():
    model = noisy(small(registers=2, posemb="none"))
    patches = jax.random.normal(jax.random.key(0), (3, 12, 16))
    tokens = model.tokens(patches)
    cls = jnp.broadcast_to(model.cls[...], (3, 1, 16))
    registers = jnp.broadcast_to(model.registers[...], (3, 2, 16))
    expected = jnp.concatenate([cls, registers, patches], axis=1)
    assert jnp.array_equal(tokens, expected)


def test_the_layer_before_the_head_has_the_width_it_is_given():
    wide = small(pre_logits=24)
    found = shapes(wide)
    assert found["pre_logits/kernel"] == (16, 24) and found["head/kernel"] == (24, 5)
    assert wide.feature_width == wide.pre_logits_width == 24
    more = 16 * 24 + 24 * 5 - 16 * 5
    assert models.forward_macs(wide) == models.forward_macs(small()) + more
    assert small(pre_logits=16) == small(pre_logits=True)
    assert small(pre_logits=0) == small(pre_logits=False) == small()
    for arch in (wide, small(pre_logits=True)):
        assert models.from_dict(arch.to_dict()) == arch
    for wrong in (1, -1, "24", 2.0):
        with pytest.raises(errors.UserError, match="pre_logits=.*want True"):
            small(pre_logits=wrong)
