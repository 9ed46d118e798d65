"""The rules of the code base that a machine can check."""

import ast
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "vit_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
ALL_FILES = FILES + sorted(
    path
    for folder in ("configs", "tests", "benchmarks", "launch")
    for path in (REPOSITORY / folder).rglob("*.py")
)

# Whoever imports must be at a higher level than what it imports, or in its package.
LEVELS = {
    "errors": 0,
    "tree": 0,
    "types": 0,
    "host": 0,
    "settings": 1,
    "cli": 2,
    "data": 2,
    "models": 3,
    "parallel": 4,
    "learning": 5,
    "evaluators": 6,
    "checkpoints": 6,
    "weights": 7,
    "experiment": 8,
    "planning": 9,
    "runs": 9,
    "train": 10,
    "evaluate": 10,
    "predict": 10,
    "convert": 10,
    "plan": 10,
    "main": 11,
    "__main__": 11,
}


def module_name(path: Path) -> str:
    """The part of `vit_jax` a file belongs to: "data", "mesh", ..."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path, *, toplevel_only: bool = False) -> set[str]:
    """Dotted names of every module a file imports."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if toplevel_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def functions(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda p: str(p.name))
def test_every_file_compiles(path, tmp_path):
    py_compile.compile(str(path), cfile=str(tmp_path / "out.pyc"), doraise=True)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    name = module_name(path)
    if name == "__init__":
        return
    for imported in imports(path):
        if not imported.startswith("vit_jax."):
            continue
        other = imported.split(".")[1]
        if other != name:
            assert LEVELS[other] < LEVELS[name], f"{name} imports {other}"


def test_no_import_cycles():
    graph = {}
    for path in FILES:
        used = {i.split(".")[1] for i in imports(path) if i.startswith("vit_jax.")}
        graph.setdefault(module_name(path), set()).update(used & set(LEVELS))
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]):
        assert name not in above, f"cycle: {' -> '.join((*above, name))}"
        if name not in done:
            for other in graph.get(name, set()) - {name}:
                visit(other, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_fit_on_a_screen_and_files_in_a_head(path):
    for node in functions(path):
        length = node.end_lineno - node.lineno + 1
        documented = ast.get_docstring(node) or ""
        code = length - len(documented.splitlines())
        assert code <= 60, f"{path.name}:{node.name} has {code} lines of code"
    assert len(path.read_text().splitlines()) <= 500, path.name


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_tensorflow_is_nowhere_and_configs_stop_at_the_door(path):
    heads = {i.split(".")[0] for i in imports(path)}
    assert not heads & {"tensorflow", "torch"}
    if "ml_collections" in heads:
        assert module_name(path) in {"main", "plan", "settings"}


def test_no_hidden_defaults_in_configuration():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr == "get" and len(node.args) == 2:
                    owner = ast.unparse(node.func.value)
                    assert "config" not in owner and "options" not in owner, (
                        f"{path.name}:{node.lineno} {ast.unparse(node)}"
                    )


def test_import_is_light():
    script = (
        "import sys, jax, flax, time; t = time.perf_counter(); import vit_jax; "
        "vit_jax.list_models('B/*'); "
        "assert 'tensorflow' not in sys.modules and 'cv2' not in sys.modules; "
        "assert 'tensorflow_datasets' not in sys.modules; "
        "assert 'orbax.checkpoint' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=REPOSITORY)
