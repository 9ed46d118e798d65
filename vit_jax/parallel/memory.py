"""What a step needs of a device's memory; one that needs more than there is, refused.

A trainer compiles its step here before anything is placed on a device.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from vit_jax import errors, host
from vit_jax.parallel import hardware
from vit_jax.parallel import mesh as mesh_lib

GIB = hardware.GIB

# How compilers and allocators say what they could not have.
_WANTED = re.compile(
    r"temporaries \(([\d.]+)([KMGT]?)\) exceeds"
    r"|Used ([\d.]+)([KMGT]?) of"
    r"|allocat\w* ([\d.]+)([KMGT]?)i?B"
    r"|allocat\w* (\d+)() bytes"
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}


@dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
        peak: The most that the program holds at once, arguments included.
        arguments: The state and the batch; None where the compiler did not get so far.
        temporaries: The rest of the peak.
    """

    peak: int
    arguments: int | None

    @property
    def temporaries(self) -> int | None:
        """What a step needs beside its arguments."""
        return None if self.arguments is None else self.peak - self.arguments


@dataclass(frozen=True)
class Demand:
    """What decides the memory of a step, and could be chosen otherwise.

    Attributes:
        layout: Key of `layouts.LAYOUTS`.
        remat: Of the architecture.
        batch_size: Images of a step, of all devices.
        microbatches: One after the other in a step.
        batch_parts: In how many parts the mesh cuts a batch.
        devices: Of the mesh.
    """

    layout: str
    remat: str
    batch_size: int
    microbatches: int
    batch_parts: int
    devices: int


def of_compiled(compiled: jax.stages.Compiled) -> Memory | None:
    """Returns the memory of a compiled program; None: its compiler cannot say."""
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
    arguments = stats.argument_size_in_bytes
    return Memory(arguments + stats.temp_size_in_bytes + outputs, arguments)


def wanted(message: str) -> int | None:
    """Returns the bytes that an out-of-memory message says were wanted, else None."""
    if "RESOURCE_EXHAUSTED" not in message and "emory" not in message:
        return None
    found = _WANTED.search(message)
    if found is None:
        return None
    amount, unit = [group for group in found.groups() if group is not None][:2]
    return int(float(amount) * _UNITS[unit])


def bytes_per_device(tree: Any) -> int:
    """Returns what one device holds of a tree of abstract arrays with shardings."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shard = jax.ShapeDtypeStruct(leaf.sharding.shard_shape(leaf.shape), leaf.dtype)
        total += shard.size * shard.dtype.itemsize
    return total


def usable() -> int | None:
    """Returns the bytes that can be had of one local device; None: nothing says.

    Of a CPU that is its share of what the machine has left.
    """
    device = jax.local_devices()[0]
    granted = hardware.usable_memory(device)
    if granted is None and device.platform == "cpu":
        return host.available_memory() // jax.local_device_count()
    return granted


def compile_step(
    train_step: Any,
    state: Any,
    batch: Any,
    mesh: Mesh,
    *,
    layout: str,
    remat: str,
    microbatches: int,
    frozen: Sequence[Any] = (),
) -> tuple[jax.stages.Compiled, Memory | None]:
    """Returns a compiled training step, to be called like it, and its memory.

    Args:
        train_step: From `jax.jit`.
        state: Shapes with shardings.
        batch: Likewise; the first dimension of each leaf counts images.
        mesh: Of both.
        layout: Key of `layouts.LAYOUTS`, for the advice where the step does not fit.
        remat: Of the architecture, for the advice.
        microbatches: Of a step, for the advice.
        frozen: What else the step is called with: shapes with shardings.

    Raises:
        UserError: it needs more memory than a device has; with what would help.
    """
    limit = usable()

    def refusal(peak: int) -> errors.UserError:
        demand = Demand(
            layout=layout,
            remat=remat,
            batch_size=jax.tree.leaves(batch)[0].shape[0],
            microbatches=microbatches,
            batch_parts=mesh_lib.batch_parts(mesh),
            devices=mesh.size,
        )
        kind, held = mesh.devices.flat[0].device_kind, bytes_per_device((state, frozen))
        return errors.UserError(refuse(demand, kind, held, peak, limit))

    given = bytes_per_device((state, batch, frozen))
    if limit and given > limit:  # no compiler needs to say so, which may take minutes
        raise refusal(given)
    try:
        compiled = train_step.lower(state, batch, *frozen).compile()
    except jax.errors.JaxRuntimeError as error:
        peak = wanted(str(error))
        if peak is None:
            raise
        raise refusal(peak) from error
    found = of_compiled(compiled)
    if found and limit and found.peak > limit:
        raise refusal(found.peak)
    return compiled, found


def smaller(demand: Demand) -> list[str]:
    """Returns the flags that make a run smaller, those that cost least time first."""
    flags = []
    layout, remat = demand.layout, demand.remat
    rows = demand.batch_size // demand.microbatches // demand.batch_parts
    if layout == "dp" and demand.devices > 1:
        flags.append("--config.mesh.layout=zero1 --config.mesh.fsdp=0")
    if remat in ("none", "dots"):
        flags.append("--config.model.remat=dots_nb --config.model.unroll=1")
    if layout != "fsdp" and demand.devices > 1 and remat != "none":
        flags.append("--config.mesh.layout=fsdp")
    if remat != "full":
        flags.append("--config.model.remat=full --config.model.unroll=1")
    if rows > 1:
        flags.append(f"--config.microbatches={2 * demand.microbatches}")
    return flags


def refuse(
    demand: Demand, device_kind: str, state: int, peak: int, limit: int | None
) -> str:
    """Returns the message for a step that does not fit its devices.

    Args:
        demand: Of the step.
        device_kind: As JAX names the devices.
        state: Bytes of the training state on one device.
        peak: Bytes that the step needs of one device.
        limit: Bytes that there are; None: nothing says.
    """
    has = f", which has {limit / GIB:.2f}" if limit else ""
    lines = [
        f"the step needs {peak / GIB:.2f} GiB of each {device_kind}{has} "
        f"(state {state / GIB:.2f}); smaller, cheapest first:",
        *(f"  {flag}" for flag in smaller(demand)),
        *_fitting_batch(demand, state, peak, limit),
        "  or more devices; `python -m vit_jax.plan ... --advise` tries them",
    ]
    return "\n".join(lines)


def _fitting_batch(
    demand: Demand, state: int, peak: int, limit: int | None
) -> list[str]:
    """A line with the batch that would fit: memory beside the state grows with it."""
    if not limit or peak <= state:
        return []
    parts = demand.batch_parts * demand.microbatches
    rows = int(0.9 * (limit - state) / (peak - state) * demand.batch_size) // parts
    if rows < 1:
        return ["  no batch fits: the state alone is too large, or nearly"]
    rows = 2 ** (rows.bit_length() - 1)  # a round number below
    return [f"  --config.batch_size={rows * parts} would fit, by proportion"]


def is_out(error: Exception) -> bool:
    """Returns whether an error of numpy, JAX or a device is of memory."""
    said = "RESOURCE_EXHAUSTED" in str(error) and "emory" in str(error)
    return isinstance(error, MemoryError) or said or wanted(str(error)) is not None


@contextlib.contextmanager
def explained(batch_size: int, microbatches: int = 0) -> Iterator[None]:
    """Turns memory that the body cannot have into one `UserError`.

    Args:
        batch_size: Of what is computed.
        microbatches: Of the run; 0: nothing is trained.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not is_out(error):
            raise
        raise out_of_memory(error, batch_size, microbatches) from error


def out_of_memory(error: Exception, batch_size: int, microbatches: int) -> Exception:
    """Returns a `UserError` for memory that could not be had, else the error itself.

    Args:
        error: Of numpy, JAX or a device.
        batch_size: See `explained`.
        microbatches: See there.
    """
    if not is_out(error):
        return error
    more = wanted(str(error))
    others = f"microbatches above {microbatches}, or --config.data.cache=none"
    asked = f"{more / GIB:.2f} GiB more" if more else "more memory"
    limit = usable() or 0
    return errors.UserError(
        f"out of memory: {asked} was wanted, {limit / GIB:.2f} GiB can be "
        f"had of each device. Want a smaller batch_size than {batch_size}"
        + (f", {others}" if microbatches else "")
    )


def describe(found: Memory | None, device: jax.Device) -> str:
    """Returns one line about the memory of a compiled step, for the log."""
    if found is None:
        return "memory of the step: its compiler does not say"
    limit = hardware.usable_memory(device) or usable()
    of = f" of {limit / GIB:.2f}" if limit else ""
    return (
        f"memory of the step: {found.peak / GIB:.2f}{of} GiB a device, "
        f"{(found.arguments or 0) / GIB:.2f} of it state and batch"
    )
