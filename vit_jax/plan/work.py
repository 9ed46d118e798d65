"""Multiply-adds and estimated cycles of a compiled program, loops counted fully."""

import re
from collections import Counter

from vit_jax.plan import hlo, libraries

_CYCLES = re.compile(r'"estimated_cycles":"?(-?\d+)')
_UNKNOWN = 2**62  # how the compiler prints "no estimate"
_WINDOW = re.compile(r"window=\{([^}]*)\}")


def flops(module: hlo.Module) -> int:
    """Returns the FLOPs of all matrix products and convolutions of a run.

    Only positions that meet an element of the operand are counted, as XLA counts them;
    element-wise operations and hand-written kernels are not, calls of NVIDIA's
    libraries are.
    """
    return sum(
        times * 2 * _macs(instruction, computation)
        for computation, instruction in module.instructions()
        if (times := module.times[computation.name])
    )


def flops_of(
    module: hlo.Module, computation: hlo.Computation, instruction: hlo.Instruction
) -> int:
    """Returns the FLOPs of one run of an instruction, of a fusion those inside it."""
    total = 2 * _macs(instruction, computation)
    for name in hlo.called(instruction) if hlo.is_fusion(instruction) else ():
        fused = module.computations[name]
        for inside in fused.instructions.values():
            total += flops_of(module, fused, inside)
    return total


def _macs(instruction: hlo.Instruction, computation: hlo.Computation) -> int:
    if instruction.opcode == "dot":
        return _dot(instruction, computation)
    if instruction.opcode == "convolution":
        return _convolution(instruction, computation, (0, 1, None))
    if instruction.opcode != "custom-call":
        return 0
    places = libraries.CONVOLUTIONS.get(libraries.target(instruction))
    if places is not None:
        return _convolution(instruction, computation, places)
    return libraries.macs(instruction, computation)


def _shape(
    instruction: hlo.Instruction, computation: hlo.Computation, index: int | None
) -> tuple[int, ...]:
    """Of an operand; None: of the (first) result."""
    if index is not None:
        instruction = computation.instructions[instruction.operands[index]]
    return instruction.arrays[0].shape


def _dot(instruction: hlo.Instruction, computation: hlo.Computation) -> int:
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
    shape = _shape(instruction, computation, 0)
    total = instruction.arrays[0].elements
    for dimension in contracted[1].split(",") if contracted and contracted[1] else ():
        total *= shape[int(dimension)]
    return total


def _convolution(
    instruction: hlo.Instruction,
    computation: hlo.Computation,
    places: tuple[int | None, int | None, int | None],
) -> int:
    """Multiply-adds; the TPU compiler writes batched matrix products this way too.

    `places` are those of image, kernel and result, see `libraries.CONVOLUTIONS`.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    assert labels, instruction.attributes
    lhs, rhs, out = (
        dict(zip(label, _shape(instruction, computation, place)))
        for label, place in zip(labels.groups(), places)
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
