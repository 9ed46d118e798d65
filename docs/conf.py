"""How Sphinx builds the documentation: `make docs`, without network, strictly."""

import ast
import functools
import importlib
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.ext import napoleon

DOCS = Path(__file__).resolve().parent
REPOSITORY = DOCS.parent
sys.path[:0] = [str(REPOSITORY), str(DOCS)]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

project = "vit_jax"
copyright = "the authors of vit_jax, Apache 2.0"
version = release = re.search(
    r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.M
)[1]

extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = "vit_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

nitpicky = True
# Names of other packages: their pages are elsewhere, and the build has no network.
OUTSIDE = (
    "jax|jaxlib|flax|nnx|optax|orbax|ml_collections|absl|clu|numpy|np|PIL|collections|"
    "abc|concurrent|contextlib|dataclasses|datetime|enum|functools|logging|os|pathlib|"
    "threading|types|typing"
)
nitpick_ignore_regex = [("py:.*", rf"({OUTSIDE})(\..+)?")]


@functools.cache
def _imported(module: str) -> dict[str, str]:
    """Dotted names by what a module calls them, those for type checkers included."""
    source = Path(str(importlib.import_module(module).__file__)).read_text()
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                head = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                name = alias.asname or (
                    alias.name if head else alias.name.split(".")[0]
                )
                found[name] = f"{head}{alias.name}" if alias.asname or head else name
    return found


def _candidates(module: str, name: str) -> list[str]:
    """What a name in a docstring of a module may be, in full."""
    first, dot, rest = name.partition(".")
    found = [name, f"{module}.{name}"]
    if first in _imported(module):
        found.append(_imported(module)[first] + dot + rest)
    room = module.rpartition(".")[0]  # a word that its neighbours share
    found += [
        f"{other}.{name}" for other in sys.modules if other.startswith(f"{room}.")
    ]
    for dotted in tuple(found):  # where it was defined, if it was handed on
        home, _, last = dotted.rpartition(".")
        if home.startswith("vit_jax") and home in sys.modules:
            value = getattr(sys.modules[home], last, None)
            where = getattr(value, "__module__", None)
            if where:
                found.append(f"{where}.{last}")
    return [*found, f"vit_jax.{name}"]


def _exists(dotted: str) -> bool:
    """Returns whether a dotted name of ours is there, documented or not."""
    home, _, last = dotted.rpartition(".")
    module = sys.modules.get(home)
    known = module is not None and (last in vars(module) or last in _imported(home))
    return dotted.startswith("vit_jax.") and (known or dotted in sys.modules)


def resolve(
    app: Sphinx, env: Any, node: pending_xref, text: nodes.TextElement
) -> nodes.Node | None:
    """Finds what a name means in the module that says it, as Python would.

    A name of ours without an entry in the reference stays text; one that is nowhere is
    left to the warning that fails the build.
    """
    if node.get("refdomain") != "py" or "py:module" not in node:
        return None
    objects = env.get_domain("py").objects
    names = _candidates(node["py:module"], node["reftarget"])
    for name in names:
        if name in objects:
            entry = objects[name]
            page = app.builder.get_relative_uri(node["refdoc"], entry.docname)
            found = nodes.reference("", "", text, internal=True)
            found["refuri"], found["reftitle"] = f"{page}#{entry.node_id}", name
            return found
    outside = nitpick_ignore_regex[0][1]
    if any(re.fullmatch(outside, name) or _exists(name) for name in names):
        return text
    return None


OF_NAPOLEON = napoleon.Config(napoleon_use_ivar=True)
RETURNS = ("Returns:", "Yields:")


def lay_out(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Writes a docstring as Sphinx reads it: its words, its code, then its sections."""
    text = _returns([*_paragraphs(lines)])
    what = "method" if what in ("property", "attribute", "data") else what
    lines[:] = napoleon.GoogleDocstring(
        text, OF_NAPOLEON, app, what, name, obj, options
    ).lines()


def _paragraphs(lines: list[str]) -> Iterator[str]:
    """Yields the lines, with indented blocks of the text marked as code."""
    in_code = in_section = False
    for at, line in enumerate(lines):
        if re.match(r"[A-Z][a-z]+:$", line):
            in_section = True
        elif re.match(r"\S", line):
            in_code = in_section = False
        elif line.startswith("    ") and not in_section and not in_code:
            block = "\n".join(lines[at:]).split("\n\n\n")[0]
            yield from (f".. code-block:: {_language(block)}", "")
            in_code = True
        yield line if in_code else _inline(line)


def _language(block: str) -> str:
    code = re.split(r"\n(?=\S)", block)[0]
    try:
        ast.parse(textwrap.dedent(code))
    except SyntaxError:
        return "text"
    return "python"


def _inline(line: str) -> str:
    """Code between backticks as such, and stars as the stars that they are."""
    parts = re.split(r"(`+[^`]+`+)", line)
    if re.match(r"\s+\*+\w+:", line):
        return line  # an argument, whose stars are seen to
    for at, part in enumerate(parts):
        if part.startswith("`"):
            after = parts[at + 1][:1]
            parts[at] = f"``{part.strip('`')}``" + ("\\ " if after.isalnum() else "")
        else:
            parts[at] = re.sub(r"([*|])", r"\\\1", part)
    return "".join(parts)


def _returns(lines: list[str]) -> list[str]:
    """What is returned is told in words, colons too; its type has the signature."""
    for header in set(RETURNS) & set(lines):
        at = lines.index(header)
        lines[at] = f":{header[:-1].lower()}:"
    return lines


def parsable(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, args: Any, returns: Any
) -> tuple[str, Any] | None:
    """A default that a factory makes is no Python in a signature."""
    return (args.replace("<factory>", "..."), returns) if args else None


def write(app: Sphinx, config: Any) -> None:
    """Writes the pages that stand elsewhere, before any is read."""
    importlib.import_module("generated").write(DOCS / "generated")


def setup(app: Sphinx) -> dict[str, bool]:
    """Adds what the build needs beside the extensions."""
    app.connect("config-inited", write)
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-docstring", lay_out)
    app.connect("autodoc-process-signature", parsable)
    return {"parallel_read_safe": True}
