"""The forward pass: equations 1-4, and everything that must not change it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vit_jax import errors, models, tree
from vit_jax.models import gelus, layers, stack, vit
from vit_jax.models.placement import Placement
from vit_jax.parallel import mesh

LEAVES = {
    "patch_embed/kernel": (8, 8, 3, 32),
    "patch_embed/bias": (32,),
    "cls": (1, 1, 32),
    "posemb": (1, 17, 32),
    "blocks/norm1/scale": (3, 32),
    "blocks/norm1/bias": (3, 32),
    "blocks/attn/query/kernel": (3, 32, 4, 8),
    "blocks/attn/query/bias": (3, 4, 8),
    "blocks/attn/key/kernel": (3, 32, 4, 8),
    "blocks/attn/key/bias": (3, 4, 8),
    "blocks/attn/value/kernel": (3, 32, 4, 8),
    "blocks/attn/value/bias": (3, 4, 8),
    "blocks/attn/out/kernel": (3, 4, 8, 32),
    "blocks/attn/out/bias": (3, 32),
    "blocks/norm2/scale": (3, 32),
    "blocks/norm2/bias": (3, 32),
    "blocks/mlp/up/kernel": (3, 32, 64),
    "blocks/mlp/up/bias": (3, 64),
    "blocks/mlp/down/kernel": (3, 64, 32),
    "blocks/mlp/down/bias": (3, 32),
    "norm/scale": (32,),
    "norm/bias": (32,),
    "pre_logits/kernel": (32, 32),
    "pre_logits/bias": (32,),
    "head/kernel": (32, 10),
    "head/bias": (10,),
}


def small(**options):
    defaults = {
        "num_classes": 10,
        "image_size": 32,
        "width": 32,
        "depth": 3,
        "heads": 4,
        "mlp_width": 64,
    }
    return models.architecture("mu/8", **(defaults | options))


@functools.cache
def noisy(arch, seed=0):
    """A model whose every leaf matters: nothing zero, nothing one, all near the first.

    Its values are drawn by NumPy: initialisers would have to be compiled.
    """
    graphdef, params = models.abstract(arch)
    rng = np.random.default_rng(seed)

    def leaf_of(name, shape):
        value = 0.1 * rng.standard_normal(shape)
        if name.endswith("/kernel") and not name.startswith("head/"):
            inner = shape[1:] if name.startswith("blocks/") else shape
            split = 2 if name.endswith("out/kernel") else 1
            fan_in = inner[:split] if len(inner) == 3 else inner[:-1]
            value += rng.standard_normal(shape) / np.sqrt(np.prod(fan_in))
        elif name.endswith("/scale"):
            value += 1
        return jnp.asarray(value, jnp.float32)

    leaves = {n: leaf_of(n, leaf.shape) for n, leaf in tree.named_leaves(params)}
    return models.merge(graphdef, tree.from_named(leaves))


def images(shape=(2, 32, 32, 3), seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32)


def test_leaf_names_are_these_for_ever():
    _, params = models.abstract(small(pre_logits=True))
    assert {n: leaf.shape for n, leaf in tree.named_leaves(params)} == LEAVES
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_hybrid_leaf_names_are_these_for_ever():
    _, params = models.abstract(small(resnet=(1, 2), resnet_width=32, patch=(2, 2)))
    names = [n for n, _ in tree.named_leaves(params) if n.startswith("resnet/")]
    norm = ("bias", "scale")
    unit = [f"conv{i}/kernel" for i in (1, 2, 3)]
    unit += [f"norm{i}/{leaf}" for i in (1, 2, 3) for leaf in norm]
    projection = ["conv_proj/kernel", *(f"norm_proj/{leaf}" for leaf in norm)]
    expected = ["root/conv/kernel", *(f"root/norm/{leaf}" for leaf in norm)]
    expected += [f"stage1/unit1/{leaf}" for leaf in unit + projection]
    expected += [f"stage2/unit1/{leaf}" for leaf in unit + projection]
    expected += [f"stage2/unit2/{leaf}" for leaf in unit]
    assert sorted(names) == sorted(f"resnet/{leaf}" for leaf in expected)


def test_initial_values_are_those_of_the_released_code():
    arch = small(width=128, heads=4, mlp_width=512, head_bias=-10.0, pre_logits=True)
    _, params = models.split(models.create(arch, rngs=nnx.Rngs(0)))
    leaves = dict(tree.named_leaves(params))
    for name in ("cls", "head/kernel", "blocks/attn/query/bias", "patch_embed/bias"):
        assert not leaves[name].any()
    assert (leaves["head/bias"] == -10).all()
    assert leaves["posemb"].std() == pytest.approx(0.02, rel=0.1)
    assert leaves["blocks/mlp/up/bias"].std() == pytest.approx(1e-6, rel=0.1)
    for name, fans in {
        "blocks/attn/query/kernel": (128, 128),
        "blocks/attn/out/kernel": (128, 128),
        "blocks/mlp/up/kernel": (128, 512),
        "blocks/mlp/down/kernel": (512, 128),
    }.items():
        bound = (6 / sum(fans)) ** 0.5
        assert abs(leaves[name]).max() == pytest.approx(bound, rel=0.01)
        assert not np.allclose(leaves[name][0], leaves[name][1])
    std = leaves["patch_embed/kernel"].std()
    assert std == pytest.approx((8 * 8 * 3) ** -0.5, rel=0.1)


def reference(model, x):
    """Equations 1-4 in NumPy, one image and one head at a time, without stacking."""
    arch = model.architecture
    p = jax.tree.map(np.asarray, models.split(model)[1])

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(-1, keepdims=True)

    def gelu(x):
        return x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))

    def norm(leaf, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(
            x.var(-1, keepdims=True) + arch.norm_epsilon
        )
        return x * leaf["scale"][None] + leaf["bias"][None]

    def attention(p, x):
        total = p["out"]["bias"][None]
        for h in range(arch.heads):
            q, k, v = (
                x @ p[n]["kernel"][:, h] + p[n]["bias"][h][None]
                for n in ("query", "key", "value")
            )
            weights = softmax(q @ k.T / (arch.width // arch.heads) ** 0.5)
            total = total + weights @ v @ p["out"]["kernel"][h]
        return total

    rows, columns = arch.grid
    (height, width) = arch.patch
    kernel = p["patch_embed"]["kernel"].reshape(-1, arch.width)
    z = [p["cls"][0, 0]] if "cls" in p else []
    for i in range(rows):
        for j in range(columns):
            patch = x[i * height : (i + 1) * height, j * width : (j + 1) * width]
            z.append(patch.reshape(-1) @ kernel + p["patch_embed"]["bias"])
    z = np.stack(z) + p["posemb"][0]
    for i in range(arch.depth):
        layer = {n: leaf[i] for n, leaf in tree.named_leaves(p["blocks"])}
        layer = tree.from_named(layer)
        z = z + attention(layer["attn"], norm(layer["norm1"], z))
        hidden = norm(layer["norm2"], z) @ layer["mlp"]["up"]["kernel"]
        hidden = gelu(hidden + layer["mlp"]["up"]["bias"][None])
        z = z + hidden @ layer["mlp"]["down"]["kernel"]
        z = z + layer["mlp"]["down"]["bias"][None]
    z = norm(p["norm"], z)
    z = z[0] if "cls" in p else z.mean(0)
    if "pre_logits" in p:
        z = np.tanh(z @ p["pre_logits"]["kernel"] + p["pre_logits"]["bias"])
    return z @ p["head"]["kernel"] + p["head"]["bias"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool": "mean"},
        {"pre_logits": True},
        {"image_size": (24, 40)},
        {"patch": (8, 4)},
        {"image_size": (30, 45), "crop": "valid"},
    ],
    ids=str,
)
def test_forward_pass_is_equations_1_to_4(options):
    model = noisy(small(**options))
    x = images((2, *model.architecture.image_size, 3))
    expected = np.stack([reference(model, image) for image in np.asarray(x)])
    np.testing.assert_allclose(model(x), expected, atol=2e-5)


@functools.cache
def gradients(arch):
    params, x = models.split(noisy(small()))[1], images()
    graphdef, _ = models.abstract(arch)

    def loss(params):
        rngs = nnx.Rngs(dropout=jax.random.key(3))
        logits = models.merge(graphdef, params)(x, deterministic=False, rngs=rngs)
        return jnp.sum(jnp.sin(logits))

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize(
    ("unroll", "remat"),
    [*((1, remat) for remat in stack.REMAT), (2, "none"), (0, "dots_nb")],
)
def test_scan_unroll_and_remat_do_not_matter(unroll, remat):
    base = small(dropout=0.2, attention_dropout=0.1)
    expected = gradients(base)
    found = gradients(base.replace(unroll=unroll, remat=remat))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# Between them every option of the family.
OPTIONS = [
    {
        "pool": "map",
        "registers": 2,
        "posemb": "learned_2d",
        "posemb_at": "every",
        "layer_scale": 0.1,
        "drop_path": 0.3,
    },
    {
        "posemb": "relative",
        "qk_norm": True,
        "qkv_bias": False,
        "mlp": "swiglu",
        "dropout": 0.1,
        "attention_mask": "local",
        "attention_window": 2,
    },
    {
        "block": "axial",
        "pool": "mean",
        "norm": "post",
        "posemb_at": "shared",
        "dropout": 0.1,
        "drop_path": 0.2,
    },
    {
        "pool": "token_mean",
        "attention": "dot_product",
        "posemb": "relative",
        "posemb_at": "shared",
        "final_norm": "pooled",
    },
    {
        "pool": "none",
        "class_token": "yes",
        "posemb": "sincos_2d",
        "posemb_at": "every",
        "attention_mask": "block",
        "attention_window": 2,
        "logits_dtype": "float32",
    },
]


@pytest.mark.parametrize(
    "options",
    [*OPTIONS[1::2], *(pytest.param(o, marks=pytest.mark.slow) for o in OPTIONS[::2])],
    ids=str,
)
def test_every_option_trains_and_remat_and_loops_do_not_matter(options):
    arch = small(depth=2, **options)
    params = models.split(noisy(arch))[1]

    @functools.partial(jax.jit, static_argnums=0)
    def gradients(arch, params):
        graphdef, _ = models.abstract(arch)

        def loss(params):
            rngs = nnx.Rngs(dropout=3)
            model = models.merge(graphdef, params)
            return jnp.sum(jnp.sin(model(images(), deterministic=False, rngs=rngs)))

        return jax.grad(loss)(params)

    expected = gradients(arch, params)
    for name, leaf in tree.named_leaves(expected):
        assert jnp.isfinite(leaf).all() and leaf.any(), name
    found = gradients(arch.replace(unroll=1, remat="full"), params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def distance(found, expected):
    """As a part of what is expected: bfloat16 keeps 8 bits of every number."""
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_works_in_bfloat16(options):
    arch = small(depth=2, **options)
    model = noisy(arch)
    graphdef, _ = models.abstract(arch.replace(compute_dtype="bfloat16"))

    @jax.jit
    def forward(params):
        half = models.merge(graphdef, params)
        tokens = half.encode(half.embed(images()))
        return tokens, half.classify(half.pool(tokens)), model(images())

    tokens, logits, expected = forward(models.split(model)[1])
    assert tokens.dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32
    assert distance(logits, expected) < 0.03


def test_split_and_merge_are_inverse_also_under_jit():
    model = noisy(small())
    graphdef, params = models.split(model)
    assert models.abstract(small())[0] == graphdef

    @jax.jit
    def forward(params, x):
        return models.merge(graphdef, params)(x)

    np.testing.assert_allclose(forward(params, images()), model(images()), atol=1e-5)


def test_calling_eagerly_compiles_the_blocks_once():
    model = noisy(small(depth=2))
    model(images())
    before = vit._run_blocks._cache_size()
    model(images(seed=1))
    noisy(small(depth=2), seed=5)(images())
    assert vit._run_blocks._cache_size() == before


def test_bfloat16_is_close_and_its_logits_are_float32():
    model = noisy(small(), seed=5)
    graphdef, _ = models.abstract(small(compute_dtype="bfloat16"))
    half = models.merge(graphdef, models.split(model)[1])
    logits = half(images())
    assert logits.dtype == half.features(images()).dtype == jnp.float32
    assert half.embed(images()).dtype == jnp.bfloat16
    assert distance(logits, model(images())) < 0.01


def test_dropout_acts_only_in_training_and_follows_its_key():
    model = noisy(small(dropout=0.5))
    train = functools.partial(model, images(), deterministic=False)
    first = train(rngs=nnx.Rngs(dropout=0))
    assert jnp.array_equal(first, train(rngs=nnx.Rngs(dropout=0)))
    assert not jnp.array_equal(first, train(rngs=nnx.Rngs(dropout=1)))
    assert jnp.array_equal(model(images()), noisy(small())(images()))
    with pytest.raises(errors.UserError, match=r"rngs=nnx\.Rngs\(dropout=key\)"):
        train()


def test_dropout_keeps_the_mean_and_zeroes_its_share():
    for shape in ((1000, 100), (1000, 99), (10, 20, 512), (4096 * 8,)):
        x = jnp.ones(shape)
        y = layers.dropout(x, 0.25, jax.random.key(0))
        assert float((y == 0).mean()) == pytest.approx(0.25, abs=0.005)
        assert float(y.mean()) == pytest.approx(1.0, abs=0.005)
        assert layers.dropout(x, 0.25, None) is x
    half = x.astype(jnp.bfloat16)
    assert layers.dropout(half, 0.1, jax.random.key(0)).dtype == jnp.bfloat16


@pytest.mark.parametrize("width", [64, 512])
def test_masks_of_one_random_word_are_independent(width):
    x = jnp.ones((4000, width))
    for rate in (0.1, 0.5):
        zeroed = (layers.dropout(x, rate, jax.random.key(0)) == 0).astype(jnp.float32)
        centered = zeroed - rate
        correlation = centered.T @ centered / len(x) / (rate * (1 - rate))
        correlation -= jnp.diag(jnp.diag(correlation))
        np.testing.assert_allclose(correlation, 0.0, atol=0.09)


def test_dropout_differs_between_images_and_not_with_their_place():
    x, key = jnp.ones((8, 3, 512)), jax.random.key(0)
    dropped = layers.dropout(x, 0.5, key)
    assert len({image.tobytes() for image in np.asarray(dropped)}) == len(x)
    spread = jax.device_put(x, NamedSharding(mesh.make_mesh(), P(mesh.BATCH_AXES)))
    assert len(spread.sharding.device_set) > 1
    there = jax.jit(lambda x: layers.dropout(x, 0.5, key))(spread)
    assert there.sharding.is_equivalent_to(spread.sharding, x.ndim)
    np.testing.assert_array_equal(there, dropped)


def test_dropout_takes_keys_of_other_generators():
    dropped = layers.dropout(jnp.ones((100, 512)), 0.25, jax.random.key(0, impl="rbg"))
    assert float((dropped == 0).mean()) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("options", [{}, {"block": "axial", "pool": "mean"}], ids=str)
def test_tokens_are_pinned_at_entry_and_exit_of_every_block(options):
    seen = []

    def pin(x):
        seen.append(x.shape)
        return x

    model = noisy(small(unroll=1, **options))
    expected = model(images())
    assert jnp.array_equal(model(images(), placement=Placement(pin)), expected)
    assert set(seen) == {(2, model.architecture.tokens, 32)} and len(seen) % 2 == 0


def test_without_classes_the_model_returns_its_features():
    model = noisy(small(num_classes=0, pre_logits=True))
    assert model(images()).shape == (2, 32)
    assert jnp.array_equal(model(images()), model.features(images()))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 32, 32, 3), np.uint8), r"uint8.*/ 127\.5 - 1"),
        (np.zeros((2, 48, 32, 3), np.float32), r"image_size=\(48, 32\)"),
        (np.zeros((32, 32, 3), np.float32), r"images\[None\]"),
        (np.zeros((2, 3, 32, 32), np.float32), r"wants \[batch, 32, 32, 3\]"),
    ],
)
def test_wrong_images_say_what_to_do(x, message):
    with pytest.raises(errors.UserError, match=message):
        noisy(small())(x)


def test_linen_code_can_use_the_model():
    class Classifier(linen.Module):
        @linen.compact
        def __call__(self, x):
            encoder = nnx.bridge.to_linen(
                models.VisionTransformer, small(num_classes=0), name="encoder"
            )
            return linen.Dense(5)(encoder(x))

    classifier = Classifier()
    variables = classifier.init(jax.random.key(0), images())
    assert variables["params"]["encoder"]["posemb"].shape == (1, 17, 32)
    assert classifier.apply(variables, images()).shape == (2, 5)


def test_there_is_no_partition_metadata():
    graphdef, params = models.abstract(small())
    specs = nnx.get_partition_spec(nnx.state(models.merge(graphdef, params)))
    assert {leaf for _, leaf in tree.named_leaves(nnx.to_pure_dict(specs))} == {P()}


def test_the_parts_of_the_forward_pass_are_the_whole():
    model = noisy(small(mask_token=True, patch_outputs=7))
    x = images()
    patches = model.patch_embeddings(x)
    assert patches.shape == (2, 16, 32)
    tokens = model.tokens(patches)
    posemb = model.posemb[...]
    np.testing.assert_allclose(tokens[:, 1:], patches + posemb[:, 1:], atol=1e-6)
    assert jnp.array_equal(tokens, model.embed(x))
    encoded = model.encode(tokens)
    np.testing.assert_array_equal(model.classify(model.pool(encoded)), model(x))
    logits = model.patch_logits(encoded)
    kernel, bias = model.patch_head.kernel[...], model.patch_head.bias[...]
    expected = encoded[:, 1:] @ kernel + bias[None, None]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    with pytest.raises(errors.UserError, match="patch_outputs=N"):
        noisy(small()).patch_logits(encoded)


def test_leaf_names_of_masked_prediction():
    _, params = models.abstract(small(mask_token=True, patch_outputs=7))
    leaves = {n: leaf.shape for n, leaf in tree.named_leaves(params)}
    assert leaves["mask_token"] == (1, 1, 32)
    assert leaves["patch_head/kernel"] == (32, 7)
    assert leaves["patch_head/bias"] == (7,)


def test_a_wider_result_has_the_gradients_of_its_rounded_cotangent():
    linear = layers.Linear((16,), (5,), rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    x, g = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((3, 16), (3, 5)))
    half = x.astype(jnp.bfloat16)

    def output(x, kernel, dtype):
        new = models.merge(models.split(linear)[0], {"kernel": kernel, "bias": zeros})
        return new(x, dtype=dtype)

    zeros = jnp.zeros(5)
    kernel = linear.kernel[...]
    wide, back = jax.vjp(lambda x, k: output(x, k, jnp.dtype("float32")), half, kernel)
    assert wide.dtype == jnp.float32
    rounded = kernel.astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_allclose(wide, half.astype(jnp.float32) @ rounded, rtol=1e-5)
    dx, dk = back(g)
    assert (dx.dtype, dk.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(dk, half.astype(jnp.float32).T @ g, atol=0.05)
    np.testing.assert_array_equal(dk, dk.astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_allclose(dx.astype(jnp.float32), g @ rounded.T, atol=0.05)


def drawn(arch):
    """A model of random leaves, without compiling its initialisers."""
    graphdef, params = models.abstract(arch)
    rng = np.random.default_rng(0)
    leaves = {
        name: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32)
        for name, leaf in tree.named_leaves(params)
    }
    return models.merge(graphdef, tree.from_named(leaves))


def without_leaves(model, arch, *starts):
    """The same leaves but some, as another architecture."""
    named = tree.named_leaves(models.split(model)[1])
    kept = {n: leaf for n, leaf in named if not n.startswith(starts)}
    return models.merge(models.abstract(arch)[0], tree.from_named(kept))


def test_a_stem_norm_is_a_layer_norm_of_the_tokens():
    arch = small(stem_norm=True, depth=1)
    names = {n for n, _ in tree.named_leaves(models.abstract(arch)[1])}
    assert names - set(LEAVES) == {"stem_norm/scale", "stem_norm/bias"}
    model = drawn(arch)
    plain = without_leaves(model, small(depth=1), "stem_norm/")
    tokens = model.embed(images())
    normed = model.stem_norm(tokens)
    np.testing.assert_allclose(model.encode(tokens), plain.encode(normed), atol=1e-6)
    assert not np.allclose(plain.encode(tokens), plain.encode(normed), atol=1e-2)


def test_without_a_last_norm_tokens_leave_as_they_are():
    arch = small(final_norm="none", depth=1)
    model = drawn(small(depth=1))
    bare = without_leaves(model, arch, "norm/")
    tokens = model.embed(images())
    encoded = bare.encode(tokens)
    np.testing.assert_allclose(model.norm(encoded), model.encode(tokens), atol=1e-6)


def test_patches_without_a_bias_are_those_with_a_bias_of_zero():
    arch = small(patch_bias=False, depth=1)
    names = {n for n, _ in tree.named_leaves(models.abstract(arch)[1])}
    assert "patch_embed/bias" not in names
    model = drawn(small(depth=1))
    bare = without_leaves(model, arch, "patch_embed/bias")
    bias = model.patch_embed.bias[...].reshape(1, 1, -1)
    found = bare.patch_embeddings(images()) + bias
    np.testing.assert_allclose(found, model.patch_embeddings(images()), atol=1e-6)


@pytest.mark.parametrize("kind", gelus.GELU)
def test_the_gelu_for_gpus_is_the_gelu(kind, monkeypatch):
    """Values and gradients, also with one derivative in forward mode."""
    linear = layers.Linear(
        (6,), (5,), bias_init=nnx.initializers.normal(1.0), rngs=nnx.Rngs(0)
    )
    graphdef, params = nnx.split(linear)
    x = jax.random.normal(jax.random.key(1), (3, 4, 6))

    def found():
        def gelu(params, x):
            return nnx.merge(graphdef, params).gelu(x, kind)

        y, back = jax.vjp(gelu, params, x)
        _, along = jax.jvp(gelu, (params, x), (params, x))
        return jax.tree.leaves((y, along, back(jnp.cos(y))))

    monkeypatch.setattr(gelus, "may_be_cuda", lambda: False)
    expected = found()
    monkeypatch.setattr(gelus, "may_be_cuda", lambda: True)
    for ours, theirs in zip(found(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_in_bfloat16_the_gelu_is_closer_to_its_definition_than_by_tanh():
    x = jnp.linspace(-8, 8, 2001).astype(jnp.bfloat16)

    def errors_of(gelu):
        values, slopes = jax.vmap(jax.value_and_grad(gelu))(x)
        exact = x.astype(jnp.float32)
        wanted, tangent = jax.vmap(jax.value_and_grad(jax.nn.gelu))(exact)
        relative = jnp.abs(values - wanted) / jnp.maximum(jnp.abs(wanted), 1e-4)
        return relative.max(), jnp.abs(slopes - tangent).max()

    (value, slope), by_tanh = errors_of(gelus.GELU["tanh"]), errors_of(jax.nn.gelu)
    assert value < 0.1 < by_tanh[0]
    assert slope < 0.01 < by_tanh[1]


def test_the_quick_gelu_is_its_definition():
    x = jnp.linspace(-4, 4, 33)
    np.testing.assert_allclose(
        gelus.GELU["quick"](x), x / (1 + np.exp(-1.702 * x)), atol=1e-6
    )


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", ["mu/8", "Mixer-S/8", "BiT-R50x1", "R+Ti/16"])
def test_images_of_other_channels(name, channels):
    options = {"num_classes": 2, "image_size": 32}
    color = models.architecture(name, **options)
    arch = models.architecture(name, channels=channels, **options)
    leaves = [dict(tree.named_leaves(models.abstract(a)[1])) for a in (color, arch)]
    changed = [n for n in leaves[0] if leaves[0][n].shape != leaves[1][n].shape]
    (kernel,) = changed
    assert kernel.endswith(("patch_embed/kernel", "root/conv/kernel"))
    assert leaves[1][kernel].shape[2] == channels
    per_channel = np.prod(leaves[0][kernel].shape) // 3
    counts = [models.count_parameters(a) for a in (arch, color)]
    assert counts[0] - counts[1] == (channels - 3) * per_channel
    places = 16 if "/8" in name else 16 * 16  # patches, or cells of the first layer
    macs = models.forward_macs(arch) - models.forward_macs(color)
    assert macs == (channels - 3) * per_channel * places


def test_images_of_the_wrong_channels_are_refused():
    model = drawn(small(channels=1, depth=1))
    assert model(images((2, 32, 32, 1))).shape == (2, 10)
    with pytest.raises(errors.UserError, match=r"wants \[batch, 32, 32, 1\]"):
        model(images())


def test_patch_dropout_leaves_out_a_share_of_each_images_patches():
    """In training alone; what is kept is as it was, the tokens before come first."""
    arch = small(patch_dropout=0.4, registers=2, pool="token")
    model = noisy(arch)
    tokens = model.embed(images())
    seen = np.asarray(model._without_some(tokens, jax.random.key(0)))
    kept = int(arch.patches * 0.6)
    assert seen.shape == (2, arch.prefix + kept, arch.width) and 0 < kept < arch.patches
    np.testing.assert_array_equal(seen[:, : arch.prefix], tokens[:, : arch.prefix])
    rows = []
    for image, before in zip(seen[:, arch.prefix :], np.asarray(tokens)):
        same = (image[:, None] == before[None, arch.prefix :]).all(axis=2)
        assert (same.sum(axis=1) == 1).all() and (same.sum(axis=0) <= 1).all()
        rows.append(frozenset(np.flatnonzero(same.any(axis=0))))
    assert len(set(rows)) == 2  # each image its own
    plain = noisy(small(registers=2, pool="token"))
    np.testing.assert_array_equal(model(images()), plain(images()))
    trained = model(images(), deterministic=False, rngs=nnx.Rngs(dropout=0))
    assert not np.allclose(trained, plain(images()))


@pytest.mark.parametrize(
    "options",
    [{"rope": "axial"}, {"posemb_at": "every"}, {"pool": "none"}],
)
def test_patch_dropout_wants_blocks_without_places(options):
    (name,) = options
    with pytest.raises(errors.UserError, match=f"patch_dropout=0.5 .*{name}="):
        small(patch_dropout=0.5, **options)
