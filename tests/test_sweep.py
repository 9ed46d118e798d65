"""A sweep's points, their runs and its tables; a stub stands for what trains."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent import futures
from pathlib import Path

import numpy as np
import pytest
from commands import own_flags

from vit_jax import errors
from vit_jax.commands import point_queue, sweep_table
from vit_jax.commands import sweep as sweep_lib

# Trains nothing: notes that it ran, and ends as a file PLAN in the sweep's folder says.
STUB = """
import json, os, pathlib, signal, sys, time
flags = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
workdir = pathlib.Path(flags["workdir"])
workdir.mkdir(exist_ok=True)
with open(workdir / "starts", "a") as file:
    file.write("x")
(workdir / "pid").write_text(str(os.getpid()))
starts = len((workdir / "starts").read_text())
plan = json.loads((workdir.parent / "plan.json").read_text()).get(workdir.name, [0])
code = plan[min(starts, len(plan)) - 1]
if code == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))
    print("waiting", file=sys.stderr, flush=True)
    time.sleep(60)
if code < 0:
    os.kill(os.getpid(), -code)
if code:
    print("error: no luck\\nat all", file=sys.stderr)
    sys.exit(code)
lr, seed = float(flags["config.optimizer.lr"]), int(flags["config.seed"])
print(json.dumps({"workdir": str(workdir), "val/top1": lr + seed / 10,
                  "val/examples": 7, "few/5shot": None}))
"""
GRID = {"optimizer.lr": ["0.1", "0.3"], "seed": ["0", "1"]}
NAMES = ["lr=0.1_seed=0", "lr=0.1_seed=1", "lr=0.3_seed=0", "lr=0.3_seed=1"]


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """Runs the stub over a grid: its exit code, and the rows by name."""
    # No code between fork and exec here, where JAX has threads; the command has none.
    monkeypatch.setattr(point_queue, "IN_CHILD", None)
    (tmp_path / "stub.py").write_text(STUB)

    def run(plan, grid=GRID, retries=1, fixed=("--config.total=3 steps",)):
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        with own_flags("sweep"):
            wanted = sweep_lib.points("quickstart", grid, fixed)
        sweep = sweep_lib.Sweep(
            *(wanted, tmp_path),
            retries=retries,
            program=(sys.executable, str(tmp_path / "stub.py")),
        )
        code = sweep.run()
        record = json.loads((tmp_path / sweep_lib.FILE).read_text())
        assert record["points"] == list(sweep.rows.values())
        return code, {row["name"]: row for row in record["points"]}

    return run


def starts(folder):
    return [
        len(path.read_text()) if (path := folder / name / "starts").exists() else 0
        for name in NAMES
    ]


def test_the_product_is_run_once_and_tabled(swept, tmp_path):
    code, rows = swept({})
    assert code == 0 and list(rows) == NAMES
    assert rows[NAMES[3]]["values"] == {"optimizer.lr": "0.3", "seed": "1"}
    assert rows[NAMES[3]]["arguments"] == [
        *("--config=quickstart", "--config.total=3 steps"),
        *("--config.optimizer.lr=0.3", "--config.seed=1"),
    ]
    assert rows[NAMES[3]]["figures"]["val/top1"] == pytest.approx(0.4)
    table = (tmp_path / sweep_lib.TABLE).read_text()
    assert "| optimizer.lr | seed | val/top1 | few/5shot | time | status |" in table
    assert "| 0.3 | 1 | 0.4 | nan |" in table and "examples" not in table
    assert "| 0.1 | 0.15 ± 0.071 (2) |  |" in table
    record = json.loads((tmp_path / sweep_lib.FILE).read_text())
    (low, high) = record["over_seeds"]
    assert low["values"] == {"optimizer.lr": "0.1"}
    deviation = np.std([0.3, 0.4], ddof=1)
    assert high["figures"]["val/top1"] == {
        "mean": pytest.approx(0.35),
        "deviation": pytest.approx(deviation),
        "n": 2,
    }
    before = table
    assert swept({})[0] == 0
    assert starts(tmp_path) == [1, 1, 1, 1]
    assert (tmp_path / sweep_lib.TABLE).read_text() == before


def test_a_failed_point_is_in_the_table_and_the_others_go_on(swept, tmp_path):
    code, rows = swept({NAMES[0]: [4, 0], NAMES[2]: [42, -9, 0], NAMES[3]: [42, 0]})
    assert code == 4
    assert starts(tmp_path) == [1, 1, 2, 2]
    assert [row["status"] for row in rows.values()] == [
        *("failed", "done", "failed", "done")
    ]
    assert rows[NAMES[0]]["error"] == "exit code 4: no luck at all"
    assert rows[NAMES[2]]["error"].startswith("killed by signal 9")
    assert "exit code 4: no luck at all" in (tmp_path / sweep_lib.TABLE).read_text()

    code, rows = swept({NAMES[0]: [4, 0], NAMES[2]: [42, -9, 0]})
    assert code == 0 and {row["status"] for row in rows.values()} == {"done"}
    assert starts(tmp_path) == [2, 1, 3, 2]
    assert rows[NAMES[0]]["error"] == ""


def test_the_same_mistake_twice_ends_a_sweep_of_which_nothing_is_done(swept, tmp_path):
    wrong = dict.fromkeys(NAMES, [2, 2, 0])
    code, rows = swept(wrong)
    assert code == 2 and starts(tmp_path) == [1, 1, 0, 0]
    assert [row["status"] for row in rows.values()] == [
        *("failed", "failed", "waiting", "waiting")
    ]
    assert swept(wrong)[0] == 2 and starts(tmp_path) == [2, 1, 0, 0]
    assert swept({})[0] == 0 and starts(tmp_path) == [3, 2, 1, 1]


def test_mistakes_beside_points_that_are_done_end_no_sweep(swept, tmp_path):
    wrong = {name: [2] for name in NAMES[1:]}
    assert swept(wrong)[0] == 2 and starts(tmp_path) == [1, 1, 1, 1]


def test_a_grid_may_grow_and_another_sweep_is_refused(swept, tmp_path):
    one = {"optimizer.lr": ["0.1"], "seed": ["0"]}
    swept({}, grid=one)
    assert swept({})[0] == 0
    assert starts(tmp_path) == [1, 1, 1, 1]
    with pytest.raises(errors.UserError, match="has another sweep"):
        swept({}, fixed=("--config.total=4 steps",))


def waiting(tmp_path):
    """A sweep in a process of its own, whose second point waits to be stopped."""
    (tmp_path / "plan.json").write_text(json.dumps({NAMES[1]: ["wait", 0]}))
    script = (
        "import sys; from pathlib import Path; from vit_jax.commands import sweep\n"
        "sweep._define_flags()\n"
        f"points = sweep.points('quickstart', {GRID!r}, ['--config.total=3 steps'])\n"
        f"program = (sys.executable, {str(tmp_path / 'stub.py')!r})\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "one = sweep.Sweep(points, folder, retries=5, program=program)\n"
        "sys.exit(one.run())"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    log = tmp_path / f"{NAMES[1]}.log"
    deadline = time.monotonic() + 60
    while not log.exists() or "waiting" not in log.read_text():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    return process


def test_a_request_to_stop_reaches_the_run_and_it_goes_on_later(swept, tmp_path):
    process = waiting(tmp_path)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == 42
    record = json.loads((tmp_path / sweep_lib.FILE).read_text())
    assert [row["status"] for row in record["points"]] == [
        *("done", "stopped", "waiting", "waiting")
    ]
    assert starts(tmp_path) == [1, 1, 0, 0]
    assert swept({NAMES[1]: ["wait", 0]})[0] == 0
    assert starts(tmp_path) == [1, 2, 1, 1]


def runs(process):
    try:
        return ") Z " not in (process / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux does it")
def test_a_run_does_not_outlive_a_sweep_that_is_killed(swept, tmp_path):
    process = waiting(tmp_path)
    child = Path("/proc") / (tmp_path / NAMES[1] / "pid").read_text()
    assert runs(child)
    process.kill()
    process.wait(60)
    deadline = time.monotonic() + 60
    while runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert swept({})[0] == 0
    assert starts(tmp_path) == [1, 2, 1, 1]


def test_two_processes_share_the_points_and_one_takes_over(
    swept, tmp_path, monkeypatch
):
    monkeypatch.setattr(point_queue, "POLL", 0.02)
    other = waiting(tmp_path)  # it has the second point
    path = tmp_path / sweep_lib.FILE

    def stop_it():
        statuses: list[str] = []
        while statuses.count("done") < 3:  # all others
            points = json.loads(path.read_text())["points"]
            statuses = [row["status"] for row in points]
            time.sleep(0.02)
        assert statuses[1] == "running" and starts(tmp_path) == [1, 1, 1, 1]
        os.kill(other.pid, signal.SIGTERM)
        assert other.wait(60) == 42

    with futures.ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(stop_it)
        code, rows = swept({NAMES[1]: ["wait", 0]})
        stopped.result(60)
    assert code == 0 and {row["status"] for row in rows.values()} == {"done"}
    assert starts(tmp_path) == [1, 2, 1, 1]


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "want --grid="),
        (["optimizer.lr"], "want KEY=VALUE"),
        (["optimizer.lr="], "want KEY=VALUE"),
        (["seed=1,1"], "each value once"),
        (["seed=1", "config.seed=2"], "twice"),
        (["optimizer.lrr=1"], 'Did you mean "optimizer.lr"'),
        (["optimizer=1"], "is a group of keys"),
        (["seed=x"], "config.seed=x"),
        (["seed=0,-1"], "seed=-1: want a number"),
        (["init_from=a/b,a:b"], "folders of one name"),
    ],
)
def test_a_mistake_is_refused_before_any_run(words, message):
    with own_flags("sweep"), pytest.raises(errors.UserError, match=message):
        sweep_lib.points("quickstart", sweep_lib.parse_grid(words))


def test_a_key_of_the_grid_that_is_fixed_is_refused():
    with own_flags("sweep"), pytest.raises(errors.UserError, match="which is it"):
        sweep_lib.points("quickstart", {"seed": ["0"]}, ["--config.seed=1"])


def test_commas_in_brackets_separate_no_values():
    grid = sweep_lib.parse_grid(["model.image_size=(16,16),(24, 24)", "seed=0,1"])
    assert grid == {
        "model.image_size": ["(16,16)", "(24, 24)"],
        "seed": ["0", "1"],
    }
    with own_flags("sweep"):
        found = sweep_lib.points("quickstart", grid)
    assert [p.name for p in found][:1] == ["image_size=-16-16-_seed=0"]


def test_a_sweep_of_an_older_version_has_no_cpu_time(tmp_path):
    row = {"name": "a", "values": {}, "arguments": [], "figures": {}}
    row |= point_queue.NEW | {"cpu_seconds": 2.5}
    old = {name: value for name, value in row.items() if name != "cpu_seconds"}
    (tmp_path / "a").write_text(json.dumps({"points": [row, old]}))
    found = sweep_table.read(tmp_path / "a")
    assert found == [row, old | {"cpu_seconds": 0.0}]


def test_one_seed_has_no_deviation():
    row = {"status": "done", "values": {"seed": "0"}, "figures": {"val/top1": 0.5}}
    (group,) = sweep_table.over_seeds([row])
    assert group["figures"]["val/top1"] == {"mean": 0.5, "deviation": None, "n": 1}


@pytest.mark.parametrize("recipe", ["quickstart", "--config=quickstart"])
def test_a_dry_run_prints_the_commands_and_writes_nothing(recipe, tmp_path, capsys):
    argv = ["sweep", recipe, "--grid=seed=0,1", "--dry_run"]
    argv += [f"--workdir={tmp_path / 'new'}", "--config.total=3 steps"]
    with own_flags("sweep") as module:
        assert module._main(module._parse(argv)) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == (
        f"{sys.executable} -m vit_jax.main --config=quickstart "
        f"'--config.total=3 steps' --config.seed=0 --workdir={tmp_path}/new/seed=0"
    )
    assert second.endswith("/seed=1") and not (tmp_path / "new").exists()


def test_the_folder_has_the_name_of_the_recipe():
    wanted = Path("workdirs/sweep_finetune-B_16_cifar10")
    assert sweep_lib.default_workdir("configs/finetune.py:B/16,cifar10") == wanted


@pytest.mark.slow
def test_a_real_sweep_of_two_tiny_points(tmp_path):
    small = ["model.depth=1", "model.width=16", "model.mlp_width=16"]
    words = [f"--config.{word}" for word in (*small, "total=3 steps", "batch_size=16")]
    words += ["--grid=seed=0,1", f"--workdir={tmp_path}"]
    call = [sys.executable, "-m", "vit_jax", "sweep", "quickstart", *words]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    for _ in range(2):
        began = time.monotonic()
        done = subprocess.run(call, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["done"] == 2
    assert "seed=1 is done already" in done.stderr and time.monotonic() - began < 30
    record = json.loads((tmp_path / sweep_lib.FILE).read_text())
    for row in record["points"]:
        lines = (tmp_path / row["name"] / "metrics.jsonl").read_text().splitlines()
        last = json.loads(lines[-1])
        assert row["figures"]["test/top1"] == last["test/top1"]
    assert record["over_seeds"][0]["figures"]["test/loss"]["n"] == 2
