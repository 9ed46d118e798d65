"""Mixers of other codes: golden logits, and the way back bit for bit."""

import numpy as np
import pytest

from vit_jax import errors, models, tree
from vit_jax.weights import rules
from vit_jax.weights.dialects import mixer
from vit_jax.weights.source import Tensors


@pytest.fixture(scope="module")
def theirs(golden):
    with np.load(golden / "mixer.npz") as file:
        return dict(file)


def load(table, tensors):
    return dict(rules.load(table, Tensors.of(tensors)).items())


def save(table, leaves):
    return dict(rules.save(table, Tensors.of(leaves)).items())


def shapes(leaves):
    return {name: leaf.shape for name, leaf in leaves.items()}


def test_golden_logits(theirs, golden):
    leaves = load(mixer.MIXER, theirs)
    arch = mixer.infer(shapes(leaves))
    assert (arch.width, arch.depth, arch.patch) == (32, 3, (8, 8))
    assert (arch.tokens_mlp_width, arch.channels_mlp_width) == (24, 64)
    assert (arch.image_size, arch.num_classes) == ((32, 32), 10)
    graphdef, params = models.abstract(arch)
    assert shapes(leaves) == {n: x.shape for n, x in tree.named_leaves(params)}
    with np.load(golden / "mixer_io.npz") as io:
        logits = models.merge(graphdef, tree.from_named(leaves))(io["images"])
        np.testing.assert_allclose(logits, io["logits"], atol=1e-4)


def test_the_way_back_is_bit_for_bit(theirs):
    back = save(mixer.MIXER, load(mixer.MIXER, theirs))
    assert back.keys() == theirs.keys()
    assert all(np.array_equal(back[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("second", ["LayerNorm_1", "LayerNorm_2"])
def test_old_names_hold_the_same_model(theirs, second):
    """The spelling before Linen, with the axes of length 1 that it may have."""
    expected = load(mixer.MIXER, theirs)
    old = save(mixer.MIXER_OLD, expected)
    assert "Mixer/encoderblock_2/token_mixing_phase_0/kernel1" in old
    assert "Mixer/encoderblock_0/channel_mixing_phase_0/bias2" in old
    old = {
        name.replace("LayerNorm_1", second): (
            array[None, :, None] if name.endswith(("bias1", "bias2")) else array
        )
        for name, array in old.items()
    }
    leaves = load(mixer.MIXER_OLD, old)
    assert leaves.keys() == expected.keys()
    assert all(np.array_equal(leaves[name], expected[name]) for name in expected)


def test_names_and_sizes_are_inferred():
    for name in ("Mixer-B/16", "Mixer-S/32", "Mixer-L/16"):
        arch = models.architecture(name, num_classes=7)
        _, params = models.abstract(arch)
        named = {n: leaf.shape for n, leaf in tree.named_leaves(params)}
        assert mixer.infer(named) == arch


def test_an_oblong_needs_the_image_size():
    arch = models.architecture("Mixer-S/16x8", num_classes=0, image_size=(32, 40))
    _, params = models.abstract(arch)
    named = {n: leaf.shape for n, leaf in tree.named_leaves(params)}
    assert mixer.infer(named, (32, 40)) == arch
    with pytest.raises(errors.UserError, match="10 patches of 16x8.*image_size"):
        mixer.infer(named)
    with pytest.raises(errors.UserError, match="not for an image of 64x40"):
        mixer.infer(named, (64, 40))


def test_what_is_missing_is_named(theirs):
    leaves = load(mixer.MIXER, theirs)
    named = shapes(leaves)
    with pytest.raises(errors.UserError, match="no tensor.*blocks/tokens/up/kernel"):
        mixer.infer({n: s for n, s in named.items() if "tokens" not in n})
    with pytest.raises(errors.UserError, match="want 4 axes"):
        mixer.infer(named | {"patch_embed/kernel": (3, 4)})
    with pytest.raises(errors.UserError, match="no place in our"):
        load(mixer.MIXER, theirs | {"MixerBlock_0/attention/kernel": np.ones(1)})
