"""`python launch/tpu_vm.py --name=N --zone=Z --type=v4-32 --bucket=gs://B -- FLAGS`.

One TPU slice as a queued resource: asks for it, waits, sends the committed code to all
hosts, trains with FLAGS of `vit_jax.main`, follows the log, and deletes the slice. When
a spot slice is taken away another one goes on from the bucket. The same command again
finds a slice that --keep left. See README.md for what it costs.
"""

import argparse
import sys
from dataclasses import dataclass

import cloud

GONE = {"FAILED", "SUSPENDED", "SUSPENDING", "DELETING", ""}


@dataclass
class QueuedResource:
    """The slice; implements `cloud.Machines`."""

    shell: cloud.Shell
    given: argparse.Namespace
    flags: list[str]

    def _resource(self, *words: str) -> list[str]:
        gcloud = ["gcloud", "compute", "tpus", "queued-resources", *words]
        return [*gcloud, f"--zone={self.given.zone}"]

    def _hosts(self, verb: str, *words: str) -> list[str]:
        gcloud = ["gcloud", "compute", "tpus", "tpu-vm", verb, *words]
        return [*gcloud, f"--zone={self.given.zone}", "--worker=all"]

    def _state(self) -> str:
        describe = self._resource("describe", self.given.name)
        return self.shell.read(
            [*describe, "--format=value(state.state)"], pretend="ACTIVE"
        )

    def create(self) -> None:
        """Asks for the slice, unless it was asked for before."""
        if not self.shell.dry_run and self._state() not in GONE:
            return
        words = self._resource("create", self.given.name)
        words += [
            f"--node-id={self.given.name}",
            f"--accelerator-type={self.given.type}",
            f"--runtime-version={self.given.runtime}",
        ]
        self.shell.run(words + (["--spot"] if self.given.spot else []))

    def ready(self) -> bool | None:
        """Whether the slice is active; None where it failed or was taken away."""
        state = self._state()
        if state in GONE:
            return None
        return state == "ACTIVE"

    def train(self) -> int:
        """Sends the code, runs on all hosts; returns the run's code, 255 if lost."""
        cloud.pack(self.shell)
        copy = self._hosts("scp", cloud.ARCHIVE, f"{self.given.name}:vit_jax.tgz")
        if code := self.shell.run(copy, check=False):
            return 255 if code else code
        line = cloud.host_command(self.given, self.flags)
        ssh = self._hosts("ssh", self.given.name, f"--command={line}")
        return self.shell.run(ssh, check=False)

    def delete(self) -> None:
        """Deletes the slice and its request."""
        delete = self._resource("delete", self.given.name, "--force", "--quiet")
        self.shell.run(delete, check=False)


def main() -> int:
    """The command."""
    parser = cloud.options(__doc__)
    parser.add_argument("--type", required=True, help="accelerator type, as in v4-32")
    parser.add_argument("--runtime", default="tpu-ubuntu2204-base")
    given, flags = cloud.parse(parser)
    cloud.quiet_environment()
    shell = cloud.Shell(dry_run=given.dry_run)
    slice_ = QueuedResource(shell, given, flags)
    return cloud.drive(shell, slice_, retries=given.retries, keep=given.keep)


if __name__ == "__main__":
    sys.exit(main())
