"""Compiled programs as XLA prints them: their instructions, and how often each runs."""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_NAME = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r" ?([\w\-]+)\(")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLS = re.compile(r"\b(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(
    r"\b(?:branch_computations=\{([^}]*)\}"
    r"|(?:true|false)_computation=%?([\w.\-]+))"
)
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\s*\{"n":\s*"(\d+)"\}')
_BITS = {
    **{"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16},
    **{"s32": 32, "u32": 32, "s64": 64, "u64": 64, "bf16": 16, "f16": 16},
    **{"f32": 32, "f64": 64, "c64": 64, "c128": 128},
}

# Operations that hand control to the computations they name, as opposed to those that
# only say how elements are made (a fusion's, a reduction's).
_CONTROL = ("while", "call", "conditional", "async-start")
_COMPUTE = ("fusion", *_CONTROL[:3], "convolution", "dot", "custom-call", "sort")


@dataclass(frozen=True)
class Array:
    """An array type: "bf16", (8, 197, 768)."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """The number of elements."""
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def bytes(self) -> int:
        """Size without padding; types that are not listed are the 8-bit floats."""
        return self.elements * _BITS.get(self.dtype, 8) // 8


@dataclass(frozen=True)
class Instruction:
    """One line of a computation; `type` and `attributes` are as printed."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    literal: str
    attributes: str

    @property
    def arrays(self) -> list[Array]:
        """The arrays of the result, those of a tuple in order."""
        return arrays(self.type)


@dataclass
class Computation:
    """Instructions by name, in the order they run where the module is scheduled."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)
    root: str = ""


def arrays(text: str) -> list[Array]:
    """Returns the array types in a printed type."""
    return [
        Array(dtype, tuple(int(n) for n in shape.split(",") if n))
        for dtype, shape in _ARRAY.findall(text)
    ]


def elements(text: str) -> list[str]:
    """Returns the elements of a printed tuple type, nested tuples whole."""
    parts, depth, start = [], 0, 1
    for match in re.finditer(r"[(){},\[\]]", text):
        character = match[0]
        depth += (character in "({[") - (character in ")}]")
        if (character == "," and depth == 1) or depth == 0:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    return [part for part in parts if part]


def _closing(text: str, start: int) -> int:
    """The index behind the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    return len(text)


def _instruction(line: str) -> tuple[Instruction, bool] | None:
    """Parses a line of a computation, and says whether it is the root."""
    start = _NAME.match(line)
    if start is None:
        return None
    begin = start.end()
    end = _closing(line, begin) if line[begin] == "(" else line.find(" ", begin)
    opcode = _OPCODE.match(line, end)
    if end < 0 or opcode is None:
        return None
    last = _closing(line, opcode.end() - 1)
    inside = line[opcode.end() : last - 1]
    instruction = Instruction(
        name=start[2],
        type=line[begin:end],
        opcode=opcode[1],
        operands=tuple(re.findall(r"%([\w.\-#]+)", inside)),
        literal=inside if opcode[1] in ("constant", "parameter") else "",
        attributes=line[last:],
    )
    return instruction, bool(start[1])


def _take_out(computation: Computation, name: str) -> None:
    """Makes an instruction of what is printed as an operand, element 2 of "%x#2"."""
    whole, mark, index = name.rpartition("#")
    if not mark or name in computation.instructions:
        return
    _take_out(computation, whole)
    computation.instructions[name] = Instruction(
        name=name,
        type=elements(computation.instructions[whole].type)[int(index)],
        opcode="get-tuple-element",
        operands=(whole,),
        literal="",
        attributes=f", index={index}",
    )


class Module:
    """A printed HLO module.

    Attributes:
        header: Its first line.
        computations: By name.
        entry: The name of the one that runs first.
    """

    def __init__(self, text: str) -> None:
        self.header = ""
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        current: Computation | None = None
        for line in text.splitlines():
            if line.startswith("HloModule"):
                self.header = line
            # Kernels print configurations of many lines, some of which start with a
            # brace: only a line that is nothing else ends a computation.
            elif line == "}":
                current = None
            elif current is not None:
                if parsed := _instruction(line):
                    instruction, is_root = parsed
                    for name in instruction.operands:
                        _take_out(current, name)
                    current.instructions[instruction.name] = instruction
                    current.root = instruction.name if is_root else current.root
            elif line[:1] not in ("", " ", "}") and (m := _COMPUTATION.match(line)):
                current = self.computations[m[2]] = Computation(m[2])
                self.entry = m[2] if m[1] else self.entry

    @functools.cached_property
    def times(self) -> dict[str, int]:
        """How often each computation runs in one run of the module."""
        return self._times(control_only=False)

    @functools.cached_property
    def control_times(self) -> dict[str, int]:
        """The same without what only describes a fusion's or a reduction's elements."""
        return self._times(control_only=True)

    def _times(self, *, control_only: bool) -> dict[str, int]:
        callers: dict[str, list[tuple[str, int]]] = {}
        for name, computation in self.computations.items():
            for instruction in computation.instructions.values():
                if control_only and instruction.opcode not in _CONTROL:
                    continue
                trips = (
                    self.trip_count(instruction) if instruction.opcode == "while" else 1
                )
                for callee in called(instruction):
                    callers.setdefault(callee, []).append((name, trips))

        @functools.cache
        def count(name: str) -> int:
            if name == self.entry:
                return 1
            return sum(count(above) * n for above, n in callers.get(name, ()))

        return {name: count(name) for name in self.computations}

    def asynchronous_callees(self) -> set[str]:
        """Computations that an async-start runs beside what follows it."""
        return {
            callee
            for _, instruction in self.instructions()
            if instruction.opcode == "async-start"
            for callee in called(instruction)
        }

    def instructions(self) -> Iterator[tuple[Computation, Instruction]]:
        """Returns all instructions, each with the computation it is in."""
        for computation in self.computations.values():
            for instruction in computation.instructions.values():
                yield computation, instruction

    def trip_count(self, loop: Instruction) -> int:
        """Returns how often a while loop runs its body; 1 where that cannot be read.

        XLA knows it for most loops and writes it down in some back ends only; else the
        loop counts from a constant by a constant to the one it is compared with.
        """
        if known := _KNOWN_TRIPS.search(loop.attributes):
            return int(known[1])
        names = dict(re.findall(r"\b(body|condition)=%?([\w.\-]+)", loop.attributes))
        condition = self.computations[names["condition"]]
        body = self.computations[names["body"]]
        compared = self._limit(condition)
        if compared is None:
            return 1
        index, limit, inclusive = compared
        start = self._start(loop, index)
        step = _step(body, index)
        span = limit - start + (1 if inclusive else 0)
        return max(1, -(-span // step)) if step else 1

    def _limit(self, condition: Computation) -> tuple[int, int, bool] | None:
        """(tuple index of the counter, its limit, whether that is still run)."""
        root = condition.instructions[condition.root]
        if root.opcode == "fusion":
            return self._fused_limit(condition, root)
        if root.opcode != "compare" or len(root.operands) != 2:
            return None
        left, right = (condition.instructions[name] for name in root.operands)
        direction = re.search(r"direction=(\w\w)", root.attributes)
        if direction is None or direction[1] not in ("LT", "LE"):
            return None
        index, limit = _index(left), _constant(condition, right)
        if index is None or limit is None:
            return None
        return index, limit, direction[1] == "LE"

    def _fused_limit(
        self, condition: Computation, fusion: Instruction
    ) -> tuple[int, int, bool] | None:
        """The same where the comparison is inside a fusion of counter and constant."""
        operands = [condition.instructions[name] for name in fusion.operands]
        indices = [i for i in map(_index, operands) if i is not None]
        fused = self.computations[called(fusion)[0]]
        inside = [_constant(fused, i) for i in fused.instructions.values()]
        outside = [_constant(condition, i) for i in operands]
        limits = [value for value in [*inside, *outside] if value is not None]
        if len(indices) != 1 or len(limits) != 1:
            return None
        return indices[0], limits[0], "direction=LE" in str(fused.instructions)

    def _start(self, loop: Instruction, index: int) -> int:
        """The counter's first value; 0 where it is not a constant."""
        for computation in self.computations.values():
            if computation.instructions.get(loop.name) is loop:
                state = computation.instructions[loop.operands[0]]
                if state.opcode == "tuple":
                    first = computation.instructions[state.operands[index]]
                    return _constant(computation, first) or 0
        return 0


def called(instruction: Instruction) -> list[str]:
    """Returns the names of the computations an instruction runs."""
    if "=" not in instruction.attributes:
        return []
    names = _CALLS.findall(instruction.attributes)
    for branches, branch in _BRANCHES.findall(instruction.attributes):
        names += re.findall(r"%?([\w.\-]+)", branches) if branches else [branch]
    return names


def is_fusion(instruction: Instruction) -> bool:
    """Returns whether an instruction runs as one what its computation describes."""
    return instruction.opcode in ("fusion", "fusion-start")


def is_compute(instruction: Instruction) -> bool:
    """Returns whether an instruction keeps the compute units busy."""
    return instruction.opcode in _COMPUTE


def _index(instruction: Instruction) -> int | None:
    """The element of the loop's state that an instruction reads."""
    found = re.search(r"\bindex=(\d+)", instruction.attributes)
    if instruction.opcode != "get-tuple-element" or found is None:
        return None
    return int(found[1])


def _constant(computation: Computation, instruction: Instruction) -> int | None:
    """The integer that an instruction is, through copies."""
    while instruction.opcode in ("copy", "bitcast", "convert"):
        source = computation.instructions.get(instruction.operands[0])
        if source is None:
            return None
        instruction = source
    if instruction.opcode != "constant" or not re.fullmatch(
        r"-?\d+", instruction.literal
    ):
        return None
    return int(instruction.literal)


def _step(body: Computation, index: int) -> int:
    """What one turn adds to element `index` of the state; 1 where it is not read."""
    root = body.instructions[body.root]
    if root.opcode != "tuple":
        return 1
    total, instruction = 0, body.instructions[root.operands[index]]
    while _index(instruction) != index:
        if instruction.opcode in ("copy", "bitcast"):
            instruction = body.instructions[instruction.operands[0]]
            continue
        if instruction.opcode != "add":
            return 1
        parts = [body.instructions[name] for name in instruction.operands]
        added = [_constant(body, part) for part in parts]
        known = [value for value in added if value is not None]
        if len(parts) != 2 or len(known) != 1:
            return 1
        total += known[0]
        instruction = parts[added.index(None)]
    return total
