"""Many processes as one run: where they meet, and how they end.

`find` says whether this process is one of several, before any backend is touched.
Then the process that was started is a guard, and its child joins the others and
trains: JAX's runtime ends a process with SIGABRT when the coordinator (process 0) or
a peer is lost, which nothing inside the process can stop, and the guard turns it into
one message and exit code 42. A guard holds no device and passes on signals and output.
"""

import glob
import os
import re
import signal
import subprocess
import sys
import traceback
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from absl import flags

from vit_jax import cli, errors

START_TIMEOUT = 300  # seconds for all processes to come
PEER_TIMEOUT = 30  # seconds without a heartbeat after which a process is lost
# Seconds to wait for the others at the end: their writes may take long, or they may
# never come where one process failed alone.
LEAVE_TIMEOUT = {errors.EXIT_DONE: 300, errors.EXIT_RETRY: 300}
LEAVE_TIMEOUT_FAILED = 60
METADATA = "computeMetadata/v1/instance/attributes/worker-network-endpoints"
_GUARD = "VIT_JAX_GUARD"  # file descriptor on which a child tells its guard it joined
# What JAX's coordination service says of lost processes.
_LOST = re.compile(r"[Tt]ask (\d+) heartbeat timeout")
_UNHEALTHY = "The following tasks are unhealthy"


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


def start(body: Callable[[], None]) -> int:
    """Runs `body`, alone or as the flags and the environment say; the exit code."""
    given = flags.FLAGS
    cluster = find(given.coordinator, given.processes, given.process)
    if cluster is None:
        body()
        return errors.EXIT_DONE
    return run(
        cluster,
        body,
        start_timeout=given.start_timeout,
        peer_timeout=given.peer_timeout,
    )


def run(
    cluster: Cluster,
    body: Callable[[], None],
    *,
    start_timeout: int = START_TIMEOUT,
    peer_timeout: int = PEER_TIMEOUT,
) -> int:
    """Runs `body` as one of the cluster's processes; returns the exit code.

    Called by the started process it guards: the same command runs as its child, where
    this same call joins the others and runs `body`.

    Args:
        cluster: from `find`.
        body: the work; what users cause is printed as `cli.guard` does.
        start_timeout: seconds for all processes to come.
        peer_timeout: seconds without a sign of life after which a process is lost.
    """
    if _GUARD not in os.environ:
        return _guard(cluster, [sys.executable, *sys.orig_argv[1:]], start_timeout)
    # The guard's end, even by SIGKILL, is this process's; Ctrl-C is the guard's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cli.end_with_parent()
    _join(cluster, start_timeout, peer_timeout)
    try:
        code = cli.guard(body)
    except Exception as error:
        traceback.print_exc()
        code = _code_of(error)
    return _leave(code)


def _code_of(error: Exception) -> int:
    """1, a bug; 42 where the others did not answer in time, at the first collective."""
    return errors.EXIT_RETRY if "DEADLINE_EXCEEDED" in str(error) else 1


def _join(cluster: Cluster, start_timeout: int, peer_timeout: int) -> None:
    import jax

    given: dict[str, Any] = {}
    if cluster.coordinator:
        given = {
            "coordinator_address": cluster.coordinator,
            "num_processes": cluster.processes,
            "process_id": cluster.process,
            "cluster_detection_method": "deactivate",
        }
    jax.distributed.initialize(
        **given,
        initialization_timeout=start_timeout,
        heartbeat_timeout_seconds=peer_timeout,
    )
    os.write(int(os.environ[_GUARD]), b"joined")


def _leave(code: int) -> int:
    """Waits for the others to end, too, and returns; ends at once if they do not."""
    from jax._src import distributed  # its barrier needs no device

    patience = LEAVE_TIMEOUT.get(code) or LEAVE_TIMEOUT_FAILED
    try:
        client = distributed.global_state.client
        assert client is not None, "only a process that joined leaves"
        client.wait_at_barrier("vit_jax_end", 1000 * patience)
    except Exception as error:  # jaxlib's own, of a lost process or a timeout
        lost = _lost_processes(str(error))
        if lost and code in (errors.EXIT_DONE, 1):
            print(f"stopped: {_lost_message(lost)}", file=sys.stderr)
            code = errors.EXIT_RETRY
        # The usual end waits for the lost and is then aborted.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _guard(cluster: Cluster, command: Sequence[str], start_timeout: int) -> int:
    """Runs `command` to its end and returns its exit code, explained."""
    read, write = os.pipe()
    asked: list[int] = []
    child: subprocess.Popen | None = None

    def forward(number: int, frame: Any) -> None:
        asked.append(number)
        os.write(2, b"asked to stop: waiting for the step under way\n")
        if child is not None:
            child.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    child = subprocess.Popen(
        command,
        env=os.environ | {_GUARD: str(write)},
        pass_fds=(write,),
        stderr=subprocess.PIPE,
    )
    os.close(write)
    if asked:
        child.terminate()
    heard: list[str] = []
    assert child.stderr is not None, "it is a pipe"
    for line in child.stderr:
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
        heard = [*heard, line.decode(errors="replace")][-100:]
    status = child.wait()
    joined = os.read(read, 6) == b"joined"
    code, message = _verdict(
        status,
        cluster,
        joined=joined,
        asked=bool(asked),
        heard="".join(heard),
        start_timeout=start_timeout,
    )
    if message:
        print(message, file=sys.stderr, flush=True)
    return code


def _verdict(
    status: int,
    cluster: Cluster,
    *,
    joined: bool,
    asked: bool,
    heard: str,
    start_timeout: int,
) -> tuple[int, str]:
    """The exit code for a child's status, and what to say about it."""
    if status >= 0:
        return status, ""
    if asked and (status == -signal.SIGTERM or not joined):
        return errors.EXIT_RETRY, "stopped: asked to stop before the first step"
    if status != -signal.SIGABRT:
        return 128 - status, f"error: killed by {signal.Signals(-status).name}"
    if joined:
        return errors.EXIT_RETRY, f"stopped: {_lost_message(_lost_processes(heard))}"
    return (
        errors.EXIT_RETRY,
        f"error: {cluster} waited {start_timeout} s and not all came. Start all of "
        "them, with the same coordinator, and let them reach its port (firewall, "
        "proxy variables), or raise --start_timeout",
    )


def _lost_processes(text: str) -> list[int]:
    """Numbers of the processes that JAX's messages call lost."""
    found = {int(number) for number in _LOST.findall(text)}
    if _UNHEALTHY in text:
        listed = text.rsplit(_UNHEALTHY, 1)[1].partition("\n")[2]
        found |= {int(n) for n in re.split(r"[^\d\s,]", listed)[0].split()}
    return sorted(found)


def _lost_message(lost: Sequence[int]) -> str:
    """One line about lost processes; none named: the one that names them is lost."""
    names = ", ".join(f"process {number}" for number in lost)
    return (
        f"lost {names or 'the coordinator, process 0'}. Start all processes again: the "
        "run goes on from its newest checkpoint"
    )
