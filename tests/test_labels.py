"""Classes of datasets and outputs of models: matched by name, or refused."""

import json
import logging
import shutil

import jax
import numpy as np
import pytest
from cases import CASES, expected

import vit_jax
from configs import base
from vit_jax import convert, errors, evaluate, experiment, models, tree
from vit_jax.data import labels, sources
from vit_jax.parallel import mesh
from vit_jax.runs import evaluations, starting
from vit_jax.weights import adapting
from vit_jax.weights.source import Tensors

COUNTED = tuple(str(i) for i in range(12))
AS_TEXT = tuple(sorted(COUNTED))
WNIDS = ("n01440764", "n01443537", "n01484850")
ENGLISH = ("tench, Tinca tinca", "goldfish, Carassius auratus", "great white shark")


def align(outputs, classes, mode="auto", *, counts=(0, 0), ids=None):
    """None where nothing changes, else the output of each class as a list."""
    model = labels.Side("MODEL", counts[0] or len(outputs), outputs, ids)
    dataset = labels.Side("DATA", counts[1] or len(classes), classes)
    order = labels.align(model, dataset, mode)
    return order if order is None else order.tolist()


@pytest.mark.parametrize(
    ("outputs", "classes"),
    [
        (COUNTED, AS_TEXT),
        (("cat", "dog", "ant"), ("ant", "cat", "dog")),
        (("Golden Retriever", "tabby-cat"), ("tabby_cat", "golden_retriever")),
        (tuple(f"{i:03d}" for i in range(12)), AS_TEXT),
        (ENGLISH, ("great_white_shark", "goldfish", "tench")),
        (ENGLISH, ("goldfish", "tench")),  # a part of a model's classes
        (("crane", "ox", "crane"), ("crane", "crane", "ox")),  # ImageNet has two
    ],
)
def test_each_class_is_the_output_of_its_name(outputs, classes):
    def same(name):
        return (
            name.split(",")[0].lower().replace("_", " ").replace("-", " ").lstrip("0")
        )

    order = align(outputs, classes)
    assert [same(outputs[i]) for i in order] == [same(name) for name in classes]
    assert len(set(order)) == len(order)
    assert align(outputs, outputs) is None


def test_placeholders_of_transformers_are_in_the_order_of_their_numbers():
    names = tuple(f"LABEL_{i}" for i in range(12))
    order = align(None, tuple(sorted(names)), counts=(12, 0))
    assert [f"LABEL_{i}" for i in order] == sorted(names)
    assert align(None, names, counts=(12, 0)) is None


def test_descriptions_and_synset_numbers_are_both_names_of_a_class():
    classes = tuple(reversed(WNIDS))
    assert align(ENGLISH, classes, ids=WNIDS) == [2, 1, 0]
    assert align(ENGLISH, ENGLISH[::-1], ids=WNIDS) == [2, 1, 0]


@pytest.mark.parametrize(
    ("outputs", "classes", "said"),
    [
        (ENGLISH, WNIDS, "cannot be compared"),
        (WNIDS, ENGLISH, "cannot be compared"),
        (("0", "1", "2"), ("ant", "bee", "cat"), "cannot be compared"),
        (None, AS_TEXT, "output 2 is class 10"),
        (None, ("ant", "bee"), "MODEL has no names"),
        (ENGLISH, None, "DATA has no names"),
        (None, None, ""),
    ],
)
def test_what_cannot_be_compared_keeps_its_order_and_says_so(
    outputs, classes, said, caplog
):
    caplog.set_level(logging.INFO)
    count = len(outputs or classes or ENGLISH)
    assert align(outputs, classes, counts=(count, count)) is None
    assert said in caplog.text and bool(caplog.text) == bool(said)
    with pytest.raises(errors.UserError):
        align(outputs, classes, "names", counts=(count, count))


@pytest.mark.parametrize(
    ("outputs", "classes", "said"),
    [
        (("ant", "bee", "cat"), ("ant", "bee", "dog"), "1 of 3 have no output: 'dog'"),
        (("ant", "bee"), ("cat", "dog"), "2 of 2 have no output"),
        (("ant", "bee"), ("ant", "bee", "cat"), "1 of 3 have no output: 'cat'"),
        (("ant", "bee", "cat"), WNIDS[:2], "2 of 2 have no output"),
        (("ant", "bee", "cat"), WNIDS[::-1], "3 of 3 have no output"),
        (("crane", "ox", "crane"), ("crane", "ox"), "several outputs called 'crane'"),
        (("C++", "C#"), ("c#", "c++"), "several outputs called 'c#', 'c++'"),
    ],
)
def test_other_classes_are_refused_and_both_orders_named(outputs, classes, said):
    with pytest.raises(errors.UserError) as caught:
        align(outputs, classes)
    text = str(caught.value)
    assert said in text and len(text.splitlines()) <= 10
    assert ("--labels=order" in text) == (len(outputs) == len(classes))
    assert repr(outputs[0]) in text and repr(classes[0]) in text
    if len(outputs) == len(classes):
        assert align(outputs, classes, "order") is None


def test_counts_must_agree_where_names_do_not_say():
    for mode, outputs in (("auto", None), ("order", ("a", "b", "c"))):
        with pytest.raises(errors.UserError, match="has 2 classes.* head has 3"):
            align(outputs, ("a", "b"), mode, counts=(3, 2))
    with pytest.raises(errors.UserError, match="labels='nams' is unknown"):
        align(None, None, "nams", counts=(2, 2))


def test_labels_of_a_source_become_outputs():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    order = np.array([4, 0, 2])
    ints = labels.Relabelled(sources.ArraySource(images, np.arange(3)), order, 5)
    assert [ints[i]["label"] for i in range(3)] == order.tolist()
    assert (len(ints), ints.num_classes, ints.name(1)) == (3, 5, "array:1")
    hot = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]], np.float32)
    many = labels.Relabelled(sources.ArraySource(images, hot), order, 5)
    found = np.stack([many[i]["label"] for i in range(3)])
    np.testing.assert_array_equal(found[:, order], hot)
    assert found.sum() == hot.sum()
    wrong = labels.Relabelled(sources.ArraySource(images, np.arange(3)), order[:2], 5)
    with pytest.raises(errors.UserError, match="label 2 is out of range"):
        wrong[2]


def test_an_evaluation_matches_classes_by_name():
    case = CASES / "label_order_eval"
    data = f"folder:{case / 'data'}"
    figures = evaluate.run(str(case / "hf"), data, batch_size=8)
    assert figures["top1"] == expected("label_order_eval")["top1"] == 1.0
    # 0 and 1 stand in the same place as text and as numbers.
    by_order = evaluate.run(str(case / "hf"), data, batch_size=8, labels="order")
    assert by_order["top1"] == pytest.approx(2 / 12)


def test_a_kept_head_gives_each_class_the_output_of_its_name():
    """A run that starts from a checkpoint is as good as it at step 0."""
    case = CASES / "label_order_eval"
    config = base.get_config()
    config.update_from_flattened_dict(
        {
            "total": "1 steps",
            "batch_size": 8,
            "init_from": str(case / "hf"),
            "keep_head": True,
            "model.name": "checkpoint",
            "model.image_size": (8, 8),
            "model.pre_logits": False,
            "model.compute_dtype": "float32",
            "data.dataset": f"folder:{case / 'data'}",
            "data.train_split": "test",
            "optimizer.warmup": "",
            "optimizer.name": "sgd",
        }
    )
    base.set_evals(config, t=base.classify("test"))
    exp = experiment.assemble(config, mesh.make_mesh())
    assert [COUNTED[i] for i in exp.start.head_order] == list(AS_TEXT)
    (evaluation,) = evaluations.make(exp, lambda: None)
    assert evaluation.run(starting.begin(exp).params)["top1"] == 1.0


def test_a_head_that_is_kept_in_another_order_has_its_outputs_moved():
    arch = models.architecture("mu/8", num_classes=3, image_size=16, depth=1)
    _, like = models.abstract(arch)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape), like)
    leaves = Tensors.of(dict(tree.named_leaves(params)))
    order = np.array([2, 0, 1])
    moved, _ = adapting.adapt(leaves, arch, arch, like, head_order=order)
    for name in ("kernel", "bias"):
        expected_leaf = params["head"][name][..., order]
        np.testing.assert_array_equal(moved["head"][name], expected_leaf)
    np.testing.assert_array_equal(moved["cls"], params["cls"])
    fresh, _ = adapting.adapt(
        leaves, arch, arch, like, head_order=order, keep_head=False
    )
    assert not fresh["head"]["kernel"].any()


def test_a_head_is_not_kept_for_other_classes(tmp_path):
    case = CASES / "label_order_eval"
    other = tmp_path / "hf"
    other.mkdir()
    for path in (case / "hf").iterdir():
        text = path.read_bytes().replace(b'": "11"', b'": "eleven"')
        (other / path.name).write_bytes(text)
    config = base.get_config()
    config.update_from_flattened_dict(
        {
            "total": "1 steps",
            "batch_size": 8,
            "init_from": str(other),
            "keep_head": True,
            "model.name": "checkpoint",
            "model.image_size": (8, 8),
            "model.pre_logits": False,
            "data.dataset": f"folder:{case / 'data'}",
            "data.train_split": "test",
            "optimizer.warmup": "",
        }
    )
    with pytest.raises(errors.UserError, match="1 of 12 have no output: '11'"):
        experiment.assemble(config, mesh.make_mesh())
    config.labels = "order"
    assert experiment.assemble(config, mesh.make_mesh()).start.head_order is None


def test_both_names_of_a_class_stay_through_a_conversion(tmp_path):
    """timm's files may have synsets and descriptions; either is what data may have."""
    shutil.copytree(CASES / "timm_patch_remainder" / "timm", tmp_path / "timm")
    path = tmp_path / "timm" / "config.json"
    said = json.loads(path.read_text())
    ids = [f"n0000000{i}" for i in (3, 1, 4, 2, 5)]
    said |= {"label_names": ids, "label_descriptions": {n: f"a {n}" for n in ids}}
    path.write_text(json.dumps(said))
    convert.run(tmp_path / "timm", tmp_path / "ours", "vit_jax")
    loaded = vit_jax.load(tmp_path / "ours")
    assert loaded.label_ids == tuple(ids)
    assert loaded.label_names == tuple(f"a {name}" for name in ids)
    sides = (loaded.label_names, loaded.label_ids)
    assert align(sides[0], sorted(ids), ids=sides[1]) == [1, 3, 0, 2, 4]
