"""Nearest neighbours and the linear probe are scikit-learn's on the same features."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from commands import own_flags, parse
from given import Given
from test_bulk import command
from test_predict import write_checkpoint

from configs import base
from vit_jax import errors, evaluators
from vit_jax.data import digits as bundled
from vit_jax.data import labels, preprocessing
from vit_jax.evaluators import features, knn, probe
from vit_jax.parallel import mesh
from vit_jax.runs.bulk import features as bulk
from vit_jax.runs.bulk import inputs

try:
    from sklearn import linear_model, neighbors
except ImportError:  # what it gave is below
    linear_model = neighbors = None

KS = (1, 4, 11)
# Of scikit-learn 1.9.1 on the pixels below, by k.
UNIFORM = {"1nn": 0.91, "4nn": 0.905, "11nn": 0.92}
EXP = {"1nn": 0.91, "4nn": 0.92, "11nn": 0.91}


@pytest.fixture(scope="module")
def digits():
    """300 training and 200 test images of the bundled digits, their pixels in 0..1."""

    def labelled(split):
        found = bundled.opened(split)
        pixels = found.images.reshape(len(found), -1) / np.float32(255)
        return features.Labelled(pixels, found.labels, split)

    return labelled("train[:300]"), labelled("test[:200]")


@pytest.mark.parametrize(("weights", "wanted"), [("uniform", UNIFORM), ("exp", EXP)])
def test_neighbours_are_scikit_learns(digits, weights, wanted, monkeypatch):
    train, test = digits
    monkeypatch.setattr(knn, "_CHUNK", 128)  # the last one is padded
    monkeypatch.setattr(knn, "_QUERIES", 64)
    monkeypatch.setattr(knn, "_VOTES", 7)
    assert knn.accuracies(train, test, ks=KS, weights=weights) == pytest.approx(wanted)
    if neighbors is None:
        return
    for k in KS:
        theirs = neighbors.KNeighborsClassifier(
            n_neighbors=k,
            metric="cosine",
            weights={"uniform": "uniform", "exp": lambda d: np.exp((1 - d) / 0.07)}[
                weights
            ],
        )
        right = theirs.fit(train.features, train.labels).score(
            test.features, test.labels
        )
        assert right == pytest.approx(wanted[f"{k}nn"])


def test_of_equal_votes_the_first_class_and_of_equal_cosines_the_first_row():
    rows = np.array([[2, 0], [1, 0], [0, 1], [0, 3], [0, 0]], np.float32)
    cosines, found = knn.nearest(rows, np.array([[5.0, 0], [1, 1]]), 5)
    assert found.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
    np.testing.assert_allclose(cosines[0], [1, 1, 0, 0, 0])
    labels = np.array([3, 1, 1, 3, 0])[found]
    for weights in knn.WEIGHTS:
        options = {"num_classes": 4, "weights": weights, "temperature": 0.07}
        chosen = knn.votes(cosines[:, :4], labels[:, :4], **options)
        assert chosen.tolist() == [1, 1]
        assert knn.votes(cosines[:, :1], labels[:, :1], **options).tolist() == [3, 3]


def test_more_neighbours_than_examples_are_all_examples(digits):
    train, test = digits
    few = train.only(np.arange(300) < 5)
    figures = knn.accuracies(few, test, ks=(5, 100))
    assert figures["5nn"] == figures["100nn"]


# Of scikit-learn 1.9.1: LogisticRegression(C=1 / (l2 * 300), tol=1e-9).
LOSSES = {1e-1: 1.529890518, 1e-3: 0.1585461446, 1e-5: 0.0064443931}
ACCURACIES = {1e-1: 0.785, 1e-3: 0.86, 1e-5: 0.865}


@pytest.mark.parametrize("l2", LOSSES)
def test_the_probe_is_scikit_learns(digits, l2, monkeypatch):
    train, test = digits
    monkeypatch.setattr(probe, "_BLOCK", 128)  # the last one is padded
    found = probe.fit(train, num_classes=10, l2=l2, tolerance=1e-6)
    assert found.loss == pytest.approx(LOSSES[l2], rel=1e-4)
    assert found.accuracy(test) == ACCURACIES[l2]
    if linear_model is None or l2 < 1e-2:  # where it takes seconds
        return
    theirs = linear_model.LogisticRegression(C=1 / (l2 * 300), tol=1e-9, max_iter=5000)
    theirs.fit(train.features.astype(np.float64), train.labels)
    assert theirs.score(test.features, test.labels) == ACCURACIES[l2]
    np.testing.assert_allclose(found.weights, theirs.coef_.T, atol=3e-3)
    free = [bias - bias.mean() for bias in (found.bias, theirs.intercept_)]
    np.testing.assert_allclose(*free, atol=5e-3)


def test_a_solution_does_not_depend_on_where_it_began(digits):
    train, _ = digits
    options = {"num_classes": 10, "l2": 1e-2, "tolerance": 1e-6}
    far = probe.fit(train, **options | {"l2": 1.0})
    first, second = (probe.fit(train, start=s, **options) for s in (None, far))
    np.testing.assert_allclose(first.weights, second.weights, atol=1e-3)
    np.testing.assert_allclose(first.bias, second.bias, atol=2e-3)


def test_a_tenth_of_each_class_is_held_out(digits):
    labels = digits[0].labels
    out = probe.held_out(labels)
    assert out.sum() == 30
    counts = np.bincount(labels[out], minlength=10) - np.bincount(labels) / 10
    assert np.abs(counts).max() <= 1
    assert not (out == probe.held_out(labels, seed=1)).all()


def test_the_penalty_is_chosen_on_the_held_out_tenth(digits, monkeypatch):
    train, test = digits
    accuracies = {1.0: 0.5, 1e-2: 0.9, 1e-3: 0.9, 1e-4: 0.1}
    monkeypatch.setattr(probe, "choose", lambda *_, **__: accuracies)
    figures = probe.figures(train, test, l2=tuple(accuracies))
    assert (figures["l2"], figures["dev"]) == (1e-2, 0.9)
    alone = probe.figures(train, test, l2=(1e-2,))
    assert alone == {"l2": 1e-2, "top1": figures["top1"]}


def test_what_cannot_be_is_one_error(digits):
    train, test = digits
    narrow = features.Labelled(test.features[:, :3], test.labels, "narrow.npy")
    for measure, options, message in (
        (knn.accuracies, {"ks": ()}, "want k >= 1"),
        (knn.accuracies, {"ks": (0,)}, "want k >= 1"),
        (knn.accuracies, {"ks": (1,), "temperature": 0.0}, "temperature above 0"),
        (knn.accuracies, {"ks": (1,), "temperature": 1e-320}, "temperature above 0"),
        (knn.accuracies, {"ks": (1,), "weights": "far"}, "known: exp, uniform"),
        (probe.figures, {"l2": ()}, "want all of them above 0"),
        (probe.figures, {"l2": (0.0,)}, "want all of them above 0"),
        (probe.figures, {"l2": (np.inf,)}, "above 0, and finite"),
    ):
        with pytest.raises(errors.UserError, match=message):
            measure(train, test, **options)
    with pytest.raises(errors.UserError, match="of 64 numbers, narrow.npy of 3"):
        knn.accuracies(train, narrow, ks=(1,))
    with pytest.raises(errors.UserError, match="narrow.npy: no example"):
        probe.figures(train, narrow.only(narrow.labels < 0))


@pytest.mark.parametrize("kind", ["knn", "probe"])
def test_evaluations_are_of_the_features_of_the_model(digits, kind):
    """Of which images that could not be read are none."""
    source = bundled.opened("test[:200]")
    context = evaluators.Context(
        datasets=Given(source, 10),
        forward=lambda params, x: {"features": jnp.float32(x).mean(-1).reshape(-1, 64)},
        preprocessing=preprocessing.Preprocessing((8, 8), "none"),
        outputs=labels.Side("a model", 0),
        batch_size=64,
        mesh=mesh.make_mesh(),
    )
    options = base.EVALUATIONS[kind]("digits").to_dict()
    options |= {"split": "test", "train_split": "test"}
    small = {
        "knn": {"k": (1, 3), "weights": "uniform"},
        "probe": {"l2": (1e2, 1.0), "max_iterations": 5},
    }
    figures = evaluators.make(options | small[kind], context)({})
    assert figures["examples"] == 200
    if kind == "knn":
        assert figures["1nn"] == 1.0 > figures["3nn"] > 0.9
    else:
        assert figures["top1"] > 0.9 and {"l2", "dev"} < figures.keys()


def test_commands_on_files_are_those_on_a_checkpoint(tmp_path, capsys):
    checkpoint = write_checkpoint(tmp_path / "workdir")
    paths = {}
    for split in ("train[:64]", "test[:40]"):
        found = inputs.find([], dataset="digits", split=split)
        paths[split[:2]] = tmp_path / f"{split[:2]}.npy"
        bulk.run(checkpoint, found, paths[split[:2]])
    files = [f"--train={paths['tr']}", f"--test={paths['te']}"]
    computed = [f"--checkpoint={checkpoint}", "--dataset=digits", "--batch_size=64"]
    computed += ["--train_split=train[:64]", "--split=test[:40]"]
    for name, options in (("knn", ["--k=1,5"]), ("probe", ["--l2=1e-2"])):
        read = json.loads(command(name, [*files, *options], capsys)[-1])
        there = json.loads(command(name, [*computed, *options], capsys)[-1])
        keys = {"knn": {"1nn", "5nn"}, "probe": {"top1", "l2"}}[name] | {"examples"}
        assert read["examples"] == 40 and keys < read.keys()
        assert {k: read[k] for k in keys} == {
            k: there[k if k == "examples" else f"{name}_{k}"] for k in keys
        }
    for argv, message in (
        (files[:1], "want both --train=FILE and --test=FILE"),
        ([], "want --train=FILE and --test=FILE of vit_jax features, or"),
        ([*files, "--split=test"], "--split wants --checkpoint"),
        ([*files, "--k=a"], "--k=a; want numbers"),
        ([f"{files[0]},{paths['tr']}", files[1]], "is there twice; want each file"),
        (["x"], "what is 'x'"),
    ):
        with own_flags("knn") as module, pytest.raises(errors.UserError, match=message):
            module._main(parse("knn", ["knn", *argv]))
