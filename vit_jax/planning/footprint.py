"""What a compiled step needs of a device's memory."""

import re
from dataclasses import dataclass
from typing import Any

from vit_jax.planning import hlo

GIB = 2**30

_TOTAL = re.compile(r"Memory Space: default[^\n]*\nTotal bytes: (\d+)")
_ARGUMENT = re.compile(r"^allocation \d+: size (\d+),[^\n]*\bparameter \d+", re.M)
_WANTED = re.compile(
    r"temporaries \(([\d.]+)([KMGT]?)\) exceeds"
    r"|Used ([\d.]+)([KMGT]?) of"
    r"|allocat\w* ([\d.]+)([KMGT]?)i?B"
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}


@dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
        peak: the most that the program holds at once, arguments included.
        arguments: the state and the batch; None where the compiler did not get so far.
        temporaries: the rest of the peak.
    """

    peak: int
    arguments: int | None

    @property
    def temporaries(self) -> int | None:
        """What a step needs beside its arguments."""
        return None if self.arguments is None else self.peak - self.arguments


def analyzed(compiled: Any) -> Memory | None:
    """Returns the memory of a `jax.stages.Compiled`; None: its compiler cannot say."""
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
    arguments = stats.argument_size_in_bytes
    return Memory(arguments + stats.temp_size_in_bytes + outputs, arguments)


def dumped(report: str, assignment: str) -> Memory:
    """Returns the memory that a TPU compiler's dump tells.

    Args:
        report: the text of the dump's memory-usage-report.
        assignment: of its buffer-assignment.
    """
    total = _TOTAL.search(report)
    assert total, "a memory report without a total"
    arguments = sum(int(size) for size in _ARGUMENT.findall(assignment))
    return Memory(int(total[1]), arguments)


def wanted(message: str) -> int | None:
    """Returns the bytes that an out-of-memory message of a compiler says it wants."""
    if "RESOURCE_EXHAUSTED" not in message and "emory" not in message:
        return None
    found = _WANTED.search(message)
    if found is None:
        return None
    amount, unit = [group for group in found.groups() if group is not None][:2]
    return int(float(amount) * _UNITS[unit])


def donated(module: hlo.Module) -> int:
    """Returns the bytes of a module's arguments whose memory holds its results."""
    header = module.header
    start = header.find("input_output_alias={")
    end = header.find("entry_computation_layout", start)
    aliased = set(re.findall(r"\((\d+), \{\}", header[start:end])) if start >= 0 else ()
    entry = module.computations[module.entry]
    return sum(
        array.bytes
        for instruction in entry.instructions.values()
        if instruction.opcode == "parameter" and instruction.literal in aliased
        for array in instruction.arrays
    )
