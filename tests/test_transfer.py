"""The protocol of transfer: settings, choice, seeds, tables; a stub trains."""

import json
import os
import subprocess
import sys
import time

import commands
import numpy as np
import pytest

from vit_jax import errors
from vit_jax.commands import point_queue
from vit_jax.commands.transfer import model, plan, table, targets

# Trains nothing: notes that it ran, and prints a figure that a rule makes of its flags.
STUB = """
import json, pathlib, sys
flags = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
workdir = pathlib.Path(flags["workdir"])
workdir.mkdir(exist_ok=True)
with open(workdir / "starts", "a") as file:
    file.write("x")
words = flags["config"].removeprefix("finetune:").split(",")
name = flags.get("config.data.dataset", words[1])
rate = float(flags["config.optimizer.lr"]) if "config.optimizer.lr" in flags else 0
rules = json.loads((workdir.parent / "rules.json").read_text())
value = rules[name][str(rate)]
if value == "fail":
    print("error: the loss is not finite", file=sys.stderr)
    sys.exit(4)
split = "dev" if "dev" in words else "test"
seed = int(flags["config.seed"])
value += 0 if split == "dev" else seed / 100
print(json.dumps({"workdir": str(workdir), f"{split}/top1": value}))
"""
ANY = targets.Splits("", "", "")


@pytest.fixture
def transferred(tmp_path, monkeypatch):
    """Runs the stub by the protocol: its exit code, the record and the page."""
    # No code between fork and exec here, where JAX has threads; the command has none.
    monkeypatch.setattr(point_queue, "IN_CHILD", None)
    (tmp_path / "stub.py").write_text(STUB)

    def run(names, rules, *, model="L/16", rates=("sweep",), seeds=("0", "1", "2")):
        (tmp_path / "rules.json").write_text(json.dumps(rules))
        found = [targets.task(n, model, rates, ANY, data_dir="") for n in names]
        about = table.About("a.npz", model, seeds, {}, targets.groups())
        one = plan.Transfer(
            *(found, tmp_path),
            about=about,
            fixed=["--config.batch_size=8"],
            retries=0,
            program=(sys.executable, "-S", str(tmp_path / "stub.py")),
        )
        code = one.run()
        record = json.loads((tmp_path / plan.FILE).read_text())
        return code, record, (tmp_path / plan.TABLE).read_text()

    return run


def starts(folder):
    files = folder.glob("*/starts")
    return {path.parent.name: len(path.read_text()) for path in files}


def test_the_best_rate_on_the_dev_split_trains_on_everything(transferred, tmp_path):
    rules = {"cifar10": {"0.001": 0.5, "0.003": 0.7, "0.01": 0.7, "0.03": "fail"}}
    code, record, page = transferred(["cifar10"], rules)
    assert code == 4
    (one,) = record["tasks"]
    assert one["dev"] == {"lr=0.001": 0.5, "lr=0.003": 0.7, "lr=0.01": 0.7} | {
        "lr=0.03": None
    }
    assert one["chosen"] == "lr=0.003"  # the first of equal ones
    assert one["test"] == {
        "mean": pytest.approx(0.71),
        "deviation": pytest.approx(np.std([0.7, 0.71, 0.72], ddof=1)),
        "n": 3,
    }
    # Table 5 has L/16, from three data sets.
    assert one["paper"] == {
        "L/16 ImageNet": 0.9786,
        "L/16 ImageNet-21k": 0.9916,
        "L/16 JFT-300M": 0.9938,
    }
    assert "| lr=0.003 | 71.00 ± 1.00 (3); exit code 4: the loss is not" in page
    first, *_, last = record["points"]
    assert first["arguments"] == [
        "--config=finetune:L/16,cifar10,dev",
        "--config.model.name=checkpoint",
        *("--config.init_from=a.npz", "--config.batch_size=8"),
        *("--config.optimizer.lr=0.001", "--config.seed=0"),
    ]
    assert last["arguments"] == [
        "--config=finetune:L/16,cifar10",
        "--config.model.name=checkpoint",
        *("--config.init_from=a.npz", "--config.batch_size=8"),
        *("--config.optimizer.lr=0.003", "--config.seed=2"),
    ]
    # The same again: what failed is tried again, and nothing else.
    once = dict.fromkeys(starts(tmp_path), 1)
    assert starts(tmp_path) == once and len(once) == 7
    rules["cifar10"]["0.03"] = 0.9
    code, record, _ = transferred(["cifar10"], rules)
    assert code == 0 and record["tasks"][0]["chosen"] == "lr=0.03"
    again = starts(tmp_path)
    assert again.pop("cifar10_dev_lr=0.03_seed=0") == 2
    assert set(again.values()) == {1} and len(again) == 9


def test_vtab_has_one_setting_for_all_tasks_and_means_of_its_groups(transferred):
    rules = {
        "vtab_dtd": {"0.01": 0.6, "0.03": 0.4},
        "vtab_pets": {"0.01": 0.1, "0.03": 0.2},
        "vtab_dmlab": {"0.01": 0.5, "0.03": 0.5},
    }
    code, record, page = transferred(list(rules), rules, rates=("0.01", "0.03"))
    assert code == 0
    assert [one["chosen"] for one in record["tasks"]] == ["lr=0.01"] * 3
    means = {one["of"]: one for one in record["means"]}
    assert list(means) == ["vtab", "vtab natural", "vtab structured"]
    assert means["vtab"]["test"]["mean"] == pytest.approx(0.4 + 0.01)
    assert means["vtab natural"]["test"]["mean"] == pytest.approx(0.35 + 0.01)
    assert (means["vtab"]["tasks"], means["vtab"]["of_tasks"]) == (3, 19)
    assert means["vtab structured"]["test"]["deviation"] == pytest.approx(0.01)
    assert "mean of vtab natural, 2 of 7 tasks" in page
    # Its own single rate is not chosen: three runs each.
    assert len(targets.settings("B/16", "vtab_dtd", ["sweep"])) == 1


def test_bit_is_tuned_by_its_rule_and_by_table_4(transferred):
    rules = {"pets": {"0.001": 0.1, "0.003": 0.2, "0.01": 0.3, "0.03": 0.2, "0": 0.4}}
    _, record, _ = transferred(["pets"], rules, model="BiT-R50x1", seeds=("5",))
    (one,) = record["tasks"]
    assert list(one["dev"]) == ["hyperrule", *(f"lr={r:g}" for r in SMALL)]
    assert one["chosen"] == "hyperrule"
    assert one["test"] == {"mean": pytest.approx(0.45), "deviation": None, "n": 1}
    words = [row["arguments"][0] for row in record["points"]]
    assert words[0] == "--config=finetune:BiT-R50x1,pets,dev"
    assert words[1] == "--config=finetune:BiT-R50x1,pets,dev,table4"
    assert words[-1] == "--config=finetune:BiT-R50x1,pets"
    assert [s.name for s in targets.settings("BiT-R50x1", "pets", ["hyperrule"])] == [
        "hyperrule"
    ]


SMALL = (0.001, 0.003, 0.01, 0.03)


@pytest.mark.parametrize(
    ("model", "task", "rates", "wanted"),
    [
        ("B/16", "cifar10", "sweep", SMALL),
        ("B/16", "imagenet2012", "sweep", (0.003, 0.01, 0.03, 0.06)),
        ("B/16", "cifar10", "released", (0.01,)),
        ("L/16", "cifar10", "released", (0.03,)),
        ("B/16", "vtab_kitti", "sweep", (0.01,)),
        ("BiT-R50x1", "pets", "released", (0.03,)),
        ("B/16", "small", "0.1,0.2", (0.1, 0.2)),
    ],
)
def test_rates(model, task, rates, wanted):
    found = targets.settings(model, task, rates.split(","))
    assert [s.flags for s in found] == [
        (f"--config.optimizer.lr={rate}",) for rate in wanted
    ]


def test_a_dataset_of_ones_own_takes_the_row_of_its_size():
    one = targets.task("digits", "B/16", ["sweep"], ANY, data_dir="")
    assert (one.name, one.words) == ("digits", ("dataset", "small"))
    assert one.part == ("--config.data.dataset=digits",)
    assert one.whole == (*one.part, "--config.data.train_split=train")
    splits = targets.Splits("train[:500]", "train[500:600]", "train[600:]")
    one = targets.task("mine=digits", "B/16", ["0.1"], splits, data_dir="")
    assert one.name == "mine"
    assert one.part[1:] == (
        "--config.data.train_split=train[:500]",
        "--config.evals.dev.split=train[500:600]",
    )
    assert one.whole[1:] == (
        "--config.data.train_split=train[:500]",
        "--config.evals.test.split=train[600:]",
    )
    for name, size in ((19_999, "small"), (20_000, "medium"), (500_000, "large")):
        assert targets._size(name) == size
    names = {
        "parquet:a/birds/*.parquet": "birds",
        "wds:a/cats/train-{000..146}.tar#label=cls": "cats",
        "folder:/a/b c/": "b-c",
        "cifar10:3.0.2": "3.0.2",
    }
    assert {name: targets._short(name) for name in names} == names


def test_what_is_not_prepared_is_listed_with_its_command(tmp_path):
    names = targets.words(["cifar10,pets", "vtab"])
    assert len(names) == 21
    found = [targets.task(n, "B/16", ["sweep"], ANY, data_dir="") for n in names]
    absent = targets.missing(found, str(tmp_path))
    assert list(absent) == names
    prepare = f"vit_jax prepare 'clevr:3.*.*' --data_dir={tmp_path}"
    assert absent["vtab_clevr_count"] == prepare
    about = table.About("a", "B/16", ("0",), absent, targets.groups())
    assert f"- vtab_clevr_count: `{prepare}`\n" in table.page([], about)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.npz"], "want a CHECKPOINT and a TASK"),
        (["a.npz", "digits", "digits"], "each once"),
        (["a.npz", "digits", "--config.optimizer.lr=1"], "want --rates"),
        (["a.npz", "digits", "--config.seed=1"], "want --seeds"),
        (["a.npz", "digits", "--seeds=1,1"], "--seeds=1,1: want numbers"),
        (["a.npz", "digits", "--rates=x"], "what is 'x'"),
        (["a.npz", "digits", "--rates=0.1,0.1"], "want each once"),
        (["a.npz", "digits", "--rates=hyperrule"], "is of BiT"),
        (["a.npz", "digitz"], 'Did you mean "digits"'),
        (["a.npz", "digits", "--train_split=test"], "want a --dev_split"),
        (["a.npz", "digits", "--model=B,16"], "want a name, as in B/16"),
        (["a.npz", "digits", "--config.totl=1"], 'Did you mean "total"'),
        (["a.npz", "x=digits", "x=folder:tests"], "no image|no images|holds"),
        (["a.npz", "vtab_dtd", "--config.data.data_dir=/x"], "no task is prepared"),
    ],
)
def test_a_mistake_is_refused_before_any_run(words, message, tmp_path):
    argv = ["transfer", "--model=B/16", *words, f"--workdir={tmp_path / 'new'}"]
    with commands.own_flags("transfer") as module:
        with pytest.raises(errors.UserError, match=message) as caught:
            module._main(module._parse(argv))
    assert str(caught.value).count("\n") < 10 and not (tmp_path / "new").exists()


def test_a_checkpoint_is_looked_at_before_any_run(tmp_path, monkeypatch):
    def of(checkpoint):
        raise errors.UserError(f"{checkpoint} does not exist")

    monkeypatch.setattr(model, "of", of)
    for more in ([], ["--model=B/16"]):
        argv = ["transfer", "a.npz", "digits", f"--workdir={tmp_path / 'new'}", *more]
        with commands.own_flags("transfer") as module:
            with pytest.raises(errors.UserError, match="a.npz does not exist"):
                module._main(module._parse(argv))
    assert not (tmp_path / "new").exists()


def test_a_dry_run_prints_what_is_known(tmp_path, capsys):
    argv = ["transfer", "a.npz", "digits", "--model=Mixer-B/16", "--dry_run"]
    argv += [f"--workdir={tmp_path / 'new'}", "--rates=0.1,0.2"]
    with commands.own_flags("transfer") as module:
        assert module._main(module._parse(argv)) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "--config=finetune:Mixer-B/16,dataset,small,dev" in first
    assert second.endswith("new/digits_dev_lr=0.2_seed=0")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_real_transfer_of_a_tiny_model(tmp_path):
    small = "model.depth=1 model.width=16 model.mlp_width=16 batch_size=16".split()
    words = [f"--config.{word}" for word in (*small, "total=3 steps")]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}

    def call(*argv):
        program = [sys.executable, "-m", "vit_jax", *argv]
        return subprocess.run(program, env=environment, capture_output=True, text=True)

    made = call("train", "--config=quickstart", f"--workdir={tmp_path / 'a'}", *words)
    assert made.returncode == 0, made.stderr
    assert model.of(str(tmp_path / "a")) == "Ti/4"
    with pytest.raises(errors.UserError, match="does not exist"):
        model.of(str(tmp_path / "none"))
    words = ["batch_size=16", "total=3 steps", "optimizer.warmup=", "save_every="]
    words = [f"--config.{word}" for word in (*words, "model.image_size=8")]
    argv = ["transfer", str(tmp_path / "a"), "digits", "vtab_dtd", "--rates=0.01,0.1"]
    argv += [f"--workdir={tmp_path / 'b'}", "--seeds=0,1", *words]
    for _ in range(2):
        began = time.monotonic()
        done = call(*argv, f"--config.data.data_dir={tmp_path}")
        assert done.returncode == 0, done.stderr
    assert "fork" not in done.stderr and time.monotonic() - began < 30
    figures = json.loads(done.stdout.splitlines()[-1])
    record = json.loads((tmp_path / "b" / plan.FILE).read_text())
    assert figures["digits/test"] == record["tasks"][0]["test"]["mean"]
    assert list(record["missing"]) == ["vtab_dtd"]
