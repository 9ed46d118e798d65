"""Every recipe assembles, abstractly, and holds the paper's values."""

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import finetune, pretrain
from vit_jax import errors, experiment, mesh, tree

RECIPES = [
    *(
        (f"vit_{name}", dataset)
        for name in ("b16", "b32", "l16", "l32", "h14")
        for dataset in (None, "i1k", "i21k", "jft")
    ),
    *(("finetune", f"B/16,{task}") for task in finetune.TASKS if "table2" not in task),
    ("finetune", "L/16,imagenet_table2"),
    ("finetune", "H/14,imagenet_table2"),
    ("finetune", "H/14,pets,dev"),
    ("finetune", "R50+B/16,flowers"),
    ("finetune", "BiT-R50x1,cifar10"),
    ("finetune", "Axial-B/16,cifar100"),
    ("finetune", "AxialResNet50,pets"),
    ("finetune", "Mixer-B/16,cifar10"),
    ("hybrid", None),
    ("hybrid", "R50+B/32,i21k"),
    ("hybrid", "R50+L/16,jft"),
    ("bit", None),
    ("bit", "BiT-R50x1-post,i1k,sgd"),
    ("bit", "BiT-R101x1,i21k"),
    ("bit", "BiT-R50x2,jft"),
    ("bit", "BiT-R50x3,jft,sgd"),
    ("axial", None),
    ("axial", "Axial-B/32,jft"),
    ("axial", "AxialResNet50"),
    ("mixer", None),
    ("mixer", "Mixer-S/32"),
    ("mixer", "Mixer-L/16"),
    ("vit_g14", None),
    ("vit_g14", "G"),
    ("quickstart", None),
    ("cifar10", None),
]


def recipe(module, argument):
    get_config = importlib.import_module(f"configs.{module}").get_config
    return get_config(argument) if argument else get_config()


@pytest.fixture(scope="module")
def device_mesh():
    return mesh.make_mesh()


@pytest.mark.parametrize(("module", "argument"), RECIPES)
def test_assembles_without_arrays(module, argument, device_mesh, tmp_path):
    config = recipe(module, argument)
    config.data.data_dir = str(tmp_path)  # nothing is prepared there
    exp = experiment.assemble(config, device_mesh)
    leaves = jax.tree.leaves((exp.state, exp.batch))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    assert exp.batch["image"].shape[0] == config.batch_size


def test_every_file_of_recipes_is_tried():
    files = {path.stem for path in Path(pretrain.__file__).parent.glob("*.py")}
    shared = {"__init__", "base", "pretrain"}
    elsewhere = {"masked"}  # tests/test_masked.py
    assert files - shared - elsewhere == {module for module, _ in RECIPES}


# paper Table 3, as (module, dataset): epochs, lr, schedule, weight decay, dropout.
TABLE_3 = {
    ("vit_b16", "jft"): ("7 epochs", 8e-4, "linear", 0.1, 0.0),
    ("vit_b32", "jft"): ("7 epochs", 8e-4, "linear", 0.1, 0.0),
    ("vit_l32", "jft"): ("7 epochs", 6e-4, "linear", 0.1, 0.0),
    ("vit_l16", "jft"): ("14 epochs", 4e-4, "linear", 0.1, 0.0),
    ("vit_h14", "jft"): ("14 epochs", 3e-4, "linear", 0.1, 0.0),
    ("vit_b16", "i21k"): ("90 epochs", 1e-3, "linear", 0.03, 0.1),
    ("vit_l16", "i21k"): ("90 epochs", 1e-3, "linear", 0.03, 0.1),
    ("vit_b32", "i1k"): ("300 epochs", 3e-3, "cosine", 0.3, 0.1),
    ("vit_l16", "i1k"): ("300 epochs", 3e-3, "cosine", 0.3, 0.1),
    ("hybrid", "R50+B/16,jft"): ("7 epochs", 8e-4, "linear", 0.1, 0.0),
    ("hybrid", "R50+B/32,jft"): ("7 epochs", 8e-4, "linear", 0.1, 0.0),
    ("hybrid", "R50+L/32,jft"): ("7 epochs", 2e-4, "linear", 0.1, 0.0),
    ("hybrid", "R50+L/16,jft"): ("14 epochs", 4e-4, "linear", 0.1, 0.0),
    ("hybrid", "R50+L/16,i21k"): ("90 epochs", 1e-3, "linear", 0.03, 0.1),
    ("bit", "BiT-R50x1,jft"): ("7 epochs", 1e-3, "linear", 0.1, 0.0),
    ("bit", "BiT-R50x2,jft"): ("7 epochs", 1e-3, "linear", 0.1, 0.0),
    ("bit", "BiT-R101x1,jft"): ("7 epochs", 8e-4, "linear", 0.1, 0.0),
    ("bit", "BiT-R152x1-post,jft"): ("7 epochs", 6e-4, "linear", 0.1, 0.0),
    ("bit", "BiT-R152x2,jft"): ("7 epochs", 6e-4, "linear", 0.1, 0.0),
}


@pytest.mark.parametrize(("key", "row"), TABLE_3.items())
def test_table_3(key, row):
    config = recipe(*key)
    optimizer = config.optimizer
    got = (config.total, optimizer.lr, optimizer.schedule, optimizer.weight_decay)
    assert (*got, config.model.dropout) == row
    assert config.batch_size == 4096
    assert optimizer.warmup == "10_000 steps"
    assert (optimizer.beta1, optimizer.beta2) == (0.9, 0.999)
    assert config.loss == "sigmoid" and config.model.head_bias == -10.0
    assert config.model.pre_logits == (key[0] != "bit")
    assert optimizer.clip_norm == (1.0 if key[1] == "i1k" else 0.0)


def test_paper_lengths(device_mesh):
    """paper.md 2.3: 517,822 steps of JFT for B, 93,835 of ImageNet."""
    lengths = {
        argument: experiment.assemble(
            recipe("vit_b16", argument), device_mesh
        ).durations.total
        for argument in ("i1k", "jft")
    }
    assert lengths == {"i1k": 93_835, "jft": 517_822}


def test_bit_recipe(device_mesh):
    """BiT 3.3: 0.48 at batch 4096, a tenth at 30, 60 and 80 of 90 epochs."""
    config = recipe("bit", "BiT-R50x1,i21k,sgd")
    assert config == recipe("bit", "BiT-R50x1,i21k")
    assert config.optimizer.lr == pytest.approx(0.48)
    exp = experiment.assemble(config, device_mesh)
    epoch = exp.durations.total / 90
    rates = [float(exp.schedule(round(e * epoch) + 1)) for e in (29, 30, 60, 80)]
    np.testing.assert_allclose(rates, 0.48 * 0.1 ** np.arange(4), rtol=1e-5)
    assert exp.schedule(2500) == pytest.approx(0.24)
    shorter = recipe("bit", "BiT-R50x1,jft,sgd")
    assert (shorter.total, shorter.loss) == ("40 epochs", "sigmoid")
    shorter.total = "7 epochs"  # Table 7
    assert experiment.assemble(shorter, device_mesh).durations.total == 517_822


@pytest.mark.parametrize(
    ("size", "parameters"), [("g", 1_037_857_384), ("G", 1_882_797_416)]
)
def test_scaling_vit(size, parameters):
    """paper.md 2.7: MAP head, head and body decay 3.0 and 0.03, 29,593 labels."""
    config = recipe("vit_g14", size)
    exp = experiment.assemble(config, mesh.make_mesh(fsdp=4))
    classes = 29_593
    width = exp.architecture.width
    head = classes * (width + 1)
    assert exp.architecture.num_classes == classes
    backbone = parameters - 1000 * (width + 1)
    params = jax.tree.leaves(exp.state.params)
    assert sum(leaf.size for leaf in params) == backbone + head
    body, head = config.optimizer.weight_decay, config.optimizer.decay_rules[0][1]
    assert (body, head * body) == (0.03, pytest.approx(3.0))
    total = exp.durations.total
    rates = [float(exp.schedule(s)) for s in (5000, 10_000, 40_000, total - 25_000)]
    tail = 8e-4 / np.sqrt(1 + (total - 35_000) / 10_000) / 2
    np.testing.assert_allclose(rates, [4e-4, 8e-4, 4e-4, tail], rtol=1e-4)


def test_adafactors_state_is_small_and_sharded():
    """Half of the parameters' bytes and 1 % more, where Adam's is twice them."""
    exp = experiment.assemble(recipe("vit_g14", "g"), mesh.make_mesh(fsdp=4))

    def size(leaves):
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    params = size(jax.tree.leaves(exp.state.params))
    state = tree.named_leaves(exp.state.opt_state)
    average = [leaf for name, leaf in state if "/ema/" in name]
    assert size(average) == params / 2
    assert size(leaf for _, leaf in state) < 0.51 * params
    for name, leaf in tree.named_leaves(exp.state):
        leaf.sharding.shard_shape(leaf.shape)  # raises where 4 does not divide
        if "/ema/" in name and name.endswith("mlp/up/kernel"):
            assert "fsdp" in leaf.sharding.spec


@pytest.mark.parametrize("task", [t for t in finetune.TASKS if "table2" not in t])
def test_table_4(task):
    config = recipe("finetune", f"B/16,{task}")
    steps = {"pets": 500, "flowers": 500, "imagenet2012": 20_000}.get(task, 10_000)
    assert config.total == f"{steps} steps"
    assert config.optimizer.lr in finetune.TASKS[task].sweep
    assert (config.batch_size, config.optimizer.name) == (512, "sgd")
    assert (config.optimizer.schedule, config.optimizer.weight_decay) == ("cosine", 0)
    assert config.optimizer.clip_norm == 1.0
    assert config.model.image_size == (384, 384)
    assert not config.model.pre_logits and config.loss == "softmax"


def test_dev_split_is_what_training_leaves():
    config = recipe("finetune", "B/16,cifar10,dev")
    assert config.data.train_split == "train[:98%]"
    assert config.evals.dev.split == "train[98%:]"


def test_unknown_arguments_are_named():
    with pytest.raises(ValueError, match="TASK one of imagenet2012"):
        finetune.get_config("B/16,cifar11")
    with pytest.raises(ValueError, match="known: i1k, i21k, jft"):
        pretrain.recipe("B/16", "i22k")
    with pytest.raises(ValueError, match="'R26.S/32' is unknown; known: R50.B/16"):
        recipe("hybrid", "R26+S/32")
    with pytest.raises(ValueError, match="want MODEL"):
        recipe("hybrid", "R50+B/16,jft,sgd")
    with pytest.raises(ValueError, match="row for JFT 'BiT-R200x3' is unknown"):
        recipe("bit", "BiT-R200x3,jft")
    with pytest.raises(ValueError, match="want MODEL.*sgd"):
        recipe("bit", "BiT-R50x1,jft,sgd,adam")
    with pytest.raises(ValueError, match="dataset of AxialResNet50 'jft'"):
        recipe("axial", "AxialResNet50,jft")
    with pytest.raises(ValueError, match="dataset of a Mixer 'jft'"):
        recipe("mixer", "Mixer-B/16,jft")
    with pytest.raises(ValueError, match="size 'h' is unknown; known: g, G"):
        recipe("vit_g14", "h")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 100}, "batch_size=100 cannot be split over 8 devices"),
        ({"model.image_size": (225, 224)}, "224x224"),
        ({"model.name": "B16"}, "B/16"),
        ({"model.name": "Z/16"}, "model size='Z' is unknown"),
        ({"optimizer.name": "adma"}, 'Did you mean "adam"'),
        ({"optimizer.decay": "none"}, "optimizer.decay"),
        ({"optimizer.schedule": "cosin"}, 'Did you mean "cosine"'),
        ({"optimizer.warmup": "200 epochs", "total": "100 epochs"}, "shorten them"),
        ({"data.dataset": "cifra10"}, "cifar10"),
        ({"data.train_split": "trian"}, "train"),
        ({"data.train.transform": "crop"}, "known: inception_crop"),
        ({"total": ""}, "total is empty"),
        ({"model.name": "checkpoint"}, "init_from"),
        ({"optimizer.drop_at": (0.5, 0.2)}, "optimizer.drop_at"),
        ({"optimizer.decay_rules": (("^heads/", 3.0),)}, "decay_rules: '^heads/'"),
        ({"optimizer.factor_from": 0}, "optimizer.factor_from"),
        ({"optimizer.update_clip": -1.0}, "optimizer.update_clip"),
    ],
)
def test_bad_configs_are_one_clear_error(changes, words, device_mesh):
    config = recipe("vit_b16", None)
    config.update_from_flattened_dict(changes)
    with pytest.raises(errors.UserError) as caught:
        experiment.assemble(config, device_mesh)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 10
