"""`--help` of every command: one screen, from its docstring and its flags.

The docstring begins with the command line in backquotes, an example; what follows says
what it does. Flags that a command adopts from a module have a heading of their own, the
first line of that module's docstring.
"""

import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from types import ModuleType

from absl import flags

WIDTH, LINES = 100, 40
ASKS = ("--help", "-help", "-h", "--helpshort", "-helpshort")
_USAGE = re.compile(r"`([^`]+)`[.:]?\s*")
_OF_A_RECIPE = (
    "--config.KEY=VALUE",
    "Any key of the recipe, --config.seed=1; see train --print_config.",
)
_LAST = "--helpfull lists every flag, those of libraries too."


def asked(argv: Sequence[str]) -> bool:
    """Returns whether a command line asks for this page."""
    words = list(argv[1:])
    return any(w in ASKS for w in words[: words.index("--") if "--" in words else None])


def page(main: ModuleType, key: str, values: flags.FlagValues = flags.FLAGS) -> str:
    """Returns the page of a command, at most `LINES` lines where its flags leave room.

    Args:
        main: The module, with its docstring.
        key: What absl calls it: `sys.argv[0]` of one that runs.
        values: The flags, not yet parsed.
    """
    usage, paragraphs = _documented(main.__doc__ or "")
    groups: dict[str, list[flags.Flag]] = {}
    for flag in values.get_key_flags_for_module(key):
        owner = values.find_module_defining_flag(flag.name)
        own = flag.name == "config" or owner in (key, None)
        groups.setdefault("Flags" if own else _heading(str(owner)), []).append(flag)
    below = _group("Flags", groups.pop("Flags", []))
    for name in sorted(groups):
        below += _group(name, groups[name])
    about: list[str] = []
    for lines in paragraphs:
        if about and 1 + len(about) + 1 + len(lines) + len(below) + 2 > LINES:
            break
        about += ["", *lines]
    return "\n".join([usage, *about, *below, "", _LAST])


def _documented(text: str) -> tuple[str, list[list[str]]]:
    """The example line of a docstring, and the lines of its paragraphs."""
    found = _USAGE.match(text)
    usage, rest = (found[1], text[found.end() :]) if found else (sys.argv[0], text)
    rest = rest[:1].upper() + rest[1:]  # it may go on behind a colon
    blocks = [block for block in re.split(r"\n\s*\n", rest.strip()) if block.strip()]
    return usage, [textwrap.wrap(" ".join(b.split()), WIDTH) for b in blocks]


def _heading(module: str) -> str:
    """Of the flags of a module: what it is, without how."""
    text = (sys.modules[module].__doc__ or module).strip()
    return re.split(r"[.:\n]", text)[0]


def _group(heading: str, members: Iterable[flags.Flag]) -> list[str]:
    """The lines of some flags: name and default, then what it is."""
    rows = sorted((_written(flag), _told(flag)) for flag in members)
    if any(left.startswith("--config=") for left, _ in rows):
        rows.sort(key=lambda row: not row[0].startswith("--config="))
        rows.insert(1, _OF_A_RECIPE)
    if not rows:
        return []
    width = min(max(len(left) for left, _ in rows), 30)
    lines = (f"  {left.ljust(width)}  {right}" for left, right in rows)
    cut = (s if len(s) <= WIDTH else f"{s[: WIDTH - 4].rstrip()} ..." for s in lines)
    return ["", f"{heading}:", *cut]


def _told(flag: flags.Flag) -> str:
    text = " ".join((flag.help or "").split())
    once, repeated, _ = text.partition("; repeat this option")  # absl's words
    return f"{once} Again for more." if repeated else text


def _written(flag: flags.Flag) -> str:
    if flag.boolean:
        return f"--{'no' if flag.default else ''}{flag.name}"
    default = (flag.default_as_str or "").strip("'")
    return f"--{flag.name}={'...' if default in ('', 'None', '[]') else default}"
