"""Low-rank changes of frozen weights: trained, resumed, saved alone, merged."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import vit_jax
from configs import base
from vit_jax import convert, errors, experiment, models, train, tree
from vit_jax.checkpoints import checkpoint
from vit_jax.learning import lora
from vit_jax.runs import starting
from vit_jax.weights import adapters

CLASSES = 10
SMALL = {"image_size": (16, 16), "depth": 2, "mlp_width": 48, "pre_logits": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lora")


@pytest.fixture(scope="module")
def source(folder):
    """All leaves are drawn; it has a layer before the head, which runs leave out."""
    model = vit_jax.create_model("mu/8", num_classes=5, **SMALL)
    graphdef, params = models.split(model)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape), params)
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
    vit_jax.save(models.merge(graphdef, params), folder / "base")
    return folder / "base"


def config_of(source, **changes):
    config = base.get_config()
    config.update_from_flattened_dict(
        {"total": "4 steps", "batch_size": 16, "loss": "softmax"}
        | {"save_every": "2 steps"}
        | {"init_from": str(source), "model.name": "checkpoint", "log_every": "1 steps"}
        | {"model.pre_logits": False, "model.image_size": (16, 16)}
        | {"model.compute_dtype": "float32"}
        | {"model.remat": "none", "model.unroll": 1, "mesh.layout": "dp", "ema": 0.5}
        | {"data.dataset": "digits", "data.threads": 1, "data.cache": "ram"}
        | {"data.train.transform": "resize", "data.flip": False, "eval_every": ""}
        | {"optimizer.lr": 1e-2, "optimizer.warmup": "", "optimizer.weight_decay": 0.1}
        | {"lora.rank": 4, "lora.alpha": 6.0, "lora.targets": ("query", "out", "mlp")}
        | changes
    )
    base.set_evals(config)
    return config


def run(config, workdir, devices=1):
    mesh = experiment.make_mesh(config, jax.devices()[:devices])
    train.run(config, workdir, mesh)
    return workdir


@pytest.fixture(scope="module")
def trained(source, folder):
    return run(config_of(source, total="4 steps"), folder / "whole")


def batch_of(rows=16):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows, 16, 16, 3)).astype(np.uint8)
    return {"image": images, "label": rng.integers(0, 10, rows).astype(np.int32)}


def pixels(batch):
    return (batch["image"].astype(np.float32) - 127.5) / 127.5


def same(a, b):
    a, b = dict(tree.named_leaves(a)), dict(tree.named_leaves(b))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], name)


def test_only_the_changes_and_the_head_are_trained(source, trained):
    """And have optimizer state; the rest keeps its bits in parameters and average."""
    config = config_of(source)
    exp = experiment.assemble(config, experiment.make_mesh(config, jax.devices()[:1]))
    moments = {
        n.split("/mu/")[1]
        for n, _ in tree.named_leaves(exp.state.opt_state)
        if "/mu/" in n
    }
    kernels = ("attn/query", "attn/out", "mlp/up", "mlp/down")
    added = {f"lora/blocks/{k}/{m}" for k in kernels for m in "ab"}
    assert moments == added | {"head/kernel", "head/bias"}
    stored = checkpoint.StoredParams(trained)
    started = checkpoint.StoredParams(source)
    assert stored._item.name == "ema"
    kept = [n for n in started.shapes if not n.startswith(("head/", "pre_logits/"))]
    assert len(kept) == 22
    for name in kept:
        assert stored.read(name).tobytes() == started.read(name).tobytes(), name
    for name in added:
        assert np.abs(stored.read(name)).max() > 0, name


def test_before_the_first_step_nothing_is_changed(source):
    config = config_of(source)
    exp = experiment.assemble(config, experiment.make_mesh(config, jax.devices()[:1]))
    merged = exp.tuning.lora.merged(starting.begin(exp).params)
    started = vit_jax.load(source).params
    del started["pre_logits"]  # which the run has not
    same(merged | {"head": None}, started | {"head": None})


def test_merged_logits_are_those_of_the_run(source, trained, folder):
    """By `load` of the run, by its adapter on the model, and after conversion."""
    config = config_of(source)
    exp = experiment.assemble(config, experiment.make_mesh(config, jax.devices()[:1]))
    params, _ = checkpoint.read_params(trained)
    adapted = np.asarray(exp.forward(params, batch_of()["image"])["logits"])
    alone = folder / "adapter"
    figures = convert.run(str(trained), alone, "peft")
    assert figures["bytes"] == (alone / adapters.TENSORS).stat().st_size
    convert.run(
        str(source), folder / "merged.npz", "google", adapter=str(alone), verify=True
    )
    merged = [
        vit_jax.load(trained),
        vit_jax.load(source, adapter=alone),
        vit_jax.load(folder / "merged.npz", heads=2),
    ]
    for loaded in merged:
        assert loaded.architecture.num_classes == CLASSES
        logits = np.asarray(loaded.model(pixels(batch_of())))
        np.testing.assert_allclose(logits, adapted, rtol=0, atol=1e-5)
        assert not loaded.architecture.pre_logits_width
    _as_transformers_4(alone, folder / "older")
    same(merged[1].params, vit_jax.load(source, adapter=folder / "older").params)
    names = [one.label_names for one in merged[:2]]
    assert names[0] == names[1] and len(names[0]) == CLASSES


def _as_transformers_4(adapter, target):
    """Writes an adapter of query, out and MLP under the names of before version 5."""
    shutil.copytree(adapter, target)
    (target / "adapter_model.safetensors.sha256").unlink()  # the change is meant
    older = {
        "layers": "encoder.layer",
        "attention.q_proj": "attention.attention.query",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    tensors = safetensors.numpy.load_file(adapter / adapters.TENSORS)
    for new, old in older.items():
        tensors = {name.replace(new, old): array for name, array in tensors.items()}
    metadata = {"pre_logits": "false"}
    safetensors.numpy.save_file(tensors, target / adapters.TENSORS, metadata)


def test_a_run_that_stopped_goes_on_bit_for_bit(source, trained, folder):
    again = folder / "again"
    shutil.copytree(trained, again)
    shutil.rmtree(again / "checkpoints" / "4")
    run(config_of(source), again)
    read = checkpoint.read_params
    same(*(read(path / "checkpoints" / "4")[0] for path in (trained, again)))


LAYOUTS = {
    "fsdp": {"mesh.layout": "fsdp", "mesh.fsdp": 2, "model.remat": "full"},
    "zero1": {"mesh.layout": "zero1", "mesh.fsdp": 2, "microbatches": 2},
    "tensor": {"mesh.tensor": 2, "model.unroll": 0, "microbatches": 2},
}


def after_two_steps(config, devices):
    """The assembled run, and its parameters after two steps on so many devices."""
    mesh = experiment.make_mesh(config, jax.devices()[:devices])
    exp = experiment.assemble(config, mesh)
    state = exp.init()
    for _ in range(2):
        state, _ = exp.train_step(state, batch_of())
    return exp, jax.tree.map(np.asarray, state.params)


def check_close(one, other):
    for (leaf, a), b in zip(tree.named_leaves(one), jax.tree.leaves(other)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=leaf)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_remat_and_parts_of_a_batch_change_nothing(source, name):
    more = {"optimizer.name": "sgd", "lora.targets": ("query", "mlp")}
    more |= {"optimizer.layer_decay": 0.75}
    states = []
    for devices, changes in ((1, more), (4, more | LAYOUTS[name])):
        _, params = after_two_steps(config_of(source, **changes), devices)
        states.append(params)
    check_close(*states)


@pytest.mark.slow
def test_rotary_models_are_changed_in_every_layout(folder):
    """And what is trained is what the merged model computes."""
    options = {"posemb": "none", "rope": "mixed", "key_bias": False, "registers": 1}
    options |= SMALL | {"pre_logits": False, "num_classes": CLASSES}
    vit_jax.save(vit_jax.create_model("mu/8", **options), folder / "rotary")
    more = {"optimizer.name": "sgd", "lora.targets": ("query", "value")}
    cut = {"mesh.layout": "fsdp", "mesh.fsdp": 2, "mesh.tensor": 2}
    states = []
    for devices, changes in (
        (1, {}),
        (4, cut | {"microbatches": 2, "model.remat": "full"}),
    ):
        exp, params = after_two_steps(
            config_of(folder / "rotary", **more | changes), devices
        )
        states.append(params)
    check_close(*states)
    graphdef, _ = models.abstract(exp.architecture)
    merged = models.merge(graphdef, exp.tuning.lora.merged(states[0]))
    found = exp.forward(jax.device_put(states[0]), batch_of()["image"])["logits"]
    np.testing.assert_allclose(merged(pixels(batch_of())), found, atol=1e-5)


def test_an_adapter_is_small_and_has_pefts_names(tmp_path, monkeypatch):
    """B/16, rank 8, query and value: below 2 MB with a head of ten classes."""
    arch = models.architecture("B/16", num_classes=CLASSES, pre_logits=False)
    like = models.abstract(arch)[1]
    added = lora.Lora(8, 8.0, ("query", "value")).shapes(like)
    leaves = adapters.Tensors(
        added | {"head/kernel": (768, CLASSES), "head/bias": (CLASSES,)},
        lambda name: np.zeros(leaves.shapes[name], np.float32),
    )
    tensors, modules = adapters._tensors(leaves)
    safetensors.numpy.save_file(tensors, tmp_path / "file")
    assert (tmp_path / "file").stat().st_size < 2e6
    first = "base_model.model.vit.layers.11.attention.v_proj"
    assert tensors[f"{first}.lora_A.weight"].shape == (8, 768)
    assert tensors[f"{first}.lora_B.weight"].shape == (768, 8)
    assert len(tensors) == 12 * 2 * 2 + 2
    described = adapters._described(
        {"init_from": "x", "lora": {"rank": 8, "alpha": 8.0}}, modules, True
    )
    matched = described["target_modules"]
    assert re.fullmatch(matched, "vit.layers.0.attention.q_proj")
    assert re.fullmatch(matched, "vit.layers.10.attention.v_proj")
    assert not re.fullmatch(matched, "vit.layers.0.attention.k_proj")


def test_the_change_is_its_formula():
    """scale * A B on the 2-D view, of kernels with several inputs or outputs."""
    rng = np.random.default_rng(0)
    shapes = {"query": (2, 8, 2, 4), "out": (2, 2, 4, 8)}
    for target, shape in shapes.items():
        name = f"blocks/attn/{target}/kernel"
        kernel = rng.normal(size=shape).astype(np.float32)
        added = lora.Lora(3, 6.0, (target,)).new(
            tree.from_named({name: kernel}), jax.random.key(0)
        )
        a, b = (dict(tree.named_leaves(added))[n] for n in lora.names(name))
        assert not b.any() and np.abs(a).max() <= 1 / np.sqrt(8) and a.min() < 0
        b = rng.normal(size=b.shape).astype(np.float32)
        got = lora.changed(kernel, a, b, 2.0)
        for layer in range(2):
            flat = kernel[layer].reshape(8, 8).astype(np.float64)
            expected = flat + 2 * np.float64(a[layer]) @ b[layer]
            np.testing.assert_allclose(
                got[layer].reshape(8, 8), expected, rtol=1e-5, atol=1e-5
            )


def test_other_families():
    mixer = models.abstract(models.architecture("Mixer-S/16", num_classes=2))[1]
    added = lora.Lora(2, 2.0, ("mlp",)).shapes(mixer)
    assert added["lora/blocks/tokens/up/a"] == (8, 196, 2)
    with pytest.raises(errors.UserError, match="'query' is in no block.*there are mlp"):
        lora.Lora(2, 2.0, ("query",)).shapes(mixer)


def test_mistakes(source, trained, folder, tmp_path):
    with pytest.raises(errors.UserError, match="want --config.init_from=CHECKPOINT"):
        config = config_of(source, init_from="", **{"model.name": "mu/8"})
        experiment.assemble(config, experiment.make_mesh(config))
    with pytest.raises(errors.UserError, match="^cls: not in .*, and frozen as drawn"):
        config = config_of(source)
        exp = experiment.assemble(config, experiment.make_mesh(config))
        exp.tuning.check_new(["head/kernel", "cls"])
    with pytest.raises(errors.UserError, match='Did you mean "query"'):
        config = config_of(source, **{"lora.targets": ("querry",)})
        experiment.assemble(config, experiment.make_mesh(config))
    with pytest.raises(errors.UserError, match="has no adapter: only runs with"):
        convert.run(str(source), tmp_path / "none", "peft")
    with pytest.raises(errors.UserError, match="is no adapter"):
        vit_jax.load(source, adapter=tmp_path)
    alone = tmp_path / "adapter"
    convert.run(str(trained), alone, "peft")
    other = vit_jax.create_model("Ti/8", num_classes=5, **SMALL)
    vit_jax.save(other, tmp_path / "other")
    with pytest.raises(errors.UserError, match="it was trained on another model"):
        vit_jax.load(tmp_path / "other", adapter=alone)
    config = json.loads((alone / adapters.CONFIG).read_text())
    for changes, message in (
        ({"use_dora": True}, "want plain LoRA"),
        ({"alpha_pattern": {"q_proj": 32}}, "'alpha_pattern'.*want plain LoRA"),
        ({"r": 0}, "says no rank r and lora_alpha"),
        ({"lora_alpha": None}, "says no rank r and lora_alpha"),
    ):
        (alone / adapters.CONFIG).write_text(json.dumps(config | changes))
        with pytest.raises(errors.UserError, match=message):
            vit_jax.load(source, adapter=alone)
    (alone / adapters.CONFIG).write_text(json.dumps(config))
    content = (alone / adapters.TENSORS).read_bytes()
    (alone / adapters.TENSORS).write_bytes(content[:-9])
    with pytest.raises(errors.UserError, match="was not copied to its end"):
        vit_jax.load(source, adapter=alone)
