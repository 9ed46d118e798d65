"""A trainer's step, compiled once and refused where it cannot fit."""

from typing import Any

import jax

from vit_jax import errors, experiment, hardware
from vit_jax.planning import advice, facts, footprint


def compile_step(exp: experiment.Experiment) -> tuple[Any, footprint.Memory | None]:
    """Returns the compiled training step, to be called like it, and its memory.

    Raises:
        UserError: it needs more memory than a device has; with what would help.
    """
    usable = hardware.usable_memory(jax.local_devices()[0])
    try:
        compiled = exp.train_step.lower(exp.state, exp.batch).compile()
    except jax.errors.JaxRuntimeError as error:
        wanted = footprint.wanted(str(error))
        if wanted is None:
            raise
        message = advice.refusal(facts.of(exp), wanted, usable)
        raise errors.UserError(message) from error
    found = footprint.analyzed(compiled)
    if found and usable and found.peak > usable:
        raise errors.UserError(advice.refusal(facts.of(exp), found.peak, usable))
    return compiled, found


def describe(found: footprint.Memory | None, device: jax.Device) -> str:
    """Returns one line about the memory of a compiled step, for the log."""
    if found is None:
        return "memory of the step: its compiler does not say"
    usable = hardware.usable_memory(device)
    of = f" of {usable / footprint.GIB:.2f}" if usable else ""
    return (
        f"memory of the step: {found.peak / footprint.GIB:.2f}{of} GiB a device, "
        f"{(found.arguments or 0) / footprint.GIB:.2f} of it state and batch"
    )
