"""Every recipe assembles, abstractly, and holds the paper's values."""

import importlib

import jax
import pytest

from configs import finetune, pretrain
from vit_jax import errors, experiment, mesh

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
    assert config.model.pre_logits
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
    ],
)
def test_bad_configs_are_one_clear_error(changes, words, device_mesh):
    config = recipe("vit_b16", None)
    config.update_from_flattened_dict(changes)
    with pytest.raises(errors.UserError) as caught:
        experiment.assemble(config, device_mesh)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 10
