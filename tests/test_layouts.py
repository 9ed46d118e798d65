"""dp, zero1 and fsdp: the same step, other places, and little that travels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from configs import base
from vit_jax import experiment, host, models, tree
from vit_jax.parallel import choosing, fitting, hardware, layouts, mesh
from vit_jax.plan import collectives, hlo

pytestmark = pytest.mark.usefixtures("compiled_once")

NAMES = tuple(layouts.LAYOUTS)


def config_for(layout, **changes):
    config = base.get_config()
    config.data.dataset = "digits"
    config.batch_size = 16
    config.total = "20 steps"
    config.optimizer.warmup = "2 steps"
    config.optimizer.lr = 0.01
    config.model.update({"name": "mu/8", "image_size": (32, 32), "depth": 2})
    config.model.compute_dtype = "float32"
    config.mesh.layout = layout
    config.update_from_flattened_dict(changes)
    base.set_evals(config)
    return config


def batch_of(exp):
    rng = np.random.default_rng(0)
    shape = exp.batch["image"].shape
    batch = {
        "image": rng.integers(0, 256, shape).astype(np.uint8),
        "label": rng.integers(0, 10, shape[0]).astype(np.int32),
    }
    return mesh.to_global(batch, exp.mesh)


def compiled(layout, fsdp=4, tensor=1, **changes):
    device_mesh = mesh.make_mesh(fsdp=fsdp, tensor=tensor)
    exp = experiment.assemble(config_for(layout, **changes), device_mesh)
    return exp, exp.train_step.lower(exp.state, exp.batch).compile()


ROPE = {"model.posemb": "none", "model.rope": "mixed", "model.key_bias": False}
VARIANTS = {
    "flat": {},
    "loop": {"model.unroll": 1, "model.remat": "dots_nb"},
    "recomputed": {"model.unroll": 1, "model.remat": "full"},
    "microbatches": {"microbatches": 2, "model.unroll": 1},
    "map": {"model.pool": "map", "model.pre_logits": False},
    "rope": ROPE | {"model.unroll": 1, "model.remat": "full", "microbatches": 2},
    "hybrid": {"model.name": "R+Ti/16", "model.depth": 1},
    "mixer": {"model.name": "Mixer-S/16", "model.pre_logits": False}
    | {"model.unroll": 1, "model.remat": "full"},
}


@pytest.fixture(scope="module")
def losses():
    """Of 20 steps on one batch, by variant, with every device holding everything."""
    cache = {}

    def run(layout, variant):
        if (layout, variant) not in cache:
            exp, step = compiled(layout, **VARIANTS[variant])
            state, batch, found = exp.init(), batch_of(exp), []
            for _ in range(20):
                state, metrics = step(state, batch)
                found.append(float(metrics["loss"]))
            cache[layout, variant] = np.array(found)
        return cache[layout, variant]

    return run


@pytest.mark.parametrize(
    ("layout", "variant"),
    [
        ("zero1", "flat"),
        pytest.param("zero1", "microbatches", marks=pytest.mark.slow),
        ("fsdp", "loop"),
        pytest.param("fsdp", "microbatches", marks=pytest.mark.slow),
    ],
)
def test_losses_are_those_of_dp(losses, layout, variant):
    np.testing.assert_allclose(
        losses(layout, variant), losses("dp", variant), rtol=1e-6
    )
    assert losses("dp", variant)[-1] < 0.7 * losses("dp", variant)[0]


@pytest.mark.parametrize(
    ("layout", "variant"),
    [
        *(pytest.param(n, "flat", marks=pytest.mark.slow) for n in ("dp", "zero1")),
        ("fsdp", "loop"),
        # Two steps with low-rank changes of such a model are in test_lora.
        pytest.param("fsdp", "rope", marks=pytest.mark.slow),
    ],
)
def test_losses_with_a_tensor_axis_are_those_without(losses, layout, variant):
    exp, step = compiled(layout, fsdp=2, tensor=2, **VARIANTS[variant])
    cut = {
        axis
        for sharding in jax.tree.leaves(exp.layout.state.params["blocks"])
        for axis in jax.tree.leaves(tuple(sharding.spec))
    }
    assert cut == ({"tensor"} if layout == "dp" else {"fsdp", "tensor"})
    state, batch = exp.init(), batch_of(exp)
    for expected in losses("dp", variant):
        state, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["hybrid", "mixer", "map"])
def test_one_step_of_other_families(variant):
    norms = []
    for layout in ("dp", "fsdp"):
        exp, step = compiled(layout, **VARIANTS[variant])
        _, metrics = step(exp.init(), batch_of(exp))
        norms.append(float(metrics["grad_norm"]))
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-4)


def test_state_lies_where_the_layout_says():
    for name, kind in layouts.LAYOUTS.items():
        exp = experiment.assemble(config_for(name), mesh.make_mesh(fsdp=4))
        specs = [
            value.sharding.spec
            for path, value in tree.named_leaves(exp.state)
            if path.endswith("blocks/mlp/up/kernel")
        ]
        wanted = P(None, None, "fsdp") if kind.sharded else P()
        assert len(specs) == 3 and set(specs) == {wanted}  # and Adam's two moments


@pytest.mark.slow
def test_another_layout_is_one_row(monkeypatch, losses):
    """Attention alone is cut over fsdp, by its heads: an end no layout of ours has."""
    rules = (("hidden", "tensor"), ("heads", "fsdp"), ("hidden_bias", "tensor"))
    monkeypatch.setitem(layouts.LAYOUTS, "by heads", layouts.Kind(rules))
    exp, step = compiled("by heads", fsdp=2, tensor=2)
    specs = {
        name: leaf.sharding.spec for name, leaf in tree.named_leaves(exp.state.params)
    }
    assert specs["blocks/attn/query/kernel"] == P(None, None, "fsdp")
    assert specs["blocks/mlp/up/kernel"] == P(None, None, "tensor")
    assert specs["head/kernel"] == P()
    state, batch = exp.init(), batch_of(exp)
    for expected in losses("dp", "flat"):
        state, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)


def weight_bytes(exp):
    """Of what is gathered: the sharded leaves, in the type of the activations."""
    width = jnp.dtype(exp.architecture.compute_dtype).itemsize
    return sum(
        leaf.size * width
        for leaf in jax.tree.leaves(exp.state.params)
        if not leaf.sharding.is_fully_replicated
    )


@pytest.mark.parametrize(
    ("layout", "variant", "most"),
    [
        ("zero1", "flat", 2.05),
        ("zero1", "loop", 2.05),
        ("fsdp", "flat", 2.05),
        ("fsdp", "recomputed", 3.1),
    ],
)
def test_what_travels_is_weights_and_gradients_once(layout, variant, most):
    exp, step = compiled(
        layout, fsdp=8, **VARIANTS[variant], **{"model.width": 64, "model.depth": 4}
    )
    found = collectives.find(hlo.Module(step.as_text()), devices=8)
    sent = sum(one.bytes * one.count for one in found)
    small = 4 * sum(
        leaf.size
        for leaf in jax.tree.leaves(exp.state.params)
        if leaf.sharding.is_fully_replicated
    )
    assert sent <= most * weight_bytes(exp) + 2 * small
    images = exp.batch["image"].shape[0] // 8
    tokens = exp.architecture.tokens
    assert not collectives.of_activations(found, rows=images, tokens=tokens)


def test_gathered_leaves_are_cast_where_the_model_casts_them():
    arch = models.architecture("R50+B/16", num_classes=10, posemb_at="every")
    names = [name for name, _ in tree.named_leaves(models.abstract(arch)[1])]
    cast = {name for name in names if tree.first_match(layouts.CAST, name)}
    assert {"head/kernel", "blocks/posemb", "blocks/attn/query/kernel"} <= cast
    assert not any(name.startswith("resnet/") or "norm" in name for name in cast)


def test_what_is_kept_falls_with_what_is_computed_again():
    arch = models.architecture("S/16", num_classes=10, compute_dtype="bfloat16")
    kept = [choosing.bytes_per_example(arch, remat) for remat in choosing.REMATS]
    assert kept[0] > 2 * kept[1] > 4 * kept[2] > 0
    tokens, width, depth, pixels = 197, 384, 12, 3 * 224 * 224
    assert kept[2] == pytest.approx(2 * (tokens * width * (depth + 1) + pixels), 0.01)


def test_loops_stack_gradients_in_float32_and_flat_programs_do_not():
    arch = models.architecture("S/16", num_classes=10, compute_dtype="bfloat16")
    given = {"state": {}, "mesh": mesh.make_mesh(), "examples": 0}

    def gradients(remat, **changes):
        changed = arch.replace_known(**changes)
        return choosing.choose("dp", remat, architecture=changed, **given).peak_bytes

    weights = models.count_parameters(arch)
    assert gradients("none") == 2 * weights
    assert gradients("none", unroll=1) == gradients("full") == 4 * weights


@pytest.mark.parametrize(
    ("images", "parts"),
    [(1, 1), (32, 1), (33, 1), (34, 2), (37, 1), (48, 2), (64, 2), (100, 4), (256, 8)],
)
def test_a_tpu_takes_sixteen_to_thirty_two_images_of_a_vit_at_a_time(images, parts):
    vit = models.architecture("S/16", num_classes=10)
    for kind in ("TPU v3", "TPU v5 lite", "TPU v99"):
        assert fitting.microbatches(vit, images, kind) == parts
    for name in ("R50+B/16", "R+Ti/16", "BiT-R50x1"):
        other = models.architecture(name, num_classes=10)
        assert fitting.microbatches(other, images, "TPU v3") == 1


def test_a_v6e_takes_eight_to_sixteen_images_at_a_time():
    vit, kind = models.architecture("S/16", num_classes=10), "TPU v6 lite"
    found = [fitting.microbatches(vit, n, kind) for n in (16, 32, 37, 40, 64, 128)]
    assert found == [1, 2, 1, 4, 4, 8]


@pytest.mark.parametrize(
    ("model", "images", "two_cores", "eight"),
    [
        ("S/16", 5, 1, 1),
        ("S/16", 6, 2, 1),
        ("S/16", 16, 4, 1),
        ("S/16", 64, 16, 4),
        ("B/16", 32, 8, 2),
        ("H/14", 32, 8, 2),
        ("mu/16", 64, 4, 1),
        ("R+Ti/16", 64, 1, 1),
        ("BiT-R50x1", 64, 1, 1),
    ],
)
def test_a_cpu_takes_as_many_images_as_its_caches_hold(
    monkeypatch, model, images, two_cores, eight
):
    arch = models.architecture(model, num_classes=10)
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    for cores, parts in ((1, two_cores), (2, two_cores), (8, eight)):
        monkeypatch.setattr(host, "cores", lambda cores=cores: cores)
        assert fitting.microbatches(arch, images, "cpu") == parts
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    assert fitting.microbatches(arch, images, "cpu") == two_cores
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert fitting.microbatches(arch, images, "cpu") == two_cores
    assert fitting.microbatches(arch, images, "NVIDIA H100 80GB HBM3") == 1


@pytest.mark.parametrize(
    ("gib", "wanted"),
    [
        (None, ("zero1", "none")),
        (40, ("zero1", "none")),
        (10, ("zero1", "dots_nb")),
        (4, ("zero1", "full")),
        (2.6, ("fsdp", "full")),
        (0.1, ("fsdp", "full")),
    ],
)
def test_the_fastest_that_fits_is_chosen(monkeypatch, gib, wanted):
    limit = None if gib is None else int(gib * 2**30)
    monkeypatch.setattr(hardware, "usable_memory", lambda device: limit)
    changes = {"model.name": "L/16", "model.image_size": (224, 224)}
    changes |= {"model.depth": 0, "model.compute_dtype": "bfloat16"}
    changes |= {"batch_size": 512, "microbatches": 1}
    config = config_for("auto", **changes)
    exp = experiment.assemble(config, mesh.make_mesh(fsdp=8))
    assert (exp.layout.name, exp.architecture.remat) == wanted
    assert exp.architecture.unroll == (0 if wanted[1] == "none" else 1)
    config.model.remat = "dots"
    config.mesh.layout = "dp"
    exp = experiment.assemble(config, mesh.make_mesh(fsdp=8))
    assert (exp.layout.name, exp.architecture.remat) == ("dp", "dots")


def test_weights_travel_with_heads_and_their_width_as_one_axis():
    exp = experiment.assemble(config_for("zero1"), mesh.make_mesh(fsdp=4))
    params = exp.init().params
    entered = exp.layout.enter(params)["blocks"]
    layers, width, heads, each = params["blocks"]["attn"]["query"]["kernel"].shape
    assert entered["attn"]["query"]["kernel"].shape == (layers, width, heads * each)
    assert entered["attn"]["out"]["kernel"].shape == (layers, heads * each, width)
    first = exp.layout.placement.gather(jax.tree.map(lambda leaf: leaf[0], entered))
    stored = jax.tree.map(lambda leaf: leaf[0], params["blocks"])
    jax.tree.map(np.testing.assert_array_equal, first, stored)
