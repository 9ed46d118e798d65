"""Several processes: how they are found, what they compute, and how they end."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import quickstart
from vit_jax import errors, evaluate, train, tree
from vit_jax.checkpoints import checkpoint, disk
from vit_jax.data import augment, catalog, loader, transforms
from vit_jax.learning import step
from vit_jax.parallel import mesh
from vit_jax.runs import distributed, guarding

REPOSITORY = Path(__file__).resolve().parent.parent
HOSTS = (1, 2, 4, 8, 16)

# ---- how they are found


def test_alone_without_a_sign_of_others():
    assert distributed.find(environ={}) is None
    assert distributed.find(environ={"SLURM_PROCID": "0"}) is None
    assert distributed.find("", 1, 0, environ={}) is None


def test_flags_go_before_variables_and_both_before_the_cluster():
    slurm = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "8"}
    variables = {
        "VIT_JAX_COORDINATOR": "a:1",
        "VIT_JAX_PROCESSES": "4",
        "VIT_JAX_PROCESS": "3",
    }
    found = distributed.find(environ=slurm | variables)
    assert found == distributed.Cluster("flags", "a:1", 4, 3)
    found = distributed.find("b:2", 2, 0, environ=slurm | variables)
    assert found == distributed.Cluster("flags", "b:2", 2, 0)
    assert distributed.find("", 1, 0, environ=slurm) is None


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "8"}, "SLURM"),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_NTASKS": "8"}, None),  # in sbatch's script, outside srun
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, "GKE"),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, "GKE"),
    ],
)
def test_clusters_are_known_by_their_variables(environ, found):
    cluster = distributed.find(environ=environ)
    assert (cluster.found if cluster else None) == found


@pytest.mark.parametrize(
    ("workers", "found"), [("10.0.0.1,10.0.0.2", "Cloud TPU VM"), ("10.0.0.1", None)]
)
def test_a_tpu_pod_is_known_by_its_metadata(workers, found):
    class Metadata(BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path == f"/{distributed.METADATA}"
            assert self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(workers.encode())

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environ = {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}
        cluster = distributed.find(environ=environ)
        assert (cluster.found if cluster else None) == found
        assert distributed.find(environ=environ | {"TPU_SKIP_MDS_QUERY": "1"}) is None
        server.shutdown()
    assert distributed.find(environ=environ) is None  # nobody answers


@pytest.mark.parametrize(
    "given",
    [
        ("host:1", 0, -1),
        ("host:1", 2, -1),
        ("", 2, 0),
        ("host", 2, 0),
        ("host:1", 2, 2),
        ("host:1", 2, -2),
    ],
)
def test_half_a_cluster_is_an_error_that_says_what_is_wanted(given):
    with pytest.raises(errors.UserError, match="want all three") as caught:
        distributed.find(*given, environ={})
    assert len(str(caught.value).splitlines()) <= 10
    with pytest.raises(errors.UserError, match="VIT_JAX_PROCESS='x'"):
        distributed.find(environ={"VIT_JAX_PROCESS": "x"})


CLUSTER = distributed.Cluster("flags", "host:1", 4, 2)
HEARTBEATS = """E1121 UNAVAILABLE: The following tasks are unhealthy (stopped):
1
3
The tasks have crashed. Check the task logs for an earlier error, or 7 other things.
"""


@pytest.mark.parametrize(
    ("status", "state", "code", "words"),
    [
        (0, {}, 0, ""),
        (2, {}, 2, ""),
        (42, {}, 42, ""),
        (-6, {"heard": HEARTBEATS}, 42, "lost process 1, process 3. "),
        (-6, {"heard": "Task 3 heartbeat timeout"}, 42, "lost process 3. "),
        (-6, {"heard": "Socket closed"}, 42, "lost the coordinator, process 0. "),
        (-6, {"joined": False}, 42, "process 2 of 4 (host:1) waited 9 s and not all"),
        (-15, {"asked": True}, 42, "asked to stop before the first step"),
        (-6, {"asked": True, "joined": False}, 42, "asked to stop before"),
        (-9, {}, 137, "killed by SIGKILL"),
        (-11, {}, 139, "killed by SIGSEGV"),
    ],
)
def test_every_end_of_a_child_has_its_code_and_words(status, state, code, words):
    given = {"joined": True, "asked": False, "heard": ""} | state
    actual = guarding._verdict(status, str(CLUSTER), start_timeout=9, **given)
    assert actual[0] == code and words in actual[1]
    assert bool(actual[1]) == bool(words)


def test_a_bug_is_not_started_again_but_a_slow_peer_is():
    late = "Gloo context initialization failed: DEADLINE_EXCEEDED: GetKeyValue()"
    assert guarding._code_of(RuntimeError(late)) == 42
    assert guarding._code_of(RuntimeError("shapes do not match")) == 1


@pytest.mark.slow
def test_peers_that_do_not_come_are_one_error(tmp_path):
    port = free_port()
    done = subprocess.run(
        [sys.executable, "-m", "vit_jax.main", "--config=configs/quickstart.py"]
        + [f"--coordinator=localhost:{port}", "--processes=2", "--process=1"]
        + ["--start_timeout=2", f"--workdir={tmp_path / 'run'}"],
        cwd=REPOSITORY,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 42
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: process 1 of 2 (localhost:{port}) waited 2 s")
    assert not (tmp_path / "run").exists()


# ---- the same batches on any number of hosts


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_batches_are_bit_equal_on_any_number_of_hosts(cache):
    source = catalog.open_source("digits", "train")
    crop = transforms.make("train", "inception_crop", image_size=(16, 12))
    options = dict(batch_size=48, seed=3, cache=cache, threads=1)
    steps = (0, 1, 77, 10**6)

    def batches(hosts):
        """Of every step, the hosts' shares in their order."""
        shares = [
            loader.train_loader(
                source, crop, process_index=host, process_count=hosts, **options
            )
            for host in range(hosts)
        ]
        for number in steps:
            parts = [share.batch(number) for share in shares]
            yield {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}
        for share in shares:
            share.close()

    whole = list(batches(1))
    assert len({batch["image"].tobytes() for batch in whole}) == len(steps)
    for hosts in HOSTS[1:]:
        for ours, theirs in zip(batches(hosts), whole, strict=True):
            assert ours.keys() == theirs.keys()
            for key in ours:
                np.testing.assert_array_equal(ours[key], theirs[key])


def augmented(images, device_count, number):
    """The images that the loss of step `number` sees, and its key."""
    shape = mesh.make_mesh(devices=jax.devices()[:device_count])
    sharding = mesh.batch_sharding(shape)

    def loss_fn(params, batch, key):
        seen = {"loss": params.sum(), "image": batch["image"]}
        return params.sum(), seen | {"key": jax.random.key_data(key)}

    train_step = step.make_train_step(
        loss_fn,
        optax.sgd(0.1),
        seed=5,
        augmentations=[augment.random_flip],
    )
    params = jnp.zeros(2)
    state = step.init_state(params, optax.sgd(0.1), ema=False)
    state = step.TrainState(jnp.int32(number), params, state.opt_state, None)
    rows = len(images) // device_count
    parts = [  # each device gets the rows that its host has read
        jax.device_put(images[i * rows : (i + 1) * rows], device)
        for i, device in enumerate(shape.devices.flat)
    ]
    batch = jax.make_array_from_single_device_arrays(images.shape, sharding, parts)
    _, seen = jax.jit(train_step)(state, {"image": batch})
    return np.asarray(seen["image"]), np.asarray(seen["key"])


def test_augmentations_are_bit_equal_on_any_number_of_devices():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (48, 6, 5, 3), dtype=np.uint8)
    flips = set()
    for number in (0, 9):
        whole, key = augmented(images, 1, number)
        mirrored = (whole == images[:, :, ::-1]).all((1, 2, 3))
        assert 10 < mirrored.sum() < 38
        flips.add(mirrored.tobytes())
        for devices in (2, 4, 8):
            again, other = augmented(images, devices, number)
            np.testing.assert_array_equal(again, whole)
            np.testing.assert_array_equal(other, key)
    assert len(flips) == 2


CROSSED = """
import sys
import jax
import numpy as np
index, port, target = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(index))
from vit_jax.parallel import mesh
from vit_jax.data import catalog, loader, transforms
devices = jax.devices()
shape = mesh.make_mesh(devices=[devices[i] for i in (0, 3, 2, 1)])
rows = mesh.local_rows(shape, 16)
share = loader.train_loader(
    catalog.open_source("digits", "train"),
    transforms.make("train", "inception_crop", image_size=(16, 12)),
    batch_size=16, seed=3, process_index=int(index), process_count=2, rows=rows,
)
batch = mesh.to_global(share.batch(7), shape)
np.savez(target, rows=rows, **{name: mesh.to_host(x) for name, x in batch.items()})
share.close()
"""


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])


def test_batches_do_not_depend_on_where_the_hosts_devices_are_in_the_mesh(tmp_path):
    """A mesh over a TPU slice follows its network, and crosses between hosts."""
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CROSSED, str(i), port, tmp_path / f"{i}.npz"],
            env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        )
        for i in range(2)
    ]
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    whole = loader.train_loader(
        catalog.open_source("digits", "train"),
        transforms.make("train", "inception_crop", image_size=(16, 12)),
        batch_size=16,
        seed=3,
    )
    wanted = whole.batch(7)
    whole.close()
    for i, rows in enumerate([[0, 1, 2, 3, 12, 13, 14, 15], [*range(4, 12)]]):
        seen = np.load(tmp_path / f"{i}.npz")
        assert seen["rows"].tolist() == rows
        for name, value in wanted.items():
            np.testing.assert_array_equal(seen[name], value, err_msg=name)


# ---- whole runs, started by launch/local.py

SMALL = {
    "total": "20 steps",
    "log_every": "1 steps",
    "eval_every": "",
    "save_every": "10 steps",
    "data.flip": True,
    "model.depth": 2,
    "model.width": 32,
    "model.mlp_width": 64,
}


def local(workdir, processes, *options, devices=8, **changes):
    """The command of a run over so many CPU devices in all."""
    config = [f"--config.{name}={value}" for name, value in (SMALL | changes).items()]
    return [
        *(sys.executable, str(REPOSITORY / "launch" / "local.py"), "--pause=0.1"),
        *(f"--processes={processes}", f"--devices={devices // processes}"),
        *("--", "--config=configs/quickstart.py", *config, *options),
        f"--workdir={workdir}",
    ]


def start(*arguments, cache="", **changes):
    """Starts the run; `cache` keeps its compiled programs for the next start."""
    kept = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return subprocess.Popen(
        local(*arguments, **changes),
        cwd=REPOSITORY,
        env=os.environ | {"XLA_FLAGS": ""} | (kept if cache else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process, *, code=0):
    """Standard output and error of a run that ends with `code`."""
    output, log = process.communicate(timeout=600)
    assert process.returncode == code, log
    return output, log


def lines(workdir):
    path = workdir / "metrics.jsonl"
    read = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in read if line.endswith("}")]


def losses(workdir):
    return [line["loss"] for line in lines(workdir) if "loss" in line]


def wait_for_step(workdir, number, process):
    """Until the step's metrics are written, or the run is over."""
    deadline = time.monotonic() + 300
    while all(line["step"] < number for line in lines(workdir) or [{"step": 0}]):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def children(pid):
    return [
        int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A run of two processes that nothing disturbs."""
    workdir, cache = (tmp_path_factory.mktemp(name) for name in ("pair", "cache"))
    output, log = end(start(workdir, 2, cache=cache, **PAIR))
    return workdir, output, log, cache


# One device each: gloo's waiting threads leave little of two cores to more of them.
PAIR = {"total": "60 steps", "save_every": "10 steps", "ema": 0.9, "devices": 2}


@pytest.mark.slow
def test_two_processes_compute_what_one_does(pair, tmp_path):
    """The losses of 20 steps, and every example of the test split counted once."""
    workdir, output, *_ = pair
    config = quickstart.get_config()
    changes = SMALL | {k: v for k, v in PAIR.items() if k != "devices"}
    config.update_from_flattened_dict(changes)
    figures = train.run(config, tmp_path, mesh.make_mesh(devices=jax.devices()[:2]))
    np.testing.assert_allclose(losses(workdir)[:20], losses(tmp_path)[:20], rtol=1e-6)
    printed = [json.loads(line[4:]) for line in output.splitlines() if '{"' in line]
    assert len(printed) == 1  # what all know is said by process 0 alone
    assert printed[0]["test/examples"] == figures["test/examples"] == 359
    assert printed[0]["test/top1"] == pytest.approx(figures["test/top1"], abs=3 / 359)


@pytest.mark.slow
def test_two_processes_evaluate_a_checkpoint_as_one_does(pair):
    workdir, *_ = pair
    flags = [f"--checkpoint={workdir}", "--dataset=digits", "--split=test"]
    command = local(workdir, 2, devices=2)
    ours = command[: command.index("--")]
    found = subprocess.run(
        [*ours, "--module=vit_jax.evaluate", "--", *flags, "--batch_size=64"],
        cwd=REPOSITORY,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    said = [line[4:] for line in found.stdout.splitlines() if '{"' in line]
    printed = [json.loads(line) for line in said]
    alone = evaluate.run(str(workdir), "digits", split="test", batch_size=64)
    assert len(printed) == 1 and printed[0].keys() == alone.keys()
    for name, value in alone.items():
        same = value if isinstance(value, str) else pytest.approx(value, rel=1e-5)
        assert printed[0][name] == same, name


@pytest.mark.slow
def test_only_process_0_writes(pair):
    workdir, output, log, _ = pair
    steps = [line["step"] for line in lines(workdir) if "loss" in line]
    assert steps == list(range(1, 61))
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    assert sum("step 60/60 | eta" in line for line in log.splitlines()) == 1
    assert re.search(r"^\[0\] .*step 60/60 \| eta", log, re.M)
    # Of each process, and at the end of the supervisor: its account of the time.
    starts = {line[:4] for line in log.splitlines()}
    assert starts <= {"[0] ", "[1] ", "supe"}


TERM = (1, signal.SIGTERM, 3)  # which process, its signal, after which step
KILL = (1, signal.SIGKILL, 25)
KILL_COORDINATOR = (0, signal.SIGKILL, 25)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.parametrize(
    ("faults", "lost"),
    [
        ([TERM, KILL], "[0] stopped: lost process 1."),
        ([KILL_COORDINATOR], "[1] stopped: lost the coordinator, process 0."),
    ],
)
def test_faults_of_any_process_end_in_the_same_bits(pair, tmp_path, faults, lost):
    """The others notice, all start again by themselves, and nothing is different."""
    process = start(tmp_path, 2, "--peer_timeout=5", cache=pair[-1], **PAIR)
    for victim, number, at in faults:
        wait_for_step(tmp_path, at, process)
        os.kill(children(process.pid)[victim], number)
    _, log = end(process)
    assert lost in log
    assert log.count("supervise: restart") == len(faults)
    stops = re.findall(r"^\[(\d)\] stopped: asked to stop; saved step (\d+)", log, re.M)
    if TERM in faults:
        assert {who for who, _ in stops} == {"0", "1"}
        assert len({saved for _, saved in stops}) == 1, "both save the same step"
        assert f"resuming at step {stops[0][1]} of 60" in log
    assert_same_end(tmp_path, pair[0])


def assert_same_end(workdir, reference):
    assert losses(workdir) == losses(reference)
    folders = [checkpoint.find(folder) for folder in (workdir, reference)]
    assert [folder.name for folder in folders] == ["60", "60"]
    for item in ("params", "ema", "optimizer"):
        ours, theirs = (
            tree.named_leaves(disk.read_item(folder, item)) for folder in folders
        )
        for (name, a), (_, b) in zip(ours, theirs, strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), name


def test_what_is_wrong_for_all_ends_all_and_starts_none_again(tmp_path):
    changes = {"devices": 2, "batch_size": 63}
    output, log = end(start(tmp_path / "run", 2, **changes), code=2)
    for process in "01":
        assert f"[{process}] error: batch_size=63 cannot be split over 2" in log
    assert "supervise:" not in log and not output and not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["dp", "zero1", "fsdp"])
@pytest.mark.parametrize("microbatches", [1, 4])
def test_layouts_and_processes_do_not_matter(layout, microbatches, tmp_path):
    """Losses over 20 steps, float32, 1e-6 relative; against one process, dp."""
    changes = {"model.remat": "full", "model.unroll": 1} if layout == "fsdp" else {}
    changes |= {
        "mesh.layout": layout,
        "mesh.fsdp": 1 if layout == "dp" else 4,
        "microbatches": microbatches,
    }
    config = quickstart.get_config()
    config.update_from_flattened_dict(SMALL | {"mesh.layout": "dp"})
    train.run(config, tmp_path / "reference", mesh.make_mesh())
    wanted = losses(tmp_path / "reference")
    assert len(wanted) == 20
    for processes in (1, 2, 4):
        workdir = tmp_path / str(processes)
        end(start(workdir, processes, **changes))
        np.testing.assert_allclose(losses(workdir), wanted, rtol=1e-6)


@pytest.mark.slow
def test_slurm_tasks_find_each_other(tmp_path):
    """With srun's variables alone, as JAX reads them."""
    flags = local(tmp_path, 2)[local(tmp_path, 2).index("--") + 1 :]
    slurm = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
    }
    tasks = [
        subprocess.Popen(
            [sys.executable, "-m", "vit_jax.main", *flags],
            cwd=REPOSITORY,
            env=os.environ
            | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
            | slurm
            | {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)},
        )
        for task in range(2)
    ]
    assert [task.wait(timeout=300) for task in tasks] == [0, 0]
    assert len(losses(tmp_path)) == 20
