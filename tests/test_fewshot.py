import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import errors
from vit_jax.evaluators import fewshot, least_squares

SHOTS = (1, 5, 10, 25)


def make_data(*, width, classes, seed=0, test=1000):
    """Clusters that overlap, 30 training examples a class in random order."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, width))

    def split(labels):
        noise = rng.normal(size=(len(labels), width))
        return (3 + centres[labels] + 2 * noise).astype(np.float32), labels

    train = split(rng.permutation(np.repeat(np.arange(classes), 30)))
    return *train, *split(rng.integers(0, classes, test))


def dense_accuracy(data, *, classes, shots, seed, l2):
    """The normal equations, solved in float64."""
    train, train_labels, test, test_labels = data
    support = fewshot.choose_support(
        train_labels, num_classes=classes, shots=shots, seed=seed
    )
    x, y = train[support].astype(np.float64), train_labels[support]
    mean, std = x.mean(0), x.std(0) + 1e-5

    def design(rows):
        return np.pad((rows - mean) / std, ((0, 0), (0, 1)), constant_values=100.0)

    a = design(x).T @ design(x) + l2 * np.eye(x.shape[1] + 1)
    weights = np.linalg.solve(a, design(x).T @ (2 * np.eye(classes)[y] - 1))
    return np.mean(np.argmax(design(test) @ weights, axis=1) == test_labels)


@pytest.mark.parametrize("shots", SHOTS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_accuracies_are_those_of_big_vision(golden, shots, seed):
    with np.load(golden / "fewshot.npz") as file:
        data = [
            file[f"{split}_{what}"]
            for split in ("train", "test")
            for what in ("features", "labels")
        ]
        expected = file[f"{shots}shot_seed{seed}"]
    actual = fewshot.accuracy(*data, num_classes=10, shots=shots, seed=seed)
    assert np.float32(actual) == expected


@pytest.mark.parametrize(
    "width, classes, shots, l2s",
    [
        (16, 5, 20, [1e-2, 1.0, 2.0**10]),
        (200, 5, 20, [1e-2, 1.0, 2.0**10]),
        (64, 10, 1, [1e-2, 1.0, 2.0**10]),
        (64, 10, 25, [1e-2, 1.0, 2.0**10]),
        (99, 10, 10, [2.0**8, 2.0**10]),  # square: singular but for the penalty
    ],
    ids=["N>D", "N<D", "N<D one shot", "N>D many", "N=D"],
)
def test_solution_equals_a_dense_ridge_solve(width, classes, shots, l2s):
    data = make_data(width=width, classes=classes)
    actual = fewshot.sweep(*data, num_classes=classes, shots=shots, seed=1, l2s=l2s)
    expected = [
        dense_accuracy(data, classes=classes, shots=shots, seed=1, l2=l2) for l2 in l2s
    ]
    # One test example of 1000 may lie on a border between classes.
    np.testing.assert_allclose(actual, expected, atol=1.01e-3)


def test_a_sweep_is_the_accuracy_at_each_penalty():
    data = make_data(width=16, classes=5)
    options = dict(num_classes=5, shots=5, seed=0)
    l2s = [1.0, 100.0, 2.0**10]
    sweep = fewshot.sweep(*data, l2s=l2s, **options)
    assert list(sweep) == [fewshot.accuracy(*data, l2=l2, **options) for l2 in l2s]


@pytest.mark.parametrize("width, shots", [(16, 20), (200, 5)])
def test_many_penalties_are_combinations_of_few_solutions(width, shots, monkeypatch):
    """190 penalties from one factorisation and a dozen products with the features."""
    data = make_data(width=width, classes=20, test=1001)
    options = dict(num_classes=20, shots=shots, seed=0)
    made = []
    factorise = least_squares.factorise

    def counted(*args):
        made.append(args)
        return factorise(*args)

    monkeypatch.setattr(least_squares, "factorise", counted)
    l2s = np.logspace(-10, 19, 190, base=2)
    sweep = fewshot.sweep(*data, l2s=l2s, **options)
    assert len(made) == 1
    few, _ = least_squares._few_solutions(factorise(*made[0]), l2s)
    assert few.shape[1] <= 16
    one_by_one = [fewshot.accuracy(*data, l2=l2, **options) for l2 in l2s[::7]]
    np.testing.assert_allclose(sweep[::7], one_by_one, atol=1.01 / 1001)
    assert len(set(sweep)) > 5


def test_small_penalties_do_not_drown_in_the_bias():
    """Its eigenvalue is 10,000 times the examples, beyond what float32 tells."""
    train, labels, test, test_labels = make_data(width=64, classes=5, test=2000)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 64)))[0]
    turn *= (1.0 + np.arange(64))[:, None] ** -2  # as features of models are
    train, test = ((x @ turn).astype(np.float32) for x in (train, test))
    data = train, labels, test, test_labels
    for l2 in (0.125, 1.0):
        actual = fewshot.accuracy(*data, num_classes=5, shots=25, seed=1, l2=l2)
        expected = dense_accuracy(data, classes=5, shots=25, seed=1, l2=l2)
        assert actual == pytest.approx(expected, abs=1.01 / 2000)


def test_the_penalty_of_several_datasets_is_the_one_of_the_best_mean_rank():
    """Whatever the levels: the second is never worst and twice the best."""
    accuracies = [[0.1, 0.3, 0.2], [0.90, 0.91, 0.92], [0.5, 0.6, 0.6]]
    assert fewshot.best_penalty(accuracies) == 1
    assert fewshot.best_penalty([[0.2, 0.9, 0.5]]) == 1
    assert fewshot.best_penalty([[0.5, 0.5], [0.7, 0.7]]) == 0


def test_without_a_seed_the_shots_are_the_first_of_each_class():
    labels = np.array([1, 0, 1, 1, 0, 0])
    options = dict(num_classes=2, shots=2, seed=None)
    assert fewshot.choose_support(labels, **options).tolist() == [1, 4, 0, 2]


def test_device_arrays_and_host_arrays_agree():
    data = make_data(width=16, classes=5)
    options = dict(num_classes=5, shots=5, seed=0)
    on_device = [jnp.asarray(x) for x in data]
    assert fewshot.accuracy(*on_device, **options) == fewshot.accuracy(*data, **options)


def test_the_support_is_balanced_and_more_shots_extend_it():
    labels = np.random.default_rng(0).integers(0, 7, 500)
    chosen = {
        k: fewshot.choose_support(labels, num_classes=7, shots=k, seed=3) for k in SHOTS
    }
    for k, indices in chosen.items():
        assert np.bincount(labels[indices]).tolist() == [k] * 7
        assert len(set(indices.tolist())) == 7 * k
    assert set(chosen[5]) < set(chosen[10]) < set(chosen[25])
    other = fewshot.choose_support(labels, num_classes=7, shots=5, seed=4)
    assert set(other.tolist()) != set(chosen[5].tolist())


def test_a_class_with_too_few_examples_gives_all_and_is_named(caplog):
    train, labels, test, test_labels = make_data(width=16, classes=5)
    keep = (labels != 3) | (np.cumsum(labels == 3) <= 4)
    support = fewshot.choose_support(labels[keep], num_classes=5, shots=10, seed=0)
    assert np.bincount(labels[keep][support]).tolist() == [10, 10, 10, 4, 10]
    with caplog.at_level("WARNING"):
        fewshot.accuracy(
            train[keep], labels[keep], test, test_labels, num_classes=5, shots=10
        )
    assert "10-shot, seed 0: 1 of 5 classes" in caplog.text
    assert "class 3 first" in caplog.text


def test_a_feature_that_is_constant_does_no_harm():
    train, labels, test, test_labels = make_data(width=16, classes=5)
    options = dict(num_classes=5, shots=10)
    expected = fewshot.accuracy(train, labels, test, test_labels, **options)
    pad = dict(pad_width=((0, 0), (0, 1)), constant_values=2.5)
    train, test = np.pad(train, **pad), np.pad(test, **pad)
    actual = fewshot.accuracy(train, labels, test, test_labels, **options)
    assert actual == pytest.approx(expected, abs=1.01e-3)


def bad_labels(value):
    train, labels, test, test_labels = make_data(width=4, classes=5)
    return train, labels, test, np.where(np.arange(1000) == 17, value, test_labels)


@pytest.mark.parametrize(
    "data, options, message",
    [
        (bad_labels(5), {}, "test labels go from 0 to 5; want 0 to 4"),
        (bad_labels(-1), {}, "test labels go from -1 to 4"),
        (bad_labels(0.5), {}, "want integer class indices"),
        (bad_labels(0), {"shots": 0}, "want shots >= 1"),
        (bad_labels(0), {"l2": 0.0}, "want shots >= 1, l2 > 0"),
        ((np.zeros((5, 4)), np.zeros(4, int)) * 2, {}, "want \\[examples, width\\]"),
        ((np.zeros((0, 4)), np.zeros(0, int)) * 2, {}, "want \\[examples, width\\]"),
    ],
)
def test_what_does_not_fit_is_a_clear_error(data, options, message):
    options = {"num_classes": 5, "shots": 1} | options
    with pytest.raises(errors.UserError, match=message):
        fewshot.accuracy(*data, **options)
