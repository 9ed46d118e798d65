"""Multiply-adds and estimated cycles of a compiled program, loops counted fully."""

import re
from collections import Counter

from vit_jax.plan import hlo

_CYCLES = re.compile(r'"estimated_cycles":"?(-?\d+)')
_UNKNOWN = 2**62  # how the compiler prints "no estimate"
_WINDOW = re.compile(r"window=\{([^}]*)\}")


def flops(module: hlo.Module) -> int:
    """Returns the FLOPs of all matrix products and convolutions of a run.

    Only positions that meet an element of the operand are counted, as XLA counts them;
    element-wise operations and hand-written kernels are not.
    """
    total = 0
    for computation, instruction in module.instructions():
        times = module.times[computation.name]
        if times and instruction.opcode == "dot":
            total += times * 2 * _dot(instruction, computation)
        elif times and instruction.opcode == "convolution":
            total += times * 2 * _convolution(instruction, computation)
    return total


def _operand(
    instruction: hlo.Instruction, computation: hlo.Computation, index: int
) -> tuple[int, ...]:
    name = instruction.operands[index]
    return computation.instructions[name].arrays[0].shape


def _dot(instruction: hlo.Instruction, computation: hlo.Computation) -> int:
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
    shape = _operand(instruction, computation, 0)
    total = instruction.arrays[0].elements
    for dimension in contracted[1].split(",") if contracted and contracted[1] else ():
        total *= shape[int(dimension)]
    return total


def _convolution(instruction: hlo.Instruction, computation: hlo.Computation) -> int:
    """Multiply-adds; the TPU compiler writes batched matrix products this way too."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    assert labels, instruction.attributes
    lhs, rhs, out = (
        dict(zip(label, shape))
        for label, shape in zip(
            labels.groups(),
            (
                _operand(instruction, computation, 0),
                _operand(instruction, computation, 1),
                instruction.arrays[0].shape,
            ),
        )
    )
    # A kernel's input features, and the result's batch, are of one group already.
    total = out["b"] * out["f"] * rhs["i"]
    window = _window(instruction.attributes)
    for position, label in enumerate(sorted(set(lhs) - {"b", "f"})):
        options = {key: values[position] for key, values in window.items()}
        total *= _valid_pairs(lhs[label], rhs[label], out[label], **options)
    return total


def _window(attributes: str) -> dict[str, list[str]]:
    """Returns {"stride": ["1", "2"], ...}, one entry for each spatial dimension."""
    found = _WINDOW.search(attributes)
    fields = dict(pair.split("=") for pair in found[1].split()) if found else {}
    return {key: value.split("x") for key, value in fields.items()}


def _valid_pairs(
    length: int,
    kernel: int,
    positions: int,
    *,
    size: str,
    stride: str = "1",
    pad: str = "0_0",
    lhs_dilate: str = "1",
    rhs_dilate: str = "1",
    rhs_reversal: str = "0",
) -> int:
    """Pairs (output position, kernel element) that meet an element, not padding."""
    del size, rhs_reversal  # the kernel's length says it; the order does not matter
    step, dilation, spread = int(stride), int(lhs_dilate), int(rhs_dilate)
    low = int(pad.split("_")[0])
    last = (length - 1) * dilation
    if positions * kernel > 10**7:
        return positions * kernel
    return sum(
        1
        for out in range(positions)
        for element in range(kernel)
        if 0 <= (at := out * step + element * spread - low) <= last
        and at % dilation == 0
    )


def cycles(module: hlo.Module) -> tuple[int, Counter[str]]:
    """Returns the sum of the compiler's estimates, and how many operations lack one.

    Operations run one after the other here. Collectives, copies between memories and
    hand-written kernels have no estimate; the counter names the opcodes without one
    that take time, with how often they run.
    """
    total = 0
    missing: Counter[str] = Counter()
    for computation, instruction in module.instructions():
        times = module.control_times[computation.name]
        if not times:
            continue
        estimate = _CYCLES.search(instruction.attributes)
        if estimate and 0 <= int(estimate[1]) < _UNKNOWN:
            total += times * int(estimate[1])
        elif _takes_time(instruction):
            missing[instruction.opcode] += times
    return total, missing


def _takes_time(instruction: hlo.Instruction) -> bool:
    if instruction.opcode in ("while", "call", "conditional"):
        return False
    if instruction.opcode == "custom-call":
        return "AllocateBuffer" not in instruction.attributes
    if instruction.opcode.endswith("-done"):
        return False
    return hlo.is_compute(instruction) or bool(
        re.match(r"all-|reduce-scatter|collective-|copy-start", instruction.opcode)
    )
