"""The pages of the documentation, README.md among them, as blocks that can be run.

What stands right above a block in an HTML comment, which no reader of the page sees,
says what becomes of it:

    (nothing)           python and sh are run, in the order of the page
    not run: REASON     it is not, and the page's reader could tell why
    run by: FILE        a test of its own runs it
    needs: MODULES      run where these packages are installed
    file: NAME          written as that file beside the page's others

`text` below a block that is run is what it prints, with `...` for what may differ. The
comments `set-up:` and `check:` hold Python of the page's own: small stand-ins for what
a reader has, and what has to be true after all. A set-up may name `REPLACE`: what
stands in files and commands, and what runs in its place.
"""

import contextlib
import dataclasses
import doctest
import importlib.util
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path
    for path in [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
    if not {"generated", "_build"} & set(path.relative_to(REPOSITORY).parts)
)
RUN, OUTPUT, HIDDEN = ("python", "sh"), "text", ("set-up", "check")
MARKERS = ("not run", "run by", "needs", "file")
# Other fenced blocks of Sphinx are no code of anybody.
_PART = re.compile(
    r"^<!--\s*(?P<kind>[a-z -]+?):(?P<said>.*?)-->[ \t]*\n"
    r"|^(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=fence)[ \t]*\n",
    re.S | re.M,
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block, or a comment that is run.

    Attributes:
        page: Where it stands, from the repository.
        line: Of its first line of text, from 1.
        language: Of the fence; "set-up" or "check" of a comment.
        text: What is in it.
        marker: The key of the comment above it; "": none.
        said: The rest of that comment.
    """

    page: str
    line: int
    language: str
    text: str
    marker: str = ""
    said: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def missing(self) -> list[str]:
        """What it needs and nobody has installed."""
        wanted = self.said.split(",") if self.marker == "needs" else []
        names = [name.split()[0] for name in wanted]
        return [name for name in names if importlib.util.find_spec(name) is None]

    @property
    def is_run(self) -> bool:
        """Whether the executor runs it."""
        here = self.marker in ("", "needs") and not self.missing
        return self.language in HIDDEN or (here and self.language in RUN)


def name_of(path: Path) -> str:
    """A page, from the repository."""
    return path.relative_to(REPOSITORY).as_posix()


def blocks(path: Path) -> Iterator[Block]:
    """The blocks of a page in their order."""
    text = path.read_text()
    marker, said, ends = "", "", 0
    for part in _PART.finditer(text):
        apart = text[ends : part.start()].strip()
        ends = part.end()
        if apart:
            marker, said = "", ""
        kind = part["kind"]
        if kind in MARKERS:
            marker, said = kind, " ".join(part["said"].split())
            continue
        line = text[: part.start("said" if kind else "text")].count("\n") + 1
        if kind in HIDDEN:
            yield Block(name_of(path), line, kind, part["said"])
        elif kind is None and not part["language"].startswith("{"):
            language = part["language"].strip()
            yield Block(name_of(path), line, language, part["text"], marker, said)
        marker, said = "", ""


def commands_of(block: Block) -> Iterator[str]:
    """Its shell commands, each on one line, without their comments."""
    joined = re.sub(r"\\\n\s*", " ", block.text)
    for line in joined.splitlines():
        command = re.sub(r"(^|\s)#.*", "", line).strip()
        if command:
            yield command


class Page:
    """What the blocks of a page share when they run: a folder and Python's names.

    Args:
        folder: An empty one, where the page's files are.
        programs: Where compiled programs are kept.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs = folder, programs
        self.names: dict[str, Any] = {"__name__": "page", "REPLACE": {}, "page": self}
        self.printed = ""
        self.environment = self._environment()

    def _environment(self) -> dict[str, str]:
        programs = self.folder.parent / "bin"
        programs.mkdir(exist_ok=True)
        for name, call in (("vit_jax", " -m vit_jax"), ("python", "")):
            (programs / name).write_text(
                f'#!/bin/sh\nexec {sys.executable}{call} "$@"\n'
            )
            (programs / name).chmod(0o755)
        return os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "VIT_JAX_CACHE": str(self.folder.parent / "cache"),
            # Programs run once or twice, and pages share some.
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "JAX_COMPILATION_CACHE_DIR": str(self.programs),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        }

    def run(self, block: Block) -> None:
        """Runs a block; `printed` has what it wrote."""
        if block.language == "sh":
            self.printed = self._shell(block)
            return
        text = block.text if block.language in HIDDEN else self.replaced(block.text)
        code = compile("\n" * (block.line - 1) + text, block.page, "exec")
        written = io.StringIO()
        with contextlib.redirect_stdout(written):
            exec(code, self.names)  # noqa: S102
        if block.language not in HIDDEN:
            self.printed = written.getvalue()

    def write(self, block: Block) -> None:
        """Writes the file that a block is."""
        (self.folder / block.said).write_text(self.replaced(block.text))

    def replaced(self, text: str) -> str:
        """Returns a text with small things in the place of large ones."""
        for shown, small in self.names["REPLACE"].items():
            text = text.replace(shown, small)
        return text

    def _shell(self, block: Block) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.replaced(block.text)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, (
            f"{block} ends with {done.returncode}\n{done.stdout}"
        )
        return done.stdout

    def compare(self, block: Block) -> None:
        """Raises `AssertionError` unless the last block printed what this one says."""
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        same = doctest.OutputChecker().check_output(block.text, self.printed, flags)
        assert same, f"{block} says\n{block.text}\nand it was\n{self.printed}"
