"""Many processes as one run: whether there are, and where they meet.

`find` says whether this process is one of several, before any backend is touched;
`joined` makes it one of them. How they meet and end is in `guarding`, which a process
that is alone does not load.
"""

import contextlib
import glob
import os
import re
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from absl import flags

from vit_jax import errors

if TYPE_CHECKING:
    from vit_jax.runs import stopping

START_TIMEOUT = 300  # seconds for all processes to come
PEER_TIMEOUT = 20  # seconds without a heartbeat after which a process is lost
METADATA = "computeMetadata/v1/instance/attributes/worker-network-endpoints"


@dataclass(frozen=True)
class Cluster:
    """Where the processes of a run meet.

    Attributes:
        found: what says that there are several: "flags", "SLURM", ...
        coordinator: HOST:PORT of process 0; "": JAX asks the cluster, here and below.
        processes: how many there are; 0 as above.
        process: which one this is; -1 as above.
    """

    found: str
    coordinator: str = ""
    processes: int = 0
    process: int = -1

    def __str__(self) -> str:
        if not self.coordinator:
            return f"a process of this {self.found} job"
        return f"process {self.process} of {self.processes} ({self.coordinator})"

    def arguments(self) -> dict[str, Any]:
        """Returns what `jax.distributed.initialize` takes; {}: JAX asks the cluster."""
        if not self.coordinator:
            return {}
        return {
            "coordinator_address": self.coordinator,
            "num_processes": self.processes,
            "process_id": self.process,
            "cluster_detection_method": "deactivate",
        }


def _given(coordinator: str, processes: int, process: int) -> Cluster | None:
    """A cluster by flags or variables, all or none of the three."""
    if not coordinator and not processes and process < 0:
        return None
    if processes == 1 and process <= 0:
        return None
    if not re.fullmatch(r".+:\d+", coordinator) or not 0 <= process < processes:
        raise errors.UserError(
            f"--coordinator={coordinator} --processes={processes} --process={process}; "
            "want all three, as in --coordinator=HOST:PORT --processes=4 --process=0 "
            "on HOST, and 1, 2, 3 on the others (or $VIT_JAX_COORDINATOR, "
            "$VIT_JAX_PROCESSES and $VIT_JAX_PROCESS)"
        )
    return Cluster("flags", coordinator, processes, process)


def _number(environ: Mapping[str, str], name: str, missing: int) -> int:
    text = environ.get(name) or str(missing)
    if not re.fullmatch(r"-?\d+", text):
        raise errors.UserError(f"${name}={text!r}; want a whole number")
    return int(text)


def _in_slurm_step(environ: Mapping[str, str]) -> bool:
    """Under srun with several tasks; sbatch's own script is not."""
    return "SLURM_PROCID" in environ and _number(environ, "SLURM_STEP_NUM_TASKS", 0) > 1


def _in_gke_slice(environ: Mapping[str, str]) -> bool:
    """One of several hosts of a TPU slice, or one of several slices."""
    names = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
    several = any("," in environ[name] for name in names if name in environ)
    return several or _number(environ, "MEGASCALE_NUM_SLICES", 1) > 1


def _on_tpu_pod(environ: Mapping[str, str]) -> bool:
    """A Cloud TPU VM whose metadata names more than one worker."""
    chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    if "TPU_SKIP_MDS_QUERY" in environ or not (chips or "GCE_METADATA_IP" in environ):
        return False
    host = environ.get("GCE_METADATA_IP") or "metadata.google.internal"
    request = urllib.request.Request(
        f"http://{host}/{METADATA}", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return b"," in response.read()
    except OSError:
        return False  # no metadata server: not a VM of Google's


DETECTORS: dict[str, Callable[[Mapping[str, str]], bool]] = {
    "SLURM": _in_slurm_step,
    "GKE": _in_gke_slice,
    "Cloud TPU VM": _on_tpu_pod,
}


def find(
    coordinator: str = "",
    processes: int = 0,
    process: int = -1,
    *,
    environ: Mapping[str, str] = os.environ,
) -> Cluster | None:
    """Returns the cluster this process is part of, None where it is alone.

    Args:
        coordinator: HOST:PORT of process 0; "": $VIT_JAX_COORDINATOR.
        processes: how many; 0: $VIT_JAX_PROCESSES.
        process: which one; -1: $VIT_JAX_PROCESS.
        environ: the environment.

    Without any of them SLURM, GKE and Cloud TPU VMs are asked, in this order.

    Raises:
        UserError: some of the three without the others, or out of range.
    """
    given = _given(
        coordinator or environ.get("VIT_JAX_COORDINATOR") or "",
        processes or _number(environ, "VIT_JAX_PROCESSES", 0),
        process if process >= 0 else _number(environ, "VIT_JAX_PROCESS", -1),
    )
    if given is not None or "VIT_JAX_PROCESSES" in environ or processes:
        return given
    for name, detect in DETECTORS.items():
        if detect(environ):
            return Cluster(name)
    return None


def define_flags() -> None:
    """Defines the flags of a command that may be one of several processes."""
    flags.DEFINE_string(
        "coordinator", "", "HOST:PORT of process 0, or $VIT_JAX_COORDINATOR."
    )
    flags.DEFINE_integer(
        "processes", 0, "How many processes run this command, or $VIT_JAX_PROCESSES."
    )
    flags.DEFINE_integer(
        "process", -1, "Which of them this is, from 0, or $VIT_JAX_PROCESS."
    )
    flags.DEFINE_integer(
        "start_timeout", START_TIMEOUT, "Seconds for all processes to come."
    )
    flags.DEFINE_integer(
        "peer_timeout",
        PEER_TIMEOUT,
        "Seconds without a sign of life after which a process is lost.",
    )


def joined(
    requests: "stopping.Requests | None" = None,
) -> AbstractContextManager[None]:
    """Returns a context whose body runs as the flags and the environment say.

    Alone it is nothing. As one of several processes it is `guarding.one_of_several`.

    Args:
        requests: To stop, of a command that collects them.

    Raises:
        UserError: see `find`.
    """
    given = flags.FLAGS
    cluster = find(given.coordinator, given.processes, given.process)
    if cluster is None:
        return contextlib.nullcontext()
    from vit_jax.runs import guarding

    return guarding.one_of_several(
        *(str(cluster), cluster.arguments()),
        start_timeout=given.start_timeout,
        peer_timeout=given.peer_timeout,
        requests=requests,
    )
