"""One process of several, and its guard: how they meet, and how they end.

The process that was started is a guard, and its child joins the others and trains:
JAX's runtime ends a process with SIGABRT when the coordinator (process 0) or a peer is
lost, which nothing inside the process can stop, and the guard turns it into one message
and exit code 42. A guard holds no device and passes on signals and output.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vit_jax import cli, errors
from vit_jax.runs import agreeing, stopping

# Seconds to wait for the others at the end: their writes may take long, or they may
# never come where one process failed alone.
LEAVE_TIMEOUT = {errors.EXIT_DONE: 300, errors.EXIT_RETRY: 300}
LEAVE_TIMEOUT_FAILED = 60
_GUARD = "VIT_JAX_GUARD"  # file descriptor on which a child tells its guard it joined
# What JAX's coordination service says of lost processes.
_LOST = re.compile(r"[Tt]ask (\d+) heartbeat timeout")
_UNHEALTHY = "The following tasks are unhealthy"


@contextlib.contextmanager
def one_of_several(
    who: str,
    arguments: Mapping[str, Any],
    *,
    start_timeout: int,
    peer_timeout: int,
    requests: stopping.Requests | None = None,
) -> Iterator[None]:
    """Runs the body of a `with` as one of the processes of a run.

    The started process guards instead: it runs the same command as its child, in which
    this same context joins the others and runs the body, and ends with its exit code.
    The end of the body waits for the others. What it raises is printed as `cli.guard`
    does, or with its traceback, and ends the process with its code.

    Args:
        who: This process, in messages.
        arguments: For `jax.distributed.initialize`: where the processes meet.
        start_timeout: Seconds for all processes to come.
        peer_timeout: Seconds without a sign of life after which a process is lost.
        requests: To stop, which all answer together; None: a signal ends this process.

    Raises:
        SystemExit: in the guard always; in its child where the code is not 0.
    """
    if _GUARD not in os.environ:
        command = [sys.executable, *sys.orig_argv[1:]]
        asked = requests is not None and requests.dismiss()
        sys.exit(_guard(who, command, start_timeout, asked=asked))
    # The guard's end, even by SIGKILL, is this process's; Ctrl-C is the guard's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cli.end_with_parent()
    if requests is not None:
        requests.join()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    peers = _join(arguments, start_timeout, peer_timeout, requests)
    code = errors.EXIT_DONE
    try:
        yield
    except Exception as error:
        if (told := cli.explained(error)) is None:
            traceback.print_exc()
            told = _code_of(error)
        code = told
        if peers is not None and code not in (errors.EXIT_DONE, errors.EXIT_RETRY):
            peers.failed()
    code = _leave(code)
    if peers is not None:
        peers.close()
    if code:
        sys.exit(code)


def _code_of(error: Exception) -> int:
    """1, a bug; 42 where the others did not answer in time, at the first collective."""
    return errors.EXIT_RETRY if "DEADLINE_EXCEEDED" in str(error) else 1


def _join(
    arguments: Mapping[str, Any],
    start_timeout: int,
    peer_timeout: int,
    requests: stopping.Requests | None,
) -> agreeing.Peers | None:
    import jax
    from jax._src import distributed  # its store of keys needs no device

    # It takes SIGTERM away from us, for its own way to agree.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        **arguments,
        initialization_timeout=start_timeout,
        heartbeat_timeout_seconds=peer_timeout,
    )
    os.write(int(os.environ[_GUARD]), b"joined")
    state = distributed.global_state
    if requests is None or state.client is None:
        return None
    return agreeing.Peers(
        state.client, state.process_id, state.num_processes or 1, requests
    )


def _leave(code: int) -> int:
    """Waits for the others to end, too, and returns; ends at once if they do not."""
    from jax._src import distributed  # its barrier needs no device

    patience = LEAVE_TIMEOUT.get(code) or LEAVE_TIMEOUT_FAILED
    try:
        client = distributed.global_state.client
        assert client is not None, "only a process that joined leaves"
        client.wait_at_barrier(agreeing.END, 1000 * patience)
        if code and distributed.global_state.process_id == 0:
            time.sleep(0.5)  # whoever keeps the store goes last
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


def _guard(
    who: str, command: Sequence[str], start_timeout: int, *, asked: bool = False
) -> int:
    """Runs `command` to its end and returns its exit code, explained."""
    read, write = os.pipe()
    child: subprocess.Popen | None = None

    def forward(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        if child is not None:
            child.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    # The child takes SIGTERM when it can answer (`one_of_several`), and misses none.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    child = subprocess.Popen(
        command,
        env=os.environ | {_GUARD: str(write)},
        pass_fds=(write,),
        stderr=subprocess.PIPE,
    )
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
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
        who,
        joined=joined,
        asked=asked,
        heard="".join(heard),
        start_timeout=start_timeout,
    )
    if message:
        print(message, file=sys.stderr, flush=True)
    return code


def _verdict(
    status: int,
    who: str,
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
        f"error: {who} waited {start_timeout} s and not all came. Start all of "
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
