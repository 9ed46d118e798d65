import dataclasses
import functools
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vit_jax
from benchmarks import unchanged
from vit_jax import errors, experiment, models, train, tree
from vit_jax.checkpoints import checkpoint
from vit_jax.data import augment, catalog
from vit_jax.learning import classification, losses, objective, schedules
from vit_jax.parallel import memory, mesh
from vit_jax.runs import starting

LOGITS = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
INTS = np.array([0, 4, 2, 2, 1, 3], np.int32)
MULTI = np.array(np.random.default_rng(1).random((6, 5)) < 0.4, np.float32)


def loss_of(loss, label, *, logits=LOGITS, label_smoothing=0.0):
    loss_fn = classification.make_loss(
        lambda params, images, key: params * images,
        loss=loss,
        label_smoothing=label_smoothing,
        num_classes=logits.shape[1],
    )
    batch = {"image": jnp.asarray(logits), "label": jnp.asarray(label)}
    value, metrics = jax.jit(loss_fn)(jnp.float32(1.0), batch, jax.random.key(0))
    assert metrics["loss"] == value
    return {name: float(value) for name, value in metrics.items()}


def test_sigmoid_at_the_papers_start():
    classes = 21843
    logits = np.full((2, classes), -10.0, np.float32)
    expected = 10.0000454 + (classes - 1) * 4.53989e-5
    value = loss_of("sigmoid", np.array([3, 7], np.int32), logits=logits)["loss"]
    assert value == pytest.approx(expected, rel=1e-5)


def test_softmax_of_a_zero_head_is_log_of_the_classes():
    logits = np.zeros((4, 10), np.float32)
    value = loss_of("softmax", np.zeros(4, np.int32), logits=logits)["loss"]
    assert value == pytest.approx(np.log(10), rel=1e-6)


def test_sigmoid_by_hand():
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    expected = -(MULTI * np.log(p) + (1 - MULTI) * np.log1p(-p)).sum(1).mean()
    assert loss_of("sigmoid", MULTI)["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("amount", [0.0, 0.1])
def test_integer_labels_are_one_hot_labels(loss, amount):
    one_hot = np.eye(5, dtype=np.float32)[INTS]
    a = loss_of(loss, INTS, label_smoothing=amount)
    b = loss_of(loss, one_hot, label_smoothing=amount)
    assert a == b


def test_smoothing_moves_off_and_on_for_sigmoids_and_mixes_for_softmax():
    one_hot = np.eye(5, dtype=np.float32)[INTS]
    off_on = one_hot * (1 - 1e-4) + (1 - one_hot) * 1e-4
    a = loss_of("sigmoid", INTS, label_smoothing=1e-4)["loss"]
    assert a == pytest.approx(loss_of("sigmoid", off_on)["loss"], rel=1e-6)
    uniform = one_hot * 0.9 + 0.1 / 5
    b = loss_of("softmax", INTS, label_smoothing=0.1)["loss"]
    assert b == pytest.approx(loss_of("softmax", uniform)["loss"], rel=1e-6)
    np.testing.assert_allclose(
        np.asarray(losses.smooth_uniform(one_hot, 0.1)).sum(1), 1.0, rtol=1e-6
    )


def test_bce_is_a_mean_over_classes_of_all_that_was_mixed_in():
    """DeiT III: a target of 0.2 is as good as 1; smoothing would be of all classes."""
    mixed = 0.8 * MULTI + 0.2 * np.roll(MULTI, 1, axis=0)
    present = (mixed > 0).astype(np.float32)
    a = loss_of("bce", mixed)["loss"]
    assert a == pytest.approx(loss_of("sigmoid", present)["loss"] / 5, rel=1e-6)
    probabilities = 1 / (1 + np.exp(-LOGITS))
    chosen = np.where(present > 0, probabilities, 1 - probabilities)
    assert a == pytest.approx(-np.log(chosen).mean(), rel=1e-5)
    with pytest.raises(errors.UserError, match="label_smoothing=0.1 with loss='bce'"):
        loss_of("bce", mixed, label_smoothing=0.1)
    assert losses.problem_of("bce") == losses.problem_of("sigmoid") == "multi_label"


def test_accuracy_counts_any_of_the_labels():
    best = LOGITS.argmax(1)
    single = loss_of("softmax", INTS)["accuracy"]
    assert single == pytest.approx(np.mean(best == INTS))
    multi = loss_of("sigmoid", MULTI, label_smoothing=0.3)["accuracy"]
    assert multi == pytest.approx(np.mean(MULTI[np.arange(6), best]))


def test_bfloat16_logits_are_scored_in_float32():
    half = jnp.asarray(LOGITS, jnp.bfloat16)
    for loss in losses.LOSSES.values():
        assert loss.per_example(half, jnp.asarray(MULTI)).dtype == jnp.float32


def test_an_unknown_loss_names_the_choices():
    with pytest.raises(errors.UserError, match="known: bce, sigmoid, softmax"):
        loss_of("hinge", INTS)


def soft_targets(teacher, pixels, temperature):
    return jax.nn.softmax(teacher(pixels) / temperature)


@dataclasses.dataclass(frozen=True)
class Distillation:
    """Towards the probabilities of a fixed model, whatever the labels."""

    info: catalog.DatasetInfo
    path: str
    label_smoothing: float
    closed_over: bool = False

    @property
    def temperature(self):
        return 1 + self.label_smoothing

    def outputs(self, architecture):
        return architecture

    def labels(self, rows):
        return losses.labels_of(self.info, rows)

    def frozen(self):
        return () if self.closed_over else (self.path,)

    def make_loss(self, bound):
        apply = classification.apply_in_training(bound)

        def loss_fn(params, batch, key, *frozen):
            images = batch["image"]
            if self.closed_over:
                teacher, pixels = vit_jax.load(self.path).model, bound.pixels(images)
            else:
                (beside,) = bound.beside
                teacher, pixels = beside.model(frozen[0]), beside.pixels(images)
            logits = apply(params, images, key)
            targets = soft_targets(teacher, pixels, self.temperature)
            loss = losses.softmax_xent(logits, targets).mean()
            return loss, {"loss": loss}

        return loss_fn

    def make_evaluation(self, bound):
        return self


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    architecture = models.architecture("mu/16", num_classes=10, image_size=32)
    architecture = architecture.replace(posemb_std=1.0, compute_dtype="float32")
    model = models.create(architecture.replace(depth=2), rngs=nnx.Rngs(1))
    kernel = model.head.kernel
    kernel[...] = jax.random.normal(jax.random.key(2), kernel.shape)
    folder = tmp_path_factory.mktemp("teacher")
    vit_jax.save(model, folder)
    return model, str(folder)


def distilled(monkeypatch, path, *, closed_over=False, devices=None, **changes):
    """The run, the weights of its teacher, and a batch."""
    make = functools.partial(Distillation, path=path, closed_over=closed_over)
    row = objective.Row(make, ("label_smoothing",))
    monkeypatch.setitem(objective.OBJECTIVES, "distillation", row)
    config = unchanged.small_config(
        **{"objective": "distillation", "label_smoothing": 0.5, "optimizer.warmup": ""}
        | changes
    )
    exp = experiment.assemble(config, experiment.make_mesh(config, devices))
    return exp, starting.frozen(exp), unchanged.drawn_batch(config, 0)


def test_an_objective_is_a_file_and_a_row(monkeypatch, teacher):
    """Here one with a second model; the assembly trains it as it is."""
    model, path = teacher
    exp, frozen, batch = distilled(monkeypatch, path)
    assert exp.evaluation.temperature == 1.5
    state = exp.init()
    targets = soft_targets(model, jnp.asarray(batch["image"]) / 127.5 - 1, 1.5)
    logits = exp.forward(state.params, batch["image"])["logits"]
    expected = float(losses.softmax_xent(logits, targets).mean())
    seen = []
    for _ in range(4):
        state, metrics = exp.train_step(state, batch, *frozen)
        seen.append(float(metrics["loss"]))
    assert seen[0] == pytest.approx(expected, rel=1e-5)
    assert seen == sorted(seen, reverse=True) and seen[-1] < seen[0] - 1e-3
    # Neither given away nor changed.
    left = dict(tree.named_leaves(frozen[0]))
    for name, leaf in tree.named_leaves(models.split(model)[1]):
        np.testing.assert_array_equal(left[name], leaf)


def largest_constant(compiled):
    """Elements of the largest constant of an optimized program."""
    shapes = re.findall(r"= \w+\[([\d,]*)\]\S* constant\(", compiled.as_text())
    assert shapes, "no constants were found at all"
    return max(math.prod(int(n) for n in shape.split(",") if n) for shape in shapes)


def test_frozen_weights_are_arguments_and_no_constants(monkeypatch, teacher):
    """To the bit the losses of a teacher that is closed over, which a program holds."""
    one = jax.devices()[:1]
    found, constants = [], []
    for closed_over in (False, True):
        options = {"closed_over": closed_over, "devices": one}
        exp, frozen, batch = distilled(monkeypatch, teacher[1], **options)
        compiled = exp.train_step.lower(*exp.arguments).compile()
        constants.append(largest_constant(compiled))
        state, seen = exp.init(), []
        for _ in range(3):
            state, metrics = compiled(state, batch, *frozen)
            seen.append(float(metrics["loss"]))
        found.append(seen)
    assert constants[0] <= 1024 < constants[1]
    assert found[0] == found[1]


@pytest.mark.slow
def test_frozen_weights_are_laid_out_as_those_that_are_trained(monkeypatch, teacher):
    losses_of = {}
    for layout, microbatches in (("dp", 1), ("fsdp", 1), ("zero1", 2)):
        sharded = {"mesh.fsdp": 1 if layout == "dp" else 8, "mesh.layout": layout}
        parts = {"microbatches": microbatches, "model.compute_dtype": "float32"}
        exp, frozen, batch = distilled(monkeypatch, teacher[1], **sharded, **parts)
        step, found = memory.compile_step(
            *(exp.train_step, exp.state, exp.batch, exp.mesh),
            **{"layout": layout, "remat": "none", "microbatches": microbatches},
            frozen=[one.params for one in exp.frozen],
        )
        beside = [one.params for one in exp.frozen]
        read = exp.state, exp.batch["image"], beside  # nobody reads labels here
        assert found.arguments == memory.bytes_per_device(read)
        assert largest_constant(step) <= 1024
        kernel = frozen[0]["blocks"]["mlp"]["up"]["kernel"]
        assert (
            kernel.sharding
            == exp.frozen[0].params["blocks"]["mlp"]["up"]["kernel"].sharding
        )
        parts_of = math.prod(kernel.shape) // math.prod(
            kernel.sharding.shard_shape(kernel.shape)
        )
        assert parts_of == exp.mesh.shape["fsdp"]
        state, seen = exp.init(), []
        for _ in range(3):
            state, metrics = step(state, mesh.to_global(batch, exp.mesh), *frozen)
            seen.append(float(metrics["loss"]))
        losses_of[layout] = seen
    for layout in ("fsdp", "zero1"):
        np.testing.assert_allclose(losses_of[layout], losses_of["dp"], rtol=1e-5)


def test_a_run_reads_its_teacher_and_saves_nothing_of_it(
    monkeypatch, teacher, tmp_path
):
    exp, _, _ = distilled(monkeypatch, teacher[1], total="2 steps")
    config = exp.config | {"log_every": "1 steps"}
    train.run(config, tmp_path, exp.mesh)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert all(math.isfinite(json.loads(line)["loss"]) for line in lines)
    stored = checkpoint.StoredParams(tmp_path)
    assert set(stored.shapes) == {
        name for name, _ in tree.named_leaves(exp.state.params)
    }


def mixup(weight, classes):
    """Each image with its neighbour in the batch, labels and all."""

    def mix(batch, key):
        del key
        label = losses.multi_hot(batch["label"], classes)
        both = batch | {"label": label, "image": batch["image"].astype(jnp.float32)}
        return {
            name: (1 - weight) * x + weight * jnp.roll(x, 1, axis=0)
            for name, x in both.items()
        }

    return mix


def test_an_augmentation_that_mixes_labels_is_a_row(monkeypatch):
    monkeypatch.setitem(augment.AUGMENTATIONS, "mixup", mixup)
    config = unchanged.small_config()
    with config.unlocked():
        config.data.mixup = 0.3
    exp = experiment.assemble(config, experiment.make_mesh(config))
    state, batch = exp.init(), unchanged.drawn_batch(config, 0)
    mixed = mixup(0.3, 10)({k: jnp.asarray(v) for k, v in batch.items()}, None)
    logits = exp.forward(state.params, mixed["image"])["logits"]
    expected = float(losses.softmax_xent(logits, mixed["label"]).mean())
    _, metrics = exp.train_step(state, batch)
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-6)


def poisoned(value, classes):
    """Batches whose first label is `value` have no numbers in their images."""

    def poison(batch, key):
        bad = jnp.where(batch["label"][0] == value, jnp.nan, 0.0)
        return batch | {"image": batch["image"] + bad}

    return poison


def test_a_bad_step_changes_nothing_and_costs_the_schedule_nothing(monkeypatch):
    monkeypatch.setitem(augment.AUGMENTATIONS, "poisoned", poisoned)
    plain = {"optimizer.name": "sgd", "optimizer.momentum": 0.0, "ema": 0.5}
    plain |= {"optimizer.weight_decay": 0.0, "optimizer.clip_norm": 0.0}
    config = unchanged.small_config(skip_bad_steps=1, **plain)
    with config.unlocked():
        config.data.poisoned = 9
    exp = experiment.assemble(config, experiment.make_mesh(config, jax.devices()[:1]))
    rates = schedules.Rates(exp.schedule, exp.durations.total)
    batch = unchanged.drawn_batch(config, 0)
    labels = np.array(batch["label"])
    state = exp.init()
    for step, first in enumerate((1, 9, 9, 1, 9, 1)):
        labels[0] = first
        before = jax.device_get(state)
        state, metrics = exp.train_step(state, batch | {"label": labels})
        after = jax.device_get(state)
        assert metrics["skipped"] == (first == 9) and after.step == step + 1
        if first == 9:
            bits = [
                [x.tobytes() for x in jax.tree.leaves((s.params, s.opt_state, s.ema))]
                for s in (before, after)
            ]
            assert bits[0] == bits[1] and not math.isfinite(metrics["loss"])
        elif step:
            apart = jax.tree.map(np.subtract, after.params, before.params)
            moved = float(optax.tree.norm(apart))
            rate = moved / float(metrics["grad_norm"])
            assert rate == pytest.approx(rates[step], rel=1e-4)
            assert abs(rates[step] - rates[step - 1]) > 0.01 * rates[step]


def test_an_unknown_objective_names_the_choices():
    config = unchanged.small_config(objective="clasification")
    with pytest.raises(errors.UserError, match='mean "classification"'):
        experiment.assemble(config, experiment.make_mesh(config))
