"""The table of evaluators: what a row is, and what is asked of its options."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from clu import metrics
from given import Given

from configs import base
from vit_jax import errors, evaluators
from vit_jax.data import labels, preprocessing, sources
from vit_jax.evaluators import batches
from vit_jax.parallel import mesh

IMAGES = np.random.default_rng(0).integers(0, 256, (43, 4, 4, 3), np.uint8)
SHADES = IMAGES.mean(axis=(1, 2, 3))


def context(**changes):
    source = sources.ArraySource(IMAGES, np.arange(43, dtype=np.int32) % 3)
    options = {
        "datasets": Given(source, 3),
        "forward": lambda params, images: {"logits": params * images.mean((1, 2))},
        "preprocessing": preprocessing.Preprocessing((4, 4), "none"),
        "outputs": labels.Side("a model", 3),
        "batch_size": 16,
        "mesh": mesh.make_mesh(),
    }
    return evaluators.Context(**options | changes)


def _sums(outputs, batch, *, least):
    shades = outputs["logits"].mean(axis=-1)
    seen = batch["mask"] > 0
    figures = {"bright": shades > least, "shade": shades}
    mean = functools.partial(metrics.Average.from_model_output, mask=seen)
    figures = {name: mean(values) for name, values in figures.items()}
    return metrics.Collection.create_collection(**figures)


def brightness(context, *, dataset, split, least):
    """The toy: how bright what the model says is on average."""
    source = context.open(dataset, split)
    reduce = batches.reduced(_sums, context.mesh, least=least)

    def evaluate(params):
        split = context.over(source)
        shares = batches.total(context.forward, params, reduce, **split).compute()
        return {context.prefix + name: value for name, value in shares.items()}

    return evaluate


OPTIONS = {"type": "brightness", "dataset": "", "split": "", "every": "", "least": 128}


def test_an_evaluator_is_a_file_and_a_row(monkeypatch):
    monkeypatch.setitem(evaluators.EVALUATORS, "brightness", lambda: brightness)
    evaluate = evaluators.make(OPTIONS, context(prefix="b_"))
    for scale in (1.0, 1.1):
        figures = evaluate(jnp.float32(scale))
        assert set(figures) == {"b_bright", "b_shade"}
        assert figures["b_bright"] == np.mean(scale * SHADES > 128)
        assert figures["b_shade"] == pytest.approx(scale * SHADES.mean(), rel=1e-6)


def test_options_are_those_of_the_row(monkeypatch):
    monkeypatch.setitem(evaluators.EVALUATORS, "brightness", lambda: brightness)
    lacking = {k: v for k, v in OPTIONS.items() if k not in ("least", "split")}
    with pytest.raises(errors.UserError, match="lacks split, least; .*base.brightness"):
        evaluators.make(lacking, context())
    more = OPTIONS | {"lest": 1}
    with pytest.raises(errors.UserError, match="no option lest; it takes .*, least:"):
        evaluators.make(more, context())
    with pytest.raises(errors.UserError, match='mean "brightness"'):
        evaluators.make(OPTIONS | {"type": "brightnes"}, context())


@pytest.mark.parametrize("kind", evaluators.EVALUATORS)
def test_recipes_give_every_option_and_no_other(kind):
    """What base makes opens, or is refused for what the model is."""
    options = base.EVALUATIONS[kind]("digits").to_dict()
    headless = context(outputs=labels.Side("a model", 0), evaluation=None)
    if kind in ("fewshot", "knn", "probe"):
        evaluators.make(options | {"split": "test", "train_split": "test"}, headless)
        return
    wanted = {
        "classify": "no head",
        "masked": "wants a run with objective",
        "regress": "has classes and no numbers",
    }[kind]
    with pytest.raises(errors.UserError, match=wanted):
        evaluators.make(options | {"split": "test"}, headless)


def test_a_loss_of_numbers_classifies_nothing():
    options = base.classify("test").to_dict()
    with pytest.raises(errors.UserError, match="a model is a regression"):
        evaluators.make(options, context(loss=None))
    with pytest.raises(errors.UserError, match="known: bce, sigmoid, softmax"):
        evaluators.make(options, context(loss="hinge"))


@pytest.mark.parametrize(
    "wrong",
    [{"shots": ()}, {"shots": (0,)}, {"shots": ("a",)}, {"seeds": 0}, {"seeds": 1.5}]
    + [{"l2": 0.0}, {"l2": "big"}, {"l2": float("nan")}],
)
def test_few_shot_options_out_of_range_are_a_clear_error(wrong):
    options = base.fewshot("test", "test").to_dict() | wrong
    with pytest.raises(errors.UserError, match="want shots >= 1, l2 > 0 and seeds"):
        evaluators.make(options, context())
