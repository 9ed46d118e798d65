import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from given import Given

from vit_jax import errors, evaluators
from vit_jax.data import labels as label_names
from vit_jax.data import loader, preprocessing, sources, transforms
from vit_jax.evaluators import classify, features
from vit_jax.learning import losses
from vit_jax.parallel import mesh as mesh_lib

EXAMPLES, CLASSES = 203, 12
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(EXAMPLES, CLASSES)).astype(np.float32)
INTS = RNG.integers(0, CLASSES, EXAMPLES).astype(np.int32)
MULTI = (RNG.random((EXAMPLES, CLASSES)) < 0.15).astype(np.float32)
# The pixels of an image are its index, so that a "model" can look its logits up.
IMAGES = np.broadcast_to(
    np.arange(EXAMPLES, dtype=np.uint8)[:, None, None, None], (EXAMPLES, 4, 4, 3)
)


@jax.jit
def forward(params, images):
    logits = jnp.asarray(params)[images[:, 0, 0, 0].astype(jnp.int32)]
    return {"logits": logits, "features": logits[:, :3]}


def evaluator(source, *, batch_size=64, **options):
    context = evaluators.Context(
        datasets=Given(source, CLASSES),
        forward=forward,
        preprocessing=preprocessing.Preprocessing((4, 4), "none"),
        outputs=label_names.Side("the model", CLASSES),
        batch_size=batch_size,
        mesh=mesh_lib.make_mesh(),
        **options,
    )
    return evaluators.make({"type": "classify", "dataset": "", "split": ""}, context)


def expected_figures(labels, logits=LOGITS, *, loss="softmax"):
    """The figures in plain numpy, one example after the other."""
    top1 = top5 = total = count = 0
    for row, label in zip(logits, labels):
        hot = np.eye(len(row), dtype=np.float32)[label] if label.ndim == 0 else label
        if not hot.any():
            continue
        order = np.argsort(-row)
        count += 1
        top1 += hot[order[0]]
        top5 += hot[order[:5]].any()
        total += float(losses.LOSSES[loss].per_example(row[None], hot[None])[0])
    figures = {"top1": top1 / count, "top5": top5 / count, "loss": total / count}
    return figures | {"examples": count, "corrupt": 0}


@pytest.mark.parametrize("batch_size", [8, 64, 256])
@pytest.mark.parametrize("labels", [INTS, MULTI], ids=["single", "multi"])
def test_every_example_counts_once_whatever_the_batch(batch_size, labels):
    assert jax.device_count() == 8 and EXAMPLES % 8
    source = sources.ArraySource(IMAGES, labels, num_classes=CLASSES)
    figures = evaluator(source, batch_size=batch_size)(LOGITS)
    expected = expected_figures(labels)
    assert figures.pop("loss") == pytest.approx(expected.pop("loss"), rel=1e-5)
    assert figures == expected


def test_images_without_a_label_are_left_out_as_in_real():
    unlabelled = ~MULTI.any(axis=1)
    assert 0 < unlabelled.sum() < EXAMPLES
    source = sources.ArraySource(IMAGES, MULTI)
    figures = evaluator(source, loss="sigmoid", prefix="real_")(LOGITS)
    assert figures["real_examples"] == EXAMPLES - unlabelled.sum()
    expected = expected_figures(MULTI, loss="sigmoid")
    assert figures["real_top1"] == expected["top1"]
    assert figures["real_loss"] == pytest.approx(expected["loss"], rel=1e-5)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_sums_of_all_processes_are_those_of_one(processes):
    source = sources.ArraySource(IMAGES, INTS, num_classes=CLASSES)
    measured = jax.jit(functools.partial(classify.measured, loss="softmax"))
    totals, batches = {}, []
    for index in range(processes):
        part = loader.eval_loader(
            source,
            transforms.make("eval", "none", image_size=(4, 4)),
            batch_size=24,
            process_index=index,
            process_count=processes,
        )
        seen = list(part)
        batches.append(len(seen))
        for batch in seen:
            outputs = forward(LOGITS, batch["image"])
            found = vars(measured(outputs, batch))
            for name in ("seen", "examples", "top1", "top5"):
                totals[name] = totals.get(name, 0) + found[name].total.item()
    assert len(set(batches)) == 1  # or processes would wait for each other for ever
    expected = expected_figures(INTS)
    assert totals["seen"] == totals["examples"] == EXAMPLES
    assert totals["top1"] == round(expected["top1"] * EXAMPLES)
    assert totals["top5"] == round(expected["top5"] * EXAMPLES)


def test_unreadable_images_are_counted_apart():
    class Broken(sources.ArraySource):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            return example | ({"image": b"no image"} if index in (5, 100) else {})

    source = Broken(IMAGES, INTS, num_classes=CLASSES)
    figures = evaluator(source)(LOGITS)
    good = np.delete(np.arange(EXAMPLES), [5, 100])
    expected = expected_figures(INTS[good], LOGITS[good])
    assert (figures["examples"], figures["corrupt"]) == (EXAMPLES - 2, 2)
    assert figures["top1"] == expected["top1"]


def test_five_classes_have_no_top5():
    source = sources.ArraySource(IMAGES, INTS % 5, num_classes=5)
    figures = evaluator(source)(LOGITS[:, :5])
    assert set(figures) == {"top1", "loss", "examples", "corrupt"}


def test_a_label_that_is_no_class_of_the_model_is_a_clear_error():
    labels = np.where(np.arange(EXAMPLES) == 150, CLASSES, INTS)
    source = sources.ArraySource(IMAGES, labels, num_classes=CLASSES + 1)
    with pytest.raises(errors.UserError, match="1 of 203 labels are no class"):
        evaluator(source)(LOGITS)


def test_multi_hot_labels_of_other_classes_are_a_clear_error():
    source = sources.ArraySource(IMAGES, MULTI)
    with pytest.raises(errors.UserError, match="12 classes, the model has 7"):
        evaluator(source)(LOGITS[:, :7])


def test_nothing_labelled_is_a_clear_error():
    source = sources.ArraySource(IMAGES, np.zeros_like(MULTI))
    with pytest.raises(errors.UserError, match="nothing to evaluate"):
        evaluator(source)(LOGITS)


@pytest.mark.parametrize("batch_size", [8, 64, 256])
def test_features_come_in_the_order_of_the_dataset(batch_size):
    rows, labels = features.collect(
        forward,
        LOGITS,
        source=sources.ArraySource(IMAGES, INTS, num_classes=CLASSES),
        transform=transforms.make("eval", "none", image_size=(4, 4)),
        batch_size=batch_size,
        mesh=mesh_lib.make_mesh(),
    )
    np.testing.assert_array_equal(rows, LOGITS[:, :3])
    np.testing.assert_array_equal(labels, INTS)


def test_features_that_are_not_finite_are_a_clear_error():
    with pytest.raises(errors.UserError, match="not finite"):
        features.collect(
            forward,
            np.full_like(LOGITS, np.nan),
            source=sources.ArraySource(IMAGES, INTS, num_classes=CLASSES),
            transform=transforms.make("eval", "none", image_size=(4, 4)),
            batch_size=64,
            mesh=mesh_lib.make_mesh(),
        )
