"""Pickles of strangers as inert data: nothing is imported, called or built.

A machine with a stack over the opcodes that `pickletools.genops` finds. Dicts, lists,
tuples, numbers and text become themselves; what a pickle asks to import is only a name,
and a call only happens if its name is in a table of ours. All else is `Unknown`.
Objects are held by reference; of all of them only text is ever hashed, and none is
compared or printed, so the work is linear in the bytes whatever they say. The opcodes
are those of CPython's `Lib/pickletools.py`.
"""

import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from vit_jax import errors

# A training state of ViT-e has 2,700 tensors of 50 opcodes each.
MAX_OPCODES = 1_000_000
MAX_MEMO = 1 << 32


@dataclass(frozen=True, eq=False)
class Global:
    """What a pickle would import, by name."""

    name: str


@dataclass(frozen=True, eq=False)
class Unknown:
    """An object that is none of ours: what it is of, by name."""

    name: str


@dataclass(frozen=True, eq=False)
class Key:
    """A key that is no text, as text; two are never the same key."""

    text: str


Builder = Callable[[tuple[Any, ...]], Any]


def load(
    stream: IO[bytes],
    builders: Mapping[str, Builder],
    persistent: Callable[[Any], Any],
) -> Any:
    """Reads one pickle from a stream and leaves the stream after it.

    Args:
        stream: Of bytes; as much of it as there is may be read.
        builders: Name of a global -> what a call of it with a tuple of arguments gives.
        persistent: From a persistent id to what stands for it.

    Raises:
        errors.UserError: too long, or opcodes that no program writes for data.
        ValueError: and its like, where it is damaged.
    """
    machine = _Machine(builders, persistent)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count >= MAX_OPCODES:
            raise errors.UserError(
                f"its pickle has more than {MAX_OPCODES:,} opcodes: no checkpoint has."
            )
        if opcode.name not in OPCODES:
            raise errors.UserError(f"its pickle has the opcode {opcode.name}.")
        OPCODES[opcode.name](machine, argument)
    return machine.pop()


def called(name: str) -> str:
    """Returns a global's name as messages may show it."""
    return re.sub(r"[^\w.<>]", "?", name[:100], flags=re.ASCII)


def _key(value: Any) -> str | Key:
    """A key of a dict; numbers of a stranger are not hashed, they may all collide."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and value.bit_length() < 64:
        return Key(str(value))
    return Key(f"<{type(value).__name__}>")


class _Machine:
    """The state of one pickle: the stack, the stacks below its marks, and the memo."""

    def __init__(
        self, builders: Mapping[str, Builder], persistent: Callable[[Any], Any]
    ):
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.builders = builders
        self.persistent = persistent

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        return self.stack.pop()

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def discard(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_to_mark()

    def remember(self, index: int) -> None:
        if not 0 <= index < MAX_MEMO:
            raise ValueError("a memo of its pickle has no such place")
        self.memo[index] = self.stack[-1]

    def call(self, function: Any, arguments: Any) -> Any:
        """Returns what stands for a call: ours if its name is in the table."""
        if not isinstance(function, Global):
            return Unknown("an object of its own")
        if function.name not in self.builders or not isinstance(arguments, tuple):
            return Unknown(function.name)
        return self.builders[function.name](arguments)

    def append(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def put(self, items: list[Any]) -> None:
        """Sets keys and values of the dict on top; of an unknown one, nothing."""
        table = self.stack[-1]
        if not isinstance(table, dict):
            return
        for key, value in zip(map(_key, items[::2]), items[1::2], strict=True):
            if key in table:
                raise errors.UserError(f"says {str(key)[:100]!r} twice.")
            table[key] = value


Step = Callable[[_Machine, Any], Any]


def table(pairs: list[Any]) -> dict[str | Key, Any]:
    """Returns the dict of keys and values one after the other."""
    machine = _Machine({}, lambda _: None)
    machine.push({})
    machine.put(pairs)
    return machine.pop()


def _tuple(size: int) -> Step:
    def step(machine: _Machine, _: Any) -> None:
        items = [machine.pop() for _ in range(size)]
        machine.push(tuple(reversed(items)))

    return step


def _value(machine: _Machine, argument: Any) -> None:
    machine.push(argument)


def _constant(value: Any) -> Step:
    return lambda machine, _: machine.push(value)


def _new(make: Callable[[], Any]) -> Step:
    return lambda machine, _: machine.push(make())


def _marked(make: Callable[[list[Any]], Any]) -> Step:
    return lambda machine, _: machine.push(make(machine.pop_to_mark()))


def _nothing(machine: _Machine, _: Any) -> None:
    pass


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise ValueError("its pickle imports what is no name")
    machine.push(Global(called(f"{module[:100]}.{name[:100]}")))


def _reduce(machine: _Machine, _: Any) -> None:
    arguments, function = machine.pop(), machine.pop()
    machine.push(machine.call(function, arguments))


def _new_object(machine: _Machine, _: Any) -> None:
    _, _, kind = machine.pop(), machine.pop(), machine.pop()
    machine.push(machine.call(kind, None))


def _old_object(machine: _Machine, _: Any) -> None:
    kind, *_ = machine.pop_to_mark()
    machine.push(machine.call(kind, None))


def _instance(machine: _Machine, argument: str) -> None:
    machine.pop_to_mark()
    machine.push(Unknown(called(argument.replace(" ", "."))))


def _append(machine: _Machine, _: Any) -> None:
    item = machine.pop()
    machine.append([item])


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.put([key, value])


def _remember(machine: _Machine, index: int) -> None:
    machine.remember(index)


OPCODES: dict[str, Step] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _nothing),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2"), _value),
    **dict.fromkeys(("LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"), _value),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE"), _value),
    **dict.fromkeys(("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), _value),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"), _value),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "MARK": lambda machine, _: machine.mark(),
    "POP": lambda machine, _: machine.discard(),
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "EMPTY_LIST": _new(list),
    "LIST": _marked(list),
    "APPEND": _append,
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "EMPTY_TUPLE": _constant(()),
    "TUPLE": _marked(tuple),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "EMPTY_DICT": _new(dict),
    "DICT": _marked(table),
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: machine.put(machine.pop_to_mark()),
    # A set's members are not hashed: a list does.
    "EMPTY_SET": _new(list),
    "ADDITEMS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "FROZENSET": _marked(list),
    "PUT": _remember,
    "BINPUT": _remember,
    "LONG_BINPUT": _remember,
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "GET": lambda machine, index: machine.push(machine.memo[index]),
    "BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "GLOBAL": lambda machine, name: machine.push(
        Global(called(name.replace(" ", ".")))
    ),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": lambda machine, _: _reduce(machine, None),
    "NEWOBJ_EX": _new_object,
    "OBJ": _old_object,
    "INST": _instance,
    # What an object is set to does not matter where there is no object.
    "BUILD": lambda machine, _: machine.pop(),
    "PERSID": lambda machine, name: machine.push(machine.persistent(name)),
    "BINPERSID": lambda machine, _: machine.push(machine.persistent(machine.pop())),
}
