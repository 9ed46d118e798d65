"""`vit_jax inspect`: pictures and numbers in files, curves of runs, bad input."""

import errno
import json
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from commands import own_flags, parse
from PIL import Image
from test_inspection import filled

from vit_jax import errors
from vit_jax.host import turns
from vit_jax.inspection import curves, drawing, figure, looking, pictures, writing
from vit_jax.runs.bulk import inputs
from vit_jax.weights import pretrained

GOLDEN = Path(__file__).resolve().parent / "golden"
CHECKPOINT = GOLDEN / "reference" / "hf_vit"
PHOTOGRAPHS = str(GOLDEN / "photographs")


def write_run(folder, lines):
    folder.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    """Two runs, the second of which went back to step 2."""
    first = [{"step": s, "loss": 1 / s, "epoch": 1.0, "wall_time": 9} for s in (1, 2)]
    first.append({"step": 2, "val/top1": 0.5, "val/examples": 10})
    second = [{"step": s, "loss": v} for s, v in ((1, 3), (3, 2), (2, 1), (3, None))]
    return [write_run(tmp_path / "a", first), write_run(tmp_path / "b", second)]


def test_curves_are_what_counted_in_the_end(runs):
    first, second = curves.read(runs)
    assert (first.name, second.name) == ("a", "b")
    assert set(first.curves) == {"loss", "val/top1", "val/examples"}
    assert second.curves["loss"].steps.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(second.curves["loss"].values, [3, 1, np.nan])
    assert curves.usual([first, second]) == ["loss", "val/top1"]
    named = curves.short_names(["x/seed=0/run", "y/seed=0/run", "y/seed=1/run"])
    assert named == ["x/seed=0/run", "y/seed=0/run", "y/seed=1/run"]


def test_the_mean_between_lines_stands_for_the_figure():
    made = {"loss": 1, "loss_mean": 1, "learning_rate": 1, "few/x_seed0": 1}
    run = curves.Run("r", dict.fromkeys(made, curves.Curve(np.arange(1), np.ones(1))))
    assert curves.usual([run]) == ["loss_mean", "learning_rate"]


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.9])
def test_a_moving_average_is_the_weighted_mean_so_far(factor):
    values = np.random.default_rng(0).standard_normal(20)
    found = curves.smoothed(values, factor)
    weights = factor ** np.arange(19, -1, -1.0)
    np.testing.assert_allclose(found[-1], weights @ values / weights.sum())
    assert found[0] == values[0]
    np.testing.assert_allclose(curves.smoothed(np.full(9, 2.5), factor), 2.5)
    assert np.isnan(curves.smoothed(np.array([1, np.nan, 3]), factor)).sum() == 1


def test_maps_side_by_side_keep_their_values_and_places():
    maps = np.arange(2 * 3 * 4 * 5, dtype=float).reshape(2, 3, 4, 5)
    whole, (down, across) = drawing.mosaic(maps)
    assert whole.shape == (4 + 1 + 4, 5 + 1 + 5 + 1 + 5)
    assert np.isfinite(whole).sum() == maps.size
    np.testing.assert_array_equal(whole[5:9, 6:11], maps[1, 1])
    assert down.tolist() == [1.5, 6.5] and across.tolist() == [2, 8, 14]


def test_titles_are_short_and_no_formulas():
    assert drawing.short("photos/a$b.jpg") == r"a\$b.jpg"
    assert drawing.short("a" * 50 + ":17").endswith("aaa:17")
    assert len(drawing.plain("x" * 99)) == drawing.LONGEST_NAME
    assert drawing.plain("a\x1b[31m\n") == "a?[31m?"
    assert drawing.evenly(range(100), 3) == [0, 50, 99]


BAD = {
    "draw": (["--draw=rolout"], "rollout"),
    "no images": (["--draw=rollout,filters"], "wants images"),
    "no runs": (["--draw=curves"], "--runs"),
    "smooth": (["--smooth=1"], "below 1"),
    "words": (["--layers=first"], "whole numbers"),
    "patch": (["--patch=3"], "ROW,COLUMN"),
    "outside": ([PHOTOGRAPHS, "--patch=4,0"], "rows 0 to 3"),
    "layers": ([PHOTOGRAPHS, "--layers=3"], "from 0 to 2"),
    "heads": ([PHOTOGRAPHS, "--heads=-5"], "from 0 to 3"),
    "of images": (["--heads=1"], "without images"),
    "of runs": (["--smooth=0.5"], "without --runs"),
    "size": (["--image_size=big"], "no size"),
    "image": (["nowhere.jpg"], "no such file"),
    "run": (["--runs=nowhere"], "no figures"),
    "theme": (["--theme=blue"], "theme"),
    "split": ([PHOTOGRAPHS, "--split=train"], "--split means nothing without"),
    "most": (["--most=3"], "--most means nothing without images"),
    "pictures": ([PHOTOGRAPHS, "--pictures=1000"], "--pictures"),
    "memory": (["--image_size=16384"], "of positions"),
    "bucket": (["--runs=s3://bucket/run"], "s3://bucket/run is no gs://"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_error_and_writes_nothing(case, tmp_path, monkeypatch):
    words, said = BAD[case]
    monkeypatch.setattr(looking, "inspect", lambda *a, **k: pytest.fail("it began"))
    out = tmp_path / "out"
    with own_flags("inspect") as command, pytest.raises(errors.UserError) as told:
        argv = ["inspect", str(CHECKPOINT), *words, f"--out={out}"]
        command._main(parse("inspect", argv))
    assert said in str(told.value) and len(str(told.value).splitlines()) <= 10
    assert not out.exists()


def test_a_place_that_is_a_file_and_no_matplotlib_are_errors(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UserError, match="is no folder"):
        writing.run(str(CHECKPOINT), None, tmp_path / "file", pictures.Asked())
    with pytest.raises(errors.UserError, match="want a CHECKPOINT"):
        writing.run(None, None, tmp_path / "new", pictures.Asked())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(errors.UserError, match=r"pip install 'vit_jax\[inspect\]'"):
        writing.run(str(CHECKPOINT), None, tmp_path / "new", pictures.Asked())
    assert not (tmp_path / "new").exists()


OUT = {
    "file/below": "file is no folder",
    "away": "away is no folder",
    "/proc/below": "cannot be written to",
}


@pytest.mark.parametrize("place", OUT)
def test_a_place_without_room_for_files_is_refused_first(place, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "open_as_evaluated", lambda *_: pytest.fail("read"))
    (tmp_path / "file").write_text("")
    (tmp_path / "away").symlink_to(tmp_path / "gone" / "far")
    with pytest.raises(errors.UserError, match=OUT[place]):
        writing.run(str(CHECKPOINT), None, tmp_path / place, pictures.Asked())
    assert {path.name for path in tmp_path.iterdir()} == {"file", "away"}


def test_what_is_no_image_is_found_before_weights_are_read(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "from_weights", lambda *_: pytest.fail("read"))
    paths = [str(next(Path(PHOTOGRAPHS).iterdir())), __file__]
    with pytest.raises(errors.UserError, match=r"test_inspect_command\.py cannot be"):
        files = inputs.Files(paths)
        writing.run(str(CHECKPOINT), files, tmp_path / "out", pictures.Asked())
    assert not (tmp_path / "out").exists()
    assert len(writing._contents(inputs.Files(paths), 1)) == 1


def test_a_disk_that_is_full_is_one_error_and_leaves_no_record(
    runs, tmp_path, monkeypatch
):
    """The second picture does not fit: the old one stays, and no record says it all."""
    asked = pictures.Asked(runs=tuple(runs), figures=("loss",))
    out = tmp_path / "out"
    assert writing.run(None, None, out, asked)["pictures"] == [
        "curves.png",
        "curves.svg",
    ]
    before = (out / "curves.svg").read_bytes()
    real = figure.host_files.whole

    def full(path):
        if path.suffix == ".svg":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path)

    monkeypatch.setattr(figure.host_files, "whole", full)
    with pytest.raises(errors.UserError, match="cannot be written: .*No space left"):
        writing.run(None, None, out, asked)
    left = {path.name for path in out.iterdir()}
    assert left == {"curves.png", "curves.svg", writing.NUMBERS}
    assert (out / "curves.svg").read_bytes() == before


def test_inspections_of_one_folder_write_in_turn(tmp_path):
    """Each opens the folder for itself, so the lock holds among threads, too."""
    order, first = [], threading.Event()

    def write():
        first.wait()
        with turns.turn(tmp_path):
            order.append("second")

    other = threading.Thread(target=write)
    other.start()
    with turns.turn(tmp_path):
        first.set()
        other.join(0.1)
        order.append("first")
    other.join()
    assert order == ["first", "second"]


def test_runs_with_other_figures_are_drawn_or_refused_in_one_line(
    tmp_path, monkeypatch
):
    odd = {"$x_{$/top1": 1.0, "other": 2.0, "large/top1": 1e308}
    run = write_run(tmp_path / "r\udcff", [{"step": s, **odd} for s in (1, 2)])
    told = writing.run(None, None, tmp_path / "out", pictures.Asked(runs=(run,)))
    assert told["pictures"] == ["curves.png", "curves.svg"]
    with np.load(tmp_path / "out" / writing.NUMBERS) as arrays:
        assert set(arrays) == {rf"r\udcff/{name}" for name in odd}
        assert np.isnan(arrays[r"r\udcff/large/top1"][1]).all()
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(errors.UserError, match=r"wants gcsfs.*vit_jax\[gcs\]"):
        curves.read(["gs://bucket/run"])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert curves.read([f"~/{Path(run).name}"])[0].curves.keys() == odd.keys()
    (one,) = curves.read([run])
    del one.curves["$x_{$/top1"], one.curves["large/top1"]
    with pytest.raises(errors.UserError, match="0 usual figures.*of other$"):
        curves.chosen([one], [])
    assert curves.chosen([one], ["other", "other"]) == ["other"]
    asked = pictures.Asked(draw=("page",), runs=(run,), figures=("othr",))
    with pytest.raises(errors.UserError, match='Did you mean "other"'):
        writing.run(str(CHECKPOINT), None, tmp_path / "out", asked)
    many = {f"e{i}/top1": one.curves["other"] for i in range(99)}
    with pytest.raises(errors.UserError, match="99 usual figures.*1 to 60"):
        curves.chosen([curves.Run("r", many)], [])


def test_letters_without_a_glyph_are_no_lines_of_warnings(tmp_path):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with figure.style("light"):
            drawn = figure.new(2, 1)
            drawn.suptitle("\N{CJK UNIFIED IDEOGRAPH-65E5}")
            assert len(figure.save(drawn, tmp_path, "x")) == 2
    assert not told


def test_without_a_table_of_positions_it_cannot_be_drawn():
    arch = filled(posemb="none").architecture
    with pytest.raises(errors.UserError, match="no table of positions"):
        pictures.Asked(draw=("posemb",)).counted(arch)
    asked = pictures.Asked(layers=(-1, 1, 0)).counted(arch)
    assert asked.layers == (1, 0)


def test_the_page_alone_can_be_asked_for(tmp_path):
    asked = pictures.Asked(draw=("page",))
    told = writing.run(str(CHECKPOINT), None, tmp_path / "out", asked)
    assert told["page"] == writing.PAGE and not told["pictures"]
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {writing.PAGE, writing.NUMBERS, writing.RECORD}
    assert "No images were given" in (tmp_path / "out" / writing.PAGE).read_text()
    asked = pictures.Asked(draw=("filters",))
    told = writing.run(str(CHECKPOINT), None, tmp_path / "other", asked)
    assert told["page"] is None and told["pictures"]
    assert not (tmp_path / "other" / writing.PAGE).exists()


@pytest.mark.slow
@pytest.mark.parametrize("theme", figure.THEMES)
def test_the_command_draws_everything_and_says_what_the_numbers_are(
    theme, runs, tmp_path, capsys
):
    out = tmp_path / "out"
    words = [str(CHECKPOINT), PHOTOGRAPHS, "--pictures=2", "--most=3"]
    words += [f"--runs={','.join(runs)}", "--smooth=0.5", f"--theme={theme}"]
    with own_flags("inspect") as command:
        command._main(parse("inspect", ["inspect", *words, f"--out={out}"]))
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    stems = ["rollout", "attention_0", "attention_1", "distance", "similarity_0"]
    stems += ["similarity_1", "posemb", "filters", "curves"]
    assert said["pictures"] == [f"{s}.{kind}" for s in stems for kind in figure.FORMATS]
    paper = figure.THEMES[theme].paper
    for name in said["pictures"]:
        if name.endswith("png"):
            with Image.open(out / name) as picture:
                corner = np.asarray(picture.convert("RGB"))[0, 0]
                assert "#" + bytes(corner).hex() == paper
                assert np.asarray(picture).std() > 5, "there is something on it"
        else:
            assert "<svg" in (out / name).read_text()[:2000]
    assert said["page"] == "index.html"
    text = (out / said["page"]).read_text()
    assert text.startswith("<!doctype html>") and len(text) < 5_000_000
    record = json.loads((out / writing.RECORD).read_text())
    arrays = np.load(out / writing.NUMBERS)
    assert set(arrays) == set(record["arrays"])
    for name, told in record["arrays"].items():
        assert list(arrays[name].shape) == told["shape"]
        assert len(told["axes"]) == arrays[name].ndim and told["unit"]
    assert arrays["distance"].shape == (3, 3, 4)
    np.testing.assert_allclose(arrays["rollout"].sum(axis=-1), 1, rtol=1e-6)
    assert len(record["notes"]) == 2, record["notes"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"posemb_at": "every"},
        {"posemb": "relative", "pool": "mean"},
        {"block": "axial", "pool": "mean", "posemb": "none"},
        {"image_size": (30, 39), "crop": "valid", "num_classes": 0},
    ],
    ids=str,
)
def test_other_models_are_drawn_too(options, tmp_path):
    found = looking.inspect(
        filled(**options), [np.full((20, 30, 3), 9, np.uint8)], names=["a/b.png"]
    )
    with figure.style("light"):
        drawn = dict(pictures.drawn(found, [], pictures.Asked()))
        for name, one in drawn.items():
            figure.save(one, tmp_path, name)
    assert ("posemb" in drawn) == (options.get("posemb") != "none")
