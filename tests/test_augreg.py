"""Choosing among the AugReg checkpoints: the published choices, and what is refused."""

import csv
import io
import math
import time

import pytest

from vit_jax import errors
from vit_jax.models import variants
from vit_jax.weights import augreg

COLUMNS = (
    "name,ds,epochs,lr,aug,wd,do,sd,best_val,final_val,final_test,adapt_ds,adapt_lr,"
    "adapt_steps,adapt_resolution,adapt_final_val,adapt_final_test,params,"
    "infer_samples_per_sec,filename,adapt_filename"
).split(",")
# Pre-trainings: name, ds, aug, wd, final_val (made up, but the best of B/16 is the
# published one).
TRAININGS = (
    ("B/16", "i21k", "medium1", 0.1, 0.50),
    ("B/16", "i21k", "light1", 0.03, 0.49),
    ("B/16", "i21k_30", "none", 0.03, 0.55),
    ("B/16", "i1k", "strong2", 0.1, 0.80),
    ("R50+L/32", "i21k", "medium1", 0.1, 0.48),
    ("R+Ti/16", "i21k", "none", 0.03, 0.30),
    ("B/8", "i21k", "medium2", 0.1, 0.51),
)
MADE = {"epochs": 300, "lr": 0.001, "do": 0.0, "sd": 0.0, "params": 86567656}


def rows():
    for name, ds, aug, wd, final_val in TRAININGS:
        prefix = name.replace("/", "_").replace("+", "_")
        epochs = 30 if ds == "i21k_30" else 300
        filename = f"{prefix}-{ds}-{epochs}ep-lr_0.001-aug_{aug}-wd_{wd}-do_0.0-sd_0.0"
        for adapt_ds, steps in (("imagenet2012", 20000), ("cifar100", 10000)):
            for resolution in (224,) if name == "B/8" else (224, 384):
                for rate in (0.01, 0.03):
                    val = 0.8 + resolution / 10000 + rate / 10 + (aug == "light1") / 10
                    tail = (
                        f"{adapt_ds}-steps_{steps // 1000}k-lr_{rate}-res_{resolution}"
                    )
                    values = MADE | {
                        "name": name,
                        "ds": ds,
                        "aug": aug,
                        "wd": wd,
                        "epochs": epochs,
                        "best_val": final_val,
                        "final_val": final_val,
                        "final_test": 1 - final_val,
                        "adapt_ds": adapt_ds,
                        "adapt_lr": rate,
                        "adapt_steps": steps,
                        "adapt_resolution": resolution,
                        "adapt_final_val": val,
                        "adapt_final_test": 1 - val,
                        "infer_samples_per_sec": "" if name == "B/8" else 137.92,
                        "filename": filename,
                        "adapt_filename": f"{filename}--{tail}",
                    }
                    yield [str(values[column]) for column in COLUMNS]


def write(path, header=COLUMNS, body=None):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [header, *(rows() if body is None else body)]
    )
    path.write_text(text.getvalue())
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "index.csv")


def test_names_are_ours_and_files_begin_with_theirs():
    assert set(augreg.MODELS) <= set(variants.NAMES)
    for ours, theirs in augreg.MODELS.items():
        assert theirs == ours.replace("/", "_").replace("+", "_")


def test_every_row_is_read_as_it_stands(path):
    index = augreg.read_index(path)
    assert len(index) == sum(1 for _ in rows())
    first = index[0]
    assert (first.name, first.wd, first.adapt_steps) == ("B/16", 0.1, 20000)
    assert type(first.adapt_resolution) is int and type(first.adapt_lr) is float
    assert all(math.isnan(e.infer_samples_per_sec) == (e.name == "B/8") for e in index)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B/16", "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0"),
        ("B_16", "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0"),
        (
            "B/16,imagenet2012,384",
            "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0"
            "--imagenet2012-steps_20k-lr_0.03-res_384",
        ),
        (
            "B/16,cifar100",
            "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0"
            "--cifar100-steps_10k-lr_0.03-res_384",
        ),
        (
            "B/16,cifar100,224,adapt_lr=0.01",
            "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0"
            "--cifar100-steps_10k-lr_0.01-res_224",
        ),
        ("B/16,ds=i1k", "B_16-i1k-300ep-lr_0.001-aug_strong2-wd_0.1-do_0.0-sd_0.0"),
        ("B/16,wd=0.03", "B_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0"),
        ("R+Ti/16", "R_Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0"),
        (
            "R50+L/32,adapt_ds=imagenet2012",
            "R50_L_32-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0"
            "--imagenet2012-steps_20k-lr_0.03-res_384",
        ),
    ],
)
def test_a_short_name_means_one_file(path, text, expected):
    url = augreg.resolve(f"augreg:{text}", path)
    assert url == f"gs://vit_models/augreg/{expected}.npz"


def test_a_whole_file_name_needs_no_index(tmp_path):
    name = "R_Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0"
    for text in (name, f"{name}.npz"):
        url = augreg.resolve(f"augreg:{text}", tmp_path / "none.csv")
        assert url == f"gs://vit_models/augreg/{name}.npz"


def test_unknown_figures_choose_nothing(path):
    index = augreg.read_index(path)
    best = augreg.choose(index, "B/16")
    changed = [
        augreg.dataclasses.replace(row, final_val=math.nan)
        if row.filename == best.filename
        else row
        for row in index
    ]
    assert augreg.choose(changed, "B/16").aug == "light1"


def test_the_choice_does_not_depend_on_the_order_of_the_rows(path):
    index = augreg.read_index(path)
    forward = augreg.choose(index, "B/16", dataset="cifar100")
    assert augreg.choose(index[::-1], "B/16", dataset="cifar100") == forward


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("augreg:B/15", 'Did you mean "B/16"'),
        ("augreg:L/16", "no AugReg checkpoint of 'L/16'; there are: B/16, B/8"),
        (
            "augreg:B/16,imagenet",
            'adapt_ds=.imagenet.; there are: cifar100.*"imagenet2012',
        ),
        ("augreg:B/8,imagenet2012,384", "adapt_resolution=384; there are: 224"),
        ("augreg:B/16,ds=i21", "ds='i21'; there are: i1k, i21k, i21k_30"),
        ("augreg:B/16,imagenet2012,large", "adapt_resolution='large'"),
        ("augreg:B/16,colour=red", "column='colour' is unknown"),
        ("augreg:B/16,name=B/8", "column='name' is unknown"),
        ("augreg:B/16,a,b,c", "wanted augreg:B/16"),
        ("augreg:", "wanted augreg:B/16"),
        ("augreg:../B_16-i21k", "no name of an AugReg file"),
        ("B/16", "wanted augreg:B/16"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(path, text, message):
    with pytest.raises(errors.UserError, match=f"(?s){message}") as caught:
        augreg.resolve(text, path)
    assert len(str(caught.value).splitlines()) <= 10


def changed(column, value):
    first = next(rows())
    first[COLUMNS.index(column)] = value
    return [first]


@pytest.mark.parametrize(
    ("header", "body", "message"),
    [
        (COLUMNS[:-1], [], "lacks the columns adapt_filename"),
        ([*COLUMNS[:-1], "name"], [], "name, adapt_filename or has them twice"),
        (COLUMNS, [["B/16"]], "line 2: 1 cells, not 21"),
        (COLUMNS, changed("filename", "../../etc/passwd"), "line 2: filename="),
        (COLUMNS, changed("filename", "x/../y"), "line 2: filename="),
        (COLUMNS, changed("adapt_filename", "https://evil"), "adapt_filename="),
        (COLUMNS, changed("name", "<script>"), "name="),
        (COLUMNS, changed("final_val", "good"), "final_val='good'"),
        (COLUMNS, changed("epochs", "1.5"), "epochs='1.5': not a whole number"),
        (COLUMNS, changed("epochs", "inf"), "epochs='inf'"),
        (COLUMNS, changed("ds", "x" * 200_000), "field larger than field limit"),
        ([], [], "lacks the columns"),
    ],
)
def test_a_hostile_or_broken_index_is_one_error(tmp_path, header, body, message):
    with pytest.raises(errors.UserError, match=message) as caught:
        augreg.read_index(write(tmp_path / "index.csv", header, body))
    assert len(str(caught.value)) < 1000


def test_an_index_that_is_no_text_or_not_there(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("a.csv", "b.csv"):
        with pytest.raises(errors.UserError, match="cannot be read as an index"):
            augreg.read_index(tmp_path / name)


def test_extra_columns_and_their_order_do_not_matter(tmp_path):
    header = ["new", *COLUMNS[::-1]]
    body = [["?", *row[::-1]] for row in rows()]
    other = augreg.read_index(write(tmp_path / "other.csv", header, body))
    same = augreg.read_index(write(tmp_path / "same.csv"))
    assert [str(row) for row in other] == [str(row) for row in same]  # nan != nan


def test_an_index_of_the_published_size_is_read_in_seconds(tmp_path):
    body = list(rows())
    body = (body * (51_509 // len(body) + 1))[:51_509]
    large = write(tmp_path / "large.csv", body=body)
    start = time.monotonic()
    assert len(augreg.read_index(large)) == 51_509
    assert time.monotonic() - start < 20
