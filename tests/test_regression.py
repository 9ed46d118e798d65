"""Numbers as labels: read, trained towards, and measured as scikit-learn does it."""

import csv
import json
import warnings

import jax
import numpy as np
import pytest
from PIL import Image
from test_data_example import bytes_feature, packed_floats
from test_data_tfds import IMAGE, prepare

from benchmarks import unchanged
from configs import base
from vit_jax import errors, evaluate, experiment, train
from vit_jax.checkpoints import checkpoint
from vit_jax.data import catalog
from vit_jax.data.forms import labelling, parquet
from vit_jax.evaluators import regress
from vit_jax.learning import regression
from vit_jax.settings import naming

try:
    from sklearn import metrics as theirs
except ImportError:  # what it gave is below
    theirs = None

RNG = np.random.default_rng(0)
WANTED = RNG.normal(50, 10, (97, 3))
WANTED[:, 2] = 7  # of no spread
FOUND = WANTED + RNG.normal(0, 3, (97, 3))
# Of scikit-learn 1.9.1, mean_squared_error, mean_absolute_error and r2_score.
FIGURES = {
    "mse": 8.609741929487322,
    "mae": 2.3308279054387424,
    "r2": 0.6147599443568047,
}


def test_figures_are_scikit_learns():
    found = regress.figures(FOUND, WANTED)
    assert found == pytest.approx(FIGURES, rel=1e-9)
    exact = regress.figures(WANTED, WANTED)
    assert exact == {"mse": 0, "mae": 0, "r2": 1}
    if theirs is not None:
        assert found == pytest.approx(
            {
                "mse": theirs.mean_squared_error(WANTED, FOUND),
                "mae": theirs.mean_absolute_error(WANTED, FOUND),
                "r2": theirs.r2_score(WANTED, FOUND),
            },
            rel=1e-9,
        )


@pytest.fixture(scope="module")
def shades(tmp_path_factory):
    """Grey images, their shade in 0..1 and twice that: a CSV file with a split."""
    folder = tmp_path_factory.mktemp("shades")
    levels = np.linspace(0, 255, 48).round().astype(np.uint8)
    with open(folder / "table.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "split", "shade", "both"])
        for k, level in enumerate(levels.tolist()):
            Image.fromarray(np.full((32, 32, 3), level, np.uint8)).save(
                folder / f"{k}.png"
            )
            split = "test" if k % 4 == 1 else "train"
            both = f"{level / 255};{2 * level / 255}"
            table.writerow([f"{k}.png", split, level / 255, both])
    return folder


def source_of(name):
    info = catalog.describe(name)
    assert (info.numeric, info.multi_label, info.label_names) == (True, False, None)
    return info, catalog.open_source(name, next(iter(info.splits)))


def test_labels_of_tables_are_numbers(shades, tmp_path):
    name = f"csv:{shades}/table.csv#label=number:"
    info, one = source_of(f"{name}shade")
    assert info.num_classes == 1 and one[0]["label"].tolist() == [0]
    info, two = source_of(f"{name}both")
    assert info.num_classes == 2
    np.testing.assert_allclose(
        two[3]["label"], [one[3]["label"][0] * k for k in (1, 2)]
    )
    pa = parquet._pyarrow()
    image = (shades / "0.png").read_bytes()
    for column, wanted in (("age", [3.5]), ("year", [7]), ("place", [1, 2.5])):
        rows = {"image": [image], "age": [3.5], "year": [7], "place": [[1.0, 2.5]]}
        pa.parquet.write_table(pa.table(rows), tmp_path / f"train-{column}.parquet")
        found = f"parquet:{tmp_path}/train-{column}.parquet#label=number:{column}"
        assert source_of(found)[1][0]["label"].tolist() == wanted


def test_labels_of_tfds_are_numbers(tmp_path):
    number = {"tensor": {"dtype": "float32", "shape": {}, "encoding": "none"}}
    pair = {"tensor": number["tensor"] | {"shape": {"dimensions": ["2"]}}}
    text = {"text": {}}
    rows = [{"age": packed_floats(3.5), "place": packed_floats(1, 2.5)}]
    rows = [
        row | {"image": bytes_feature(b"x"), "name": bytes_feature(b"y")}
        for row in rows
    ]
    prepare(
        tmp_path / "toy" / "1.0.0",
        {"image": IMAGE, "age": number, "place": pair, "name": text},
        {"train": [rows]},
        pair=None,
    )
    for column, wanted in (("age", [3.5]), ("place", [1, 2.5])):
        source = catalog.open_source(
            f"toy#label=number:{column}", "train", data_dir=str(tmp_path)
        )
        assert source[0]["label"].tolist() == wanted
    with pytest.raises(errors.UserError, match="wanted one image and one label"):
        catalog.describe("toy#label=number:name", data_dir=str(tmp_path))


def config_of(shades, **changes):
    config = unchanged.small_config(
        **{"objective": "regression", "loss": "squared", "total": "30 steps"}
        | {"data.dataset": f"csv:{shades}/table.csv"}
        | {"data.label_column": "number:both", "data.train_split": "train"}
        | {"data.train.transform": "resize", "data.eval.transform": "resize"}
        | {"optimizer.lr": 1e-2, "optimizer.weight_decay": 0.0}
        | changes
    )
    base.set_evals(config, val=base.regress("test"))
    return config


def test_a_run_learns_numbers_and_its_checkpoint_says_so(shades, tmp_path):
    config = config_of(shades)
    mesh = experiment.make_mesh(config, jax.devices()[:1])
    figures = train.run(config, tmp_path, mesh)
    assert figures["val/r2"] > 0.6 and figures["val/examples"] == 12
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    first, last = json.loads(lines[0]), json.loads(lines[-2])
    assert last["loss"] < 0.1 * first["loss"] and {"mae", "mae_mean"} <= last.keys()
    again = evaluate.run(str(tmp_path), batch_size=12)
    for name in ("mse", "mae", "r2"):
        assert again[name] == pytest.approx(figures[f"val/{name}"], rel=1e-4)
    assert checkpoint.describe(tmp_path).problem == "regression"  # as predict reads it


def test_losses_are_means_over_all_numbers():
    difference = np.array([[1.0, -2.0], [0.0, 3.0]])
    assert regression.LOSSES["squared"](difference).mean() == 3.5
    assert regression.LOSSES["absolute"](difference).mean() == 1.5


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"loss": "softmax"}, "objective=regression; want squared or absolute"),
        ({"objective": "classification"}, "numbers and no classes; want --config.obj"),
        ({"data.label_column": "split"}, "want --config.data.label_column=number:"),
        ({"data.label_column": "number:file"}, "'0.png'.*wanted a finite number"),
    ],
)
def test_what_does_not_fit_is_one_error(shades, changes, message):
    config = config_of(shades, **changes)
    with pytest.raises(errors.UserError, match=message):
        experiment.assemble(config, experiment.make_mesh(config, jax.devices()[:1]))


def test_a_name_with_numbers_goes_both_ways():
    name = naming.join("csv:a.csv", naming.Columns(label="number:age"))
    bare, columns = naming.split(name)
    assert (bare, columns.numeric, columns.plain.label) == ("csv:a.csv", True, "age")


def test_a_number_too_large_is_one_error_and_no_warning():
    with pytest.raises(errors.UserError, match="4.png: label .*a finite number"):
        with warnings.catch_warnings(action="error"):
            labelling.raw_numbers([["1e300"]], lambda index: "4.png")
