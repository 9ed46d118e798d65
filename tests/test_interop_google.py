"""Google's dialects against Flax Linen networks that name their parameters like them.

The networks below are put together from Linen's own layers as the two codes describe
them, so that the names are Linen's and the arithmetic is not ours.
"""

import functools
import logging
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from vit_jax import errors, models
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.weights import dialects, files
from vit_jax.weights.dialects import google

WIDTH, HEADS, HIDDEN, DEPTH, CLASSES = 32, 4, 48, 2, 5


class MlpBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.Dense(HIDDEN)(x))
        return nn.Dense(WIDTH)(x)


class EncoderBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=HEADS)(y, y)
        y = nn.LayerNorm()(x)
        return x + MlpBlock()(y)


class MAPHead(nn.Module):
    @nn.compact
    def __call__(self, x):
        probe = self.param("probe", nn.initializers.normal(), (1, 1, WIDTH))
        probe = jnp.tile(probe, [len(x), 1, 1])
        x = nn.MultiHeadDotProductAttention(num_heads=HEADS)(probe, x)
        return (x + MlpBlock()(nn.LayerNorm()(x)))[:, 0]


class Encoder(nn.Module):
    positions: bool

    @nn.compact
    def __call__(self, x):
        if self.positions:
            x = Positions(name="posembed_input")(x)
        for i in range(DEPTH):
            x = EncoderBlock(name=f"encoderblock_{i}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


def position_table(module, x):
    return module.param("pos_embedding", nn.initializers.normal(), (1, *x.shape[1:]))


class Positions(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + position_table(self, x)


def sincos(rows, columns):
    """Sines and cosines of columns, then of rows; frequencies 1 to 1e-4."""
    frequencies = 1e4 ** (-np.arange(WIDTH // 4) / (WIDTH // 4 - 1))
    y, x = (c.reshape(-1, 1) * frequencies for c in np.mgrid[:rows, :columns])
    table = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)
    return table[None].astype(np.float32)


class StdConv(nn.Conv):
    def param(self, name, *arguments, **options):
        value = super().param(name, *arguments, **options)
        if name != "kernel":
            return value
        value = value - value.mean((0, 1, 2), keepdims=True)
        return value / (value.std((0, 1, 2), keepdims=True) + 1e-5)


def std_conv(features, size, stride, name):
    return StdConv(
        features, (size, size), (stride, stride), "SAME", use_bias=False, name=name
    )


class Unit(nn.Module):
    features: int
    stride: int

    @nn.compact
    def __call__(self, x):
        y, f = x, self.features
        if x.shape[-1] != 4 * f or self.stride > 1:
            x = std_conv(4 * f, 1, self.stride, "conv_proj")(x)
            x = nn.GroupNorm(name="gn_proj")(x)
        y = nn.relu(nn.GroupNorm(name="gn1")(std_conv(f, 1, 1, "conv1")(y)))
        y = std_conv(f, 3, self.stride, "conv2")(y)
        y = nn.relu(nn.GroupNorm(name="gn2")(y))
        return nn.relu(x + nn.GroupNorm(name="gn3")(std_conv(4 * f, 1, 1, "conv3")(y)))


class Stage(nn.Module):
    features: int
    units: int
    stride: int

    @nn.compact
    def __call__(self, x):
        for i in range(self.units):
            stride = 1 if i else self.stride
            x = Unit(self.features, stride, name=f"unit{i + 1}")(x)
        return x


class Network(nn.Module):
    """vision_transformer's (google=True) or big_vision's."""

    google: bool = True
    pool: str = "token"
    pre_logits: int = 0
    sines: bool = False
    stages: tuple[int, ...] | None = None
    patch: int = 8

    @nn.compact
    def __call__(self, x):
        if self.stages is not None:
            x = nn.relu(
                nn.GroupNorm(name="gn_root")(std_conv(32, 7, 2, "conv_root")(x))
            )
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
            for i, units in enumerate(self.stages):
                x = Stage(32 * 2**i, units, 2 if i else 1, name=f"block{i + 1}")(x)
        patch = (self.patch, self.patch)
        x = nn.Conv(WIDTH, patch, patch, "VALID", name="embedding")(x)
        b, rows, columns, _ = x.shape
        x = x.reshape(b, -1, WIDTH)
        if not self.google:
            x = x + (sincos(rows, columns) if self.sines else position_table(self, x))
        if self.pool == "token":
            cls = self.param("cls", nn.initializers.normal(), (1, 1, WIDTH))
            x = jnp.concatenate([jnp.tile(cls, [b, 1, 1]), x], axis=1)
        x = Encoder(self.google, name="Transformer")(x)
        if self.pool == "map":
            x = MAPHead(name="MAPHead_0")(x)
        else:
            x = x[:, 0] if self.pool == "token" else x.mean(axis=1)
        if self.pre_logits:
            x = nn.tanh(nn.Dense(self.pre_logits, name="pre_logits")(x))
        return nn.Dense(CLASSES, name="head")(x)


@functools.cache
def of_linen(**options):
    """Random parameters by name, images and the logits that Linen computes."""
    rng = np.random.default_rng(len(str(options)))
    size = 64 if "stages" in options else 32
    images = rng.uniform(-1, 1, (2, size, size, 3)).astype(np.float32)
    network = Network(**options)
    with jax.numpy_rank_promotion("allow"):
        shapes = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
        tensors = {
            name: drawn(rng, name, leaf.shape)
            for name, leaf in traverse_util.flatten_dict(shapes, sep="/").items()
        }
        params = traverse_util.unflatten_dict(tensors, sep="/")
        logits = jax.jit(network.apply)({"params": params}, images)
    return tensors, images, np.asarray(logits)


def drawn(rng, name, shape):
    """Values near those of Linen's initialisers, but none of them 0 or 1."""
    value = 0.1 * rng.standard_normal(shape)
    if name.endswith("/scale"):
        value += 1
    if name.endswith("/kernel"):
        fan_in = np.prod(shape[:-1]) if "out/" in name or len(shape) != 3 else shape[0]
        value += rng.standard_normal(shape) / np.sqrt(fan_in)
    return value.astype(np.float32)


def scanned(tensors):
    """The same with the blocks stacked under one name."""
    block = "Transformer/encoderblock"
    result = {n: t for n, t in tensors.items() if not n.startswith(block)}
    for name in tensors:
        if name.startswith(f"{block}_0/"):
            rest = name.removeprefix(f"{block}_0/")
            layers = [tensors[f"{block}_{i}/{rest}"] for i in range(DEPTH)]
            result[f"{block}/{rest}"] = np.stack(layers)
    return result


OLD_NAMES = {
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "LayerNorm_1": "LayerNorm_2",
    "MlpBlock_0": "MlpBlock_3",
}


def pre_linen(tensors):
    """The same with modules counted together and GroupNorms of four axes."""
    result = {}
    for name, tensor in tensors.items():
        for new, old in OLD_NAMES.items():
            name = name.replace(new, old)
        norm = re.search(r"gn\w+/(scale|bias)$", name)
        result[name] = tensor.reshape(1, 1, 1, -1) if norm else tensor
    return result


def save(path, tensors):
    with path.open("wb") as stream:
        np.savez(stream, **tensors)
    return path


def logits_of(weights, images):
    """Ours, computed by a loop over the blocks: quicker to compile."""
    return forward(weights.architecture.replace(unroll=1))(weights.params, images)


@functools.cache
def forward(architecture):
    graphdef, _ = models.abstract(architecture)
    return jax.jit(lambda params, images: models.merge(graphdef, params)(images))


CASES = {
    "google": ({}, None),
    "google gap": ({"pool": "gap"}, None),
    "google pre_logits": ({"pre_logits": 24}, None),
    "google hybrid": ({"stages": (2, 1), "patch": 2}, None),
    "google_old": ({}, pre_linen),
    "google_old hybrid": ({"stages": (1, 1), "patch": 2}, pre_linen),
    "big_vision token": ({"google": False}, None),
    "big_vision gap": ({"google": False, "pool": "gap"}, None),
    "big_vision map": ({"google": False, "pool": "map"}, None),
    "big_vision map pre_logits": (
        {"google": False, "pool": "map", "pre_logits": WIDTH},
        None,
    ),
    "big_vision sines": ({"google": False, "pool": "gap", "sines": True}, None),
    "big_vision sines map": ({"google": False, "pool": "map", "sines": True}, None),
    "big_vision_scan map": ({"google": False, "pool": "map"}, scanned),
    "big_vision_scan token": ({"google": False}, scanned),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_linens_and_the_way_back_is_exact(tmp_path, case):
    options, spelling = CASES[case]
    tensors, images, expected = of_linen(**options)
    tensors = spelling(tensors) if spelling else tensors
    size = {"image_size": 32} if "sines" in options else {}
    with files.read(save(tmp_path / "x.npz", tensors), **size) as weights:
        assert weights.dialect == case.split()[0]
        np.testing.assert_allclose(
            logits_of(weights, images), expected, atol=1e-4, rtol=0
        )
        files.write(weights, tmp_path / "back.npz")
    prefix = dialects.DIALECTS[weights.dialect].prefix
    with np.load(tmp_path / "back.npz") as back:
        assert set(back.files) == {prefix + name for name in tensors}
        for name, tensor in tensors.items():
            assert np.array_equal(back[prefix + name], tensor), name


@pytest.mark.parametrize("target", ["google_old", "google", "big_vision_scan"])
@pytest.mark.parametrize("source", ["google", "big_vision token", "big_vision gap"])
def test_one_dialect_becomes_another_of_the_same_function(tmp_path, source, target):
    tensors, images, expected = of_linen(**CASES[source][0])
    weights = files.read(save(tmp_path / "x.npz", tensors))
    files.write(weights, tmp_path / "y.npz", target)
    again = files.read(tmp_path / "y.npz")
    assert again.dialect == target
    np.testing.assert_allclose(logits_of(again, images), expected, atol=1e-4, rtol=0)


def test_old_spellings_of_big_vision_are_read(tmp_path):
    """The table inside the encoder or with a class position, the head's parts bare."""
    tensors, images, expected = of_linen(google=False, pool="map")
    old = {n.removeprefix("MAPHead_0/"): t for n, t in tensors.items()}
    old["Transformer/pos_embedding"] = np.concatenate(
        [np.ones((1, 1, WIDTH), np.float32), old.pop("pos_embedding")], axis=1
    )
    weights = files.read(save(tmp_path / "x.npz", old))
    np.testing.assert_allclose(logits_of(weights, images), expected, atol=1e-4, rtol=0)

    tensors, images, expected = of_linen(google=False)
    row = np.full((1, 1, WIDTH), 0.25, np.float32)
    table = np.concatenate([row, tensors["pos_embedding"]], axis=1)
    old = tensors | {"pos_embedding": table, "cls": tensors["cls"] - row}
    weights = files.read(save(tmp_path / "y.npz", old))
    assert weights.architecture.positioned == 1
    np.testing.assert_allclose(logits_of(weights, images), expected, atol=1e-4, rtol=0)
    files.write(weights, tmp_path / "z.npz", "big_vision")
    again = files.read(tmp_path / "z.npz")
    assert again.architecture.positioned == 0
    np.testing.assert_allclose(logits_of(again, images), expected, atol=1e-4, rtol=0)


def test_sines_need_an_image_size_and_take_any(tmp_path):
    tensors, _, _ = of_linen(google=False, pool="gap", sines=True)
    path = save(tmp_path / "x.npz", tensors)
    with pytest.raises(errors.UserError, match="do not say the image size.*pass"):
        files.read(path)
    weights = files.read(path, image_size=(64, 40))
    assert weights.architecture.grid == (8, 5)
    assert weights.architecture.posemb == "sincos_2d"


def test_a_model_of_several_is_named_after_a_colon(tmp_path, caplog):
    tensors, images, expected = of_linen(google=False, pool="map")
    both = {f"params/img/{name}": tensor for name, tensor in tensors.items()}
    both |= {"params/txt/Embed_0/embedding": np.zeros((9, 4)), "params/t": np.zeros(1)}
    path = save(tmp_path / "x.npz", both)
    with pytest.raises(errors.UserError, match=r"several models: img.\n.*FILE.npz:img"):
        files.read(path)
    with caplog.at_level(logging.INFO):
        weights = files.read(f"{path}:img")
    assert "2 tensors outside 'params/img/'" in caplog.text
    np.testing.assert_allclose(logits_of(weights, images), expected, atol=1e-4, rtol=0)
    with pytest.raises(
        errors.UserError, match="nothing under 'params/vid/'.*img, t, txt"
    ):
        files.read(f"{path}:vid")


def test_options_say_what_tensors_do_not(tmp_path):
    tensors, _, _ = of_linen()
    path = save(tmp_path / "x.npz", tensors)
    weights = files.read(path, gelu="erf", norm_epsilon=1e-5, pool="none")
    assert weights.architecture.gelu == "erf"
    assert (weights.architecture.norm_epsilon, weights.architecture.pool) == (
        *(1e-5, "none"),
    )
    with pytest.raises(errors.UserError, match="model option='gelo' is unknown.*gelu"):
        files.read(path, gelo="erf")
    with pytest.raises(errors.UserError, match=r"query/kernel: \(2, 32, 4, 8\), want"):
        files.read(path, heads=8)


def fresh(**options):
    arch = models.architecture(
        "mu/8", **({"num_classes": 5, "image_size": 32, "depth": 2} | options)
    )
    _, like = models.abstract(arch)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), like
    )
    return files.Weights(arch, params, None, "vit_jax")


@pytest.mark.parametrize(
    ("dialect", "options", "message"),
    [
        ("google", {"gelu": "erf"}, "gelu='erf': it would be 'tanh'"),
        ("google", {"norm_epsilon": 1e-5}, "norm_epsilon=1e-05: it would be 1e-06"),
        ("google", {"pool": "map"}, "no name for 15 leaves.*map/"),
        ("google", {"registers": 2}, "registers"),
        ("google", {"layer_scale": 0.1}, "blocks/scale1"),
        ("google", {"pool": "none"}, "pool='none': it would be 'mean'"),
        ("google", {"norm": "post"}, "norm='post'"),
        ("google", {"posemb_at": "shared"}, "posemb_at='shared'"),
        ("google_old", {"posemb": "sincos_1d"}, "posemb='sincos_1d'"),
        ("big_vision", {"posemb": "none"}, "posemb='none': it would be 'sincos_2d'"),
        ("big_vision", {"final_norm": "pooled", "pool": "mean"}, "final_norm='pooled'"),
        ("big_vision", {"resnet": (1,), "patch": (2, 2)}, "resnet/root"),
        ("big_vision", {"class_token": "yes", "pool": "mean"}, "pool='mean'"),
        ("mixer", {}, "mixer family; mu/8 is of the vit family"),
    ],
    ids=str,
)
def test_what_a_dialect_cannot_say_is_refused(tmp_path, dialect, options, message):
    path = tmp_path / "x.npz"
    with pytest.raises(errors.UserError, match=f"(?s){message}") as caught:
        files.write(fresh(**options), path, dialect)
    assert len(str(caught.value).splitlines()) <= 10
    assert not list(tmp_path.iterdir())


def test_a_class_token_gets_a_position_of_zeros():
    weights = fresh(prefix_positions=0)
    arch = weights.architecture
    leaves, target = google.DIALECTS["google"].saved(weights.leaves, arch)
    assert leaves.shapes["posemb"] == (1, 17, 32) and target.positioned == 1
    assert not leaves["posemb"][:, 0].any()
    assert np.array_equal(leaves["posemb"][:, 1:], weights.leaves["posemb"])
    assert google.DIALECTS["big_vision"].saved(weights.leaves, arch)[1] == arch


def test_lost_preparation_is_said(tmp_path, caplog):
    weights = fresh()
    other = Preprocessing(32, mean=(124.0, 116.0, 104.0), std=(58.0, 57.0, 57.0))
    weights = files.Weights(
        weights.architecture, weights.leaves, other, weights.dialect
    )
    files.write(weights, tmp_path / "x.npz", "google")
    assert "cannot say all of how images are prepared" in caplog.text
