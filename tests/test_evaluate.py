import json
import os
import socket
import subprocess
import sys

import numpy as np
import optax
import pytest
from cases import CASES
from flax import nnx
from test_fewshot import dense_accuracy

from vit_jax import errors, evaluate, models
from vit_jax.checkpoints import checkpoint, manager
from vit_jax.data import catalog, preprocessing
from vit_jax.evaluators import batches
from vit_jax.learning import step
from vit_jax.weights import pretrained

SPLIT = "test[:300]"


@pytest.fixture(scope="module")
def cifar(shared_data):
    return dict(dataset="cifar10", data_dir=str(shared_data))


@pytest.fixture(scope="module")
def published(golden):
    return str(golden / "vit_token.npz")


def features_and_labels(loaded, cifar, split):
    """One by one, without loaders, masks or devices."""
    source = catalog.open_source(cifar["dataset"], split, data_dir=cifar["data_dir"])
    examples = [source[i] for i in range(len(source))]
    images = loaded.images([example["image"] for example in examples])
    labels = np.array([example["label"] for example in examples])
    return np.asarray(loaded.model.features(images)), labels


@pytest.mark.parametrize("batch_size", [100, 256])
def test_a_published_checkpoint_on_real_images(published, cifar, batch_size):
    figures = evaluate.run(published, split=SPLIT, batch_size=batch_size, **cifar)
    loaded = pretrained.load(published)
    features, labels = features_and_labels(loaded, cifar, SPLIT)
    logits = np.asarray(loaded.model.classify(features), np.float64)
    order = np.argsort(-logits, axis=1)
    assert figures["examples"] == 300 and figures["corrupt"] == 0
    assert figures["top1"] == np.mean(order[:, 0] == labels)
    assert figures["top5"] == np.mean((order[:, :5] == labels[:, None]).any(1))
    log_sum = np.log(np.exp(logits).sum(1))
    loss = np.mean(log_sum - logits[np.arange(300), labels])
    assert figures["loss"] == pytest.approx(loss, rel=1e-5)
    assert figures["dataset"] == "cifar10" and figures["split"] == SPLIT


def test_fewshot_is_the_closed_form_on_the_models_features(published, cifar):
    options = dict(fewshot=True, train_split="train[:400]", shots=(1, 5), seeds=2)
    figures = evaluate.run(published, split=SPLIT, **options, **cifar)
    loaded = pretrained.load(published)
    train = features_and_labels(loaded, cifar, "train[:400]")
    test = features_and_labels(loaded, cifar, SPLIT)
    for shots in (1, 5):
        by_seed = [
            dense_accuracy(
                (*train, *test), classes=10, shots=shots, seed=seed, l2=2.0**10
            )
            for seed in range(2)
        ]
        name = f"fewshot_{shots}shot"
        actual = [figures[f"{name}_seed{seed}"] for seed in range(2)]
        # Features differ in their last bits between batches; one image may cross.
        np.testing.assert_allclose(actual, by_seed, atol=1.01 / 300)
        assert figures[name] == pytest.approx(np.mean(actual))
        assert figures[f"{name}_std"] == pytest.approx(np.std(actual))
    assert figures["examples"] == 300


def test_the_command_ends_with_one_line_of_json(published, cifar):
    done = subprocess.run(
        [sys.executable, "-m", "vit_jax.evaluate", f"--checkpoint={published}"]
        + ["--dataset=digits", "--fewshot", "--shots=1,5", "--seeds=1"],
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stdout.splitlines()
    figures = json.loads(line)
    assert figures["checkpoint"] == published and figures["split"] == "test"
    assert 0.1 < figures["fewshot_1shot"] < figures["fewshot_5shot"] <= 1
    assert "fewshot_10shot" not in figures


OPTIONS = ({}, {"fewshot": True, "shots": (1, 5)})

PROCESS = """
import json, sys
import jax
index, port, checkpoint, options = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(index))
from vit_jax import evaluate
for one in json.loads(options):
    print(json.dumps(evaluate.run(checkpoint, "digits", batch_size=60, **one)))
"""


def run_two_processes(checkpoint):
    """Figures that each of two processes with two devices prints."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    flags = "--xla_force_host_platform_device_count=2 "
    flags += "--xla_backend_optimization_level=0"
    arguments = [port, checkpoint, json.dumps(OPTIONS)]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(index), *arguments],
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    return [
        [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        for output in outputs
    ]


@pytest.mark.slow
def test_two_processes_report_what_one_does(published):
    alone = [
        evaluate.run(published, "digits", batch_size=60, **options)
        for options in OPTIONS
    ]
    assert [figures["examples"] for figures in alone] == [359, 359]
    first, second = run_two_processes(published)
    assert first == second
    # Another number of rows a device rounds features and losses differently.
    for ours, theirs in zip(first, alone, strict=True):
        for name, value in theirs.items():
            if name in ("examples", "top1", "top5", "corrupt"):
                assert ours[name] == value, name
            elif isinstance(value, float):
                assert ours[name] == pytest.approx(value, abs=2 / 359), name


def test_the_split_to_report_on_is_found_or_asked_for():
    info = catalog.describe("imagenet2012")
    assert catalog.usual_split(info) == "validation"
    assert catalog.usual_split(catalog.describe("digits")) == "test"
    with pytest.raises(errors.UserError, match="It has train: --split=NAME"):
        catalog.usual_split(catalog.describe("jft"))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(dataset="imagenet2012"), "1000 classes.*has 10.*--fewshot"),
        (dict(dataset="digits", split="val"), "'val' is not a split of digits"),
        (dict(dataset="digit"), 'digit.*Did you mean "digits"'),
        (dict(dataset="digits", batch_size=0), "--batch_size=0"),
        (dict(dataset="digits", fewshot=True, seeds=0), "want numbers from 1 to"),
        (dict(dataset="digits", fewshot=True, train_split="tran"), "'tran' is not"),
    ],
)
def test_what_cannot_be_evaluated_is_a_clear_error(published, options, message):
    with pytest.raises(errors.UserError, match=f"(?s){message}"):
        evaluate.run(published, **options)


def test_a_checkpoint_that_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(errors.UserError, match="does not exist"):
        evaluate.run(str(tmp_path / "none"), "digits")


def run_of(workdir, config, *, names=None, problem=""):
    """A checkpoint as a run on the digits leaves it."""
    options = dict(width=16, depth=1, mlp_width=32, heads=2, num_classes=10)
    arch = models.architecture("Ti/8", image_size=8, **options)
    params = models.split(models.create(arch, rngs=nnx.Rngs(0)))[1]
    described = checkpoint.Description(
        *(arch, preprocessing.Preprocessing((8, 8)), names),
        *({"loss": "softmax"} | config, 0),
        problem=problem,
    )
    checkpoints = manager.Checkpoints(workdir)
    checkpoints.save(step.init_state(params, optax.identity(), ema=False), described)
    checkpoints.close()
    return str(workdir)


def test_a_runs_own_dataset_is_the_default(tmp_path):
    path = run_of(tmp_path, {"data": {"dataset": "digits", "data_dir": "nowhere"}})
    own = evaluate.run(path, batch_size=360)
    assert own == evaluate.run(path, "digits", batch_size=360)
    assert (own["dataset"], own["examples"]) == ("digits", 359)
    assert evaluate._data(path, {}, "cifar10", "") == ("cifar10", "", {})
    config = {"data": {"dataset": "cifar10", "data_dir": "there"}}
    assert evaluate._data(path, config, "", "")[:2] == ("cifar10", "there")
    assert evaluate._data(path, config, "cifar10", "here")[:2] == ("cifar10", "here")
    assert evaluate._data(path, config, "pets", "")[:2] == ("pets", "")


def test_a_split_of_no_usual_name_is_the_one_the_run_evaluated(tmp_path):
    info = catalog.describe("jft")
    evaluation = {"type": "classify", "dataset": "", "split": "train[99%:]"}
    config = {"evals": {"few": evaluation | {"type": "fewshot"}, "dev": evaluation}}
    assert evaluate.default_split(info, config) == "train[99%:]"


def test_a_checkpoint_that_names_no_dataset_asks_for_one(published):
    with pytest.raises(errors.UserError, match="want --dataset=NAME"):
        evaluate.run(published)


def test_a_regression_has_no_top1(tmp_path):
    path = run_of(tmp_path, {}, problem="regression")
    with pytest.raises(errors.UserError, match="is a regression.*--fewshot"):
        evaluate.run(path, "digits")
    figures = evaluate.run(path, "digits", fewshot=True, shots=(1,), seeds=1)
    assert figures["examples"] == 359


def test_the_loss_is_the_one_of_what_the_outputs_are(tmp_path):
    """Outputs of zero: a sigmoid each costs log 2, a softmax over ten log 10."""
    for problem, loss in (
        ("multi_label", 10 * np.log(2)),
        ("single_label", np.log(10)),
    ):
        path = run_of(tmp_path / problem, {}, problem=problem)
        figures = evaluate.run(path, "digits", batch_size=360)
        assert figures["loss"] == pytest.approx(loss, rel=1e-5)


def test_evaluating_again_compiles_and_keeps_nothing_more():
    case = CASES / "eval_cache_growth"
    arguments = str(case / "hf"), f"folder:{case / 'data'}"
    first = evaluate.run(*arguments, batch_size=8)
    caches = (batches.reduced, evaluate._forward)
    misses = [cache.cache_info().misses for cache in caches]
    sizes = [cache.cache_info().currsize for cache in caches]
    for _ in range(3):
        assert evaluate.run(*arguments, batch_size=8) == first
    assert [cache.cache_info().misses for cache in caches] == misses
    assert [cache.cache_info().currsize for cache in caches] == sizes
    assert all(cache.cache_info().maxsize <= 16 for cache in caches)
