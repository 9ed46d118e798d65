"""`python launch/mig.py --name=N --project=P --zone=Z --bucket=gs://B ... -- FLAGS`.

With the slice: `--machine=ct6e-standard-4t --topology=4x4 --hosts=4`.

One TPU slice as a managed instance group of Compute Engine, for v5p and later: makes a
workload policy, a template and the group, sends the committed code to each host, trains
with FLAGS of `vit_jax.main`, follows the logs, and deletes all of it. The hosts are
told where they meet: the internal address of the first. README.md says what it costs.
"""

import argparse
import shlex
import sys
from dataclasses import dataclass

import cloud
import supervise

PORT = 8476


@dataclass
class InstanceGroup:
    """The slice; implements `cloud.Machines`."""

    shell: cloud.Shell
    given: argparse.Namespace
    flags: list[str]

    def _group(self, *words: str) -> list[str]:
        gcloud = ["gcloud", "compute", "instance-groups", "managed", *words]
        return [*gcloud, f"--zone={self.given.zone}"]

    def _policy(self) -> str:
        place = f"projects/{self.given.project}/regions/{cloud.region(self.given.zone)}"
        return f"{place}/resourcePolicies/{self.given.name}"

    def create(self) -> None:
        """Makes policy, template and group, unless the group is there."""
        name, region = self.given.name, cloud.region(self.given.zone)
        describe = self._group("describe", name, "--format=value(name)")
        if not self.shell.dry_run and self.shell.read(describe, pretend=""):
            return
        gcloud = ["gcloud", "compute"]
        policy = ["resource-policies", "create", "workload-policy", name]
        policy += ["--type=HIGH_THROUGHPUT", f"--region={region}"]
        policy += [f"--accelerator-topology={self.given.topology}"]
        self.shell.run([*gcloud, *policy])
        template = ["instance-templates", "create", name]
        template += [f"--machine-type={self.given.machine}"]
        template += [f"--image-family={self.given.image_family}"]
        template += ["--image-project=ubuntu-os-accelerator-images"]
        template += ["--maintenance-policy=TERMINATE", "--boot-disk-size=100GB"]
        template += ["--scopes=cloud-platform"]
        if self.given.spot:
            template += ["--provisioning-model=SPOT"]
            template += ["--instance-termination-action=DELETE"]
        self.shell.run([*gcloud, *template])
        group = self._group("create", name, f"--size={self.given.hosts}")
        group += [f"--template={name}", f"--workload-policy={self._policy()}"]
        self.shell.run([*group, "--default-action-on-vm-failure=do-nothing"])

    def _hosts(self) -> list[str]:
        """The names of the running hosts, in one order everywhere."""
        listing = self._group("list-instances", self.given.name)
        listing += ["--filter=instanceStatus=RUNNING", "--format=value(name)"]
        pretend = "\n".join(f"{self.given.name}-{i}" for i in range(self.given.hosts))
        return sorted(self.shell.read(listing, pretend=pretend).split())

    def ready(self) -> bool | None:
        """Whether all hosts run."""
        return len(self._hosts()) == self.given.hosts

    def train(self) -> int:
        """Sends the code, runs on all hosts; returns the run's code."""
        cloud.pack(self.shell)
        hosts = self._hosts()
        describe = ["gcloud", "compute", "instances", "describe", hosts[0]]
        describe += [f"--zone={self.given.zone}"]
        describe += ["--format=value(networkInterfaces[0].networkIP)"]
        address = self.shell.read(describe, pretend="10.0.0.2")
        zone = f"--zone={self.given.zone}"
        for host in hosts:
            copy = ["gcloud", "compute", "scp", cloud.ARCHIVE, f"{host}:vit_jax.tgz"]
            if self.shell.run([*copy, zone], check=False):
                return 255
        started = []
        for index, host in enumerate(hosts):
            settings = {
                "VIT_JAX_COORDINATOR": f"{address}:{PORT}",
                "VIT_JAX_PROCESSES": str(len(hosts)),
                "VIT_JAX_PROCESS": str(index),
            }
            words = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
            line = cloud.host_command(self.given, self.flags, " ".join(words) + " ")
            ssh = ["gcloud", "compute", "ssh", host, zone, f"--command={line}"]
            started.append(self.shell.start(ssh))
        return supervise.outcome([p.wait() for p in started if p is not None])

    def delete(self) -> None:
        """Deletes group, template and policy."""
        name, region = self.given.name, cloud.region(self.given.zone)
        self.shell.run([*self._group("delete", name), "--quiet"], check=False)
        gcloud = ["gcloud", "compute"]
        template = ["instance-templates", "delete", name, "--quiet"]
        self.shell.run([*gcloud, *template], check=False)
        policy = ["resource-policies", "delete", name, f"--region={region}", "--quiet"]
        self.shell.run([*gcloud, *policy], check=False)


def main() -> int:
    """The command."""
    parser = cloud.options(__doc__)
    parser.add_argument("--project", required=True)
    parser.add_argument("--machine", required=True, help="as in ct6e-standard-4t")
    parser.add_argument("--topology", required=True, help="chips, as in 4x4")
    parser.add_argument("--hosts", type=int, required=True, help="chips / chips a host")
    parser.add_argument(
        "--image-family", default="ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e"
    )
    given, flags = cloud.parse(parser)
    cloud.quiet_environment()
    shell = cloud.Shell(dry_run=given.dry_run)
    group = InstanceGroup(shell, given, flags)
    return cloud.drive(shell, group, retries=given.retries, keep=given.keep)


if __name__ == "__main__":
    sys.exit(main())
