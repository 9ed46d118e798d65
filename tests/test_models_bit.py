"""BiT ResNets against published counts and a float64 reading of both forms."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vit_jax import errors, models, tree
from vit_jax.models import bit, resnet, resnet_sizes
from vit_jax.models.placement import Placement

# Name -> parameters at 1000 classes, GMAC at 224 and 384 pixels.
PUBLISHED = {
    "BiT-R50x1": (25_549_352, 4.09, 12.01),
    "BiT-R50x2": (97_988_712, 16.12, 47.36),
    "BiT-R50x3": (217_319_080, 36.08, 106.0),
    "BiT-R101x1": (44_541_480, 7.80, 22.92),
    "BiT-R101x3": (387_934_888, 69.49, 204.2),
    "BiT-R152x1": (60_185_128, 11.51, 33.83),
    "BiT-R152x2": (236_335_208, 45.81, 134.6),
    "BiT-R152x4": (936_533_224, 182.8, 537.1),
    "BiT-R200x3": (568_633_000, 134.4, 394.8),
    "BiT-R50x1-post": (25_557_032, 4.09, 12.01),
    "BiT-R152x2-post": (236_350_568, 45.81, 134.6),
    "BiT-R152x4-post": (936_563_944, 182.8, 537.1),
}
# Name -> epochs of JFT and exaFLOPs (the paper's Table 6).
TABLE_6 = {
    "BiT-R50x1": (7, 50),
    "BiT-R50x2": (7, 199),
    "BiT-R101x1": (7, 96),
    "BiT-R152x1": (7, 141),
    "BiT-R152x2": (14, 1126),
    "BiT-R200x3": (14, 3306),
}
FORMS = [("pre", "zero"), ("pre", "lowest"), ("post", "lowest")]
SAME = {"pre": False, "post": True}


def small(form="pre", pool_padding="zero", **options):
    options = {"units": (2, 1), "width": 0.5, "num_classes": 5} | options
    return models.architecture(
        "BiT-R50x1" + ("-post" if form == "post" else ""),
        pool_padding=pool_padding,
        **{"image_size": (40, 26)} | options,
    )


def randomised(arch):
    """A model in which no leaf is zero or one, and its leaves by name."""
    graphdef, params = models.abstract(arch)
    rng = np.random.default_rng(1)

    def draw(name, leaf):
        centre = 1 if name.endswith("scale") else 0
        spread = 0.5 if name.endswith(("scale", "bias")) else 0.2
        return jnp.asarray(rng.normal(centre, spread, leaf.shape), jnp.float32)

    params = tree.map_named(draw, params)
    leaves = {n: np.asarray(a, np.float64) for n, a in tree.named_leaves(params)}
    return models.merge(graphdef, params), leaves


def images(arch, batch=2):
    shape = (batch, *arch.image_size, 3)
    return jax.random.uniform(jax.random.key(2), shape, minval=-1)


# --- The same in float64, from the equations -----------------------------------------


def padded(x, size, stride, same, value):
    widths = [(0, 0)]
    for n in x.shape[1:3]:
        total = max((-(-n // stride) - 1) * stride + size - n, 0)
        widths.append((total // 2, total - total // 2) if same else (size // 2,) * 2)
    return np.pad(x, [*widths, (0, 0)], constant_values=value)


def windows(x, size, stride, same, value=0.0):
    x = padded(x, size, stride, same, value)
    view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return view[:, ::stride, ::stride]


def conv(x, kernel, stride, form):
    centred = kernel - kernel.mean((0, 1, 2))
    variance = (centred**2).mean((0, 1, 2))
    divisor = {"pre": np.sqrt(variance + 1e-10), "post": np.sqrt(variance) + 1e-5}
    cut = windows(x, kernel.shape[0], stride, SAME[form])
    return np.einsum("byxihw,hwio->byxo", cut, centred / divisor[form], optimize=True)


def norm(x, leaves, name, form):
    b, h, w, c = x.shape
    y = x.reshape(b, h * w, 32, c // 32)
    y = y - y.mean((1, 3), keepdims=True)
    epsilon = {"pre": 1e-5, "post": 1e-6}[form]
    y = y / np.sqrt((y**2).mean((1, 3), keepdims=True) + epsilon)
    return y.reshape(x.shape) * leaves[f"{name}/scale"] + leaves[f"{name}/bias"]


def relu(x):
    return np.maximum(x, 0)


def root(x, leaves, form, pool_padding):
    x = conv(x, leaves["root/conv/kernel"], 2, form)
    if form == "post":
        x = relu(norm(x, leaves, "root/norm", form))
    value = {"zero": 0.0, "lowest": -np.inf}[pool_padding]
    return windows(x, 3, 2, SAME[form], value).max((-2, -1))


def unit(x, leaves, name, stride, form):
    def convolved(x, part, stride=1):
        return conv(x, leaves[f"{name}/{part}/kernel"], stride, form)

    def normed(x, part):
        return norm(x, leaves, f"{name}/{part}", form)

    projects = f"{name}/conv_proj/kernel" in leaves
    if form == "pre":
        y = relu(normed(x, "norm1"))
        x = convolved(y, "conv_proj", stride) if projects else x
        y = relu(normed(convolved(y, "conv1"), "norm2"))
        y = relu(normed(convolved(y, "conv2", stride), "norm3"))
        return x + convolved(y, "conv3")
    y = relu(normed(convolved(x, "conv1"), "norm1"))
    y = relu(normed(convolved(y, "conv2", stride), "norm2"))
    y = normed(convolved(y, "conv3"), "norm3")
    x = normed(convolved(x, "conv_proj", stride), "norm_proj") if projects else x
    return relu(x + y)


def logits(x, leaves, arch):
    x = root(x, leaves, arch.form, arch.pool_padding)
    for i, units in enumerate(arch.units):
        for j in range(units):
            stride = 2 if i > 0 and j == 0 else 1
            x = unit(x, leaves, f"stage{i + 1}/unit{j + 1}", stride, arch.form)
    if arch.form == "pre":
        x = relu(norm(x, leaves, "norm", arch.form))
    return x.mean((1, 2)) @ leaves["head/kernel"] + leaves["head/bias"]


@pytest.mark.parametrize("form, pool_padding", FORMS)
@pytest.mark.parametrize("size", [(40, 26), (33, 64)])
def test_logits_are_those_of_the_equations(form, pool_padding, size):
    arch = small(form, pool_padding, image_size=size)
    model, leaves = randomised(arch)
    x = images(arch)
    expected = logits(np.asarray(x, np.float64), leaves, arch)
    np.testing.assert_allclose(jax.jit(model)(x), expected, atol=2e-5)


@pytest.mark.parametrize("form, pool_padding", FORMS)
def test_root_is_that_of_the_equations(form, pool_padding):
    arch = small(form, pool_padding)
    model, leaves = randomised(arch)
    x = images(arch)
    expected = root(np.asarray(x, np.float64), leaves, form, pool_padding)
    np.testing.assert_allclose(jax.jit(model.root)(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["pre", "post"])
@pytest.mark.parametrize(
    "name, stride", [("1/unit1", 1), ("1/unit2", 1), ("2/unit1", 2)]
)
def test_units_are_those_of_the_equations(form, name, stride):
    model, leaves = randomised(small(form))
    module = getattr(getattr(model, f"stage{name[0]}"), name[2:])
    inputs = leaves[f"stage{name}/conv1/kernel"].shape[2]
    x = np.random.default_rng(3).normal(size=(2, 5, 6, inputs))
    expected = unit(x, leaves, f"stage{name}", stride, form)
    found = jax.jit(module)(jnp.float32(x))
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_pool_padding_shows_at_the_border_alone():
    """There the pre form has negative values, which zero exceeds."""
    zero, _ = randomised(small("pre", "zero", image_size=(40, 24)))
    lowest, _ = randomised(small("pre", "lowest", image_size=(40, 24)))
    x = images(zero.architecture)
    difference = np.asarray(jax.jit(zero.root)(x) - jax.jit(lowest.root)(x))
    assert (difference >= 0).all() and difference.any()
    assert not difference[:, 1:, 1:].any()


def test_post_form_is_the_hybrids_resnet():
    model, _ = randomised(small("post"))
    hybrid = nnx.eval_shape(lambda: resnet.ResNet((2, 1), 32, rngs=nnx.Rngs(0)))
    graphdef, params = models.split(hybrid)
    mine = models.split(model)[1]
    hybrid = models.merge(graphdef, {name: mine[name] for name in params})
    x = images(model.architecture)
    expected = jax.jit(hybrid)(x).mean(axis=(1, 2))
    found = jax.jit(model.features)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# --- The protocol of all families ----------------------------------------------------


@pytest.mark.parametrize("form", ["pre", "post"])
def test_logits_are_the_head_of_the_features(form):
    arch = small(form, units=(1,))
    model, leaves = randomised(arch)
    x = images(arch)
    features = jax.jit(
        lambda x: model.features(x, deterministic=False, rngs=nnx.Rngs(dropout=0))
    )(x)
    assert features.dtype == jnp.float32
    assert features.shape == (2, arch.feature_width)
    expected = np.asarray(features) @ leaves["head/kernel"] + leaves["head/bias"]
    logits = jax.jit(model)(x)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    np.testing.assert_allclose(model.classify(features), logits, atol=1e-5)
    headless = nnx.eval_shape(
        lambda x: bit.BitResNet(arch.replace(num_classes=0), rngs=nnx.Rngs(0))(x), x
    )
    assert headless.shape == features.shape


def test_a_new_head_gives_its_bias():
    arch = small(head_bias=-10.0, units=(1,))
    model = models.create(arch, rngs=nnx.Rngs(0))
    logits = jax.jit(model)(images(arch))
    np.testing.assert_array_equal(logits, np.full((2, 5), -10.0))


def test_feature_maps_are_pinned_after_root_and_stages():
    arch = small()
    model, _ = randomised(arch)
    shapes = []

    def pin(x):
        shapes.append(x.shape)
        return x

    jax.eval_shape(lambda x: model(x, placement=Placement(pin)), images(arch))
    assert shapes == [(2, 10, 7, 32), (2, 10, 7, 128), (2, 5, 4, 256)]
    sizes = resnet_sizes.stage_sizes(arch.units, arch.image_size)
    assert [shape[1:3] for shape in shapes] == sizes


def loss_of(arch):
    model, _ = randomised(arch)
    graphdef, params = models.split(model)
    x = images(arch)
    return lambda p: jnp.square(models.merge(graphdef, p)(x)).mean(), params


def kept_bytes(arch):
    """Bytes that the forward pass keeps for the backward pass."""
    loss, params = loss_of(arch)
    backward = jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params)
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(backward))


@pytest.mark.parametrize("form", ["pre", "post"])
def test_remat_keeps_less_and_changes_no_gradient(form):
    plain, remat = (
        small(form, units=(2,), image_size=(32, 32), remat=r) for r in ("none", "full")
    )
    assert kept_bytes(remat) < 0.5 * kept_bytes(plain)
    expected, found = (
        jax.jit(jax.grad(loss))(params) for loss, params in map(loss_of, (plain, remat))
    )
    for (name, a), (_, b) in zip(tree.named_leaves(expected), tree.named_leaves(found)):
        assert np.isfinite(a).all() and np.any(a), name
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max(), err_msg=name)


@pytest.mark.parametrize("form", ["pre", "post"])
def test_bfloat16_is_close_and_gives_float32(form):
    model, _ = randomised(small(form, units=(1,)))
    half, _ = randomised(small(form, units=(1,), compute_dtype="bfloat16"))
    x = images(model.architecture)
    expected, found = jax.jit(model.features)(x), jax.jit(half.features)(x)
    assert found.dtype == jax.eval_shape(half, x).dtype == jnp.float32
    error = np.abs(found - expected).mean() / np.abs(expected).mean()
    assert 0 < error < 0.03


def test_leaf_names_are_public():
    for form in ("pre", "post"):
        leaves = dict(tree.named_leaves(models.abstract(small(form, units=(2,)))[1]))
        names = {"head/bias", "head/kernel", "root/conv/kernel"}
        norms = ["norm1", "norm2", "norm3"]
        if form == "post":
            names |= {"root/norm/bias", "root/norm/scale"}
        else:
            names |= {"norm/bias", "norm/scale"}
        for i in (1, 2):
            projection = ["conv_proj"] if i == 1 else []
            convs = ["conv1", "conv2", "conv3", *projection]
            names |= {f"stage1/unit{i}/{conv}/kernel" for conv in convs}
            more = ["norm_proj"] if form == "post" and i == 1 else []
            for part in [*norms, *more]:
                names |= {f"stage1/unit{i}/{part}/{leaf}" for leaf in ("bias", "scale")}
        assert set(leaves) == names


# --- Published figures, on abstract shapes -------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_multiply_adds_are_the_published(name):
    parameters, at_224, at_384 = PUBLISHED[name]
    arch = models.architecture(name, num_classes=1000)
    assert models.count_parameters(arch) == parameters
    assert models.forward_macs(arch) == pytest.approx(at_224 * 1e9, rel=0.01)
    larger = arch.replace(image_size=(384, 384))
    assert models.forward_macs(larger) == pytest.approx(at_384 * 1e9, rel=0.01)


@pytest.mark.parametrize("name", TABLE_6)
def test_pre_training_costs_what_table_6_says(name):
    epochs, published = TABLE_6[name]
    arch = models.architecture(name, num_classes=18_291)
    cost = 6 * models.forward_macs(arch) * 303e6 * epochs / 1e18
    assert cost == pytest.approx(published, rel=0.05)


@pytest.mark.parametrize("form", ["pre", "post"])
def test_multiply_adds_are_what_the_compiler_counts(form):
    arch = small(form, image_size=(64, 64), num_classes=0)
    graphdef, params = models.abstract(arch)
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)

    def convolutions(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "conv_general_dilated":
                yield equation
            for sub in jax.extend.core.jaxprs_in_params(equation.params):
                yield from convolutions(sub)

    traced = jax.make_jaxpr(lambda p, x: models.merge(graphdef, p)(x))(params, x)
    total = 0
    for equation in convolutions(traced.jaxpr):
        h, w, inputs, outputs = equation.invars[1].aval.shape
        _, rows, columns, _ = equation.outvars[0].aval.shape
        total += h * w * inputs * outputs * rows * columns
    assert total == models.forward_macs(arch)


# --- Names and options ---------------------------------------------------------------


@pytest.mark.parametrize("name", bit.NAMES)
def test_names_are_read_and_written(name):
    arch = models.architecture(name, num_classes=0)
    assert bit.name_of(arch.units, arch.width, arch.form) == name
    assert models.from_dict(arch.to_dict()) == arch


def test_name_of_sizes_without_one():
    assert bit.name_of((1, 1), 0.5, "post") == "BiT-custom-x0.5-post"


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("BiT-R51x1", {}, "51"),
        ("BiT-R50", {}, "BiT-R50x1"),
        ("BiT-R50x1", {"units": ()}, "units"),
        ("BiT-R50x1", {"width": 0.7}, "multiple of 0.5"),
        ("BiT-R50x1", {"form": "v2"}, "form"),
        ("BiT-R50x1", {"registers": 4}, "registers"),
        ("BiT-R50x1", {"remat": "dots"}, "remat"),
    ],
)
def test_wrong_names_and_options_are_explained(name, options, message):
    with pytest.raises(errors.UserError, match=message):
        models.architecture(name, num_classes=3, **options)


def test_options_at_a_vits_defaults_are_accepted():
    arch = models.architecture("BiT-R50x1", num_classes=3, pool="token", depth=0)
    assert arch == models.architecture("BiT-R50x1", num_classes=3)


@pytest.mark.parametrize("form", ["pre", "post"])
def test_the_weights_take_images_of_any_size(form):
    """What the architecture says of the size does not matter to the function."""
    arch = small(form, units=(1,), image_size=(224, 224))
    model, _ = randomised(arch)
    for_size, _ = randomised(arch.replace(image_size=(40, 26)))
    x = jax.random.uniform(jax.random.key(2), (2, 40, 26, 3), minval=-1)
    assert np.array_equal(model(x), for_size(x))
    for size in ((1, 1), (7, 300)):
        image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
        assert jax.eval_shape(model, image).shape == (1, 5)
    for shape in ((40, 26, 3), (1, 40, 26, 1), (1, 0, 26, 3)):
        with pytest.raises(errors.UserError, match=r"\[batch, height, width, 3\]"):
            model(jnp.zeros(shape))
