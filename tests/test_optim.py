import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax import errors, tree
from vit_jax.learning import optim, schedules

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
    schedule = schedules.make("linear", peak=PEAK, total_steps=5, warmup_steps=2)
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
    schedule = schedules.make("cosine", peak=PEAK, total_steps=8, warmup_steps=2)
    actual, _ = run(adam(schedule=schedule, weight_decay=0.1), make_params(), GRADS)
    shape = schedules.make("cosine", peak=1.0, total_steps=8, warmup_steps=2)
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


def test_rate_multipliers_leave_the_decay_alone_where_asked():
    """big_vision's lr_mults: p - lr * (m * direction + wd * p), m = 0.25 and 1."""
    decay, rules = 0.1, ((r"^blocks/", 0.25), (r"^cls", 0.0))
    options = dict(weight_decay=decay, lr_rules=rules)
    direction, _ = run(adam(), make_params(), GRADS[:1])  # p - lr * direction
    both, _ = run(adam(lr_rules_scale_decay=True, **options), make_params(), GRADS[:1])
    rate, _ = run(adam(lr_rules_scale_decay=False, **options), make_params(), GRADS[:1])
    default, _ = run(adam(**options), make_params(), GRADS[:1])
    for name, before in tree.named_leaves(make_params()):
        moved, scaled, alone, same = (
            dict(tree.named_leaves(p))[name] for p in (direction, both, rate, default)
        )
        m = {"blocks": 0.25, "cls": 0.0}.get(name.split("/")[0], 1.0)
        step, loss = moved - before, PEAK * decay * before
        np.testing.assert_allclose(scaled, before + m * (step - loss), rtol=1e-6)
        expected = before + m * step - (loss if m else 0)  # 0 freezes it either way
        np.testing.assert_allclose(alone, expected, rtol=1e-6)
        np.testing.assert_array_equal(same, scaled)


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


def test_separate_decay_of_head_and_body():
    """ScaleViT's 3.0 for the head and 0.03 for the rest, kernels alone."""
    zero = [jax.tree.map(np.zeros_like, GRADS[0])]
    rules = ((r"^head/kernel$", 100.0), *optim.DECAY["kernels"])
    moved, _ = run(adam(weight_decay=0.03, decay_rules=rules), make_params(), zero)
    for (name, before), after in zip(
        tree.named_leaves(make_params()), jax.tree.leaves(moved)
    ):
        decay = {"head": 3.0}.get(name.split("/")[0], 0.03)
        factor = 1 - PEAK * decay if name.endswith("kernel") else 1.0
        np.testing.assert_allclose(after, before * factor, rtol=1e-6)


def adafactor(**options):
    options = {"schedule": optax.constant_schedule(PEAK), "beta1": 0.0} | options
    return optim.make_optimizer("adafactor", **options)


def second_moment(g, state, beta):
    """One step of the full second moment of a leaf."""
    state = beta * state + (1 - beta) * (g**2 + 1e-30)
    return state, state


def factored(g, state, beta, rows, columns):
    """One step of the mean squares along two axes, whose outer product is used."""
    square = g**2 + 1e-30
    mean = [square.mean(axis, keepdims=True) for axis in (columns, rows)]
    state = [beta * old + (1 - beta) * new for old, new in zip(state, mean)]
    return state, state[0] * state[1] / state[0].mean(rows, keepdims=True)


def adafactor_by_hand(axes, grads, *, cap=0.999, momentum=0.9, clip=0.0):
    """Sum of the directions of one unstacked leaf; axes None: not factored."""
    shape = grads[0].shape
    state, average, total = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    if axes:
        state = [np.zeros(shape).mean(axis, keepdims=True) for axis in axes[::-1]]
    for t, g in enumerate(grads, start=1):
        beta = min(cap, 1 - t**-0.8)
        g = g.astype(np.float64)
        state, v = (factored if axes else second_moment)(g, state, beta, *(axes or ()))
        update = g / np.sqrt(v)
        if clip:
            update = update / max(1.0, np.sqrt(np.mean(update**2)) / clip)
        average = momentum * average + (1 - momentum) * update
        total = total + average
    return total


# shape of a layer -> its two largest axes, None where one of them is below 32.
SHAPES = {
    (40, 33): (0, 1),
    (33, 40): (0, 1),
    (40, 2, 36): (0, 2),  # a query kernel: [D, heads, D / heads]
    (2, 36, 40): (1, 2),  # an output kernel: [heads, D / heads, D]
    (40, 31): None,
    (64,): None,
}


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_adafactor_is_its_formula(clip):
    rng = np.random.default_rng(0)
    names = {f"leaf{i}": shape for i, shape in enumerate(SHAPES)}
    grads = [
        {n: rng.normal(size=s).astype(np.float32) for n, s in names.items()}
        for _ in range(4)
    ]
    zero = jax.tree.map(np.zeros_like, grads[0])
    tx = adafactor(beta1=0.9, update_clip=clip)
    moved, _ = run(tx, zero, grads)
    for name, shape in names.items():
        leaf = [grad[name] for grad in grads]
        expected = -PEAK * adafactor_by_hand(SHAPES[shape], leaf, clip=clip)
        np.testing.assert_allclose(moved[name], expected, rtol=2e-4, atol=1e-7)


def test_the_cap_of_adafactors_second_moment():
    grads = [{"w": g * np.ones(3, np.float32)} for g in (1.0, 2.0, 3.0, 4.0)]
    zero = {"w": np.zeros(3, np.float32)}
    for cap in (0.3, 0.999):
        moved, _ = run(adafactor(beta1=0.5, beta2=cap), zero, grads)
        leaf = [grad["w"] for grad in grads]
        expected = -PEAK * adafactor_by_hand(None, leaf, cap=cap, momentum=0.5)
        np.testing.assert_allclose(moved["w"], expected, rtol=1e-4)


@pytest.mark.slow
def test_adafactor_treats_stacked_layers_as_leaves_of_their_own():
    """Also where the depth is one of the two largest axes, as of the biases of G/14."""
    depth, rng = 48, np.random.default_rng(1)
    shapes = {"mlp/up/kernel": (33, 40), "mlp/up/bias": (40,), "query": (36, 2, 33)}
    grads = [
        tree.from_named(
            {
                f"blocks/{name}": rng.normal(size=(depth, *shape)).astype(np.float32)
                for name, shape in shapes.items()
            }
        )
        for _ in range(3)
    ]
    zero = jax.tree.map(np.zeros_like, grads[0])
    tx = adafactor(beta1=0.9, update_clip=0.7)
    moved, state = run(tx, zero, grads)
    for layer in (0, depth - 1):
        alone = [
            jax.tree.map(lambda g, i=layer: g[i], grad["blocks"]) for grad in grads
        ]
        expected, _ = run(tx, jax.tree.map(np.zeros_like, alone[0]), alone)
        got = jax.tree.map(lambda leaf, i=layer: leaf[i], moved["blocks"])
        assert_close(got, expected)
    sizes = {n.split("inner_state/")[-1]: x.shape for n, x in tree.named_leaves(state)}
    found = {n: s for n, s in sizes.items() if "v_" in n and "kernel" in n}
    assert sorted(s for s in found.values()) == [(depth, 33), (depth, 40)]


def test_adafactor_averages_in_bfloat16_and_needs_no_state_for_frozen_leaves():
    params = make_params() | {"wide": np.ones((64, 96), np.float32)}
    grads = [grad | {"wide": params["wide"]} for grad in GRADS]
    options = dict(beta1=0.9, lr_rules=((r"^head/", 0.0),))
    exact, _ = run(adafactor(**options), params, grads)
    half, state = run(adafactor(accumulator_dtype="bfloat16", **options), params, grads)
    assert_close(half, exact, tolerance=1e-4)
    leaves = tree.named_leaves(state)
    averages = [x for n, x in leaves if "/ema/" in n]
    assert {str(x.dtype) for x in averages} == {"bfloat16"}
    assert not [n for n, _ in leaves if "/head/" in n]
    second = sum(x.size for n, x in leaves if "/v" in n and n.endswith("/wide"))
    assert second == 64 + 96 + 1  # 1: in place of the whole
    assert np.array_equal(exact["head"]["kernel"], params["head"]["kernel"])


@pytest.mark.parametrize(
    "pattern, message", [("^heads/", "found in no parameter"), ("(", "no regex")]
)
def test_a_rate_rule_without_effect_is_an_error(pattern, message):
    with pytest.raises(errors.UserError, match=f"lr_rules: .*{message}"):
        adam(lr_rules=((pattern, 0.0),)).init(make_params())
    rules = ((pattern, 0.0), *optim.DECAY["all"])
    with pytest.raises(errors.UserError, match=f"decay_rules: .*{message}"):
        adam(decay_rules=rules).init(make_params())


def test_choices_that_cannot_be():
    with pytest.raises(
        errors.UserError, match="known: adafactor, adam, lamb, muon, sgd"
    ):
        optim.make_optimizer("lion", schedule=optax.constant_schedule(1.0))
    with pytest.raises(errors.UserError, match="accumulator_dtype"):
        adam(accumulator_dtype="float8")
