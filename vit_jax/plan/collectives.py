"""What devices send to each other in a step, and whether they compute meanwhile."""

import math
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from vit_jax.plan import hlo

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_KIND = re.compile(rf"({'|'.join(KINDS)})(-start)?$")
_CHAIN = re.compile(r'chain_id="(\d+)"')
# How the TPU compiler names a sum of which each device keeps its part.
_SCATTERING = "all-reduce-scatter"
_SOURCE = re.compile(r'op_name="([^"]*)"')
# Who takes part: lists of devices, how many groups of how many, or axes of a mesh.
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_COUNTED = re.compile(r"replica_groups=\[(?:\d+,)*(\d+)\]<=")
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
# Of n devices in a ring or torus, how many n-ths less one of the value each sends: a
# sum goes around once to be made and once to be had.
_TURNS = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1, "all-to-all": 1}
_BETWEEN_MEMORIES = re.compile(r"(copy|slice|dynamic-slice|dynamic-update-slice)-start")
_AXES = re.compile(r"\{([\d,]*)")  # of a printed type, the nearest elements' first


@dataclass(frozen=True)
class Collective:
    """A collective operation of a compiled step.

    Attributes:
        kind: One of `KINDS`.
        dtype: Of what is sent; "+" joins those of a combined operation.
        bytes: Of the whole value on a device: what an all-reduce reduces, an
            all-gather gives, a reduce-scatter takes, a permutation sends.
        group: Devices that take part, each with such a value.
        count: Runs in a step.
        shapes: Of the arrays.
        asynchronous: Whether it is started and awaited apart, or fused with compute.
        overlaps: Whether there is compute between the two in the schedule.
        source: The operation of the program that it comes from.
    """

    kind: str
    dtype: str
    bytes: int
    group: int
    count: int
    shapes: tuple[tuple[int, ...], ...]
    asynchronous: bool
    overlaps: bool
    source: str

    @property
    def sent(self) -> float:
        """Bytes that a device sends in one run, as rings and tori do it."""
        if self.kind not in _TURNS:
            return float(self.bytes)
        return _TURNS[self.kind] * self.bytes * (self.group - 1) / self.group


def is_collective(instruction: hlo.Instruction) -> bool:
    """Returns whether devices send to each other, as far as its opcode says it."""
    return _KIND.match(instruction.opcode) is not None


def find(module: hlo.Module, *, devices: int) -> list[Collective]:
    """Returns every collective of a module that `devices` run.

    The TPU compiler spreads a gather over the compute beside it by writing the same
    operation, of one chain, into each fusion that takes part: that counts once. A
    reduce-scatter it writes as a fusion of an all-reduce and a slice.
    """
    wrapped = module.asynchronous_callees()
    found, chains = [], set()
    for computation, instruction in module.instructions():
        match = _KIND.match(instruction.opcode)
        times = module.times[computation.name]
        if match is None or not times:
            continue
        chained = _CHAIN.search(instruction.attributes)
        if chained and chained[1] in chains:
            continue
        if chained:
            chains.add(chained[1])
        started = bool(match[2]) and '"is_sync":true' not in instruction.attributes
        apart = started or bool(chained) or computation.name in wrapped
        values = _payload(match[1], instruction, computation)
        source = _SOURCE.search(instruction.attributes)
        kind = match[1]
        if kind == "all-reduce" and computation.name.startswith(_SCATTERING):
            kind = "reduce-scatter"
        found.append(
            Collective(
                kind=kind,
                dtype="+".join(sorted({array.dtype for array in values})),
                bytes=sum(array.bytes for array in values),
                group=_group(instruction.attributes) or devices,
                count=times,
                shapes=tuple(array.shape for array in values),
                asynchronous=apart,
                overlaps=apart and (not started or _computes(computation, instruction)),
                source=source[1] if source else "",
            )
        )
    return found


def _group(attributes: str) -> int | None:
    """How many devices take part; None: all."""
    if listed := _LISTED.search(attributes):
        return len(listed[1].split(","))
    if named := _NAMED.search(attributes):
        lengths = dict(re.findall(r"'([^']*)'=(\d+)", named[1]))
        axes = re.findall(r"'([^']*)'(?::\(\d+\)(\d+))?", named[2])
        # 'x':(2)4 is a part of an axis, four long.
        return math.prod(int(part or lengths[axis]) for axis, part in axes)
    counted = _COUNTED.search(attributes)
    return int(counted[1]) if counted else None


def between_memories(module: hlo.Module) -> dict[str, dict[str, int]]:
    """Returns the copies that run beside compute, by opcode: how many, and bytes.

    The TPU compiler starts them to have weights and activations near when they are
    wanted, and gives no estimate of them.
    """
    rows: dict[str, dict[str, int]] = {}
    for computation, instruction in module.instructions():
        times = module.control_times[computation.name]
        if not times or not _BETWEEN_MEMORIES.fullmatch(instruction.opcode):
            continue
        row = rows.setdefault(instruction.opcode, {"count": 0, "bytes": 0})
        # (result, operand, context) of a copy, (operands, result, ...) of the others
        moved = min(
            sum(array.bytes for array in hlo.arrays(part))
            for part in hlo.elements(instruction.type)[:2]
        )
        row["count"] += times
        row["bytes"] += times * moved
    return rows


def between_layouts(module: hlo.Module) -> list[dict[str, Any]]:
    """Returns the copies that only turn arrays round, largest first.

    The compiler makes them where one operation wants an array with other axes next to
    each other than the operation that made it. They take the time of two passes over
    memory, which is in the estimate.
    """
    rows: Counter[hlo.Array] = Counter()
    for computation, instruction in module.instructions():
        times = module.control_times[computation.name]
        if not times or instruction.opcode != "copy":
            continue
        before = computation.instructions[instruction.operands[0]].type
        if _AXES.findall(before) != _AXES.findall(instruction.type):
            rows[instruction.arrays[0]] += times
    found = [
        {
            "dtype": array.dtype,
            "shape": array.shape,
            "count": count,
            "bytes": count * array.bytes,
        }
        for array, count in rows.items()
    ]
    return sorted(found, key=lambda row: -row["bytes"])


def _payload(
    kind: str, instruction: hlo.Instruction, computation: hlo.Computation
) -> list[hlo.Array]:
    """The arrays that are sent or come to be, whichever are larger."""
    operands = [
        array
        for name in instruction.operands
        if name in computation.instructions
        for array in computation.instructions[name].arrays
    ]
    result = instruction.type
    if instruction.opcode.endswith("-start"):
        parts = hlo.elements(result)
        # (operands, results, contexts ...); sums on a TPU: the results alone.
        if kind != "all-reduce" or (parts and parts[0].startswith("(")):
            result = (parts + ["", ""])[1]
    results = hlo.arrays(result)
    return max(results, operands, key=lambda a: sum(array.bytes for array in a))


def _computes(computation: hlo.Computation, start: hlo.Instruction) -> bool:
    """Whether something is computed between a start and its end.

    A start whose end is in another computation spans a turn of a loop.
    """
    running = False
    for instruction in computation.instructions.values():
        if instruction is start:
            running = True
        elif running and start.name in instruction.operands:
            if instruction.opcode.endswith("-done"):
                return False
        elif running and hlo.is_compute(instruction):
            return True
    return True


def summary(found: list[Collective]) -> list[dict]:
    """Returns one row for each kind, dtype and way of running, largest first."""
    rows: dict[tuple, dict] = {}
    for one in found:
        key = (one.kind, one.dtype, one.asynchronous, one.overlaps)
        row = rows.setdefault(
            key,
            {
                "kind": one.kind,
                "dtype": one.dtype,
                "asynchronous": one.asynchronous,
                "overlaps": one.overlaps,
                "count": 0,
                "bytes": 0,
                "sent": 0.0,
            },
        )
        row["count"] += one.count
        row["bytes"] += one.count * one.bytes
        row["sent"] += one.count * one.sent
    return sorted(rows.values(), key=lambda row: -row["bytes"])


def of_activations(
    found: list[Collective], *, rows: int, tokens: int, lengths: Collection[int] = ()
) -> list[Collective]:
    """Returns those that move activations: arrays over `rows` images and `tokens`.

    Args:
        found: What to choose from.
        rows: Images of a microbatch on a device.
        tokens: Of an image.
        lengths: Those of the weights' dimensions, which mean weights.
    """
    flat = rows * tokens

    def is_activation(shape: tuple[int, ...]) -> bool:
        twice = rows != tokens or shape.count(rows) > 1
        both = rows in shape and tokens in shape and twice and len(shape) > 2
        wide = math.prod(shape) > flat  # more than one number a token
        return wide and (both or (flat in shape and flat not in lengths))

    return [one for one in found if any(map(is_activation, one.shapes))]
