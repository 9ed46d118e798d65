"""Studies: their runs in order, over kills too, and what their rules say."""

import json
import signal
import subprocess
import sys

import commands
import numpy as np
import pytest

from vit_jax import errors, studies
from vit_jax.commands import point_queue
from vit_jax.studies import (
    augmentation,
    crops,
    pooling,
    report,
    resolution,
    running,
    span,
    study,
)
from vit_jax.studies.study import Run, Study

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


def of_stub(folder, fixed=("--config.batch_size=8",)):
    program = (sys.executable, "-S", str(folder / "stub.py"))
    return running.Running(
        *("tiny", TINY, folder), fixed=fixed, retries=0, program=program
    )


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


def test_the_margin_of_two_samples():
    ours, theirs = [0.5, 0.6, 0.7], [0.2, 0.3, 0.4]
    found = study.margin(ours, theirs)
    assert found == pytest.approx((0.3, np.std(ours, ddof=1)))
    assert found.counts and not found.against
    assert study.margin(theirs, ours).against
    close = study.margin([0.5, 0.6, 0.7], [0.31, 0.41, 0.51])
    assert not close.counts and not close.against  # 0.19 is less than twice 0.1


def test_verdicts_of_given_results():
    few = {augmentation.FLIP: [0.4, 0.41, 0.42], "a": [0.1, 0.11, 0.12]}
    holds, text = augmentation.verdict(few)
    assert not holds and "a harms: -30.00 points (deviation 1.00)" in text
    holds, text = augmentation.verdict(few | {"b": [0.5, 0.51, 0.52]})
    assert holds and "b helps: +10.00" in text
    assert not augmentation.verdict(few | {"b": [0.4, 0.42, 0.44]}).holds
    assert study.better("b", "a")({"a": [0.1, 0.2], "b": [0.9, 0.8]}).holds
    assert not study.better("b", "a")({"a": [0.1, 0.2], "b": [0.1, 0.3]}).holds


@pytest.mark.parametrize(
    ("of", "figures", "holds"),
    [
        (span, [0.5, 0.3, 0.4], True),
        (span, [0.4, 0.3, 0.39], False),
        (resolution, [0.5, 0.49, 0.4], True),
        (resolution, [0.5, 0.6, 0.4], False),
        (resolution, [0.5, 0.3, 0.49], False),
        (crops, [0.5, 0.1, 0.51], True),
        (crops, [0.5, 0.1, 0.6], False),
        (pooling, [0.5, 0.509], True),
        (pooling, [0.5, 0.49 - 1e-3], False),
    ],
)
def test_each_study_has_its_own_rule(of, figures, holds):
    """Means of its arms, each with a deviation of one point over three seeds."""
    arms = zip(of.STUDY.arms, figures, strict=True)
    results = {arm: [mean - 0.01, mean, mean + 0.01] for arm, mean in arms}
    assert of.STUDY.verdict(results).holds == holds


@pytest.mark.parametrize("name", studies.STUDIES)
def test_the_runs_of_every_study_are_accepted(name, tmp_path, capsys):
    argv = ["studies", "run", name, "--dry_run", f"--workdir={tmp_path / 'new'}"]
    with commands.own_flags("studies") as module:
        assert module._main(module._parse(argv)) == 0
    one = studies.STUDIES[name]
    run = running.Running(name, one, tmp_path, fixed=(), retries=0)
    assert len(capsys.readouterr().out.splitlines()) == len(run.plan()) > 0
    assert len(one.seeds) >= 3 and one.rule.endswith(".")
    assert name in report.page(name, one, [], run.results(), ())


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
