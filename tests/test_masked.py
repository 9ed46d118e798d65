"""Masked patch prediction: what is corrupted, what is predicted, whole runs."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from given import Given

from configs import base, finetune, quickstart
from configs import masked as recipes
from vit_jax import (
    errors,
    evaluate,
    evaluators,
    experiment,
    models,
    predict,
    train,
    tree,
)
from vit_jax.checkpoints import checkpoint, manager
from vit_jax.data import (
    catalog,
    labels,
    loader,
    preprocessing,
    sources,
    transforms,
)
from vit_jax.evaluators import masked as evaluator_lib
from vit_jax.learning import masked, patch_targets
from vit_jax.parallel import mesh
from vit_jax.runs import evaluations

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 16, 24, 3), np.uint8)


def make_task(target="mean_color", *, rate=0.5, mask=0.8, replace=0.1, **options):
    options = {"image_size": (16, 24), "num_classes": 0} | options
    arch = models.architecture("mu/4", **options)
    return masked.make_task(arch, target=target, rate=rate, mask=mask, replace=replace)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def draw(task, keys):
    return jax.jit(task.draw)(keys)


def cut(image, p, q):
    """Patches in raster order, the slow way."""
    rows, columns = image.shape[0] // p, image.shape[1] // q
    return [
        image[r * p : (r + 1) * p, c * q : (c + 1) * q]
        for r in range(rows)
        for c in range(columns)
    ]


def reference_colors(image, p, q, cells):
    """Mean colours of the parts of each patch, with every pixel `cells` times."""
    result = []
    for patch in cut(image, p, q):
        big = patch.repeat(cells, 0).repeat(cells, 1).astype(np.float64)
        row = [part.mean(axis=(0, 1)) // 32 for part in cut(big, p, q)]
        result.append([int(64 * r + 8 * g + b) for r, g, b in row])
    return np.array(result)


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.5, 1.0])
def test_the_corrupted_share_of_every_image_is_exact(rate):
    task = make_task(rate=rate)
    drawn = draw(task, keys(50))
    assert task.patches == 24 and task.corrupted == round(24 * rate)
    places = np.asarray(drawn.positions)
    assert places.shape == (50, task.corrupted)
    assert all(len(set(row)) == task.corrupted for row in places)
    untouched = np.asarray(drawn.source) == np.arange(24)[None]
    corrupted = np.zeros((50, 24), bool)
    np.put_along_axis(corrupted, places, True, axis=1)
    assert untouched[~corrupted].all()
    if rate < 1:
        assert len({tuple(sorted(row)) for row in places}) > 10


@pytest.mark.parametrize(("mask", "replace"), [(0.8, 0.1), (0.0, 1.0), (0.2, 0.3)])
def test_shares_of_masked_replaced_and_unchanged(mask, replace):
    task, count = make_task(mask=mask, replace=replace), 2000
    drawn = draw(task, keys(count))
    source = np.take_along_axis(
        np.asarray(drawn.source), np.asarray(drawn.positions), axis=1
    )
    same = source == np.asarray(drawn.positions)
    shares = {
        "mask": (source == 24).mean(),
        "replace": ((source < 24) & ~same).mean(),
        "same": same.mean(),
    }
    wanted = {"mask": mask, "replace": replace, "same": 1 - mask - replace}
    for name, share in wanted.items():
        deviation = (share * (1 - share) / source.size) ** 0.5
        assert abs(shares[name] - share) <= 4 * deviation + 1e-6, name


def test_what_replaces_a_patch_is_any_other_of_its_image():
    task = make_task(mask=0.0, replace=1.0, rate=1.0)
    source = np.asarray(draw(task, keys(3000)).source)
    positions = np.arange(24)
    assert not (source == positions[None]).any()
    counts = np.array([np.bincount(source[:, i], minlength=24) for i in positions])
    others = counts[~np.eye(24, dtype=bool)]
    assert abs(others / 3000 - 1 / 23).max() < 5 * (1 / 23 / 3000) ** 0.5


def test_the_corruption_of_an_image_depends_on_its_key_alone():
    task = make_task()
    whole, part = draw(task, keys(8)), draw(task, keys(8)[3:5])
    np.testing.assert_array_equal(whole.source[3:5], part.source)
    np.testing.assert_array_equal(whole.positions[3:5], part.positions)


def test_corrupt_takes_each_embedding_from_its_source():
    embeddings = jnp.arange(24.0).reshape(2, 4, 3)
    token = jnp.full((1, 1, 3), -1.0)
    source = jnp.array([[0, 4, 2, 1], [4, 1, 3, 3]])
    expected = np.asarray(embeddings).copy()
    expected[0, 1], expected[0, 3], expected[1, 0] = -1, embeddings[0, 1], -1
    expected[1, 2] = embeddings[1, 3]
    np.testing.assert_array_equal(masked.corrupt(embeddings, token, source), expected)


@pytest.mark.parametrize(
    ("value", "bin_"), [(0, 0), (31, 0), (32, 1), (127, 3), (128, 4), (223, 6)]
)
def test_the_quantiser_keeps_the_three_high_bits(value, bin_):
    flat = np.full((1, 1, 4, 1, 4, 3), value, np.uint8)
    expected = bin_ * (64 + 8 + 1)
    assert np.asarray(patch_targets.colors(flat, 1)).item() == expected
    flat[0, 0, 0, 0, 0] = min(value + 15, 255)  # below one, the mean is rounded down
    assert np.asarray(patch_targets.colors(flat, 1)).item() == expected


def test_a_colour_is_red_green_blue():
    patch = np.zeros((1, 1, 2, 1, 2, 3), np.uint8)
    patch[..., :] = (255, 64, 37)
    assert np.asarray(patch_targets.colors(patch, 1)).item() == 7 * 64 + 2 * 8 + 1


@pytest.mark.parametrize("patch", [(4, 4), (8, 8), (2, 12), (14, 6), (3, 5)])
@pytest.mark.parametrize("target", ["mean_color", "downsampled"])
def test_colours_equal_a_slow_reference_whatever_the_patch(target, patch):
    p, q = patch
    images = RNG.integers(0, 256, (2, 2 * p, 3 * q, 3), np.uint8)
    images[1] //= 3
    task = make_task(
        target, patch=patch, image_size=images.shape[1:3], rate=1.0, mask=0.0
    )
    every = np.broadcast_to(np.arange(6), (2, 6))
    got = task.targets(jnp.asarray(images), every)
    cells = {"mean_color": 1, "downsampled": 4}[target]
    for row, image in zip(got, images, strict=True):
        np.testing.assert_array_equal(row, reference_colors(image, p, q, cells))


@pytest.mark.parametrize("target", ["mean_color", "downsampled"])
def test_colours_of_a_photograph(target, shared_data):
    source = catalog.open_source("imagenet_samples", "train", data_dir=str(shared_data))
    resize = transforms.make("eval", "resize", image_size=(64, 96))
    photo = resize(source[3]["image"])
    assert photo.std() > 10
    task = make_task(target, patch=(16, 16), image_size=(64, 96))
    positions = np.asarray(draw(task, keys(1)).positions)
    got = task.targets(jnp.asarray(photo)[None], positions)[0]
    cells = {"mean_color": 1, "downsampled": 4}[target]
    expected = reference_colors(photo, 16, 16, cells)
    np.testing.assert_array_equal(got, expected[positions[0]])
    assert len(np.unique(got)) >= 3


def test_full_patches_are_scored_by_their_squared_distance():
    task = make_task("pixels")
    positions = np.asarray(draw(task, keys(6)).positions)
    targets = task.targets(jnp.asarray(IMAGES), positions)
    guess = RNG.normal(size=(6, 12, 48)).astype(np.float32)
    loss = np.asarray(task.loss(jnp.asarray(guess), targets))
    for i, image in enumerate(IMAGES):
        parts = [cut(image, 4, 4)[n].reshape(-1) / 127.5 - 1 for n in positions[i]]
        expected = np.square(guess[i] - np.stack(parts)).mean(axis=1)
        np.testing.assert_allclose(loss[i], expected, rtol=1e-5)


def test_colour_losses_are_the_mean_cross_entropy_of_the_predictions():
    task = make_task("downsampled")
    targets = jnp.asarray(RNG.integers(0, 512, (2, 3, 16)))
    logits = RNG.normal(size=(2, 3, 16, 512)).astype(np.float32)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    picked = np.take_along_axis(log_p, np.asarray(targets)[..., None], axis=-1)
    loss = task.loss(jnp.asarray(logits.reshape(2, 3, -1)), targets)
    np.testing.assert_allclose(loss, -picked[..., 0].mean(axis=-1), rtol=1e-5)
    perfect = 50.0 * jax.nn.one_hot(targets, 512).reshape(2, 3, -1)
    assert np.asarray(task.hits(perfect, targets)).all()
    assert not np.asarray(task.hits(-perfect, targets)).any()


def model_of(task, **options):
    arch = models.architecture(
        "mu/4",
        num_classes=0,
        image_size=(16, 24),
        mask_token=True,
        patch_outputs=task.outputs,
        **options,
    )
    graphdef, params = models.split(models.create(arch, rngs=nnx.Rngs(0)))
    # The head starts at zero; here every prediction shall depend on its token.
    return graphdef, tree.map_named(
        lambda name, x: (
            0.1 * jax.random.normal(jax.random.key(len(name)), x.shape)
            if name.startswith("patch_head")
            else x
        ),
        params,
    )


@pytest.mark.parametrize("options", [{}, {"pool": "mean"}, {"registers": 2}])
def test_predictions_are_the_patch_heads_at_the_corrupted_places(options):
    task = make_task()
    graphdef, params = model_of(task, **options)
    model = models.merge(graphdef, params)
    images = jnp.asarray(IMAGES) / 127.5 - 1
    drawn = draw(task, keys(6))

    @jax.jit
    def both(images, drawn):
        embeddings = masked.corrupt(
            model.patch_embeddings(images), model.mask_token[...], drawn.source
        )
        every = model.patch_logits(model.encode(model.tokens(embeddings)))
        return masked.predict(model, images, drawn, None), every

    got, every = both(images, drawn)
    assert every.shape == (6, 24, 512) and got.shape == (6, 12, 512)
    for i in range(6):
        np.testing.assert_allclose(got[i], every[i, drawn.positions[i]], atol=1e-5)


def test_the_loss_sees_nothing_of_the_places_that_are_not_corrupted():
    task = make_task()
    drawn = draw(task, keys(6))
    targets = task.targets(jnp.asarray(IMAGES), drawn.positions)

    def loss(outputs):
        chosen = jnp.take_along_axis(outputs, drawn.positions[:, :, None], axis=1)
        return task.loss(chosen, targets).mean()

    outputs = jnp.asarray(RNG.normal(size=(6, 24, 512)).astype(np.float32))
    squares = np.square(jax.grad(loss)(outputs)).sum(axis=-1)
    corrupted = np.zeros((6, 24), bool)
    np.put_along_axis(corrupted, np.asarray(drawn.positions), True, axis=1)
    assert (squares[corrupted] > 0).all() and (squares[~corrupted] == 0).all()
    # The pixels of a patch that was taken away reach no prediction.
    model = models.merge(*model_of(task))
    seen = jax.grad(lambda x: masked.predict(model, x, drawn, None).sum())
    pixels = jax.jit(seen)(jnp.asarray(IMAGES) / 127.5 - 1)
    for i, image in enumerate(np.asarray(pixels)):
        moved = [np.abs(patch).max() > 0 for patch in cut(image, 4, 4)]
        used = set(np.asarray(drawn.source[i]).tolist())
        assert moved == [n in used for n in range(24)]


def test_a_model_that_knows_the_answer_has_no_loss():
    task = make_task()

    def oracle(params, images, corruption, key):
        hot = jax.nn.one_hot(task.targets(images, corruption.positions)[..., 0], 512)
        return params * hot

    loss_fn = masked.make_loss(masked.Masked(task, oracle))
    batch = {"image": jnp.asarray(IMAGES)}
    loss, metrics = loss_fn(50.0, batch, jax.random.key(1))
    assert metrics["accuracy"] == 1 and loss == metrics["loss"] < 1e-5
    loss, metrics = loss_fn(0.0, batch, jax.random.key(1))
    assert float(loss) == pytest.approx(np.log(512), rel=1e-6)
    pixels = masked.Masked(make_task("pixels"), lambda *a: jnp.zeros((6, 12, 48)))
    assert set(masked.make_loss(pixels)(0.0, batch, keys(1)[0])[1]) == {"loss"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "colour"}, "known: downsampled, mean_color, pixels"),
        ({"mask": 0.8, "replace": 0.3}, "together at most 1"),
        ({"rate": 0.01}, "of 24 patches is 0"),
        ({"patch": (16, 24)}, "of 1 patches"),
    ],
)
def test_impossible_tasks_are_clear_errors(options, words):
    with pytest.raises(errors.UserError) as caught:
        make_task(**options)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 10


def test_a_hybrids_patches_are_those_of_the_pixels():
    arch = models.architecture("R26+S/32", num_classes=0, image_size=64)
    settings = {"target": "pixels", "rate": 0.5, "mask": 0.8, "replace": 0.1}
    task = masked.make_task(arch, **settings)
    assert (task.grid, task.patch, task.outputs) == ((2, 2), (32, 32), 3072)
    with pytest.raises(errors.UserError, match="over the edge"):
        masked.make_task(arch.replace(image_size=(60, 64)), **settings)


# Images whose patches have the example's own colour, and a model that says 9 always.
FLAT = np.broadcast_to(
    (np.arange(43, dtype=np.uint8) * 5)[:, None, None, None], (43, 16, 24, 3)
)


def evaluation_parts(task, value):
    def apply(params, images, corruption, key):
        assert key is None
        shape = (*corruption.positions.shape, task.outputs)
        if not task.classes:
            return jnp.full(shape, params)
        return jnp.zeros(shape) + params * jax.nn.one_hot(value, 512)[None, None]

    return masked.Masked(task, apply)


def evaluator(prediction, images, *, batch_size=16, seed=0):
    source = sources.ArraySource(images, np.zeros(len(images), np.int32))
    context = evaluators.Context(
        datasets=Given(source, 0),
        forward=None,  # what is measured calls the model by itself
        preprocessing=preprocessing.Preprocessing((16, 24), "none"),
        outputs=labels.Side("the model", 0),
        batch_size=batch_size,
        mesh=mesh.make_mesh(),
        evaluation=prediction,
        prefix="m_",
    )
    return evaluator_lib.evaluator(context, dataset="", split="", seed=seed)


@pytest.mark.parametrize("batch_size", [8, 64])
def test_evaluation_counts_each_example_once(batch_size):
    task = make_task()
    bins = FLAT[:, 0, 0, 0] // 32
    counts = np.bincount(bins)
    figures = evaluator(evaluation_parts(task, 73), FLAT, batch_size=batch_size)(2.0)
    share = counts / 43
    assert figures["m_accuracy"] == pytest.approx(share[1])
    assert figures["m_majority"] == pytest.approx(share.max())
    entropy = -(share * np.log(share)).sum()
    assert figures["m_constant_loss"] == pytest.approx(entropy, rel=1e-6)
    total = np.log(np.exp(2.0) + 511)
    assert figures["m_loss"] == pytest.approx(total - 2.0 * share[1], rel=1e-5)
    assert (figures["m_examples"], figures["m_corrupt"]) == (43, 0)


def test_the_constant_of_pixels_is_their_mean():
    task = make_task("pixels")
    figures = evaluator(evaluation_parts(task, 0), FLAT)(0.25)
    values = FLAT[:, 0, 0, 0] / 127.5 - 1
    assert figures["m_constant_loss"] == pytest.approx(values.var(), rel=1e-4)
    expected = np.square(values - 0.25).mean()
    assert figures["m_loss"] == pytest.approx(expected, rel=1e-5)
    assert "m_accuracy" not in figures


def noisy(count):
    return np.random.default_rng(1).integers(0, 256, (count, 16, 24, 3), np.uint8)


def test_evaluation_depends_on_the_seed_and_on_nothing_else():
    task, images = make_task(rate=0.1), noisy(43)
    prediction = evaluation_parts(task, 3 * 73)
    figures = [evaluator(prediction, images, batch_size=b)(1.0) for b in (8, 40)]
    assert figures[0] == pytest.approx(figures[1], rel=1e-6)
    other = evaluator(prediction, images, seed=1)(1.0)
    assert other["m_loss"] != pytest.approx(figures[0]["m_loss"], rel=1e-6)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_sums_of_all_processes_are_those_of_one(processes):
    task, images = make_task(rate=0.1), noisy(41)
    prediction = evaluation_parts(task, 3 * 73)
    source = sources.ArraySource(images, np.zeros(41, np.int32))
    options = {"masked": prediction, "seed": 0}
    sums = jax.jit(functools.partial(evaluator_lib.measured, **options))
    counts, hits = np.zeros((1, 512), np.int64), 0
    for process in range(processes):
        part = loader.eval_loader(
            source,
            transforms.make("eval", "none", image_size=(16, 24)),
            batch_size=12,
            process_index=process,
            process_count=processes,
        )
        share = 12 // processes
        for number, batch in enumerate(part):
            first = number * 12 + process * share
            index = np.arange(first, first + share, dtype=np.int32)
            outputs = {"params": 1.0, "image": batch.pop("image")}
            got = sums(outputs, batch | {"index": index})
            counts = counts + np.asarray(got.counts.total)
            hits += int(got.accuracy.total)
    assert counts.sum() == 41 * task.corrupted
    whole = evaluator(prediction, images)(1.0)
    assert whole["m_majority"] == pytest.approx(counts.max() / counts.sum())
    assert whole["m_accuracy"] == pytest.approx(hits / counts.sum())


@pytest.fixture(scope="module")
def device_mesh():
    return mesh.make_mesh(devices=jax.devices()[:1])


def small(**changes):
    """Masked prediction on the digits, in a model for seconds."""
    config = quickstart.get_config()
    config.update_from_flattened_dict(
        {
            "objective": "masked_patches",
            "total": "120 steps",
            "log_every": "40 steps",
            "eval_every": "",
            "save_every": "80 steps",
            "model.depth": 1,
            "model.width": 32,
            "model.mlp_width": 64,
            "model.dropout": 0.01,
            "optimizer.lr": 1e-2,
        }
        | changes
    )
    base.set_evals(config, test=base.masked("test"))
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory, device_mesh):
    workdir = tmp_path_factory.mktemp("masked")
    return workdir, train.run(small(), workdir, device_mesh)


@pytest.mark.slow
def test_resume_does_not_matter(trained, tmp_path, device_mesh):
    whole, figures = trained
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "120")
    assert manager.Checkpoints(tmp_path / "run").latest() == 80
    again = train.run(small(), tmp_path / "run", device_mesh)
    assert again == figures
    params, _ = checkpoint.read_params(whole)
    resumed, _ = checkpoint.read_params(tmp_path / "run")
    for (name, a), (_, b) in zip(
        tree.named_leaves(params), tree.named_leaves(resumed), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=name)


def test_a_masked_run_has_a_patch_head_and_no_other(trained):
    workdir, figures = trained
    params, description = checkpoint.read_params(workdir)
    arch = description.architecture
    assert (arch.num_classes, arch.mask_token, arch.patch_outputs) == (0, True, 512)
    names = {name for name, _ in tree.named_leaves(params)}
    assert {"mask_token", "patch_head/kernel", "cls"} <= names
    assert not any(n.startswith(("head/", "pre_logits/")) for n in names)
    wanted = {"loss", "accuracy", "majority", "constant_loss", "examples", "corrupt"}
    assert {name.removeprefix("test/") for name in figures} == wanted


def test_it_learns_more_than_a_constant(trained):
    workdir, figures = trained
    assert figures["test/loss"] < 0.85 * figures["test/constant_loss"]
    assert figures["test/accuracy"] > figures["test/majority"] + 0.1
    lines = [json.loads(line) for line in open(workdir / "metrics.jsonl")]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[0] == pytest.approx(np.log(512), rel=1e-4)  # the head starts at zero


def test_layout_and_microbatches_change_no_shape(device_mesh):
    for changes in ({}, {"microbatches": 2}, {"masked.target": "downsampled"}):
        exp = experiment.assemble(small(**changes), mesh.make_mesh(fsdp=2))
        metrics = jax.eval_shape(exp.train_step, exp.state, exp.batch)[1]
        assert {"loss", "accuracy"} <= set(metrics)


def test_fine_tunes_a_masked_checkpoint(trained, tmp_path, device_mesh):
    source, _ = trained
    config = finetune.get_config("checkpoint,cifar10")
    config.update_from_flattened_dict(
        {
            "init_from": str(source),
            "total": "3 steps",
            "batch_size": 64,
            "optimizer.warmup": "",
            "model.image_size": (16, 24),
            "model.compute_dtype": "float32",
            "data.dataset": "digits",
        }
    )
    figures = train.run(config, tmp_path, device_mesh)
    assert figures["test/examples"] == 359
    params, description = checkpoint.read_params(tmp_path)
    names = {name for name, _ in tree.named_leaves(params)}
    assert "head/kernel" in names and "mask_token" not in names
    assert description.architecture.patch_outputs == 0
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(np.log(10), rel=1e-4)  # a new zero head


def test_a_headless_checkpoint_classifies_nothing(trained, tmp_path):
    workdir = str(trained[0])
    with pytest.raises(errors.UserError, match="no head, so it has no top-1"):
        evaluate.run(workdir, "digits")
    with pytest.raises(errors.UserError, match="no head, so it predicts no classes"):
        predict.run(workdir, [str(tmp_path / "image.png")])
    figures = evaluate.run(workdir, "digits", fewshot=True, shots=[5], seeds=1)
    assert 0 < figures["fewshot_5shot"] < 1


def test_evaluations_and_objectives_that_do_not_go_together(device_mesh):
    config = small()
    base.set_evals(config, test=base.classify("test"))
    with pytest.raises(errors.UserError, match="no head"):
        evaluations.make(experiment.assemble(config, device_mesh), lambda: None)
    config = small(objective="classification")
    with pytest.raises(errors.UserError, match="wants a run with objective"):
        evaluations.make(experiment.assemble(config, device_mesh), lambda: None)
    config = small(**{"model.name": "Mixer-S/4"})
    with pytest.raises(errors.UserError):
        experiment.assemble(config, device_mesh)
    with pytest.raises(errors.UserError, match="masked_patches"):
        experiment.assemble(small(objective="masked"), device_mesh)


@pytest.mark.parametrize("name", ["jft", "i1k", "cifar10"])
def test_recipes_assemble(name, tmp_path, device_mesh):
    config = recipes.get_config(name)
    config.data.data_dir = str(tmp_path)
    exp = experiment.assemble(config, device_mesh)
    assert exp.evaluation.task.target == "mean_color"
    if name == "jft":
        got = (config.total, config.batch_size, config.optimizer.lr)
        assert got == ("1_000_000 steps", 4096, 2e-4)
        assert exp.architecture.name == "B/16"
        assert config.optimizer.schedule == "cosine"
        assert config.optimizer.warmup == "10_000 steps"
        assert config.data.flip and config.data.train.transform == "inception_crop"
    with pytest.raises(ValueError, match="known: jft, i1k, cifar10"):
        recipes.get_config("i21k")
