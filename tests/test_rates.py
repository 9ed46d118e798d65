"""What is trained, and how fast: by leaf and, where blocks are stacked, by layer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base
from vit_jax import errors, experiment, models, tree
from vit_jax.learning import optim, rates
from vit_jax.models import vit
from vit_jax.runs import overview

DECAY = 0.75
CLASSES = 10


def shapes(name="mu/8", **options):
    arch = models.architecture(
        name, num_classes=CLASSES, image_size=options.pop("image_size", 32), **options
    )
    return models.abstract(arch)[1]


def drawn(like, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), like
    )


def power_of(name, shape):
    """timm's and BEiT's exponent of each layer of a leaf, by hand."""
    depth = 3
    first = name.split("/")[0]
    if first in ("patch_embed", "cls", "posemb", "resnet"):
        return [depth + 1]
    if first == "blocks":
        assert shape[0] == depth
        return [3, 2, 1]
    return [0]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mu/8", {"depth": 3, "pool": "map"}),
        ("R+mu/16", {"depth": 3}),
        ("Mixer-S/16", {"depth": 3}),
    ],
)
def test_rates_by_layer_are_exact_powers(name, options):
    """With momentum 0 and gradients of one the update is the rate itself."""
    like = shapes(name, **options)
    rules = ((r"mlp/up/kernel|tokens/up/kernel", 0.5),)
    found = rates.make(like, layer_decay=DECAY, lr_rules=rules)
    tx = optim.make_optimizer(
        "sgd",
        schedule=optax.constant_schedule(1.0),
        momentum=0.0,
        lr_rules=rules,
        multiplier=found.of,
    )
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), like)
    updates, _ = jax.jit(tx.update)(ones, tx.init(ones), ones)
    for leaf, update in tree.named_leaves(updates):
        rule = 0.5 if leaf.endswith(("mlp/up/kernel", "tokens/up/kernel")) else 1.0
        for row, power in enumerate(power_of(leaf, update.shape)):
            expected = np.float32(rule * DECAY**power)  # 3^k / 4^k is exact in float64
            got = np.asarray(update[row] if leaf.startswith("blocks/") else update)
            np.testing.assert_array_equal(got, -np.full_like(got, expected), leaf)


@pytest.mark.parametrize("name", ["adam", "sgd", "adafactor", "lamb", "muon"])
def test_a_layer_learns_as_a_run_of_its_rate(name):
    """Layer by layer the step is that of the optimizer at the rate 0.75^k."""
    sizes = {"mlp/up/kernel": (3, 8, 12), "norm1/scale": (3, 8)}
    like = tree.from_named(
        {f"blocks/{n}": jax.ShapeDtypeStruct(s, jnp.float32) for n, s in sizes.items()}
    )
    params, grads = drawn(like), [drawn(like, seed) for seed in (1, 2, 3)]
    options = {"weight_decay": 0.1, "factor_from": 8}

    def moved(rate, **more):
        tx = optim.make_optimizer(
            name, schedule=optax.constant_schedule(rate), **options, **more
        )
        update = jax.jit(tx.update)
        state, now = tx.init(params), params
        for grad in grads:
            updates, state = update(grad, state, now)
            now = optax.apply_updates(now, updates)
        return dict(tree.named_leaves(now))

    found = rates.make(like, layer_decay=DECAY)
    decayed = moved(1e-2, multiplier=found.of)
    for layer, power in enumerate((3, 2, 1)):
        for leaf, value in moved(1e-2 * DECAY**power).items():
            np.testing.assert_allclose(
                *(decayed[leaf][layer], value[layer]), rtol=2e-5, atol=1e-6
            )


def test_stages_of_a_resnet_are_its_layers():
    like = shapes("BiT-R50x1", image_size=64)
    found = rates.make(like, layer_decay=0.5, freeze="stages[:1]")
    got = {n.split("/")[0]: f for n, f in found.factors.items()}
    assert got == {
        **{"root": 0.5**5, "stage1": 0.0, "stage2": 0.5**3, "stage3": 0.25},
        **{"stage4": 0.5, "norm": 1.0, "head": 1.0},
    }


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        ("steam", 'optimizer.freeze.*steam.*Did you mean "stem"|stem'),
        ("stages", "has no stages; it has .*blocks"),
        ("blocks[:4]", r"0 to 4 of 3; want some"),
        ("blocks[2:1]", r"2 to 1 of 3; want some"),
        ("all", "freezes everything"),
    ],
)
def test_a_part_that_is_not_there_is_an_error(freeze, message):
    with pytest.raises(errors.UserError, match=message):
        rates.make(shapes(depth=3), freeze=freeze)


def test_a_model_without_layers_has_no_layer_decay():
    only = {"head": {"kernel": jax.ShapeDtypeStruct((4, 2), jnp.float32)}}
    with pytest.raises(errors.UserError, match="neither blocks nor stages"):
        rates.make(only, layer_decay=DECAY)


def small_config(**changes):
    config = base.get_config()
    config.update_from_flattened_dict(
        {"total": "6 steps", "batch_size": 16, "loss": "softmax"}
        | {"model.name": "mu/8", "model.image_size": (32, 32), "model.mlp_width": 64}
        | {"model.depth": 3, "model.pre_logits": False, "model.remat": "none"}
        | {"model.unroll": 1, "model.compute_dtype": "float32"}
        | {"mesh.layout": "dp", "ema": 0.9}
        | {"data.dataset": "digits", "optimizer.lr": 1e-2, "optimizer.warmup": ""}
        | changes
    )
    return config


def batch_of(config, step=0):
    rng = np.random.default_rng(step)
    rows = config.batch_size
    images = rng.integers(0, 256, (rows, 32, 32, 3)).astype(np.uint8)
    return {"image": images, "label": rng.integers(0, 10, rows).astype(np.int32)}


def assembled(devices=1, **changes):
    config = small_config(**changes)
    mesh = experiment.make_mesh(config, jax.devices()[:devices])
    return config, experiment.assemble(config, mesh)


def steps(devices=1, count=2, **changes):
    """The states before and after, on the host."""
    config, exp = assembled(devices, **changes)
    state = exp.init()
    # What a checkpoint may hold, and adding 0.0 would change.
    for params in (state.params, state.ema):
        params["patch_embed"]["bias"] = -params["patch_embed"]["bias"]
    before = jax.tree.map(np.asarray, state)
    for step in range(count):
        state, values = exp.train_step(state, batch_of(config, step))
    return exp, before, jax.tree.map(np.asarray, state), values


def same_bits(a, b):
    return a.tobytes() == b.tobytes()


FREEZES = {
    "stem+blocks[:2]": lambda name, layer: (
        name.startswith(("cls", "posemb", "patch_embed"))
        or (name.startswith("blocks/") and layer < 2)
    ),
    "all-norms-head": lambda name, layer: not ("norm" in name or "head" in name),
    "all-head": lambda name, layer: not name.startswith("head"),
    "blocks[1]": lambda name, layer: name.startswith("blocks/") and layer == 1,
}


@pytest.mark.parametrize("freeze", FREEZES)
def test_what_is_frozen_keeps_its_bits(freeze):
    """Parameters and averages alike; what is not frozen moves."""
    exp, before, after, values = steps(
        **{"optimizer.freeze": freeze, "optimizer.clip_norm": 1.0}
    )
    rows = dict(tree.named_leaves(after.params))
    average = dict(tree.named_leaves(after.ema))
    for name, old in tree.named_leaves(before.params):
        for layer in range(3 if name.startswith("blocks/") else 1):
            at = layer if name.startswith("blocks/") else ...
            kept = same_bits(old[at], rows[name][at])
            # Attention gives no gradient to the biases of keys, the head none at first.
            moves = FREEZES[freeze](name, layer) or not np.array_equal(old, rows[name])
            assert kept == FREEZES[freeze](name, layer) or not moves, (name, layer)
            if FREEZES[freeze](name, layer):
                assert kept and same_bits(old[at], average[name][at]), (name, layer)
    states = {n for n, _ in tree.named_leaves(exp.state.opt_state) if "/mu/" in n}
    for name in rows:
        whole = all(FREEZES[freeze](name, layer) for layer in range(3))
        assert whole != any(n.endswith(f"/mu/{name}") for n in states), name
    named = dict(zip(rows, values["grad_squares"]))
    assert named["head/kernel"] > 0
    if freeze == "stem+blocks[:2]":
        assert named["patch_embed/kernel"] == 0


@pytest.mark.slow
def test_frozen_blocks_learn_as_if_the_others_were_alone():
    """The gradients of what is trained are those of the whole model."""
    norms = []
    for freeze in ("", "stem+blocks[:2]"):
        config, exp = assembled(**{"optimizer.freeze": freeze})
        state = exp.init()
        names = [name for name, _ in tree.named_leaves(state.params)]
        state.params["head"] = drawn(exp.state.params["head"])  # zeros give none below
        _, values = exp.train_step(state, batch_of(config))
        norms.append(dict(zip(names, np.asarray(values["grad_squares"]))))
    whole, part = norms
    assert part["cls"] == part["patch_embed/kernel"] == 0 < whole["cls"]
    for name in ("norm/scale", "head/kernel"):
        np.testing.assert_allclose(part[name], whole[name], rtol=1e-5)
    for name in ("blocks/mlp/up/kernel", "blocks/attn/value/kernel"):
        assert 0 < part[name] < 0.9 * whole[name]


def test_a_split_loop_is_the_loop():
    """Dropout, dropped branches and what is tapped are those of one loop."""
    options = {"dropout": 0.3, "drop_path": 0.2, "remat": "full", "unroll": 1}
    arch = models.architecture(
        "mu/8", num_classes=CLASSES, image_size=32, depth=3, **options
    )
    graphdef, like = models.abstract(arch)
    model = models.merge(graphdef, drawn(like))
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    results = []
    for frozen in (0, 2):
        taps: dict = {}
        results.append(
            model._features(
                *(images, taps),
                deterministic=False,
                rngs=vit.nnx.Rngs(dropout=1),
                placement=models.placement.Placement(frozen=frozen),
            )
        )
        results.append(taps["attention/2"])
    np.testing.assert_allclose(results[0], results[2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(results[1], results[3], rtol=1e-5, atol=1e-6)


def flops(**changes):
    config, exp = assembled(**{"model.unroll": 0} | changes)
    lowered = exp.train_step.lower(exp.state, exp.batch)
    return lowered.cost_analysis()["flops"]


def test_what_is_frozen_costs_no_gradient():
    whole = flops()
    forward = whole / 3
    assert flops(**{"optimizer.freeze": "all-head"}) < 1.2 * forward
    assert flops(**{"optimizer.freeze": "stem+blocks[:2]"}) < 0.65 * whole
    assert flops(**{"optimizer.freeze": "all-norms-head"}) < 0.8 * whole


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["zero1", "fsdp"])
def test_layouts_and_parts_of_a_batch_change_nothing(layout):
    changes = {"optimizer.freeze": "stem+blocks[:1]", "optimizer.layer_decay": DECAY}
    changes |= {"optimizer.name": "sgd", "model.remat": "full"}
    _, _, alone, _ = steps(**changes)
    more = {"mesh.layout": layout, "mesh.fsdp": 2, "microbatches": 2}
    _, _, spread, _ = steps(devices=4, **changes | more)
    for (name, a), b in zip(
        tree.named_leaves(alone.params), jax.tree.leaves(spread.params)
    ):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6, err_msg=name)


def test_a_run_says_what_it_trains():
    _, exp = assembled(
        **{"optimizer.freeze": "stem", "optimizer.layer_decay": DECAY}
        | {"optimizer.lr_rules": (("^head/", 10.0),)}
    )
    text = overview.overview(exp, parameters=False)
    assert [line.split() for line in text.splitlines() if "frozen" in line][0][0] == (
        "cls"
    )
    for row in ("blocks[0]", "0.421875 of the rate", "blocks[2]", "0.75 of the rate"):
        assert row in text
    assert "10 of the rate" in text
    assert sum(g.parameters for g in exp.tuning.rates.groups()) == (
        models.count_parameters(exp.architecture)
    )
    norms = rates.make(exp.state.params, freeze="all-norms-head").groups()
    assert [(g.name, g.factor) for g in norms if g.name.startswith("blocks")] == [
        ("blocks (attn, mlp)", 0.0),
        ("blocks (norm1, norm2)", 1.0),
    ]


def test_defaults_take_the_code_of_a_plain_run():
    assert assembled()[1].tuning is None
    many = [rates.Group(f"blocks[{i}]", 1, 0.5) for i in range(50)]
    lines = rates.table(many).splitlines()
    assert len(lines) == rates.GROUPS and "... 27 more" in "".join(lines)
