"""Figures of several labels an image are scikit-learn's: values of it, and itself."""

import json
import logging
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from given import Given

from configs import base
from vit_jax import errors, evaluators, host
from vit_jax.data import labels as label_names
from vit_jax.data import loader, preprocessing, sources, transforms
from vit_jax.evaluators import multilabel
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.runs import workdir as workdir_lib

try:
    from sklearn import metrics as theirs
except ImportError:  # what it gave is below
    theirs = None

# Ties within and across classes, a class without a label, an image without any.
SCORES = np.array(
    [
        [0.5, -1, 2, 0, 3],
        [0.5, -2, 1, 0, 1],
        [0.25, -1, 2, 0, -1],
        [-0.5, 1, 0, 0, 2],
        [-0.5, 2, 0, 0, 2],
        [-1, 0.5, -3, 0, 2],
        [1.5, 1, -3, 0, -2],
        [2, -1, -3, 0, 0],
    ],
    np.float32,
)
LABELS = np.array(
    [
        [1, 0, 1, 0, 1],
        [0, 0, 1, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 1, 0, 0, 1],
        [1, 1, 0, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0],
    ],
    np.float32,
)
# average_precision_score(LABELS, SCORES, average=None) of scikit-learn 1.9.1, and
# f1_score(LABELS, sigmoid(SCORES) >= threshold) as (micro, macro).
PRECISIONS = [0.3595238095238095, 0.6984126984126984, 0.5138888888888888, 0.0, 5 / 6]
F1 = {0.5: (0.45, 0.44761904761904764), 0.7: (0.56, 0.41666666666666663)}
EXACT = {"rel": 1e-12, "abs": 1e-12}


def evaluator(scores, labels, *, batch_size=8, loss="sigmoid", f1_at=0.0):
    # The pixels of an image are its index, by which the "model" finds its logits.
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    images = np.broadcast_to(pixels, (len(labels), 4, 4, 3))

    @jax.jit
    def forward(params, images):
        logits = jnp.asarray(scores)[images[:, 0, 0, 0].astype(jnp.int32)]
        return {"logits": logits, "features": logits}

    source = sources.ArraySource(images, labels, num_classes=scores.shape[1])
    context = evaluators.Context(
        datasets=Given(source, scores.shape[1], multi_label=labels.ndim == 2),
        forward=forward,
        preprocessing=preprocessing.Preprocessing((4, 4), "none"),
        outputs=label_names.Side("the model", scores.shape[1]),
        batch_size=batch_size,
        mesh=mesh_lib.make_mesh(),
        loss=loss,
    )
    return evaluators.make(base.classify(f1_at=f1_at).to_dict(), context)


def ranking(*parts):
    whole = multilabel.Ranking()
    for scores, labels in parts:
        seen = np.ones(len(scores), bool)
        whole.add({"scores": scores, "labels": labels > 0.5, "seen": seen})
    return whole


@pytest.mark.parametrize("threshold", F1)
def test_figures_are_scikit_learns(threshold, caplog):
    multilabel._warn.cache_clear()
    with caplog.at_level(logging.WARNING):
        figures = evaluator(SCORES, LABELS, f1_at=threshold)({})
    assert figures["map"] == pytest.approx(np.mean(PRECISIONS), **EXACT)
    assert figures["f1_micro"] == pytest.approx(F1[threshold][0], **EXACT)
    assert figures["f1_macro"] == pytest.approx(F1[threshold][1], **EXACT)
    assert figures["examples"] == 7  # the last image is a negative of all classes
    assert "1 of 5 classes are no image's label: they count as 0" in caplog.text


def test_each_class_is_scikit_learns():
    for scores, labels, wanted in zip(SCORES.T, LABELS.T, PRECISIONS, strict=True):
        found = multilabel.average_precision(scores, labels > 0.5)
        assert found == pytest.approx(wanted, **EXACT)


RNG = np.random.default_rng(0)
MANY = np.round(RNG.normal(size=(203, 6)), 1).astype(np.float32)  # with many ties
HITS = (RNG.random((203, 6)) < [0.1, 0.3, 0.5, 0.02, 0.9, 0.0]).astype(np.float32)


def reference(scores, labels):
    """The definition, quadratic: precision at each positive, ties together."""
    precisions = []
    for column, hits in zip(scores.T, labels.T > 0.5, strict=True):
        above = [column >= x for x in column[hits]]
        precisions.append(np.mean([hits[a].mean() for a in above] or [0.0]))
    if theirs is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a class without positives
            value = theirs.average_precision_score(labels, scores, average="macro")
        assert value == pytest.approx(np.mean(precisions), **EXACT)
    return np.mean(precisions)


@pytest.mark.parametrize("batch_size", [8, 64, 256])
def test_padding_and_batches_do_not_matter(batch_size):
    figures = evaluator(MANY, HITS, batch_size=batch_size)({})
    assert figures["map"] == pytest.approx(reference(MANY, HITS), **EXACT)
    assert "f1_micro" not in figures


@pytest.mark.parametrize("processes", [2, 3])
def test_the_rows_of_all_processes_are_those_of_one(processes):
    source = sources.ArraySource(
        np.zeros((203, 4, 4, 3), np.uint8), HITS, num_classes=6
    )
    rows = jax.jit(multilabel.rows)
    found, at = multilabel.Ranking(), 0
    shares = [
        list(
            loader.eval_loader(
                source,
                transforms.make("eval", "none", image_size=(4, 4)),
                batch_size=24,
                process_index=index,
                process_count=processes,
            )
        )
        for index in range(processes)
    ]
    for together in zip(*shares, strict=True):
        for batch in together:
            # Rows that pad have the highest score of all, and every label.
            seen = batch["mask"] > 0
            scores = np.full((len(seen), 6), 9, np.float32)
            scores[seen] = MANY[at : at + seen.sum()]
            assert np.array_equal(batch["label"][seen], HITS[at : at + seen.sum()])
            at += seen.sum()
            batch["label"] = np.where(seen[:, None], batch["label"], 1)
            found.add(jax.device_get(rows({"logits": scores}, batch)))
    assert at == 203
    one = ranking((MANY, HITS)).figures(0.5)
    assert found.figures(0.5) == one
    assert one["map"] == pytest.approx(reference(MANY, HITS), **EXACT)


def test_other_labels_and_losses_have_none():
    single = LABELS.argmax(axis=1).astype(np.int32)
    assert "map" not in evaluator(SCORES, single)({})
    assert "map" not in evaluator(SCORES, LABELS, loss="softmax")({})


def test_what_cannot_be_held_is_refused_before_anything_runs(monkeypatch):
    """Of 8 images and 5 classes 200 bytes."""
    monkeypatch.setattr(host, "available_memory", lambda: 200)
    evaluator(SCORES, LABELS)
    monkeypatch.setattr(host, "available_memory", lambda: 199)
    with pytest.raises(errors.UserError, match="8 images and 5 .*at most 3 images"):
        evaluator(SCORES, LABELS)
    evaluator(SCORES, LABELS, loss="softmax")  # has no such figure


def test_scores_that_are_no_numbers_have_a_figure_that_is_none():
    scores = SCORES.copy()
    scores[3, 1] = np.nan
    assert math.isnan(ranking((scores, LABELS)).figures(0.0)["map"])


@pytest.mark.parametrize(
    "labels, options, words",
    [
        (LABELS[:, 0].astype(np.int32), {"f1_at": 0.5}, "the data has one"),
        (LABELS, {"f1_at": 0.5, "loss": "softmax"}, "the loss softmax"),
        (LABELS, {"f1_at": 1.5}, "want a probability below 1"),
    ],
)
def test_a_threshold_without_a_meaning_is_a_clear_error(labels, options, words):
    with pytest.raises(errors.UserError, match=words):
        evaluator(SCORES, labels, **options)


def test_a_run_recorded_before_there_was_a_threshold_is_the_same(tmp_path):
    old = {"type": "classify", "dataset": "", "split": "test", "every": ""}
    (tmp_path / "config.json").write_text(json.dumps({"evals": {"val": old}}))
    for threshold, changed in ((0.0, set()), (0.5, {"val"})):
        now = base.classify("test", f1_at=threshold).to_dict()
        found = workdir_lib.changed_evals(tmp_path, {"evals": {"val": now}})
        assert found == changed
