"""What a compiler's own texts say of a program's memory."""

import re

from vit_jax.parallel import memory
from vit_jax.plan import hlo

_TOTAL = re.compile(r"Memory Space: default[^\n]*\nTotal bytes: (\d+)")
_ARGUMENT = re.compile(r"^allocation \d+: size (\d+),[^\n]*\bparameter \d+", re.M)


def dumped(report: str, assignment: str) -> memory.Memory:
    """Returns the memory that a TPU compiler's dump tells.

    Args:
        report: The text of the dump's memory-usage-report.
        assignment: Of its buffer-assignment.
    """
    total = _TOTAL.search(report)
    assert total, "a memory report without a total"
    arguments = sum(int(size) for size in _ARGUMENT.findall(assignment))
    return memory.Memory(int(total[1]), arguments)


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
