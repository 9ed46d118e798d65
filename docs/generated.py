"""Writes the pages that stand elsewhere: help of the commands, files of the repository.

`write(folder)` is called by every build, so that they are said once.
"""

import re
import sys
from pathlib import Path

import plots

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

import commands  # noqa: E402

from vit_jax import __main__ as front  # noqa: E402
from vit_jax.cli import help_page  # noqa: E402
from vit_jax.commands import supervise  # noqa: E402

# What lies in the repository, and its name here.
COPIES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "launch/README.md": "launching.md",
    **{
        path.relative_to(
            REPOSITORY
        ).as_posix(): f"{path.parent.name}/{path.stem.lower()}.md"
        for folder in ("benchmarks", "benchmarks/studies")
        for path in (REPOSITORY / folder).glob("*.md")
    },
}


def copied(source: str) -> str:
    """Returns the text of a file of the repository, its links turned to pages here."""
    text = (REPOSITORY / source).read_text()
    here = Path(COPIES[source]).parent

    def link(found: re.Match[str]) -> str:
        target, anchor = found[1], found[2] or ""
        path = (REPOSITORY / source).parent.joinpath(target).resolve()
        name = path.relative_to(REPOSITORY).as_posix()
        up = "../" * len(here.parts)
        if name in COPIES:
            return f"]({up}{COPIES[name]}{anchor})"
        if name == "README.md":
            return f"]({up}../architecture.md)"
        raise ValueError(f"{source} links to {name}, which has no page")

    return re.sub(r"\]\((?!https?:)([^)#]+)(#[^)]*)?\)", link, text)


def built() -> str:
    """Returns what the README says of how the code is built, to be included."""
    text = (REPOSITORY / "README.md").read_text()
    section = text.split("\n## How it is built\n")[1].split("\n## ")[0]
    return section.replace(
        "](CONTRIBUTING.md)", "](generated/contributing.md)"
    ).replace("](CHANGELOG.md)", "](generated/changelog.md)")


def help_of_commands() -> str:
    """Returns a page with the `--help` of every command, as the command prints it."""
    out = ["# Commands", "", "```text", front.listing(), "```"]
    for name in front.COMMANDS:
        if name == "supervise":  # it loads nothing but Python's own
            page = supervise.parser().format_help().strip()
        else:
            with commands.own_flags(name) as module:
                page = help_page.page(module, module.__name__)
        out += ["", f"## vit_jax {name}", "", "```text", page, "```"]
    return "\n".join([*out, ""])


def write(folder: Path) -> None:
    """Writes all pages and plots below a folder."""
    pages = {name: copied(source) for source, name in COPIES.items()}
    pages |= {"commands.md": help_of_commands(), "built.txt": built()}
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    plots.draw(folder / "plots")
