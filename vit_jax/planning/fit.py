"""A trainer's step, compiled once and refused where it cannot fit."""

from collections.abc import Mapping
from typing import Any

import jax

from vit_jax import errors, experiment, host
from vit_jax.parallel import hardware
from vit_jax.planning import advice, facts, footprint


def usable() -> int | None:
    """Bytes of one local device; of a CPU, its share of what the machine has left."""
    device = jax.local_devices()[0]
    granted = hardware.usable_memory(device)
    if granted is None and device.platform == "cpu":
        return host.available_memory() // jax.local_device_count()
    return granted


def compile_step(exp: experiment.Experiment) -> tuple[Any, footprint.Memory | None]:
    """Returns the compiled training step, to be called like it, and its memory.

    Raises:
        UserError: it needs more memory than a device has; with what would help.
    """
    limit = usable()
    try:
        compiled = exp.train_step.lower(exp.state, exp.batch).compile()
    except jax.errors.JaxRuntimeError as error:
        wanted = footprint.wanted(str(error))
        if wanted is None:
            raise
        message = advice.refusal(facts.of(exp), wanted, limit)
        raise errors.UserError(message) from error
    found = footprint.analyzed(compiled)
    if found and limit and found.peak > limit:
        raise errors.UserError(advice.refusal(facts.of(exp), found.peak, limit))
    return compiled, found


def out_of_memory(error: Exception, config: Mapping[str, Any]) -> Exception:
    """Returns a `UserError` for memory that could not be had, else the error itself.

    Args:
        error: of numpy, JAX or a device.
        config: of the run.
    """
    wanted = footprint.wanted(str(error))
    if wanted is None and not isinstance(error, MemoryError):
        return error
    asked = f"{wanted / footprint.GIB:.2f} GiB more" if wanted else "more memory"
    limit = usable() or 0
    return errors.UserError(
        f"out of memory: {asked} was wanted, {limit / footprint.GIB:.2f} GiB can be "
        f"had of each device. Want a smaller batch_size than {config['batch_size']}, "
        f"microbatches above {config['microbatches']}, or --config.data.cache=none"
    )


def describe(found: footprint.Memory | None, device: jax.Device) -> str:
    """Returns one line about the memory of a compiled step, for the log."""
    if found is None:
        return "memory of the step: its compiler does not say"
    limit = hardware.usable_memory(device) or usable()
    of = f" of {limit / footprint.GIB:.2f}" if limit else ""
    return (
        f"memory of the step: {found.peak / footprint.GIB:.2f}{of} GiB a device, "
        f"{(found.arguments or 0) / footprint.GIB:.2f} of it state and batch"
    )
