"""`python launch/local.py --processes=4 --devices=2 -- --config=configs/quickstart.py`.

Runs `vit_jax.main`, or --module=vit_jax.evaluate, as several processes on this machine,
with CPU devices and gloo: a rehearsal of a pod. What stands after "--" are its flags.
Lines begin with the number of their process; SIGTERM goes to all; all are started again
when they end with 42; the exit code is that of the run.
"""

import argparse
import shlex
import socket
import sys

import supervise


def free_port() -> int:
    """Returns a TCP port that nobody uses now."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def commands(
    module: str, processes: int, devices: int, flags: list[str], port: int
) -> list[supervise.Command]:
    """Returns the command of each process."""
    words = [sys.executable, "-m", module, *flags]
    return [
        supervise.Command(
            words,
            {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
                "VIT_JAX_COORDINATOR": f"localhost:{port}",
                "VIT_JAX_PROCESSES": str(processes),
                "VIT_JAX_PROCESS": str(index),
            },
            f"[{index}] ",
        )
        for index in range(processes)
    ]


def main() -> int:
    """The command."""
    ours, flags = supervise.split(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--module", default="vit_jax.main")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--devices", type=int, default=1, help="of each process")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    supervise.add_options(parser)
    options = parser.parse_args(ours)
    if options.processes < 1 or options.devices < 1 or not flags:
        parser.error("want --processes=N --devices=N -- --config=FILE ...")
    these = options.module, options.processes, options.devices, flags
    if options.dry_run:
        for command in commands(*these, 12345):
            settings = [f"{key}={value}" for key, value in command.environ.items()]
            print(shlex.join(["env", *settings, "python", *command.words[1:]]))
        return 0
    return supervise.run(
        lambda: commands(*these, free_port()),
        retries=options.retries,
        pause=options.pause,
    )


if __name__ == "__main__":
    sys.exit(main())
