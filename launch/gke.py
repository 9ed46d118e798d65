"""`python launch/gke.py --name=N --image=I --bucket=gs://B ... -- FLAGS`.

For TPUs `--accelerator=tpu-v6e-slice --topology=4x4 --hosts=4 [--slices=2]`, for GPUs
`--accelerator=nvidia-h100-80gb --gpus=8 --hosts=2`.

One run as a JobSet on GKE, with FLAGS of `vit_jax.main`: fills in jobset.yaml, applies
it, follows the log of the first pod until the JobSet ends, and deletes it. --dry-run
prints the manifest and the commands.
"""

import argparse
import json
import shlex
import string
import subprocess
import sys
import time
from pathlib import Path

import supervise

TEMPLATE = Path(__file__).resolve().parent / "jobset.yaml"
PORT = 8476
NAME = "jobset.sigs.k8s.io/jobset-name"
INDEX = "batch.kubernetes.io/job-completion-index"


def render(given: argparse.Namespace, flags: list[str]) -> str:
    """Returns the manifest. TPU hosts find each other; GPU hosts are told."""
    if given.gpus:
        selector = {"cloud.google.com/gke-accelerator": given.accelerator}
        limits = {"nvidia.com/gpu": given.gpus}
        env = [
            {
                "name": "VIT_JAX_COORDINATOR",
                "value": f"{given.name}-slice-0-0.{given.name}:{PORT}",
            },
            {"name": "VIT_JAX_PROCESSES", "value": str(given.hosts)},
            {
                "name": "VIT_JAX_PROCESS",
                "valueFrom": {
                    "fieldRef": {"fieldPath": f"metadata.annotations['{INDEX}']"}
                },
            },
        ]
    else:
        selector = {
            "cloud.google.com/gke-tpu-accelerator": given.accelerator,
            "cloud.google.com/gke-tpu-topology": given.topology,
        }
        limits = {"google.com/tpu": given.chips}
        env = []
    if given.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    args = [*flags, f"--workdir=/gcs/workdirs/{given.name}"]
    filled = string.Template(TEMPLATE.read_text()).substitute(
        name=given.name,
        image=given.image,
        bucket=given.bucket.removeprefix("gs://"),
        service_account=given.service_account,
        max_restarts=given.max_restarts,
        slices=given.slices,
        hosts=given.hosts,
        selector=f"\n{16 * ' '}".join(
            f"{key}: {json.dumps(value)}" for key, value in selector.items()
        ),
        args=json.dumps(args),  # JSON is YAML
        env=json.dumps(env),
        limits=json.dumps(limits),
    )
    return filled[filled.index("apiVersion") :]


def _follow(name: str) -> int:
    """Shows the first pod's log, again after restarts, until the JobSet ends."""
    job = f"{NAME}={name},{INDEX}=0"
    logs = ["kubectl", "logs", f"--selector={job}", "--follow", "--tail=-1"]
    state = ["kubectl", "get", "jobset", name]
    state += ["--output=jsonpath={.status.terminalState}"]
    while True:
        ended = subprocess.run(state, stdout=subprocess.PIPE, text=True).stdout.strip()
        if ended:
            return 0 if ended == "Completed" else 1
        subprocess.run(logs)
        time.sleep(10)


def main() -> int:
    """The command."""
    ours, flags = supervise.split(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--image", required=True, help="built from launch/Dockerfile")
    parser.add_argument("--bucket", required=True, help="gs://BUCKET: workdirs, data")
    parser.add_argument("--accelerator", required=True, help="tpu-v6e-slice, ...")
    parser.add_argument("--topology", default="", help="chips of a slice, as in 4x4")
    parser.add_argument("--hosts", type=int, default=1, help="of a slice")
    parser.add_argument("--chips", type=int, default=4, help="of a host")
    parser.add_argument("--gpus", type=int, default=0, help="of a host; 0: TPU")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--service-account", default="default", help="of Kubernetes")
    parser.add_argument("--max-restarts", type=int, default=20)
    parser.add_argument("--spot", action="store_true")
    parser.add_argument("--keep", action="store_true", help="the JobSet, when it ends")
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args(ours)
    if not flags or bool(given.gpus) == bool(given.topology):
        parser.error("want --topology=AxB or --gpus=N, and -- --config=FILE ...")
    if given.gpus and given.slices != 1:
        parser.error("--slices is for TPUs; want --hosts=N")
    manifest = render(given, flags)
    apply = ["kubectl", "apply", "--filename=-"]
    delete = ["kubectl", "delete", "jobset", given.name, "--ignore-not-found"]
    if given.dry_run:
        print(f"{shlex.join(apply)} <<'EOF'\n{manifest}EOF")
        print(shlex.join(delete))
        return 0
    try:
        subprocess.run(apply, input=manifest, text=True, check=True)
        return _follow(given.name)
    finally:
        if not given.keep:
            subprocess.run(delete)


if __name__ == "__main__":
    sys.exit(main())
