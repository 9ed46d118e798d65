import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax import errors, optim, tree

PEAK = 1e-3


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "patch_embed/kernel": (2, 2, 3, 4),
        "cls": (1, 1, 4),
        "blocks/mlp/up/kernel": (2, 4, 8),
        "blocks/mlp/up/bias": (2, 8),
        "head/kernel": (4, 3),
        "head/bias": (3,),
    }
    return tree.from_named(
        {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    )


def run(tx, params, grads):
    params = jax.tree.map(jnp.asarray, params)
    state = tx.init(params)
    for grad in grads:
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


GRADS = [make_params(seed) for seed in range(1, 6)]


def adam(**options):
    options = {"schedule": optax.constant_schedule(PEAK)} | options
    return optim.make_optimizer("adam", **options)


def assert_close(actual, expected, tolerance=1e-6):
    assert [n for n, _ in tree.named_leaves(actual)] == [
        n for n, _ in tree.named_leaves(expected)
    ]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance),
        actual,
        expected,
    )


def test_adam_is_the_formula_of_the_papers_code():
    schedule = optim.make_schedule("linear", peak=PEAK, total_steps=5, warmup_steps=2)
    wd, b1, b2, epsilon = 0.1, 0.9, 0.999, 1e-8
    actual, _ = run(adam(schedule=schedule, weight_decay=wd), make_params(), GRADS)

    def by_hand(p, *grads):
        p, m, v = p.astype(np.float64), 0.0, 0.0
        for t, g in enumerate(grads):
            lr = float(schedule(t))
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * g**2
            m_hat, v_hat = m / (1 - b1 ** (t + 1)), v / (1 - b2 ** (t + 1))
            p = p - lr * m_hat / (np.sqrt(v_hat) + epsilon) - lr * wd * p
        return p

    assert_close(actual, jax.tree.map(by_hand, make_params(), *GRADS))


def test_weight_decay_of_big_vision_is_peak_times_ours():
    schedule = optim.make_schedule("cosine", peak=PEAK, total_steps=8, warmup_steps=2)
    actual, _ = run(adam(schedule=schedule, weight_decay=0.1), make_params(), GRADS)
    shape = optim.make_schedule("cosine", peak=1.0, total_steps=8, warmup_steps=2)
    big_vision = optax.chain(
        optax.scale_by_adam(),
        optax.scale(PEAK),
        optax.add_decayed_weights(PEAK * 0.1),
        optax.scale_by_schedule(shape),
        optax.scale(-1.0),
    )
    expected, _ = run(big_vision, make_params(), GRADS)
    assert_close(actual, expected)


def test_sgd_with_momentum_by_hand_and_in_bfloat16():
    schedule = optax.constant_schedule(0.03)
    tx = optim.make_optimizer("sgd", schedule=schedule, momentum=0.9)
    actual, _ = run(tx, make_params(), GRADS)

    def by_hand(p, *grads):
        trace = 0.0
        for g in grads:
            trace = 0.9 * trace + g
            p = p - 0.03 * trace
        return p

    assert_close(actual, jax.tree.map(by_hand, make_params(), *GRADS))
    half = optim.make_optimizer("sgd", schedule=schedule, accumulator_dtype="bfloat16")
    rounded, _ = run(half, make_params(), GRADS)
    assert_close(rounded, actual, tolerance=5e-3)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_the_accumulator_is_kept_in_bfloat16(name):
    tx = optim.make_optimizer(
        name, schedule=optax.constant_schedule(1.0), accumulator_dtype="bfloat16"
    )
    params, state = run(tx, make_params(), GRADS)
    leaves = tree.named_leaves(state)
    moments = [x for n, x in leaves if "/mu/" in n or "/trace/" in n]
    assert len(moments) == len(jax.tree.leaves(params))
    assert {str(x.dtype) for x in moments} == {"bfloat16"}
    second = [x for n, x in leaves if "/nu/" in n]
    assert {str(x.dtype) for x in second} <= {"float32"}
    assert {str(x.dtype) for x in jax.tree.leaves(params)} == {"float32"}


def test_clipping_bounds_the_global_norm():
    tx = optim.make_optimizer(
        "sgd", schedule=optax.constant_schedule(1.0), momentum=0.0, clip_norm=1.0
    )
    params = jax.tree.map(np.zeros_like, make_params())
    big = jax.tree.map(lambda g: 100 * g, GRADS[0])
    moved, _ = run(tx, params, [big])
    assert optax.tree.norm(moved) == pytest.approx(1.0, abs=1e-5)
    small = jax.tree.map(lambda g: 1e-3 * g, GRADS[0])
    moved, _ = run(tx, params, [small])
    assert_close(moved, jax.tree.map(np.negative, small))


def test_frozen_leaves_stay_bit_equal_without_state_or_share_in_the_norm():
    rules = ((r"^head/", 1.0), (r".*", 0.0))
    options = dict(schedule=optax.constant_schedule(0.1), clip_norm=1.0)
    tx = optim.make_optimizer("sgd", weight_decay=0.1, lr_rules=rules, **options)
    huge = [
        tree.map_named(lambda n, g: g if n.startswith("head") else 1e6 * g, grad)
        for grad in GRADS
    ]
    moved, state = run(tx, make_params(), huge)
    for name, leaf in tree.named_leaves(make_params()):
        same = np.array_equal(dict(tree.named_leaves(moved))[name], leaf)
        assert same == (not name.startswith("head")), name
    traces = [n for n, _ in tree.named_leaves(state) if "trace" in n]
    assert len(traces) == 2 and all("/head/" in n for n in traces)

    alone = optim.make_optimizer("sgd", weight_decay=0.1, **options)
    head = [{"head": grad["head"]} for grad in GRADS]
    expected, _ = run(alone, {"head": make_params()["head"]}, head)
    assert_close({"head": moved["head"]}, expected)


def test_a_rate_multiplier_scales_the_rate_of_its_leaves():
    rules = ((r"^blocks/", 0.5),)
    both, _ = run(adam(weight_decay=0.1, lr_rules=rules), make_params(), GRADS)
    whole, _ = run(adam(weight_decay=0.1), make_params(), GRADS)
    half_rate = adam(schedule=optax.constant_schedule(PEAK / 2), weight_decay=0.1)
    half, _ = run(half_rate, make_params(), GRADS)
    assert_close(both["head"], whole["head"])
    assert_close(both["blocks"], half["blocks"])


def test_decay_table_kernels_spares_everything_else():
    zero = [jax.tree.map(np.zeros_like, GRADS[0])]
    options = dict(weight_decay=0.5, decay_rules=optim.DECAY["kernels"])
    moved, _ = run(adam(**options), make_params(), zero)
    for (name, before), after in zip(
        tree.named_leaves(make_params()), jax.tree.leaves(moved)
    ):
        factor = 1 - PEAK * 0.5 if name.endswith("kernel") else 1.0
        np.testing.assert_allclose(after, before * factor, rtol=1e-6)


def test_rules_that_miss_a_leaf_are_an_error():
    tx = adam(weight_decay=0.1, decay_rules=((r"kernel$", 1.0),))
    with pytest.raises(ValueError, match="decay rules.*bias|decay rules.*cls"):
        run(tx, make_params(), GRADS)


@pytest.mark.parametrize(
    "pattern, message", [("^heads/", "found in no parameter"), ("(", "no regex")]
)
def test_a_rate_rule_without_effect_is_an_error(pattern, message):
    with pytest.raises(errors.UserError, match=message):
        adam(lr_rules=((pattern, 0.0),)).init(make_params())


@pytest.mark.parametrize(
    "kind, middle, last",
    [
        ("constant", PEAK, PEAK),
        ("linear", 1e-5 + (PEAK - 1e-5) / 2, 1e-5),
        ("cosine", PEAK / 2, 0.0),
        ("rsqrt", PEAK / np.sqrt(1 + 450 / 450), PEAK / np.sqrt(1 + 900 / 450)),
    ],
)
def test_schedules_at_their_corners(kind, middle, last):
    schedule = optim.make_schedule(
        kind, peak=PEAK, total_steps=1000, warmup_steps=100, end=1e-5, timescale=450
    )
    assert schedule(0) == 0.0
    start = optim.make_schedule(kind, peak=PEAK, total_steps=9, end=1e-5)(0)
    assert start == pytest.approx(PEAK)
    assert schedule(50) == pytest.approx(PEAK / 2, rel=1e-5)
    assert schedule(100) == pytest.approx(PEAK, rel=1e-5)
    assert schedule(550) == pytest.approx(middle, rel=1e-5)
    assert schedule(1000) == pytest.approx(last, rel=1e-4, abs=1e-9)


def test_the_decay_ends_where_the_cooldown_begins():
    schedule = optim.make_schedule(
        "linear", peak=1.0, total_steps=100, cooldown_steps=20, end=0.5
    )
    assert schedule(80) == pytest.approx(0.5)
    assert schedule(90) == pytest.approx(0.25)
    assert schedule(100) == 0.0


def test_choices_that_cannot_be():
    with pytest.raises(errors.UserError, match='Did you mean "cosine"'):
        optim.make_schedule("cosin", peak=1.0, total_steps=5)
    with pytest.raises(errors.UserError, match="do not fit into 5 steps"):
        optim.make_schedule("cosine", peak=1.0, total_steps=5, warmup_steps=6)
    with pytest.raises(errors.UserError, match="known: adam, sgd"):
        optim.make_optimizer("lamb", schedule=optax.constant_schedule(1.0))
    with pytest.raises(errors.UserError, match="accumulator_dtype"):
        adam(accumulator_dtype="float8")
