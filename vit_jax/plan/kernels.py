"""The kernels of a program for a GPU, and the time that they cannot be shorter than."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from vit_jax.plan import collectives, hlo, libraries, work

# What launches no kernel.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("while", "call", "conditional", "async-start", "opt-barrier", "partition-id"),
    *("replica-id", "get-dimension-size"),
}
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_PARTS = {"slice", "dynamic-slice", "gather"}


@dataclass(frozen=True)
class Kernel:
    """A kernel of one device.

    Attributes:
        name: Of its instruction.
        flops: Of its matrix products and convolutions.
        bytes: That it reads and writes, each operand once.
        count: Runs in a step.
        alongside: Whether it is started to run beside those that follow.
    """

    name: str
    flops: int
    bytes: int
    count: int
    alongside: bool

    def seconds(self, peak: float, bandwidth: float) -> float:
        """Returns the least time of a run, by FLOP/s and by bytes/s of the memory."""
        return max(self.flops / peak, self.bytes / bandwidth)


def find(module: hlo.Module) -> list[Kernel]:
    """Returns the kernels of a module but for its collectives.

    The host counts the turns of a loop: its condition takes none.
    """
    conditions = {
        name
        for _, instruction in module.instructions()
        for name in _CONDITION.findall(instruction.attributes)
    }
    found = []
    for computation, instruction in module.instructions():
        times = module.control_times[computation.name]
        opcode = instruction.opcode
        if not times or computation.name in conditions:
            continue
        if opcode in _FREE or opcode.endswith("-done"):
            continue
        if collectives.is_collective(instruction):
            continue
        found.append(
            Kernel(
                name=instruction.name,
                flops=work.flops_of(module, computation, instruction),
                bytes=_read(module, computation, instruction)
                + _written(module, computation, instruction),
                count=times,
                alongside=opcode.endswith("-start"),
            )
        )
    return found


def bound(found: list[Kernel], *, peak: float, bandwidth: float) -> float:
    """Returns the seconds of a step that no run of these kernels can be below.

    One after the other, but for those that run alongside: these hide behind others as
    long as the memory keeps up.
    """
    apart = sum(
        one.count * one.seconds(peak, bandwidth) for one in found if not one.alongside
    )
    return max(apart, sum(one.count * one.bytes for one in found) / bandwidth)


def _size(instruction: hlo.Instruction) -> int:
    arrays = instruction.arrays
    if instruction.opcode.endswith("-start"):  # (operands, results, contexts ...)
        parts = hlo.elements(instruction.type)
        arrays = hlo.arrays(parts[1] if parts[0].startswith("(") else parts[0])
    if libraries.is_library(instruction):
        # The results, then what the library works in, bytes without a meaning.
        arrays = [one for one in arrays if one.dtype not in ("s8", "u8")] or arrays
    return sum(array.bytes for array in arrays)


def _read(
    module: hlo.Module, computation: hlo.Computation, user: hlo.Instruction
) -> int:
    known = computation.instructions
    operands = [known[name] for name in dict.fromkeys(user.operands) if name in known]
    return sum(_read_of(module, user, operand) for operand in operands)


def _read_of(module: hlo.Module, user: hlo.Instruction, value: hlo.Instruction) -> int:
    """Bytes of a value that an instruction reads, of what it only slices the slices."""
    whole = _size(value)
    if user.opcode in _PARTS and user.operands[0] == value.name:
        return min(whole, _size(user))
    if user.opcode == "dynamic-update-slice" and user.operands[0] == value.name:
        return 0  # it is written into
    if not hlo.is_fusion(user):
        return whole
    fused = module.computations[hlo.called(user)[0]]
    inside = {
        one.literal: one
        for one in fused.instructions.values()
        if one.opcode == "parameter"
    }
    places = [i for i, name in enumerate(user.operands) if name == value.name]
    read = sum(_read_within(module, fused, inside[str(place)]) for place in places)
    return min(whole, read)


def _read_within(
    module: hlo.Module, fused: hlo.Computation, value: hlo.Instruction
) -> int:
    total = 0
    for user in fused.instructions.values():
        if value.name not in user.operands:
            continue
        if user.opcode == "bitcast":
            total += _read_within(module, fused, user)
        else:
            total += _read_of(module, user, value)
    return total


def _written(
    module: hlo.Module, computation: hlo.Computation, instruction: hlo.Instruction
) -> int:
    """Bytes that an instruction writes: of what it updates in place the update."""
    if instruction.opcode == "dynamic-update-slice":
        return _size(computation.instructions[instruction.operands[1]])
    if not hlo.is_fusion(instruction):
        return _size(instruction)
    fused = module.computations[hlo.called(instruction)[0]]
    roots = _roots(fused, fused.instructions[fused.root])
    return sum(_written(module, fused, root) for root in roots)


def _roots(fused: hlo.Computation, root: hlo.Instruction) -> Iterator[hlo.Instruction]:
    if root.opcode not in ("tuple", "bitcast"):
        yield root
        return
    for name in root.operands:
        yield from _roots(fused, fused.instructions[name])
