"""Every recipe assembles, abstractly, and holds the paper's values."""

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import base, finetune, pretrain, tasks
from vit_jax import errors, experiment, tree
from vit_jax.data import catalog, splits, training
from vit_jax.learning import schedules
from vit_jax.parallel import mesh
from vit_jax.settings import effects, naming, validation

RECIPES = [
    *(
        (f"vit_{name}", dataset)
        for name in ("b16", "b32", "l16", "l32", "h14")
        for dataset in (None, "i1k", "i21k", "jft")
    ),
    *(("finetune", f"B/16,{task}") for task in tasks.TABLE_4),
    *(("finetune", f"mu/16,vtab_{task}") for task in tasks.VTAB),
    ("finetune", "L/16,imagenet_table2"),
    ("finetune", "H/14,imagenet_table2"),
    ("finetune", "H/14,pets,dev"),
    ("finetune", "B/16,vtab_svhn,dev"),
    ("finetune", "BiT-R50x1,cifar10"),
    ("finetune", "Axial-B/16,cifar100"),
    ("finetune", "Mixer-B/16,cifar10"),
    ("hybrid", None),
    ("bit", None),
    ("axial", None),
    ("axial", "Axial-B/32,jft"),
    ("mixer", None),
    ("mixer", "Mixer-S/32"),
    ("mixer", "Mixer-L/16"),
    ("vit_g14", None),
    ("vit_g14", "G"),
    ("quickstart", None),
    ("cifar10", None),
    ("cifar10", "gpu"),
    ("cifar10", "small"),
    ("cifar10", "adam"),
    ("augreg", None),
    ("vit_s16_baseline", None),
    ("deit", "S/16"),
    ("deit3", None),
    ("mae_finetune", "L/16"),
    ("flexivit", "S"),
]
# Of a family that is there already; their programs take seconds to trace.
MORE_RECIPES = [
    ("augreg", "Ti/16,i21k,strong2"),
    ("augreg", "R50+L/32,i21k"),
    ("deit3", "H/14,finetune"),
    ("finetune", "R50+B/16,flowers"),
    ("axial", "AxialResNet50"),
    ("finetune", "AxialResNet50,pets"),
    ("hybrid", "R50+B/32,i21k"),
    ("hybrid", "R50+L/16,jft"),
    ("bit", "BiT-R50x1-post,i1k,sgd"),
    ("bit", "BiT-R101x1,i21k"),
    ("bit", "BiT-R50x2,jft"),
    ("bit", "BiT-R50x3,jft,sgd"),
]


def recipe(module, argument):
    get_config = importlib.import_module(f"configs.{module}").get_config
    return get_config(argument) if argument else get_config()


@pytest.fixture(scope="module")
def device_mesh():
    return mesh.make_mesh()


@pytest.mark.parametrize(
    ("module", "argument"),
    [*RECIPES, *(pytest.param(*r, marks=pytest.mark.slow) for r in MORE_RECIPES)],
)
def test_assembles_without_arrays(module, argument, device_mesh, tmp_path):
    config = recipe(module, argument)
    config.data.data_dir = str(tmp_path)  # nothing is prepared there
    exp = experiment.assemble(config, device_mesh)
    leaves = jax.tree.leaves((exp.state, exp.batch))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    assert exp.batch["image"].shape[0] == config.batch_size


# What says of recipes for a checkpoint that --config.init_from names none.
FOR_A_CHECKPOINT = {
    ("deit3", "H/14,finetune"): {"keep_head"},
    ("mae_finetune", "L/16"): {"optimizer.layer_decay"},
}


@pytest.mark.parametrize("key", [*RECIPES, *MORE_RECIPES])
def test_no_key_of_a_recipe_is_without_effect(key):
    flat = validation.beside_defaults(recipe(*key).to_dict())
    found = {name for name, *_ in effects.unmet(*flat)}
    assert found == FOR_A_CHECKPOINT.get(key, set())


def test_every_file_of_recipes_is_tried():
    files = {path.stem for path in Path(pretrain.__file__).parent.glob("*.py")}
    shared = {"__init__", "base", "base_evals", "pretrain", "tasks"}
    # tests/test_masked.py, test_measuring.py, test_probe.py, test_imagenets.py, ...
    elsewhere = {"masked", "fewshot", "probe", "distill", "imagenets", "noisy_student"}
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
    config.model.name = "mu/16"  # on which neither rates nor lengths depend
    exp = experiment.assemble(config, device_mesh)
    epoch = exp.durations.total / 90
    rates = [float(exp.schedule(round(e * epoch) + 1)) for e in (29, 30, 60, 80)]
    np.testing.assert_allclose(rates, 0.48 * 0.1 ** np.arange(4), rtol=1e-5)
    assert exp.schedule(2500) == pytest.approx(0.24)
    shorter = recipe("bit", "BiT-R50x1,jft,sgd")
    assert (shorter.total, shorter.loss) == ("40 epochs", "sigmoid")
    shorter.total = "7 epochs"  # Table 7
    shorter.model.name = "mu/16"
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
    assert config.batch_size == 16_384
    assert (config.data.train.transform, exp.train_transform.image_size) == (
        "inception_crop",
        (224, 224),
    )
    seen = exp.preprocessing
    assert (seen.transform, seen.resize) == ("resize_small_crop", 256)
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


SMALL = (0.001, 0.003, 0.01, 0.03)
# paper Table 4: steps, sweep, percent of train that is the dev split; test split.
TABLE_4 = {
    "imagenet2012": (20_000, (0.003, 0.01, 0.03, 0.06), 1, "validation"),
    "cifar100": (10_000, SMALL, 2, "test"),
    "cifar10": (10_000, SMALL, 2, "test"),
    "pets": (500, SMALL, 10, "test"),
    "flowers": (500, SMALL, 10, "test"),
}


@pytest.mark.parametrize("task", TABLE_4)
@pytest.mark.parametrize("model", ["B/16", "L/32", "BiT-R50x1", "checkpoint"])
def test_table_4(task, model):
    steps, sweep, percent, test = TABLE_4[task]
    words = f"{model},{task}" + (",table4" if model.startswith("BiT") else "")
    config = recipe("finetune", words)
    assert config.total == f"{steps} steps"
    assert tasks.TASKS[task].sweep == sweep
    # The authors' code: 0.03, and 0.01 for B/16 on CIFAR-10; both in the sweep.
    rate = 0.01 if (model, task) == ("B/16", "cifar10") else 0.03
    assert config.optimizer.lr == rate and rate in sweep
    assert (config.batch_size, config.optimizer.name) == (512, "sgd")
    assert (config.optimizer.schedule, config.optimizer.weight_decay) == ("cosine", 0)
    assert (config.optimizer.clip_norm, config.optimizer.momentum) == (1.0, 0.9)
    assert config.optimizer.warmup == f"{100 if steps == 500 else 500} steps"
    assert config.model.image_size == (384, 384)
    assert not config.model.pre_logits and config.loss == "softmax"
    assert (config.data.train_split, config.evals.test.split) == ("train", test)
    assert config.data.train.transform == "inception_crop"
    assert config.data.train.resize == 448  # of resize_crop, the paper's own
    dev = recipe("finetune", f"{model},{task},dev")
    cut = 100 - percent
    assert dev.data.train_split == f"train[:{cut}%]"
    assert dev.evals.dev.split == f"train[{cut}%:]"


@pytest.mark.parametrize(("model", "size"), [("L/16", 512), ("H/14", 518)])
def test_table_2(model, size):
    config = recipe("finetune", f"{model},imagenet_table2")
    assert config.model.image_size == (size, size)
    assert (config.ema, config.total) == (0.9999, "20000 steps")


# VTAB's code: the builder, classes, training images of 800 + 200, test images.
TOP, END = "train[:800]+", "validation[:200]"
VTAB = {
    "caltech101": ("caltech101:3.*.*", 102, TOP + "train[2753:2953]", "test", 6085),
    "cifar100": ("cifar100:3.*.*", 100, TOP + "train[45000:45200]", "test", 10_000),
    "dtd": ("dtd:3.*.*", 47, TOP + END, "test", 1880),
    "flowers": ("oxford_flowers102:2.*.*", 102, TOP + END, "test", 6149),
    "pets": ("oxford_iiit_pet", 37, TOP + "train[2944:3144]", "test", 3669),
    "sun397": ("sun397/tfds:4.*.*", 397, TOP + END, "test", 21_750),
    "svhn": ("svhn_cropped:3.*.*", 10, TOP + "train[65931:66131]", "test", 26_032),
    "camelyon": ("patch_camelyon:2.*.*", 2, TOP + END, "test", 32_768),
    "eurosat": (
        *("eurosat/rgb:2.*.*", 10, TOP + "train[16200:16400]", "train[80%:]"),
        5400,
    ),
    "resisc45": (
        *("resisc45:3.*.*", 45, TOP + "train[18900:19100]", "train[80%:]"),
        6300,
    ),
    "retinopathy": (
        "diabetic_retinopathy_detection/btgraham-300:3.*.*",
        *(5, TOP + END, "test", 42_670),
    ),
    "clevr_count": (
        *("clevr:3.*.*", 8, TOP + "train[63000:63200]", "validation"),
        15_000,
    ),
    "clevr_distance": (
        *("clevr:3.*.*", 6, TOP + "train[63000:63200]", "validation"),
        15_000,
    ),
    "dmlab": ("dmlab:2.0.1", 6, TOP + END, "test", 22_735),
    "dsprites_location": (
        *("dsprites:2.*.*", 16, TOP + "train[589824:590024]", "train[90%:]"),
        73_728,
    ),
    "dsprites_orientation": (
        *("dsprites:2.*.*", 16, TOP + "train[589824:590024]", "train[90%:]"),
        73_728,
    ),
    "kitti": ("kitti:3.*.*", 4, TOP + END, "test", 711),
    "smallnorb_azimuth": (
        *("smallnorb:2.*.*", 18, TOP + "test[:200]", "test[50%:]"),
        12_150,
    ),
    "smallnorb_elevation": (
        *("smallnorb:2.*.*", 9, TOP + "test[:200]", "test[50%:]"),
        12_150,
    ),
}
# BiT, appendix F.
UNCROPPED = {"clevr_count", "clevr_distance", "dmlab", "kitti", "dsprites_location"}
UNFLIPPED = {"dsprites_orientation", "smallnorb_azimuth", "dsprites_location"}


@pytest.mark.parametrize("task", VTAB)
def test_vtab(task, tmp_path):
    """2500 steps at 0.01 and 384 px on 800 + 200 images, other ones than the test's."""
    config = recipe("finetune", f"B/16,vtab_{task}")
    assert (config.total, config.optimizer.lr) == ("2500 steps", 0.01)
    assert config.model.image_size == (384, 384) and config.batch_size == 512
    crop = ("resize" if task in UNCROPPED else "resize_crop", 448)
    assert (config.data.train.transform, config.data.train.resize) == crop
    assert config.data.flip == (task not in UNFLIPPED)
    builder, classes, train, test, count = VTAB[task]
    assert (config.data.dataset, config.data.train_split) == (builder, train)
    assert config.evals.test.split == test
    name = naming.of_run(config.data)
    info = catalog.describe(name, data_dir=str(tmp_path))
    dev = recipe("finetune", f"B/16,vtab_{task},dev")
    whole = splits.resolve(config.data.train_split, info.splits, task)
    parts = [dev.data.train_split, dev.evals.dev.split]
    assert whole == [splits.resolve(p, info.splits, task)[0] for p in parts]
    assert [part.stop - part.start for part in whole] == [800, 200]
    (test,) = splits.resolve(config.evals.test.split, info.splits, task)
    assert (info.num_classes, test.stop - test.start) == (classes, count)
    assert tasks.VTAB[task].classes == classes
    assert all(part.split != test.split or part.stop <= test.start for part in whole)


def test_vtab_has_nineteen_tasks_in_three_groups():
    assert list(tasks.VTAB) == list(VTAB) and len(VTAB) == 19
    groups = [task.group for task in tasks.VTAB.values()]
    assert [groups.count(group) for group in tasks.GROUPS] == [7, 4, 8]


@pytest.mark.parametrize(
    ("size", "steps", "dev", "sweep"),
    [
        ("small", 500, "train[90%:]", SMALL),
        ("medium", 10_000, "train[98%:]", SMALL),
        ("large", 20_000, "train[99%:]", (0.003, 0.01, 0.03, 0.06)),
    ],
)
def test_another_dataset_has_the_row_of_its_size(size, steps, dev, sweep):
    config = recipe("finetune", f"B/16,folder:some/where,{size},dev")
    assert config.data.dataset == "folder:some/where"
    assert (config.total, config.evals.dev.split) == (f"{steps} steps", dev)
    assert (config.optimizer.lr, tasks.OTHERS[size].sweep) == (0.03, sweep)
    assert recipe("finetune", f"B/16,digits,{size}").evals.test.split == ""


# BiT 3.3: steps by number of images; resize and crop by their size and the model.
HYPERRULE = {
    ("BiT-R50x1", "pets"): (500, 448, 384),
    ("BiT-R50x1", "vtab_dtd"): (500, 448, 384),
    ("BiT-R50x1", "vtab_svhn"): (500, 160, 128),
    ("BiT-R101x3", "cifar10"): (10_000, 160, 128),
    ("BiT-R152x4", "cifar100"): (10_000, 160, 128),
    ("BiT-R50x1-post", "imagenet2012"): (20_000, 448, 384),
    ("BiT-R152x4", "imagenet2012"): (20_000, 512, 480),
}


@pytest.mark.parametrize("key", HYPERRULE)
def test_bit_hyperrule(key):
    steps, resize, size = HYPERRULE[key]
    config = recipe("finetune", ",".join(key))
    assert config.total == f"{steps} steps"
    assert config.model.image_size == (size, size)
    train = config.data.train
    assert (train.transform, train.resize) == ("resize_crop", resize)
    assert (config.data.eval.transform, config.batch_size) == ("", 512)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.momentum) == ("sgd", 0.003, 0.9)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (0.0, 0.0)
    warmup = 100 if steps == 500 else 500
    assert optimizer.warmup == f"{warmup} steps"
    schedule = schedules.make(
        optimizer.schedule,
        peak=optimizer.lr,
        total_steps=steps,
        warmup_steps=warmup,
        drop_at=optimizer.drop_at,
    )
    rates = [float(schedule(round(s * steps))) for s in (0.29, 0.3, 0.6, 0.9, 0.99)]
    np.testing.assert_allclose(rates, [3e-3, 3e-4, 3e-5, 3e-6, 3e-6], rtol=1e-5)


# The tables of the papers, beside the codes that the recipes were written from.
AUGREG = {
    ("Ti/16", "i1k"): ("randaug(2,0)", 0.0),
    ("S/32", "i1k"): ("randaug(2,15)", 0.2),
    ("L/16", "i1k"): ("randaug(2,15)", 0.5),
    ("S/32", "i21k"): ("", 0.0),
    ("S/16", "i21k"): ("randaug(2,0)", 0.0),
    ("B/16", "i21k"): ("randaug(2,10)", 0.2),
    ("L/16", "i21k"): ("randaug(2,15)", 0.5),
    ("B/32", "i21k,strong1"): ("randaug(2,20)", 0.5),
    ("B/32", "i1k,strong2"): ("randaug(2,20)", 0.8),
}


@pytest.mark.parametrize("key", AUGREG)
def test_augreg(key):
    config = recipe("augreg", ",".join(key))
    found = config.data.train.auto_augment, config.data.mix.mixup
    assert found == AUGREG[key] and config.data.mix.form == "big_vision"
    assert (config.total, config.batch_size) == ("300 epochs", 4096)
    optimizer = config.optimizer
    assert optimizer.lr * optimizer.weight_decay == pytest.approx(1e-4)
    on_i21k = "i21k" in key[1]
    assert config.model.head_bias == (-10 if on_i21k else -6.9)
    assert config.model.pre_logits != on_i21k


# What the file names of the checkpoints say that AugReg's README recommends.
HYBRIDS = {
    "R+Ti/16": ("none", 0.03, 0.0),
    "R26+S/32": ("light1", 0.1, 0.0),
    "R50+L/32": ("medium1", 0.1, 0.1),
}


@pytest.mark.parametrize("model", HYBRIDS)
def test_hybrids_of_augreg(model):
    level, decay, drop = HYBRIDS[model]
    config = recipe("augreg", f"{model},i21k")
    assert config == recipe("augreg", f"{model},i21k,{level}")
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (1e-3, decay)
    assert (config.model.dropout, config.model.drop_path) == (drop, drop)
    counterpart = model.split("+")[1].replace("L/32", "L/16")
    on_i1k = recipe("augreg", f"{model},i1k")
    on_i1k.model.name = counterpart
    assert on_i1k == recipe("augreg", f"{counterpart},i1k")


def test_the_better_baseline_is_its_reports_figure():
    """Its text: batch 1024, RandAugment(2, 10), Mixup 0.2, pooled means, sincos2d."""
    assert recipe("vit_s16_baseline", "90") == recipe("vit_s16_baseline", None)
    config = recipe("vit_s16_baseline", "300")
    assert (config.total, config.batch_size) == ("300 epochs", 1024)
    assert (config.model.pool, config.model.posemb) == ("mean", "sincos_2d")
    assert config.data.train.auto_augment == "randaug(2,10)"
    assert (config.data.mix.mixup, config.loss) == (0.2, "softmax")
    with pytest.raises(ValueError, match="known: 90, 150, 300"):
        recipe("vit_s16_baseline", "91")


# DeiT III, Table 2, and MAE, Table 9: rate, decay, stochastic depth, batch, epochs.
TODAY = {
    ("deit3", "B/16"): (3e-3, 0.05, 0.2, 2048, 800),
    ("deit3", "L/16"): (3e-3, 0.05, 0.45, 2048, 800),
    ("deit3", "B/16,finetune"): (1e-5, 0.1, 0.2, 512, 20),
    ("deit", "B/16"): (1e-3, 0.05, 0.1, 1024, 300),
    ("mae_finetune", "B/16"): (2e-3, 0.05, 0.1, 1024, 100),
    ("mae_finetune", "H/14"): (4e-3, 0.05, 0.3, 1024, 50),
}


@pytest.mark.parametrize("key", TODAY)
def test_recipes_of_timms_form(key):
    config = recipe(*key)
    found = config.optimizer.lr, config.optimizer.weight_decay, config.model.drop_path
    epochs = f"{TODAY[key][-1]} epochs"
    assert (*found, config.batch_size) == TODAY[key][:-1] and config.total == epochs
    mix = config.data.mix
    assert (mix.form, mix.mixup, mix.cutmix) == ("timm", 0.8, 1.0)
    assert config.optimizer.warmup == "5 epochs"
    first = key[0] == "deit3" and "finetune" not in key[1]
    assert config.loss == ("bce" if first else "softmax")
    assert config.label_smoothing == (0.0 if first else 0.1)
    assert config.data.repeats == (3 if first or key[0] == "deit" else 1)
    policy = config.data.train.auto_augment
    assert policy == ("3a" if first else "rand-m9-mstd0.5-inc1")
    assert config.optimizer.name == ("lamb" if first else "adam")


def test_arguments_of_todays_recipes_are_named():
    for module, argument, words in (
        ("augreg", "B/16,i1k,medium3", "known: none, light1"),
        ("augreg", "B/14", "known: Ti/16"),
        ("augreg", "B/16,i1k,none,x", "want MODEL"),
        ("deit3", "S/16,finetune", "of all but S/16"),
        ("deit", "L/16", "known: Ti/16, S/16, B/16"),
        ("mae_finetune", "S/16", "known: B/16, L/16, H/14"),
        ("cifar10", "tpu", "want no argument, or adam, gpu"),
    ):
        with pytest.raises(ValueError, match=words):
            recipe(module, argument)


def test_the_rule_mixes_from_20_000_images_on():
    few = recipe("finetune", "BiT-R50x1,pets").data.mix
    many = recipe("finetune", "BiT-R50x1,cifar10").data.mix
    assert (few.mixup, many.mixup) == (0.0, 0.1)
    assert recipe("finetune", "B/16,cifar10").data.mix.mixup == 0.0


def test_mixers_are_fine_tuned_at_224_pixels():
    config = recipe("finetune", "Mixer-B/16,cifar10")
    assert config.model.image_size == (224, 224)
    assert (config.total, config.optimizer.lr) == ("10000 steps", 0.03)


@pytest.mark.parametrize(
    ("module", "argument", "extrapolated"),
    [
        ("vit_h14", "i21k", True),
        ("vit_h14", "i1k", False),
        ("vit_h14", "jft", False),
        ("vit_l32", "i21k", False),
        ("hybrid", "R50+B/16", True),
        ("hybrid", "R50+L/32,i21k", True),
        ("hybrid", "R50+L/32,jft", False),
        ("axial", "Axial-B/16,jft", True),
        ("bit", "BiT-R50x1,jft", False),
    ],
)
def test_what_table_3_does_not_have_is_called_extrapolated(
    module, argument, extrapolated, caplog
):
    base.note.cache_clear()
    recipe(module, argument)
    said = [record.message for record in caplog.records]
    assert len(said) == extrapolated
    assert all("Table 3 of the paper has no" in text for text in said)


@pytest.mark.parametrize(
    ("module", "argument", "every"),
    [
        ("vit_b16", "i1k", "25_000 steps"),
        ("vit_l16", "jft", "25_000 steps"),
        ("bit", "BiT-R50x1,i21k", "25_000 steps"),
        ("mixer", None, "25_000 steps"),
        ("masked", "jft", "25_000 steps"),
        ("masked", "i1k", "25_000 steps"),
        ("axial", "AxialResNet50", "25_000 steps"),
        ("vit_g14", "G", "10_000 steps"),
    ],
)
def test_pre_training_has_few_shot_evaluations(module, argument, every, tmp_path):
    """Of every dataset but its own; each is in the catalog, so no name is misspelt."""
    config = recipe(module, argument)
    few = {k: v for k, v in config.evals.items() if v.type == "fewshot"}
    wanted = {base.FEWSHOT[name].dataset for name in base.SUITE}
    assert {v.dataset for v in few.values()} == wanted - {config.data.dataset}
    for options in few.values():
        assert options.optional and options.every == every
        assert {1, 5, 10} <= set(options.shots) and options.l2 == 2**10
        # resize(256)|central_crop(224), by tf.image.resize's default.
        assert (options.transform, options.filter) == ("resize_crop", "default")
        assert (options.resize, options.image_size) == (0, ())
        info = catalog.describe(options.dataset, data_dir=str(tmp_path))
        shots, test = (
            splits.resolve(options[key], info.splits, options.dataset)[0]
            for key in ("train_split", "split")
        )
        assert shots.split != test.split or shots.stop <= test.start


def test_unknown_arguments_are_named():
    with pytest.raises(ValueError, match="TASK one of imagenet2012"):
        finetune.get_config("B/16,cifar11")
    for words in ("B/16,cifar10,test", "B/16,cifar10,table4", "B/16", "BiT-R50x1,dev"):
        with pytest.raises(ValueError, match=r"want MODEL,TASK\[,dev\]"):
            finetune.get_config(words)
    with pytest.raises(ValueError, match="Table 2 of the paper has no B/16"):
        finetune.get_config("B/16,imagenet_table2")
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
        ({"total": "0 steps"}, "total='0 steps' trains nothing"),
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


def test_position_tables_of_the_scaling_paper_start_as_big_visions():
    assert recipe("vit_g14", None).model.posemb_std == 0  # 1 / sqrt(width)
    assert recipe("vit_b16", None).model.posemb_std == 0.02


def test_recipes_of_the_paper_read_and_resize_as_their_authors_did():
    """TensorFlow turns no photograph; big_vision resizes by area before it crops."""
    pretraining = [pretrain.recipe("B/16", name) for name in pretrain.DATASETS]
    for config in (*pretraining, finetune.get_config("B/16,pets")):
        assert config.data.exif == "stored"
    for config in pretraining:
        assert (config.data.eval.resize, config.data.eval.filter) == (256, "area")
    plain = base.get_config()
    assert plain.data.exif == "turn" and plain.data.train.resize == 448
    plain.data.train.transform = "resize_small_crop"
    plain.data.train.filter = "area"
    transform = training.train_transform(
        (224, 224), exif=plain.data.exif, **plain.data.train
    )
    assert (transform.filter, transform.turn) == ("area", True)
    assert transform.plan(500, 1000, (0.0, 0.0)).resized == (448, 896)
