"""Patches of another size: FlexiViT's resizing, of checkpoints and in training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from configs import flexivit
from vit_jax import errors, experiment, models
from vit_jax.data import catalog
from vit_jax.learning import classification, distillation, passes
from vit_jax.learning import flexible as training
from vit_jax.models import flexible
from vit_jax.weights import posemb

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("old", "new"), [(4, 8), (8, 4), (5, 5), (3, 7)])
def test_a_kernel_is_the_pseudo_inverse_of_both_sides_at_once(old, new):
    """The paper's equation 4, on patches as vectors; grown ones embed the same."""
    matrix = flexible.resize_matrix(old, new)
    np.testing.assert_allclose(matrix, posemb.METHODS["bilinear"](old, new), atol=1e-12)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    whole = np.kron(matrix, matrix)  # of patches [old * old]
    kernel = RNG.normal(size=(old, old))
    wanted = np.linalg.pinv(whole.T) @ kernel.ravel()
    rows, columns = flexible.kernel_matrices((old, old), (new, new))
    found = rows @ kernel @ columns.T
    np.testing.assert_allclose(found.ravel(), wanted, atol=1e-4)
    patches = RNG.normal(size=(10, old * old))
    if new >= old:
        np.testing.assert_allclose(
            (patches @ whole.T) @ found.ravel(), patches @ kernel.ravel(), atol=1e-4
        )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    options = {"width": 16, "heads": 2, "depth": 1, "mlp_width": 16}
    model = vit_jax.create_model("mu/8", num_classes=3, image_size=32, **options)
    kernel = model.head.kernel
    kernel[...] = jax.random.normal(jax.random.key(1), kernel.shape)
    return vit_jax.save(model, tmp_path_factory.mktemp("patches") / "one")


def test_a_checkpoint_is_loaded_with_other_patches(checkpoint):
    """With images and patches twice as large it is itself."""
    whole = vit_jax.load(checkpoint)
    large = vit_jax.load(checkpoint, patch=16, image_size=64)
    assert large.architecture.grid == whole.architecture.grid == (4, 4)
    np.testing.assert_array_equal(large.params["posemb"], whole.params["posemb"])
    images = RNG.normal(size=(2, 32, 32, 3)).astype(np.float32)
    up = flexible.resize_matrix(8, 16)
    patches = images.reshape(2, 4, 8, 4, 8, 3)
    grown = np.einsum("ap,bq,nipjqc->niajbc", up, up, patches).reshape(2, 64, 64, 3)
    np.testing.assert_allclose(
        large.model(jnp.asarray(grown, jnp.float32)), whole.model(images), atol=1e-4
    )
    small = vit_jax.load(checkpoint, patch=(4, 8))
    assert small.architecture.image_size == (32, 32)
    assert small.architecture.grid == (8, 4) and small.architecture.patch == (4, 8)
    assert small.params["patch_embed"]["kernel"].shape == (4, 8, 3, 16)
    assert small.params["posemb"].shape == (1, 33, 16)


def test_patches_that_cannot_be_are_said(checkpoint):
    for patch in (0, 4.0, (4, 4, 4), True):
        with pytest.raises(errors.UserError, match="want pixels as in 16"):
            vit_jax.load(checkpoint, patch=patch)
    with pytest.raises(errors.UserError, match="not a whole number of 5x5 patches"):
        vit_jax.load(checkpoint, patch=5)
    assert vit_jax.load(checkpoint, patch=8).architecture.grid == (4, 4)


def test_training_sees_what_load_makes_of_the_same_patches(checkpoint):
    """Each step one of the sizes, by its key; the loss is that of the model resized."""
    whole = vit_jax.load(checkpoint)
    half = (127.5,) * 3
    graphdef, params = models.split(whole.model)
    bound = passes.Bound(graphdef, whole.architecture, half, half)
    sizes = (4, 16)
    info = catalog.describe("digits")
    info = dataclasses.replace(info, num_classes=3, label_names=None)
    trained = training.Flexible(info, "softmax", 0.0, sizes)
    trained.outputs(whole.architecture)
    batch = {"image": RNG.integers(0, 256, (4, 32, 32, 3), np.uint8)}
    batch |= {"label": np.array([0, 1, 2, 1])}
    loss_fn = jax.jit(trained.make_loss(bound))
    found = {float(loss_fn(params, batch, jax.random.key(n))[0]) for n in range(6)}
    scored = classification.scoring(loss="softmax", label_smoothing=0.0, num_classes=3)
    wanted = []
    for size in sizes:
        loaded = vit_jax.load(checkpoint, patch=size, posemb_resample="centers")
        images = bound.pixels(jnp.asarray(batch["image"]))
        wanted.append(float(scored(loaded.model(images), batch["label"])[0]))
    assert len(found) == 2
    np.testing.assert_allclose(sorted(found), sorted(wanted), rtol=1e-4)
    assert min(np.diff(sorted(wanted))) > 1e-3


def test_with_a_teacher_each_size_learns_what_distillation_has_it_learn(checkpoint):
    """0.7 of the divergence from the teacher's patches, the rest by the labels."""
    whole, half = vit_jax.load(checkpoint), (127.5,) * 3
    graphdef, params = models.split(whole.model)
    teacher = passes.Bound(graphdef, whole.architecture, half, half)
    bound = dataclasses.replace(teacher, beside=(teacher,))
    frozen = jax.tree.map(lambda leaf: leaf[::-1] + 0.1, params)
    info = dataclasses.replace(
        catalog.describe("digits"), num_classes=3, label_names=None
    )
    given = {"loss": "softmax", "label_smoothing": 0.0, "kind": "soft", "teacher": "T"}
    trained = training.make(info, **given, patches=(4, 16), temperature=2.0, share=0.7)
    assert trained.frozen() == ("T",)
    batch = {"image": RNG.integers(0, 256, (4, 32, 32, 3), np.uint8)}
    batch |= {"label": np.array([0, 1, 2, 1])}
    loss_fn = jax.jit(trained.make_loss(bound))
    keys = map(jax.random.key, range(6))
    found = {float(loss_fn(params, batch, key, frozen)[0]) for key in keys}
    images = bound.pixels(jnp.asarray(batch["image"]))
    said = teacher.model(frozen)(images)
    scored = classification.scoring(loss="softmax", label_smoothing=0.0, num_classes=3)
    wanted = []
    for size in (4, 16):
        loaded = vit_jax.load(checkpoint, patch=size, posemb_resample="centers")
        logits = loaded.model(images)
        far = distillation.soft(logits, said, 2.0).mean()
        wanted.append(float(0.7 * far + 0.3 * scored(logits, batch["label"])[0]))
    assert len(found) == 2
    np.testing.assert_allclose(sorted(found), sorted(wanted), rtol=1e-4)
    assert training.make(info, **(given | {"teacher": ""}), patches=(4,)).frozen() == ()


def test_what_cannot_be_flexible_is_said():
    options = {"num_classes": 3, "image_size": 32, "width": 16, "heads": 2, "depth": 1}
    plain = models.architecture("mu/8", **options)
    trained = training.Flexible(catalog.describe("digits"), "softmax", 0.0, (8, 5))
    with pytest.raises(errors.UserError, match="not a whole number of 5x5 patches"):
        trained.outputs(plain)
    empty = dataclasses.replace(trained, patches=())
    with pytest.raises(errors.UserError, match="flexible.patches is empty"):
        empty.outputs(plain)
    fixed = models.architecture("mu/8", posemb="sincos_2d", **options)
    with pytest.raises(errors.UserError, match="want model.posemb='learned'"):
        trained.outputs(fixed)


def test_its_recipe_has_the_papers_lengths():
    config = flexivit.get_config("S")
    sides = [240 // patch for patch in config.flexible.patches]
    assert sides == [5, 6, 8, 10, 12, 15, 16, 20, 24, 30]


def test_its_recipe_with_a_teacher_starts_from_it(tmp_path):
    options = {"num_classes": 21843, "image_size": 32, "width": 8, "heads": 2}
    teacher = vit_jax.create_model("mu/8", depth=1, mlp_width=8, **options)
    path = str(vit_jax.save(teacher, tmp_path / "teacher"))
    config = flexivit.get_config(path)
    config.data.data_dir = str(tmp_path)
    config.flexible.patches = (48, 8)
    exp = experiment.assemble(config, experiment.make_mesh(config))
    [frozen] = exp.frozen
    assert frozen.path == exp.start.path == path and exp.start.keep_head
    assert frozen.bound.architecture.grid == exp.architecture.grid == (30, 30)
    rate = config.optimizer.lr, config.optimizer.weight_decay
    assert rate == (1e-4, 0.1) and config.data.mix.mixup == 1.0
