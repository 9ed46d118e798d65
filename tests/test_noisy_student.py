"""Pseudo-labels: what a teacher said of pictures beforehand, mixed with labels."""

import collections
import csv
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import vit_jax
from configs import noisy_student, quickstart
from vit_jax import errors, experiment, train, tree
from vit_jax.checkpoints import checkpoint
from vit_jax.data import catalog, digits, loader, orders, transforms
from vit_jax.parallel import mesh
from vit_jax.runs.bulk import inputs, predictions

NAMES = tuple("0123456789")
CROP = transforms.make("train", "resize", image_size=8)
BLOCK = 1 << 16


def _teacher(path):
    """A model that knows nothing, but says of each picture something else."""
    options = {"image_size": 8, "depth": 1, "width": 16, "heads": 2, "mlp_width": 16}
    model = vit_jax.create_model("mu/2", num_classes=10, **options)
    rng = np.random.default_rng(0)
    for part, deviation in ((model.patch_embed, 2.0), (model.head, 0.7)):
        shape = part.kernel.shape
        part.kernel[...] = rng.normal(0, deviation, shape).astype(np.float32)
    return vit_jax.save(model, path, label_names=list(NAMES))


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """Pictures of digits, and what `predict` wrote of them as CSV and Parquet."""
    root = tmp_path_factory.mktemp("pseudo")
    images = digits.opened("train")
    for k in range(60):
        pixels = np.repeat(np.asarray(images[k]["image"]), 3, axis=-1)
        Image.fromarray(pixels).save(root / f"{k:02d}.png")
    (root / "60.png").write_bytes(b"no picture")
    teacher = _teacher(root / "teacher")
    paths = [str(path) for path in sorted(root.glob("*.png"))]
    for suffix in ("csv", "parquet"):
        out = root / f"all.{suffix}"
        predictions.run(str(teacher), inputs.Files(paths), out, top_k=10)
    rows = csv.reader((root / "all.csv").open())
    with (root / "some.csv").open("w") as file:  # as of --top_k=2
        csv.writer(file).writerows([*row[:7], row[-1]] for row in rows)
    return root


def table(path):
    """{picture: (class, probability)} of what could be read."""
    rows = [row for row in csv.DictReader(open(path)) if not row["error"]]
    return {r["image"]: (r["name"], float(r["probability"])) for r in rows}


def test_what_is_below_the_confidence_is_left_out_and_of_a_class_the_best_are_kept(
    predicted,
):
    every = table(predicted / "all.csv")
    least = float(np.median([sure for _, sure in every.values()]))
    by_class = collections.defaultdict(list)
    for picture, (name, sure) in every.items():
        if sure >= least:
            by_class[name].append((-sure, picture))
    assert len(by_class) > 2 and len(set(map(len, by_class.values()))) > 1
    for most in (0, 3):
        wanted = {
            picture: name
            for name, found in by_class.items()
            for _, picture in sorted(found)[: most or None]
        }
        limit = f",most={most}" if most else ""
        for suffix in ("csv", "parquet"):
            name = f"predicted:{predicted}/all.{suffix},confidence={least!r}{limit}"
            source = catalog.open_source(name, "train")
            names = catalog.describe(name).label_names
            found = {
                source.name(k): names[source[k]["label"]] for k in range(len(source))
            }
            assert found == wanted and 0 < len(wanted) < 60


def test_soft_labels_are_the_probabilities(predicted):
    name = f"predicted:{predicted}/all.csv,labels=soft"
    source, info = catalog.open_source(name, "train"), catalog.describe(name)
    assert info.multi_label and info.label_names == NAMES
    best = table(predicted / "all.csv")
    part = f"predicted:{predicted}/some.csv,labels=soft"
    two, known = catalog.open_source(part, "train"), catalog.describe(part).label_names
    of_two = {two.name(k): dict(zip(known, two[k]["label"])) for k in range(len(two))}
    assert len(source) == len(two) == 60 and 2 < len(known) <= 10
    for k in range(60):
        label, (name, sure) = source[k]["label"], best[source.name(k)]
        assert NAMES[label.argmax()] == name and label.max() == np.float32(sure)
        np.testing.assert_allclose(label.sum(), 1, atol=1e-5)
        top = [NAMES[place] for place in np.argsort(-label)[:2]]
        found = of_two[source.name(k)]
        assert [found.pop(name) for name in top] == sorted(label)[:-3:-1]
        rest = (1 - np.sort(label)[-2:].sum()) / len(found)
        np.testing.assert_allclose(list(found.values()), rest, atol=1e-6)


@pytest.mark.parametrize("hard", [True, False])
def test_classes_are_balanced_and_labelled_rows_have_their_share(predicted, hard):
    name = noisy_student.mixture("digits", f"{predicted}/all.csv", hard=hard)
    name = name.replace("confidence=0.3,most=130000", "confidence=0.15,most=5")
    assert catalog.describe(name).multi_label != hard
    source = catalog.open_source(name, "train")
    labelled = len(digits.opened("train"))
    found = orders.of(source, 5)(7 * BLOCK + np.arange(BLOCK))
    pseudo = found[found >= labelled]
    assert len(pseudo) == BLOCK * 3 // 4
    of_row = [np.asarray(source[k]["label"]) for k in range(labelled, len(source))]
    classes = np.array([label if hard else label.argmax() for label in of_row])
    counts = np.bincount(classes[pseudo - labelled])
    counts = counts[counts > 0]
    assert len(counts) > 2 and len(set(np.bincount(classes)) - {0}) > 1
    assert counts.max() - counts.min() <= 1
    given = source[0]["label"] if hard else source[0]["label"].argmax()
    assert given == digits.opened("train")[0]["label"]

    def batch(step, **share):
        made = loader.train_loader(source, CROP, batch_size=32, seed=5, **share)
        try:
            return made.batch(step)
        finally:
            made.close()

    whole = batch(1000)
    parts = [batch(1000, process_index=k, process_count=2) for k in range(2)]
    for key, values in whole.items():
        np.testing.assert_array_equal(np.concatenate([p[key] for p in parts]), values)
    assert whole["label"].shape == ((32,) if hard else (32, 10))


@pytest.mark.parametrize(
    "spec, shown",
    [
        ("all.csv,confidence=2", "want predicted:FILE"),
        ("all.csv,confidence=x", "could not convert"),
        ("all.csv,most=0", "want predicted:FILE"),
        ("all.csv,labels=none", "want predicted:FILE"),
        ("all.csv,confidnce=0.3", "confidnce"),
        ("all.csv,confidence=1", "no picture"),
        ("all.csv#label=x", "#names alone"),
        ("labels.csv", "no column 'probability'"),
        ("gone.csv", "not there"),
        ("empty.csv", "holds no row"),
    ],
)
def test_tables_that_cannot_be(spec, shown, predicted):
    (predicted / "labels.csv").write_text("image,label,name,error\na.png,1,one,\n")
    (predicted / "empty.csv").write_text("image,label,name,probability,error\n")
    header = "image,label,name,probability,error\n"
    (predicted / "gone.csv").write_text(f"{header}a.png,1,one,0.5,\n")
    with pytest.raises(errors.UserError) as raised:
        catalog.open_source(f"predicted:{predicted}/{spec}", "train")
    assert shown in str(raised.value), raised.value
    assert str(raised.value).count("\n") < 10


def student(predicted, **changes):
    """The recipe, of a size and on data for seconds."""
    config = noisy_student.get_config(f"{predicted}/all.csv")
    pseudo = noisy_student.mixture("digits", f"{predicted}/all.csv", hard=False)
    test = quickstart.get_config().evals
    small_ones = {
        **{"total": "4 steps", "batch_size": 8, "log_every": "1 steps"},
        **{"eval_every": "", "save_every": "2 steps", "model.name": "mu/8"},
        **{"model.depth": 1, "model.width": 16, "model.heads": 2},
        **{"model.mlp_width": 16, "model.image_size": (16, 16)},
        **{"model.compute_dtype": "float32", "optimizer.warmup": "1 steps"},
        "data.dataset": pseudo.replace("confidence=0.3", "confidence=0.15"),
    }
    config.update_from_flattened_dict(small_ones | changes)
    config.evals = test
    return config


def test_the_recipe_assembles_with_probabilities_as_labels(predicted):
    config = student(predicted)
    exp = experiment.assemble(config, experiment.make_mesh(config))
    assert exp.batch["label"].shape == (8, 10)
    assert exp.durations.total == 4 and exp.info.num_classes == 10


@pytest.mark.slow
def test_a_run_that_goes_on_is_the_run_that_never_stopped(predicted, tmp_path):
    workdir, device_mesh = tmp_path, mesh.make_mesh(devices=jax.devices()[:1])
    states = []
    for _ in range(2):
        train.run(student(predicted), workdir, device_mesh)
        params = checkpoint.read_params(workdir)[0]
        states.append(dict(tree.named_leaves(params)))
        shutil.rmtree(workdir / "checkpoints" / "4")  # it goes on from step 2
    whole, again = states
    assert whole.keys() == again.keys() and len(whole) > 10
    for leaf, value in whole.items():
        np.testing.assert_array_equal(again[leaf], value, err_msg=leaf)
