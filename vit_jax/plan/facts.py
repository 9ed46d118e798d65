"""What is known of a run before its step is compiled."""

from typing import Any

import jax

from vit_jax import experiment, models
from vit_jax.parallel import choosing, hardware, memory
from vit_jax.parallel import mesh as mesh_lib


def of(exp: experiment.Experiment) -> dict[str, Any]:
    """Returns what is known of a run before it is compiled, as JSON."""
    device = exp.mesh.devices.flat[0]
    devices = list(exp.mesh.devices.flat)
    architecture = exp.architecture
    hosts = {(getattr(d, "slice_index", 0), d.process_index) for d in devices}
    return {
        "model": architecture.name,
        "remat": architecture.remat,
        "unroll": architecture.unroll,
        "layout": exp.layout.name,
        "mesh": dict(exp.mesh.shape),
        "device_kind": device.device_kind,
        "devices": len(devices),
        "batch_parts": mesh_lib.batch_parts(exp.mesh),
        "hosts": len(hosts),
        "usable_bytes": hardware.usable_memory(device),
        "expected_bytes": _expected(exp),
        "batch_size": exp.batch_size,
        "microbatches": exp.microbatches,
        "tokens": architecture.tokens,
        "lengths": sorted(
            {n for leaf in jax.tree.leaves(exp.state.params) for n in leaf.shape}
        ),
        "total_steps": exp.durations.total,
        "forward_macs": models.forward_macs(architecture),
        "parameters": models.count_parameters(architecture),
        "parameter_bytes": sum(
            leaf.size * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(exp.state.params)
        ),
        "state_bytes": memory.bytes_per_device(exp.state),
    }


def _expected(exp: experiment.Experiment) -> int:
    """Bytes of a device by the arithmetic of `mesh.layout=auto`."""
    parts = exp.microbatches * mesh_lib.batch_parts(exp.mesh)
    return choosing.choose(
        *(exp.layout.name, exp.architecture.remat),
        architecture=exp.architecture,
        state=exp.state,
        mesh=exp.mesh,
        examples=exp.batch_size // parts,
        frozen=[one.params for one in exp.frozen],
    ).peak_bytes
