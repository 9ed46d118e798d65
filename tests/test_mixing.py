"""Mixup and CutMix are the formulas of their authors, whatever the batch lies on."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.sharding import NamedSharding, PartitionSpec

import vit_jax
from benchmarks import unchanged
from configs import base
from vit_jax import errors, experiment, train
from vit_jax.data import augment, mixing
from vit_jax.parallel import mesh as mesh_lib

B, CLASSES = 32, 5
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (B, 8, 6, 3), np.uint8)
LABELS = RNG.integers(0, CLASSES, B)
ONE_HOT = np.eye(CLASSES, dtype=np.float32)[LABELS]


def settings(**changes):
    return base.get_config().data.mix.to_dict() | changes


def test_big_visions_mixup_is_one_weight_with_the_row_before():
    """Several labels an image mix as well."""
    function = jax.jit(mixing.make(settings(mixup=0.2), CLASSES))
    (row,) = np.flatnonzero(LABELS != np.roll(LABELS, 1))[:1]
    vectors = RNG.integers(0, 2, (B, CLASSES)).astype(np.float32)
    weights = []
    for seed in range(4):
        batch = {"image": IMAGES, "label": LABELS}
        out = function(batch, jax.random.key(seed))
        a = np.asarray(out["label"])[row, LABELS[row]]
        weights.append(a)
        mixed = a * IMAGES + (1 - a) * np.roll(IMAGES, 1, axis=0).astype(np.float32)
        np.testing.assert_array_equal(out["image"], mixed)
        mixed = a * ONE_HOT + (1 - a) * np.roll(ONE_HOT, 1, axis=0)
        np.testing.assert_array_equal(out["label"], mixed)
    assert len(set(weights)) > 2 and min(weights) >= 0.5
    out = function({"image": IMAGES, "label": vectors}, jax.random.key(seed))
    mixed = a * vectors + (1 - a) * np.roll(vectors, 1, axis=0)
    np.testing.assert_array_equal(out["label"], mixed)


@pytest.mark.parametrize("count", [1, B])
def test_timms_mixing_is_its_formula(count):
    """Row i with row b - 1 - i: a box of it, or a share of all its pixels."""
    blend = np.round(RNG.uniform(size=count), 2).astype(np.float32)
    inside = RNG.integers(0, 2, (count, 8, 6)).astype(bool)
    cuts = np.arange(count) % 2 == 1
    blend[cuts], inside[~cuts] = 1, False
    kept = np.where(cuts, 1 - inside.mean(axis=(1, 2)), blend).astype(np.float32)
    drawn = mixing.Drawn(*(jnp.asarray(x) for x in (blend, inside, kept)))
    image, label = mixing.applied(drawn, jnp.asarray(IMAGES), jnp.asarray(ONE_HOT))
    for i in range(B):
        k, j = min(i, count - 1), B - 1 - i
        wanted = blend[k] * IMAGES[i] + (1 - blend[k]) * IMAGES[j].astype(np.float32)
        if cuts[k]:
            wanted[inside[k]] = IMAGES[j][inside[k]]
        np.testing.assert_allclose(image[i], wanted, rtol=1e-6)
        wanted = kept[k] * ONE_HOT[i] + (1 - kept[k]) * ONE_HOT[j]
        np.testing.assert_allclose(label[i], wanted, rtol=1e-6)


def test_it_is_drawn_as_asked_for_whatever_lies_where():
    """A switch of 0.3 cuts so many, a share of 1/2 leaves half; Beta(1, 1) is uniform.

    Neither devices nor repetition change a bit.
    """
    count = 2000
    given = {"mixup": 1.0, "cutmix": 1.0, "switch": 0.3, "share": 0.5, "each": "image"}
    function = jax.jit(mixing.make(settings(form="timm", **given), 2))
    black = np.arange(count) < count // 2  # each has a partner of the other kind
    shades = np.where(black, 0, 255)[:, None, None, None]
    images = np.broadcast_to(shades, (count, 4, 4, 3))
    batch = {"image": images.astype(np.uint8), "label": black.astype(np.int32)}
    key = jax.random.key(0)
    out = {name: np.asarray(leaf) for name, leaf in function(batch, key).items()}
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:4])
    four = jax.device_put(batch, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
    for again in (function(four, key), function(four, key)):
        for name, leaf in out.items():
            np.testing.assert_array_equal(np.asarray(again[name]), leaf)
    kept = out["label"][np.arange(count), batch["label"]]
    own = np.where(black, 255 - out["image"][..., 0].T, out["image"][..., 0].T).T / 255
    np.testing.assert_allclose(own.mean(axis=(1, 2)), kept, atol=1e-5)
    cut = (np.isin(own, (0, 1)).all(axis=(1, 2))) & (kept < 1)
    mixed = (kept < 1) & ~cut
    assert mixed.sum() == pytest.approx(count * 0.5 * 0.7, rel=0.1)
    assert 0.1 < cut.mean() < 0.18  # some boxes are no pixel wide
    quarters = (0.25, 0.5, 0.75)
    np.testing.assert_allclose(np.quantile(kept[mixed], quarters), quarters, atol=0.06)


@pytest.mark.parametrize("p", [0.1, 3.0])
def test_weights_are_from_a_beta_distribution(p):
    draw = jax.jit(mixing.beta, static_argnums=(0, 1))
    found = np.asarray(draw(p, (20_000,), jax.random.key(0)))
    assert ((found * 4096) % 1 == 0).all() and 0 <= found.min() <= found.max() <= 1
    for share in (0.001, 0.01, 0.2, 0.5, 0.9):
        wanted = scipy.special.betainc(p, p, share)
        assert (found < share).mean() == pytest.approx(wanted, abs=0.01)


def test_boxes_alone_leave_bytes():
    inside = jnp.asarray(RNG.integers(0, 2, (1, 8, 6)).astype(bool))
    drawn = mixing.Drawn(None, inside, jnp.ones(1))
    image, _ = mixing.applied(drawn, jnp.asarray(IMAGES), jnp.asarray(ONE_HOT))
    wanted = np.where(np.asarray(inside)[..., None], IMAGES[::-1], IMAGES)
    assert image.dtype == jnp.uint8
    np.testing.assert_array_equal(image, wanted)


def test_it_is_the_last_augmentation_and_none_by_default():
    assert list(augment.AUGMENTATIONS)[-1] == "mix"
    plain = base.get_config().data.to_dict()
    assert augment.chosen(plain, CLASSES) == [augment.random_flip]
    plain["mix"]["mixup"] = 0.2
    assert len(augment.chosen(plain, CLASSES)) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"form": "tim", "mixup": 1.0}, 'Did you mean "timm"'),
        ({"mixup": 0.2, "cutmix": 1.0}, 'those of form="timm"'),
        ({"mixup": 0.2, "each": "row", "form": "timm"}, "known: batch, image"),
    ],
)
def test_what_cannot_be_mixed_is_said(changes, words):
    with pytest.raises(errors.UserError, match=words):
        mixing.make(settings(**changes), CLASSES)


def boxes(count, shape):
    """What is inside of boxes, by side, and the middles that were drawn for them."""
    weight = RNG.uniform(size=count).astype(np.float32)
    found = [weight]
    for number, length in enumerate(shape):
        key, all_of_them = jax.random.key(number), jnp.ones(count, bool)
        inside = mixing._interval(key, length, jnp.asarray(weight), all_of_them)
        middle = jax.random.randint(key, (count,), 0, length)
        found += [np.asarray(inside), np.asarray(middle)]
    return found


def test_boxes_are_timms():
    """`rand_bbox` of timm 1.0: sides of floor(side sqrt(1 - weight)), cut off."""
    shape = (30, 20)
    weight, rows, y, columns, x = boxes(100, shape)
    for i in range(100):
        for inside, middle, length in ((rows, y, shape[0]), (columns, x, shape[1])):
            side = int(length * np.sqrt(1 - weight[i]))
            low = max(middle[i] - side // 2, 0)
            high = min(middle[i] + (side + 1) // 2, length)
            wanted = (np.arange(length) >= low) & (np.arange(length) < high)
            np.testing.assert_array_equal(inside[i], wanted)


@pytest.mark.slow
def test_a_run_with_everything_on_goes_on_to_the_bit_on_one_device_and_four(tmp_path):
    """Six steps are three, a checkpoint and three; devices change rounding alone."""
    everything = {
        **{"data.mix.form": "timm", "data.mix.mixup": 0.8, "data.mix.cutmix": 1.0},
        **{"data.mix.each": "image", "data.device_trivial": 1.0, "data.flip": True},
        **{"data.device_erase": 0.25, "data.train.pad": 6},
        **{"data.train.transform": "random_crop_pad", "model.image_size": (16, 16)},
        **{"model.name": "mu/4"},
        **{"optimizer.name": "muon", "optimizer.momentum": 0.95, "ema": 0.9},
        **{"ema_warmup": True, "model.patch_dropout": 0.25, "model.drop_path": 0.1},
        **{"optimizer.layer_decay": 0.75, "model.depth": 2, "label_smoothing": 0.1},
        **{"save_every": "3 steps", "total": "6 steps", "data.cache": "device"},
        **{"optimizer.schedule": "constant", "keep": 9},
    }
    config = unchanged.small_config(**everything)
    base.set_evals(config)

    def trained(name, devices):
        folder = tmp_path / name
        mesh = experiment.make_mesh(config, jax.devices()[:devices])
        train.run(config, folder, mesh)
        losses = [json.loads(x)["loss"] for x in (folder / "metrics.jsonl").open()]
        return losses, unchanged.hashes({"params": vit_jax.load(folder).params})

    whole = trained("one", 1)
    shutil.copytree(tmp_path / "one", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "6")
    assert trained("stopped", 1) == whole
    four = trained("four", 4)
    np.testing.assert_allclose(four[0], whole[0], rtol=1e-4)
