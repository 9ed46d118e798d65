"""What of vit_jax `import vit_jax.main, vit_jax.train` loads: modules and their lines.

    python benchmarks/closure.py [--list]

Lines are those of code: neither blank, nor comment, nor docstring; a module without
any (the `__init__.py` of a package that only documents it) is not counted.
"""

import ast
import sys
from pathlib import Path

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_lines(path: Path) -> int:
    """Returns how many lines of a file are code."""
    source = path.read_text()
    documentation = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
            text = node.body[0]
            documentation.update(range(text.lineno, text.end_lineno + 1))
    return sum(
        number not in documentation and line.strip()[:1] not in ("", "#")
        for number, line in enumerate(source.splitlines(), start=1)
    )


def loaded() -> dict[str, int]:
    """Returns the code lines of each module of ours that this process has loaded."""
    modules = {
        name: code_lines(Path(module.__file__))
        for name, module in sorted(sys.modules.items())
        if name.split(".")[0] == "vit_jax"
    }
    return {name: lines for name, lines in modules.items() if lines}


if __name__ == "__main__":
    import vit_jax.main
    import vit_jax.train  # noqa: F401

    found = loaded()
    if "--list" in sys.argv:
        for name, lines in found.items():
            print(f"{lines:6d} {name}")
    print(f"{len(found)} modules, {sum(found.values())} lines of code")
