"""Studies: their runs in order, over kills too, and what their rules say."""

import dataclasses
import json
import re
import signal
import subprocess
import sys

import commands
import pytest
from absl import flags

from vit_jax import errors, experiment, studies
from vit_jax.commands import point_queue, sweep
from vit_jax.data import catalog
from vit_jax.settings import recipe
from vit_jax.studies import report, running, study
from vit_jax.studies.study import Figure, Run, Study

# Trains nothing: notes that it ran, and prints a figure that is a rule of its flags.
STUB = """
import json, os, pathlib, signal, sys
flags = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
workdir = pathlib.Path(flags["workdir"])
workdir.mkdir(exist_ok=True)
with open(workdir / "starts", "a") as file:
    file.write("x")
if (workdir.parent / "kill").exists() and workdir.name.endswith("seed=1"):
    os.kill(os.getppid(), signal.SIGKILL)
    signal.pause()  # we end with it
seed, rate = int(flags["config.seed"]), float(flags.get("config.optimizer.lr", 0))
decay = float(flags.get("config.optimizer.layer_decay", 1))
if "config.init_from" in flags:
    assert (pathlib.Path(flags["config.init_from"]) / "starts").exists()
dev = 0.5 - abs(rate - decay * 1e-2)
figures = {"dev/top1": dev, "test/top1": decay + seed / 100 + rate}
print(json.dumps({"workdir": str(workdir), **figures}))
"""
DECAY, ONE = "decay", "one rate"
TINY = Study(
    question="Is it?",
    rule="It is.",
    config="quickstart",
    flags=("--config.init_from={start}",),
    before={"start": Run("cifar10", ("--config.total=1 steps",))},
    arms={DECAY: ("--config.optimizer.layer_decay=0.3",), ONE: ()},
    settings={f"lr {r}": (f"--config.optimizer.lr={r}",) for r in ("3e-3", "1e-2")},
    dev=("--config.evals.dev.split=train[9:]",),
    seeds=(0, 1),
    verdict=study.better(ONE, DECAY),
)
NAMES = [
    *("before_start_seed=0", "dev_decay_lr-3e-3_seed=0", "dev_decay_lr-1e-2_seed=0"),
    *("dev_one-rate_lr-3e-3_seed=0", "dev_one-rate_lr-1e-2_seed=0"),
    *("test_decay_lr-3e-3_seed=0", "test_decay_lr-3e-3_seed=1"),
    *("test_one-rate_lr-1e-2_seed=0", "test_one-rate_lr-1e-2_seed=1"),
]


def of_stub(folder, one=TINY):
    given = {"fixed": ("--config.batch_size=8",), "retries": 0}
    program = (sys.executable, "-S", str(folder / "stub.py"))
    return running.Running("tiny", one, folder, program=program, **given)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    # No code between fork and exec here, where JAX has threads; the command has none.
    monkeypatch.setattr(point_queue, "IN_CHILD", None)
    (tmp_path / "stub.py").write_text(STUB)
    return tmp_path


def starts(folder):
    return {p.parent.name: len(p.read_text()) for p in folder.glob("*/starts")}


def test_a_study_that_is_killed_goes_on(folder):
    """Its first seed is done, and its second kills the process that runs the study."""
    (folder / "kill").touch()
    script = (
        "import pathlib, sys; sys.path.insert(0, 'tests'); import test_studies\n"
        f"test_studies.of_stub(pathlib.Path({str(folder)!r})).run()"
    )
    died = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert starts(folder) == dict.fromkeys(NAMES[:7], 1)
    (folder / "kill").unlink()
    run = of_stub(folder)
    assert run.results().holds is None
    assert run.run() == 0 and list(run.rows) == NAMES
    assert starts(folder) == dict.fromkeys(NAMES, 1) | {NAMES[6]: 2}
    assert run.total() == len(NAMES)

    # Each arm has the best rate of its own, and the start that came before.
    assert [run.chosen(arm) for arm in TINY.arms] == ["lr 3e-3", "lr 1e-2"]
    assert run.rows[NAMES[6]]["arguments"] == [
        *("--config=quickstart", f"--config.init_from={folder / NAMES[0]}"),
        *("--config.optimizer.layer_decay=0.3", "--config.optimizer.lr=3e-3"),
        *("--config.batch_size=8", "--config.seed=1"),
    ]
    assert run.rows[NAMES[0]]["arguments"] == [
        *("--config=cifar10", "--config.total=1 steps"),
        *("--config.batch_size=8", "--config.seed=0"),
    ]
    found = run.results()
    assert found.figures[DECAY] == pytest.approx({"0": 0.303, "1": 0.313})
    assert found.holds and found.verdict.startswith(
        "one rate over decay: +70.70 points"
    )

    page = (folder / "tiny.md").read_text()
    assert "**It holds.** one rate over decay" in page
    line = "| one rate | lr 1e-2 | 101.00 | 102.00 | 101.50 ± 0.71 (2) |"
    assert line in page and "| one rate | 49.30 | 50.00 |" in page
    lines = (folder / "results.jsonl").read_text().splitlines()
    assert [json.loads(one)["run"] for one in lines] == [
        *("before", *["dev"] * 4, *["test"] * 4)
    ]
    assert 0 < sum(json.loads(one)["cpu_seconds"] for one in lines) < 20


def test_nothing_starts_from_a_run_that_failed(folder):
    stub = "import sys; sys.stderr.buffer.write(b'error: no luck \\xff'); sys.exit(2)"
    (folder / "stub.py").write_text(stub)
    run = of_stub(folder)
    assert run.run() != 0 and list(run.rows) == NAMES[:1]
    assert run.results()[2:] == (None, "4 runs have no test/top1 yet.")
    row = "`config=cifar10` `total=1 steps` | failed exit code 2: no luck \ufffd |"
    assert row in (folder / "tiny.md").read_text()


def test_the_table_says_why_settings_failed(folder):
    stub = (folder / "stub.py").read_text()
    fails = 'if flags.get("config.optimizer.layer_decay"): sys.exit("error: a|b")\n'
    (folder / "stub.py").write_text(stub.replace("workdir = ", f"{fails}workdir = ", 1))
    run = of_stub(folder)
    assert run.run() != 0
    page = (folder / "tiny.md").read_text()
    said = r"| `optimizer.layer_decay=0.3` |  |  |  |  |  | exit code 1: a\|b |"
    assert f"| decay {said[2:]}" in page and "| decay | failed | failed |" in page


def test_a_setting_that_failed_may_be_the_best_when_it_is_tried_again(folder):
    good = (folder / "stub.py").read_text()
    (folder / "stub.py").write_text(good + "sys.exit(rate == 1e-2 and decay == 1)\n")
    assert of_stub(folder).run() == 1
    assert of_stub(folder).chosen(ONE) == "lr 3e-3"
    (folder / "stub.py").write_text(good)
    run = of_stub(folder)
    assert run.run() == 0 and run.chosen(ONE) == "lr 1e-2"
    assert [row["name"] for row in run.known()] == NAMES
    assert len(run.rows) == len(NAMES) + 2  # the seeds of the other one


def chain():
    """An arm that starts from the best of another with the same seed."""
    return Study(
        question="Is it?",
        rule="It is.",
        config="quickstart",
        flags=("--config.total=2 steps",),
        arms={
            "old": Run("cifar10", ("--config.total=1 steps",)),
            "new": ("--config.init_from={old}",),
        },
        figures={"tuned": Figure("new", "test/top1"), "dev": Figure("old", "dev/top1")},
        own_settings={"old": study.rates("3e-3", "1e-2")},
        dev=("--config.evals.dev.split=train[9:]",),
        seeds=(0, 1),
        verdict=study.better("tuned", "dev"),
    )


def test_an_arm_waits_for_the_best_run_of_another(folder):
    run = of_stub(folder, chain())
    names = [*(f"dev_old_lr-{rate}_seed=0" for rate in ("3e-3", "1e-2"))]
    assert [point.name for point in run.plan()] == names
    assert run.run() == 0 and run.total() == len(run.plan()) == 6
    names += [f"test_{a}_lr-1e-2_seed={s}" for a in ("old", "new") for s in (0, 1)]
    assert list(run.rows) == names
    assert run.rows[names[-1]]["arguments"] == [
        *("--config=quickstart", "--config.total=2 steps"),
        f"--config.init_from={folder / names[3]}",  # of its own seed
        *("--config.batch_size=8", "--config.seed=1"),
    ]
    found = run.results()
    assert found.figures == {
        "tuned": pytest.approx({"0": 1.0, "1": 1.01}),
        "dev": pytest.approx({"0": 0.5, "1": 0.5}),
    }
    assert found.holds and found.verdict.startswith("tuned over dev: +50.50 points")
    page = (folder / "tiny.md").read_text()
    assert "| tuned `test/top1` |  | 100.00 | 101.00 | 100.50 ± 0.71 (2) |" in page
    assert "Every run that is not given below whole is `--config=quickstart`" in page
    assert "old (without them): `config=cifar10` `total=1 steps`" in page
    assert "| arm | lr 3e-3 | lr 1e-2 |" in page and "| old | 49.30 | 50.00 |" in page


def test_nothing_starts_from_an_arm_that_failed(folder):
    stub = (folder / "stub.py").read_text()
    fails = (
        'if [flags["config"], flags["config.seed"]] == ["cifar10", "1"]: sys.exit(2)'
    )
    (folder / "stub.py").write_text(
        stub.replace("workdir = ", f"{fails}\nworkdir = ", 1)
    )
    run = of_stub(folder, chain())
    assert run.run() == 2 and "test_new_lr-1e-2_seed=1" not in run.rows
    assert run.results().verdict == "2 runs have no test/top1, dev/top1 yet."


def test_a_run_may_have_a_module_of_its_own(folder):
    looks = Run("cifar10", (), "vit_jax.looks")
    one = dataclasses.replace(chain(), arms={"old": looks}, own_settings={})
    (first, _) = of_stub(folder, one).plan()
    words = point_queue.command(first, folder)
    assert words[:4] == [sys.executable, "-m", "vit_jax.looks", "--config=cifar10"]


def test_what_an_older_version_ran_is_left_out(folder):
    """An arm that is no more, and a run that the flags left without its figure."""
    run = of_stub(folder)
    run.run()
    record = json.loads((folder / "study.json").read_text())
    record["points"][-1]["figures"] = {"test/loss": 1.0}
    record["points"].append(record["points"][-2] | {"name": "x", "values": {}})
    (folder / "study.json").write_text(json.dumps(record))
    again = of_stub(folder)
    assert [row["name"] for row in again.known()] == NAMES and "x" in again.rows
    assert again.results().verdict == "1 run has no test/top1 yet."
    assert again.run() == 0 and "x" not in (folder / "results.jsonl").read_text()


def test_a_folder_of_another_study_is_refused(folder):
    """Two studies may have arms of other names, so that no run of them collides."""
    (folder / "study.json").write_text('{"points": [], "study": "crops"}')
    with pytest.raises(errors.UserError, match="has the study 'crops'; want another"):
        of_stub(folder)
    (folder / "study.json").write_text("[]")
    with pytest.raises(
        errors.UserError, match=r"study\.json: .*want another --workdir"
    ):
        of_stub(folder)


def test_an_address_is_refused_where_studies_write_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with commands.own_flags("studies") as module:
        argv = ["studies", "run", "pooling", "--workdir=gs://bucket/study"]
        with pytest.raises(errors.UserError, match="nothing is written to gs://"):
            module._main(module._parse(argv))
    assert not list(tmp_path.iterdir())


def first_points(one, run):
    """A run of each kind: those that differ in numbers alone are one."""
    points = run.before_points()
    for arm in one.arms:
        points += run.test_points(arm, next(iter(one.settings_of(arm))))[:1]
    points += run.dev_points(arm)[:1]
    return {re.sub(r"\d+", "", str(point.arguments)): point for point in points}


def assembled(arguments):
    """Asserts that training would take the recipe and make the model."""
    sweep.check(arguments)
    config = recipe.plain(flags.FLAGS["config"].value)
    info = catalog.DatasetInfo("any", 10, {"train": 9}, None, False, prepared=True)
    assert experiment._architecture(config, info, None).num_classes == 10


@pytest.mark.parametrize("name", studies.STUDIES)
def test_the_runs_of_every_study_are_accepted(name, tmp_path):
    one = studies.STUDIES[name]
    run = running.Running(name, one, tmp_path, fixed=(), retries=0)
    with commands.own_flags("studies"):
        for point in first_points(one, run).values():
            assembled(point.arguments)
    assert run.total() >= len(run.plan()) > 0
    assert len(one.seeds) >= 3 and one.rule.endswith(".")
    assert {figure.arm for figure in one.rows.values()} <= set(one.arms)
    assert name in report.page(name, one, [], run.results(), ())


@pytest.mark.slow
@pytest.mark.parametrize("name", studies.STUDIES)
def test_every_setting_of_every_study_is_accepted(name, tmp_path, capsys):
    argv = ["studies", "run", name, "--dry_run", f"--workdir={tmp_path / 'new'}"]
    with commands.own_flags("studies") as module:
        assert module._main(module._parse(argv)) == 0
    run = running.Running(name, studies.STUDIES[name], tmp_path, fixed=(), retries=0)
    assert len(capsys.readouterr().out.splitlines()) == len(run.plan())


def test_a_dry_run_prints_the_runs_that_are_known(tmp_path, capsys):
    argv = ["studies", "run", "layer_decay", "--dry_run", f"--workdir={tmp_path / 'a'}"]
    with commands.own_flags("studies") as module:
        assert module._main(module._parse(argv)) == 0
    (line,) = capsys.readouterr().out.splitlines()  # what arms start from
    assert "-m vit_jax.main --config=cifar10" in line and "before_pretrained" in line
    assert not (tmp_path / "a").exists()


def test_the_list_has_the_questions(capsys):
    with commands.own_flags("studies") as module:
        assert module._main(module._parse(["studies", "list"])) == 0
    out = capsys.readouterr().out
    assert all(one.question in out for one in studies.STUDIES.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "want list, or run NAME"),
        (["run"], "want list, or run NAME"),
        (["run", "layer_decoy"], 'Did you mean "layer_decay"'),
        (["run", "layer_decay", "--config.seed=1"], "a study has its own seeds"),
        (["run", "layer_decay", "--config=cifar10"], "a study has its own recipe"),
        (["run", "layer_decay", "--config.totl=1"], 'Did you mean "total"'),
        (["run", "layer_decay", "--config.optimizer.lr=1"], "differ in optimizer.lr"),
        (["run", "pooling", "--config.model.pool=mean"], "differ in model.pool"),
        (["run", "pooling", "--config.evals.dev.split=test"], "or are judged by it"),
    ],
)
def test_a_mistake_is_refused_before_any_run(words, message, tmp_path):
    argv = ["studies", *words, f"--workdir={tmp_path / 'new'}"]
    with commands.own_flags("studies") as module:
        with pytest.raises(errors.UserError, match=message):
            module._main(module._parse(argv))
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_study_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(point_queue, "IN_CHILD", None)
    tiny = Study(
        question="",
        rule="",
        config="quickstart",
        flags=("--config.total=3 steps", "--config.eval_every="),
        arms={"a": (), "b": ("--config.optimizer.lr=0.01",)},
        seeds=(0, 1),
        verdict=study.better("a", "b"),
    )
    run = running.Running("tiny", tiny, tmp_path, fixed=(), retries=0)
    assert run.run() == 0
    assert {row["status"] for row in run.rows.values()} == {"done"}
    assert run.results().holds is not None
