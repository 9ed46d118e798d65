"""The training step on a problem whose gradients are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vit_jax.learning import step
from vit_jax.parallel import mesh

ROWS = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)


def loss_fn(params, batch, key):
    residual = batch["x"] @ params["w"] - 1.0
    loss = jnp.mean(jnp.square(residual))
    return loss, {"loss": loss}


def fresh(tx, ema=False):
    return step.init_state({"w": jnp.arange(5.0)}, tx, ema=ema)


def run(steps=3, ema_decay=0.0, **options):
    tx = optax.sgd(0.05)
    train_step = step.make_train_step(
        loss_fn, tx, seed=0, ema_decay=ema_decay, **options
    )
    state = fresh(tx, ema=ema_decay > 0)
    for _ in range(steps):
        state, metrics = jax.jit(train_step)(state, {"x": jnp.asarray(ROWS)})
    return state, metrics


def test_equals_the_formula():
    w = np.arange(5.0, dtype=np.float32)
    for _ in range(3):
        w = w - 0.05 * 2 * ROWS.T @ (ROWS @ w - 1.0) / len(ROWS)
    state, _ = run()
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-5)
    assert state.step == 3


def test_microbatches_equal_the_full_batch():
    whole, whole_metrics = run()
    for microbatches in (2, 4, 16):
        parts, metrics = run(microbatches=microbatches)
        np.testing.assert_allclose(parts.params["w"], whole.params["w"], rtol=1e-5)
        np.testing.assert_allclose(metrics["loss"], whole_metrics["loss"], rtol=1e-5)


def test_microbatches_stay_spread_over_the_devices():
    """Row i of every microbatch is on the device that held its block of the batch."""
    device_mesh = mesh.make_mesh()
    batch = mesh.to_global({"x": np.arange(16.0)[:, None]}, device_mesh)
    seen = []

    def spy(params, rows, key):
        jax.debug.callback(lambda x: seen.append(np.asarray(x).ravel()), rows["x"])
        return jnp.sum(rows["x"] * params["w"][0]), {}

    tx = optax.sgd(0.0)
    train_step = step.make_train_step(spy, tx, seed=0, microbatches=2)
    state, _ = jax.jit(train_step)(fresh(tx), batch)
    jax.block_until_ready(state)
    jax.effects_barrier()
    assert sorted(tuple(s) for s in seen) == [
        tuple(np.arange(0.0, 16, 2)),
        tuple(np.arange(1.0, 16, 2)),
    ]


def test_polyak_average():
    state, _ = run(steps=1, ema_decay=0.9)
    expected = 0.9 * np.arange(5.0) + 0.1 * np.asarray(state.params["w"])
    np.testing.assert_allclose(state.ema["w"], expected, rtol=1e-6)


def test_polyak_average_with_a_warm_up():
    """(1 + n) / (10 + n) after n steps, where that is less than the factor."""
    average = w = np.arange(5.0, dtype=np.float32)
    for n in (1, 2, 3):
        w = w - 0.05 * 2 * ROWS.T @ (ROWS @ w - 1.0) / len(ROWS)
        factor = min(0.22, (1 + n) / (10 + n))
        average = factor * average + (1 - factor) * w
    state, _ = run(steps=3, ema_decay=0.22, ema_warmup=True)
    np.testing.assert_allclose(state.ema["w"], average, rtol=1e-5)
    plain, _ = run(steps=3, ema_decay=0.22)
    assert not np.allclose(state.ema["w"], plain.ema["w"], rtol=1e-4)


def test_randomness_is_a_function_of_seed_and_step():
    def noisy(params, batch, key):
        return jnp.sum(params["w"] * jax.random.normal(key, (5,))), {}

    tx = optax.sgd(1.0)
    train_step = jax.jit(step.make_train_step(noisy, tx, seed=3))
    batch = {"x": jnp.asarray(ROWS)}
    first, _ = train_step(fresh(tx), batch)
    second, _ = train_step(first, batch)
    again, _ = train_step(first, batch)
    np.testing.assert_array_equal(second.params["w"], again.params["w"])
    moved = np.asarray(second.params["w"] - first.params["w"])
    assert not np.allclose(moved, np.asarray(first.params["w"]) - np.arange(5.0))


def test_non_finite_leaves_show_in_grad_squares():
    def bad(params, batch, key):
        return jnp.sum(params["a"]) + jnp.sum(params["b"]) * jnp.inf, {}

    tx = optax.sgd(1.0)
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    _, metrics = step.make_train_step(bad, tx, seed=0)(
        step.init_state(params, tx, ema=False), {}
    )
    assert list(np.isfinite(metrics["grad_squares"])) == [True, False]


def lowered(train_step, tx, **options):
    batch = {"x": jnp.asarray(ROWS)}
    return jax.jit(train_step).lower(fresh(tx, **options), batch).as_text()


def test_without_a_verdict_the_program_is_that_of_a_plain_step():
    tx = optax.adam(0.1)

    def train_step(state, batch):
        _, key = jax.random.split(step.step_key(0, state.step))
        grads, metrics = jax.grad(loss_fn, has_aux=True)(state.params, batch, key)
        squares = jnp.stack([jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)])
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = optax.incremental_update(params, state.ema, 1.0 - 0.9)
        metrics |= {"grad_norm": jnp.sqrt(squares.sum()), "grad_squares": squares}
        return step.TrainState(state.step + 1, params, opt_state, ema), metrics

    plain = lowered(train_step, tx, ema=True)
    ours = step.make_train_step(loss_fn, tx, seed=0, ema_decay=0.9)
    assert lowered(ours, tx, ema=True) == plain
    asked = step.make_train_step(
        loss_fn, tx, seed=0, ema_decay=0.9, verdict=lambda loss, norm, _: norm < 1.0
    )
    assert lowered(asked, tx, ema=True) != plain


def test_an_update_that_is_not_taken_leaves_the_state_to_the_bit():
    """Also where a gradient is no number; the optimizer's own count stays too."""

    def fragile(params, batch, key):
        loss = jnp.mean(jnp.square(batch["x"] @ params["w"] - 1.0))
        return loss, {"loss": loss}

    tx = optax.adam(optax.linear_schedule(0.1, 0.0, 10))
    train_step = jax.jit(
        step.make_train_step(
            fragile,
            tx,
            seed=0,
            ema_decay=0.9,
            verdict=step.verdict(1, 0.0),
        ),
    )
    good, bad = {"x": jnp.asarray(ROWS)}, {"x": jnp.asarray(ROWS).at[3, 2].set(np.nan)}
    first, metrics = train_step(fresh(tx, ema=True), good)
    assert metrics["skipped"] == 0
    after, metrics = train_step(first, bad)
    assert metrics["skipped"] == 1 and np.isnan(metrics["grad_norm"])
    assert (first.step, after.step) == (1, 2)
    for name in ("params", "opt_state", "ema"):
        before, now = (jax.tree.leaves(getattr(s, name)) for s in (first, after))
        assert [a.tobytes() for a in map(np.asarray, now)] == [
            a.tobytes() for a in map(np.asarray, before)
        ]
    plain = jax.jit(step.make_train_step(fragile, tx, seed=0, ema_decay=0.9))
    expected, _ = plain(first, good)
    again, metrics = train_step(after, good)
    assert metrics["skipped"] == 0
    # Another program, which may round its sums in another order.
    np.testing.assert_allclose(again.params["w"], expected.params["w"], rtol=1e-6)


def test_augmentations_come_one_after_the_other_each_with_its_own_key():
    def noise(batch, key):
        return batch | {"x": 2 * batch["x"] + jax.random.normal(key, (16, 1))}

    def spy(params, batch, key):
        seen = {"loss": 0.0 * params["w"].sum(), "x": batch["x"]}
        return seen["loss"], seen | {"key": jax.random.key_data(key)}

    def of(count):
        options = {"seed": 7, "augmentations": [noise] * count}
        train_step = step.make_train_step(spy, optax.sgd(0.0), **options)
        seen = train_step(fresh(optax.sgd(0.0)), {"x": jnp.zeros((16, 1))})[1]
        return np.asarray(seen["x"]).ravel(), np.asarray(seen["key"])

    (none, key), (one, same), (two, again) = of(0), of(1), of(2)
    assert (none == 0).all() and (key == same).all() and (key == again).all()
    second = two - 2 * one
    assert abs(np.corrcoef(one, second)[0, 1]) < 0.9
    drawn = jax.random.normal(jax.random.split(step.step_key(7, 0))[0], (16, 1))
    np.testing.assert_array_equal(one, np.asarray(drawn).ravel())
