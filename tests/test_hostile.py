"""Hostile values, files and folders: one short error each; see `chaos/hostile.py`."""

import json

import pytest
from chaos import hostile, hostile_places, hostile_rows

from vit_jax import errors
from vit_jax.cli import words
from vit_jax.host import files
from vit_jax.settings import documents, packaged, recipe, recorded

# One of each kind, and those that were the worst: aborts, hangs, what ran for ever.
CHEAP = (
    *("load: long", "load: root", "load: zero", "load: fifo", "load: tilde"),
    *("train: config long", "train: config fifo", "train: workdir loop"),
    *("read: csv zero", "read: csv fifo", "read: wds nul", "read: parquet fifo"),
    *("predict: list zero", "predict: image escape", "convert: target long"),
    *("train: a flag long", "train: a key empty", "train: dataset lines"),
    *("train: model escape", "prepare: rtl", "models: digits", "plan: digits"),
    *("value: lr_rules of a word", "value: image_size of words"),
    *("value: registers by the billion", "value: a batch of digits"),
    *("value: code as a tuple", "value: split: digits", "value: dataset: braces"),
    *("load: patch=0", "create: registers=1000000000", "flags: zero", "flags: a fifo"),
    *("sweep: a million points", "recipe: loops", "recipe: escape"),
    *("workdir: config.json deep", "workdir: config.json list"),
    *(
        "sweep: sweep.json number",
        "push: metrics.jsonl deep",
        "read: features.json text",
    ),
    *("tar: minus", "tar: climbs", "csv: cell", "names: long"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("hostile")
        patch.setenv("VIT_JAX_CACHE", str(root / "cache"))
        patch.setenv("TMPDIR", str(root / "place" / "tmp"))
        (root / "place").mkdir()
        made = hostile_places.make(root / "place")
        yield made
        hostile_places.unmake(made)


@pytest.mark.parametrize("name", CHEAP)
def test_what_is_hostile_is_one_short_error(name, place):
    row = hostile_rows.ROWS[name]
    result = hostile.attempt(row, place)
    assert not hostile.faults(row, result), result.said[-2000:]


def test_an_attempt_that_goes_wrong_is_seen(place):
    row = hostile.Row("bad", ("{text}",))
    for wrong, seen in {
        "raise KeyError(3)": "ends with 'KeyError",
        "return 0": "ends with 0",
        "raise E('a\\n' * 20)": "2 letters",
        "open('executed', 'w'); raise E('x')": "wrote",
        "print('error: ' + 'a\\n' * 20); import sys; sys.exit(2)": "no error",
    }.items():
        space = {"E": errors.UserError}
        body = wrong.replace("; ", "\n    ")
        exec(f"def call(path):\n    {body}\n", space)  # noqa: S102 of this table
        hostile_places.CALLS["bad"] = space["call"]
        found = hostile.faults(row, hostile.attempt(row, place))
        del hostile_places.CALLS["bad"]
        assert (seen == "2 letters" and not found) or seen in str(found), found


@pytest.mark.slow
def test_all_that_is_hostile_is_one_short_error():
    """In processes of their own, which may die; none may write, hang or run code."""
    names = list(hostile_rows.ROWS)
    assert len(names) >= 200
    found = hostile.run_all(names, print)
    assert len(found) == len(names)
    assert not {name: wrong for name, wrong in found.items() if wrong}


@pytest.mark.parametrize("text", hostile_places.JSON.values(), ids=hostile_places.JSON)
def test_json_of_others_is_read_within_limits(text, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(text)
    if text == hostile_places.JSON["nan"]:
        assert documents.read_object(path)["seed"] != 1
        return
    with pytest.raises(errors.UserError, match="x.json"):
        documents.read_object(path)


def test_json_that_is_right_is_what_it_says(tmp_path):
    said = {"a": [1, 2.5, None, True, "\u00e9\u202e", {"b": [[]]}], "": -(2**63)}
    (tmp_path / "x.json").write_text(json.dumps(said))
    assert documents.read(tmp_path / "x.json") == said
    for wrong in (2**63, -(2**63) - 1, "\ud800", "a\0", {"\0": 1}):
        with pytest.raises(errors.UserError):
            documents.parse(json.dumps(wrong))
    at_most = "[" * documents.MOST_LEVELS
    documents.parse(at_most[1:] + "]" * (documents.MOST_LEVELS - 1))
    with pytest.raises(errors.UserError, match="levels"):
        documents.parse(at_most + "1" + "]" * documents.MOST_LEVELS)


def test_a_file_of_which_a_read_never_ends_is_not_opened(tmp_path):
    import os

    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/zero", tmp_path):
        with pytest.raises(OSError):
            files.open_to_read(path)
    (tmp_path / "x").write_bytes(b"12345")
    assert files.read_whole(tmp_path / "x", 5) == b"12345"
    with pytest.raises(OSError, match="5 bytes, more than 4"):
        files.read_whole(tmp_path / "x", 4)


def test_a_message_shows_text_alone():
    text = errors.shown("\x1b[31ma\u202e\n" + "b\n" * 30 + "c" * 9000 + "\udcff")
    assert len(text.splitlines()) == errors.MOST_LINES
    assert text.startswith("\\x1b[31ma\\u202e\nb") and text.endswith("c\\udcff")
    assert max(map(len, text.splitlines())) <= errors.LONGEST_LINE
    assert errors.shown("want a\n  b") == "want a\n  b"


def test_a_configuration_of_json_is_the_recipe_it_was_written_by(tmp_path):
    """The config.json of a workdir, and a few keys by hand; nothing is run."""
    quick = recipe.load("quickstart")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(quick.to_dict()))
    assert recorded.load(str(path)) == quick.to_dict()
    assert words.as_config(["train", "--config_json", str(path), "--a"]) == [
        *("train", f"--config={packaged.JSON}{path}", "--a"),
    ]
    path.write_text(
        '{"optimizer": {"lr": 1}, "evals": {}, "data": {"mean": [1, 2, 3]}}'
    )
    found = recipe.load(f"{packaged.JSON}{path}")
    defaults = packaged.defaults()
    defaults["optimizer"]["lr"], defaults["evals"] = 1.0, {}
    defaults["data"]["mean"] = (1, 2, 3)
    assert found.to_dict() == defaults and type(found.optimizer.lr) is float


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("def get_config():\n    import os; os.mkdir('executed')", "JSON"),
        ('{"optimizer": {"lrr": 1}}', '"optimizer.lr"'),
        ('{"optimizer": 3}', "group"),
        ('{"seed": {}}', "seed"),
        ('{"seed": "3"}', "want a int"),
        ('{"evals": {"a": {"type": "none"}}}', "evals.a"),
        ('{"evals": 3}', "evals"),
    ],
)
def test_a_wrong_configuration_of_json_is_one_error(text, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(errors.UserError, match="c.json") as caught:
        recorded.load("c.json")
    assert word in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]
