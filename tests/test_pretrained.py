"""Loading for use and for fine-tuning: what is kept, resampled, new and refused."""

import jax
import numpy as np
import pytest

from configs import base
from vit_jax import errors, experiment, models, tree
from vit_jax.checkpoints import checkpoint, manager
from vit_jax.data import catalog, preprocessing
from vit_jax.learning.step import TrainState
from vit_jax.weights import adapting, files, posemb, pretrained
from vit_jax.weights.source import Tensors


def test_a_loaded_model_classifies(golden):
    loaded = pretrained.load(golden / "vit_token.npz")
    expected = np.load(golden / "vit_token_io.npz")
    logits = loaded.model(expected["images"])
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4, rtol=0)
    assert (loaded.label_names, loaded.architecture.num_classes) == (None, 10)
    assert loaded.dialect == "google"
    assert loaded.source.endswith("vit_token.npz")


def test_images_are_read_and_normalised(golden, tmp_path):
    from PIL import Image

    loaded = pretrained.load(golden / "vit_token.npz", image_size=(48, 32))
    array = np.random.default_rng(0).integers(0, 256, (48, 32, 3), np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    images = loaded.images([array, tmp_path / "a.png", Image.fromarray(array)])
    assert images.shape == (3, 48, 32, 3) and images.dtype == np.float32
    for image in images:
        np.testing.assert_allclose(image, array / 127.5 - 1, atol=1e-6)
    assert loaded.model(images).shape == (3, 10)
    with pytest.raises(errors.UserError, match=r"nope\.jpg cannot be read"):
        loaded.images([tmp_path / "nope.jpg"])
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(errors.UserError, match=r"text\.jpg cannot be read"):
        loaded.images([tmp_path / "text.jpg"])


def test_another_number_of_classes_puts_a_zero_head_on(golden):
    loaded = pretrained.load(golden / "vit_token.npz", num_classes=3)
    images = np.load(golden / "vit_token_io.npz")["images"]
    assert np.array_equal(loaded.model(images), np.zeros((2, 3)))
    bare = pretrained.load(golden / "vit_token.npz", num_classes=0)
    features = pretrained.load(golden / "bv_tok.npz", num_classes=0)
    expected = np.load(golden / "bv_tok_io.npz")
    np.testing.assert_allclose(
        features.model(expected["images"]), expected["pre_logits"], atol=1e-4
    )
    assert np.array_equal(bare.model(images), loaded.model.features(images))


def small(**options):
    defaults = {"num_classes": 10, "image_size": 32, "depth": 2}
    return models.architecture("mu/8", **(defaults | options))


def weights(arch, seed=0):
    _, like = models.abstract(arch)
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), like
    )


def adapt(source, target, **options):
    params = weights(source)
    _, like = models.abstract(target)
    leaves = Tensors.of(dict(tree.named_leaves(params)))
    adapted, report = adapting.adapt(leaves, source, target, like, **options)
    assert jax.tree.map(np.shape, adapted) == jax.tree.map(np.shape, like)
    return dict(tree.named_leaves(params)), dict(tree.named_leaves(adapted)), report


def test_adapting_to_the_same_architecture_is_the_identity():
    before, after, report = adapt(small(pre_logits=True), small(pre_logits=True))
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert (report.resized, report.made_new, report.dropped) == ([], [], [])
    assert len(report.kept) == len(before)


def test_fine_tuning_drops_the_whole_head_and_resamples():
    source = small(pre_logits=True)
    target = small(image_size=(48, 64), head_bias=-2.0)
    before, after, report = adapt(source, target)
    # The classes are as many, but the head read the pre-logits layer.
    assert not after["head/kernel"].any() and (after["head/bias"] == -2).all()
    expected = posemb.resample_posemb(
        before["posemb"], old_grid=(4, 4), new_grid=(6, 8), prefix=1
    )
    assert np.array_equal(after["posemb"], expected)
    for name, leaf in after.items():
        if not name.startswith(("head/", "posemb")):
            assert np.array_equal(before[name], leaf)
    assert report.resized == ["posemb (1, 17, 32) -> (1, 49, 32)"]
    assert [line.split()[0] for line in report.made_new] == ["head/bias", "head/kernel"]
    dropped = ["head/bias", "head/kernel", "pre_logits/bias", "pre_logits/kernel"]
    assert sorted(line.split()[0] for line in report.dropped) == dropped
    assert "made new: head/bias (10,), head/kernel (32, 10)" in str(report)
    assert len(str(report).splitlines()) <= 4


def test_a_layer_before_the_head_of_any_width():
    source = small(pre_logits=24)
    before, after, report = adapt(source, source)
    assert before["pre_logits/kernel"].shape == (32, 24)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    _, after, report = adapt(source, small())
    assert not after["head/kernel"].any() and after["head/kernel"].shape == (32, 10)
    assert "pre_logits/kernel (32, 24)" in report.dropped
    with pytest.raises(
        errors.UserError, match=r"has \(32, 24\), this model \(32, 32\)"
    ):
        adapt(source, small(pre_logits=True))


def test_convolutions_are_kept_whole_at_any_size():
    options = {"units": (1,), "width": 0.5, "num_classes": 3}
    source = models.architecture("BiT-R50x1", image_size=224, **options)
    before, after, report = adapt(source, source.replace(image_size=(160, 96)))
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert len(report.kept) == len(before) and not report.resized


def test_a_run_keeps_the_width_of_a_checkpoints_layer():
    config = base.get_config().to_dict() | {"init_from": "x"}
    for pre_logits in (24, False):
        weights = files.Weights(small(pre_logits=pre_logits), {}, None, "google")
        info = catalog.describe("digits")
        for wanted in (True, False):
            config["model"] |= {"name": "checkpoint", "pre_logits": wanted}
            arch = experiment._architecture(config, info, weights)
            assert arch.pre_logits == (wanted and (pre_logits or True))


def test_the_head_can_be_made_new_for_as_many_classes():
    _, after, report = adapt(small(), small(), keep_head=False)
    assert not after["head/kernel"].any()
    assert report.made_new and not report.resized


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 64}, r"has \(2, 2, 16\), this model \(2, 2, 32\)"),
        ({"depth": 3}, "do not fit this"),
        ({"pre_logits": True}, "pre_logits/kernel: the checkpoint has none"),
        ({"pool": "mean"}, "pool: 'token' in the checkpoint, 'mean' in this model"),
        ({"gelu": "erf"}, "gelu: 'tanh' in the checkpoint"),
        ({"norm_epsilon": 1e-12}, "norm_epsilon: 1e-06 in the checkpoint"),
        ({"resnet": (), "resnet_width": 32, "patch": 2}, "resnet/root"),
    ],
)
def test_anything_else_that_differs_is_an_error(options, message):
    with pytest.raises(errors.UserError, match=message) as caught:
        adapt(small(), small(**options))
    assert len(str(caught.value).splitlines()) <= 10


def test_our_own_checkpoints_load_with_all_that_was_stored(tmp_path):
    arch = small(compute_dtype="bfloat16")
    names = tuple(f"class {i}" for i in range(10))
    description = checkpoint.Description(
        arch,
        preprocessing.Preprocessing((32, 32), "resize_small_crop", 40),
        names,
        {},
        step=7,
    )
    params = weights(arch)
    store = manager.Checkpoints(tmp_path)
    store.save(TrainState(np.int32(7), params, {}, None), description)
    store.close()
    for path in (tmp_path, tmp_path / "checkpoints" / "7"):
        loaded = pretrained.load(path)
        assert loaded.architecture == arch and loaded.label_names == names
        jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    larger = pretrained.load(tmp_path, image_size=64, num_classes=3)
    assert larger.preprocessing.resize == 80
    assert larger.label_names is None
    assert larger.images([np.zeros((9, 9, 3), np.uint8)]).shape == (1, 64, 64, 3)


def test_what_is_no_checkpoint_is_said(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    for path, message in {
        tmp_path / "missing": "does not exist",
        tmp_path: "is no checkpoint of vit_jax",
        tmp_path / "notes.txt": "cannot be read as an .npz",
    }.items():
        with pytest.raises(errors.UserError, match=message):
            pretrained.load(path)


def test_what_is_loaded_is_a_screenful():
    arch = small(num_classes=1000, gelu="erf")
    loaded = pretrained.Loaded(
        model=models.merge(*models.abstract(arch)),
        architecture=arch,
        preprocessing=preprocessing.Preprocessing((32, 32), mean=(1.5, 2.0, 3.0)),
        label_names=tuple(f"the {i}th class by its name" for i in range(1000)),
        source="a/b.npz",
        dialect="google",
    )
    text = str(loaded)
    count = models.count_parameters(arch)
    for part in (
        *("a/b.npz", "google", "1,000 classes", f"{count:,} parameters", "gelu=erf"),
        *("transform=resize", "mean=[1.5", "the 0th", "the 999th"),
    ):
        assert part in text, part
    assert repr(loaded) == text and len(text.splitlines()) <= 24
    assert max(map(len, text.splitlines())) <= 100
    shown = f"VisionTransformer({arch.name}, 32x32 pixels, 1,000 classes, {count:,} "
    assert str(loaded.model) == repr(loaded.model) == f"{shown}parameters)"
    for name in ("Mixer-S/16", "BiT-R26x1", "AxialResNet50"):
        other = models.architecture(name, num_classes=0, image_size=32)
        text = str(models.merge(*models.abstract(other)))
        assert f"({name}, 32x32 pixels, features, " in text
        assert f"{models.count_parameters(other):,} parameters)" in text
