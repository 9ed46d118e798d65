"""A student is drawn to its teacher, and to the labels, by both papers' formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import vit_jax
from configs import distill
from vit_jax import errors, experiment, models
from vit_jax.data import catalog
from vit_jax.learning import distillation, passes

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 6, 5)).astype(np.float32)
INFO = catalog.describe("digits")
HALF = (127.5,) * 3


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_soft_is_a_divergence_and_hard_the_best_class():
    for t in (1.0, 2.0):
        p, q = softmax(TEACHER / t), softmax(STUDENT / t)
        wanted = t**2 * (p * np.log(p / q)).sum(axis=-1)
        found = distillation.soft(jnp.asarray(STUDENT), jnp.asarray(TEACHER), t)
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    rows = np.arange(6)
    wanted = -np.log(softmax(STUDENT)[rows, TEACHER.argmax(axis=-1)])
    found = distillation.hard(jnp.asarray(STUDENT), jnp.asarray(TEACHER), 3.0)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def bound(seed, beside=(), **options):
    options = {"width": 16, "depth": 1, "heads": 2, "mlp_width": 16} | options
    arch = models.architecture("mu/8", num_classes=10, image_size=16, **options)
    graphdef, params = models.split(models.create(arch, rngs=nnx.Rngs(seed)))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), params
    )
    return passes.Bound(graphdef, arch, HALF, HALF, beside=beside), params


@pytest.mark.parametrize(
    ("kind", "options"),
    [("soft", {}), ("hard", {"pool": "distilled", "registers": 1})],
)
def test_the_loss_is_shared_between_teacher_and_labels(kind, options):
    teacher, frozen = bound(1)
    student, params = bound(2, beside=(teacher,), **options)
    given = {"loss": "softmax", "label_smoothing": 0.1, "teacher": "PATH"}
    trained = distillation.Distillation(
        INFO, **given, kind=kind, temperature=2.0, share=0.3
    )
    images = RNG.integers(0, 256, (4, 16, 16, 3), np.uint8)
    labels = np.array([3, 1, 4, 1])
    batch = {"image": images, "label": labels}

    def said(one, params):
        model = one.model(params)
        features = model.features(one.pixels(images))
        return features, model.classify(features)

    @jax.jit
    def all_of_it(params, frozen):
        found = trained.make_loss(student)(params, batch, jax.random.key(0), frozen)
        return found, said(student, params), said(teacher, frozen)[1]

    (value, metrics), (features, logits), wanted = all_of_it(params, frozen)
    first = second = logits
    if kind == "hard":
        halves = np.split(np.asarray(features), 2, axis=-1)
        heads = (params["head"], params["head_dist"])
        first, second = (
            x @ np.asarray(h["kernel"]) + np.asarray(h["bias"])
            for x, h in zip(halves, heads)
        )
        np.testing.assert_allclose(logits, (first + second) / 2, rtol=1e-4, atol=1e-5)
    smoothed = 0.9 * np.eye(10)[labels] + 0.1 / 10
    by_labels = -(smoothed * np.log(softmax(np.asarray(first)))).sum(-1).mean()
    far = distillation.KINDS[kind](jnp.asarray(second), wanted, 2.0).mean()
    assert float(value) == pytest.approx(0.3 * float(far) + 0.7 * by_labels, rel=1e-4)
    same = np.mean(np.argmax(second, -1) == np.argmax(np.asarray(wanted), -1))
    assert float(metrics["agreement"]) == same
    assert metrics["loss"] == value


def test_a_teacher_has_the_same_classes_and_is_named():
    given = {"loss": "softmax", "label_smoothing": 0.0, "kind": "soft"}
    given |= {"temperature": 1.0, "share": 1.0}
    with pytest.raises(errors.UserError, match="distill.teacher=PATH"):
        distillation.Distillation(INFO, **given, teacher="")
    with pytest.raises(errors.UserError, match="distill.kind"):
        distillation.Distillation(INFO, **(given | {"kind": "sof", "teacher": "A"}))
    with pytest.raises(errors.UserError, match="temperature above 0"):
        distillation.Distillation(INFO, **(given | {"share": 0.0, "teacher": "A"}))
    teacher, _ = bound(1)
    student, _ = bound(2, beside=(teacher,))
    others = distillation.Distillation(
        catalog.describe("cifar100"), **given, teacher="A"
    )
    with pytest.raises(errors.UserError, match=r"head of 10 classes, cifar100 has 100"):
        others.make_loss(student)


def test_its_recipes_assemble(tmp_path):
    small = {"num_classes": 1000, "width": 16, "heads": 2, "depth": 1, "mlp_width": 16}
    teacher = vit_jax.create_model("mu/16", image_size=32, **small)
    path = vit_jax.save(teacher, tmp_path / "teacher")
    for words, heads in ((f"{path},Ti/16", 1), (f"{path},Ti/16,deit", 2)):
        config = distill.get_config(words)
        config.data.data_dir = str(tmp_path)
        config.model.depth = 1
        exp = experiment.assemble(config, experiment.make_mesh(config))
        (frozen,) = exp.frozen
        assert frozen.path == str(path)
        assert sum(name.startswith("head") for name in exp.state.params) == heads
        assert frozen.bound.architecture.image_size == exp.architecture.image_size
    default = distill.get_config("A")
    assert default.model.name == "BiT-R50x1" and default.data.mix.mixup == 1.0
    with pytest.raises(ValueError, match="want TEACHER"):
        distill.get_config()
