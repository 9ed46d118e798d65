"""The rules of the code base that a machine can check."""

import ast
import functools
import os
import py_compile
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "vit_jax"
README = (REPOSITORY / "README.md").read_text()
FILES = sorted(PACKAGE.rglob("*.py"))
ALL_FILES = FILES + sorted(
    path
    for folder in ("configs", "tests", "benchmarks", "launch")
    for path in (REPOSITORY / folder).rglob("*.py")
)

# Whoever imports must be at a higher level than what it imports, or in its room.
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
    "runs": 9,
    "train": 10,
    "evaluate": 10,
    "predict": 10,
    "convert": 10,
    "checkpoint": 10,
    "plan": 10,
    "inspection": 10,
    "commands": 11,
    "main": 11,
    "__main__": 11,
    "studies": 12,
}

# Rooms and modules directly in vit_jax: a newcomer reads this list first.
MOST_ENTRIES = 27

LONGEST_FILE = 350

# They write files for it, which no training does; its imports are in functions.
OF_TENSORFLOW = {"weights/exporting/formats.py"}

# `getattr(x, name, default)` and `hasattr(x, name)` hide what a type promises. They
# are for objects that others made, of which nothing is promised.
OF_OTHERS = {
    # Pillow's images, of which only some decoders set these.
    "data/decode.py": {"hasattr(image, 'convert')"},
    "data/levels.py": {
        "getattr(image, 'tag_v2', {})",
        "getattr(image, 'tile', None)",
    },
    # What a user's own code makes: datasets of torch, torchvision and anybody.
    "data/forms/objects.py": {
        "getattr(member, name, None)",
        "hasattr(value, 'convert')",
    },
    # A thread's storage is empty at the thread's first use.
    "data/jpeg.py": {"getattr(_scratch, 'buffer', None)"},
    # Sources of a user's own need `__len__` and `__getitem__` alone.
    "data/loader.py": {"getattr(source, 'num_classes', 0)"},
    "data/reader.py": {"getattr(source, 'num_classes', 0)"},
    "data/resident.py": {"getattr(source, 'image_shape', None)"},
    "data/sources.py": {"hasattr(source, 'name')"},
    # jax sets it on TPUs of several slices only.
    "parallel/mesh.py": {"getattr(device, 'slice_index', 0)"},
    "plan/facts.py": {"getattr(d, 'slice_index', 0)"},
    # What a user hands over as images or as a model.
    "weights/loaded.py": {
        "getattr(images, 'shape', None)",
        "hasattr(images, 'convert')",
    },
    "weights/saving.py": {"getattr(model, 'architecture', None)"},
}


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room(path: Path) -> str:
    """The part of `vit_jax` a file belongs to: "data", "train", ..."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def dotted(path: Path) -> str:
    """A file's module, "vit_jax.data.loader"."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): path for path in FILES}


@functools.cache
def imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports, inside its functions too."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def owner(name: str) -> str:
    """The module of ours that an imported name is, or that it is taken from."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """One cycle of a graph, its first node again at the end, or nothing."""
    done: set[str] = set()

    def visit(node: str, above: list[str]) -> list[str]:
        if node in above:
            return [*above[above.index(node) :], node]
        for other in () if node in done else sorted(graph.get(node, ())):
            if found := visit(other, [*above, node]):
                return found
        done.add(node)
        return []

    return next(filter(None, (visit(node, []) for node in sorted(graph))), [])


def functions(path: Path):
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def guesses(tree: ast.AST) -> set[str]:
    """Every `hasattr` and every `getattr` with a default."""
    return {
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and (node.func.id, len(node.args)) in {("hasattr", 2), ("getattr", 3)}
    }


# Nouns in the plural, and what else ends as verbs in the third person do.
NO_VERBS = {"As", "Bytes", "Classes", "Is", "Its", "This", "Weights"}


def in_another_style(tree: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Public functions that are not said to do something, as in "Returns ..."."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from in_another_style(node)
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        said = ast.get_docstring(node)
        is_value = any("property" in ast.unparse(d) for d in node.decorator_list)
        first = said.split()[0].rstrip(",;:") if said and not is_value else "Says"
        if not re.fullmatch(r"[A-Z][a-z-]*s", first) or first in NO_VERBS:
            yield f"{node.name}: {first} ..."


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_function_is_said_to_do_something(path):
    assert not list(in_another_style(parsed(path))), 'begin as in "Returns ..."'


def test_another_style_is_seen():
    code = """
def a():
    "The mean."
class B:
    def c(self):
        "Returns it."
    def d(self):
        "Whether it is."
    @property
    def e(self):
        "What a value is."
def _f():
    "Of its own."
"""
    found = ["a: The ...", "d: Whether ..."]
    assert list(in_another_style(ast.parse(code))) == found


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda p: str(p.name))
def test_every_file_compiles(path, tmp_path):
    py_compile.compile(str(path), cfile=str(tmp_path / "out.pyc"), doraise=True)


def test_every_room_has_a_level():
    rooms = {room(path) for path in FILES} - {"__init__"}
    assert not rooms - set(LEVELS), "new in vit_jax: give it its level in LEVELS"
    assert not set(LEVELS) - rooms, "gone from vit_jax: take it out of LEVELS"
    assert len(rooms | {"__init__"}) <= MOST_ENTRIES, (
        "vit_jax is full: put the new module into the room that it belongs to"
    )


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_point_down(path):
    here = room(path)
    if here == "__init__":
        return  # The front door opens every room, when it is asked to.
    for imported in imports(path):
        if not imported.startswith("vit_jax."):
            continue
        other = imported.split(".")[1]
        assert other in LEVELS, f"{relative(path)} imports {imported}: no such room"
        assert other == here or LEVELS[other] < LEVELS[here], (
            f"{relative(path)} (level {LEVELS[here]}) imports {imported} "
            f"(level {LEVELS[other]})"
        )


def test_modules_import_each_other_in_no_cycle():
    # Module by module, so that cycles inside a room are seen too.
    graph = {
        name: {owner(imported) for imported in imports(path)} - {"", name}
        for name, path in MODULES.items()
    }
    assert sum(map(len, graph.values())) > len(MODULES), "no imports were found"
    assert not cycle(graph), " -> ".join(cycle(graph))


def test_a_cycle_is_seen():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}}) == []


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_functions_fit_on_a_screen(path):
    for node in functions(path):
        length = node.end_lineno - node.lineno + 1
        documented = ast.get_docstring(node) or ""
        code = length - len(documented.splitlines())
        assert code <= 60, f"{relative(path)}:{node.name} has {code} lines of code"


def test_files_fit_in_a_head():
    lines = {relative(path): len(path.read_text().splitlines()) for path in FILES}
    long = {name: count for name, count in lines.items() if count > LONGEST_FILE}
    assert not long, f"longer than {LONGEST_FILE} lines: split them"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_tensorflow_is_nowhere_and_configs_stop_at_the_door(path):
    heads = {i.split(".")[0] for i in imports(path)}
    allowed = {"tensorflow"} if relative(path) in OF_TENSORFLOW else set()
    assert not heads & {"tensorflow", "torch"} - allowed
    if "ml_collections" in heads:
        assert room(path) in {"main", "plan", "settings"}


def test_what_an_object_has_is_not_guessed():
    found = {relative(path): guesses(parsed(path)) for path in FILES}
    for name, calls in found.items():
        new = calls - OF_OTHERS.get(name, set())
        assert not new, f"{name}: let its type promise it, or say why it cannot"
    for name, calls in OF_OTHERS.items():
        gone = calls - found.get(name, set())
        assert not gone, f"{name}: gone, take it out of the list of exceptions"


def test_a_guess_is_seen():
    code = "hasattr(a, 'b'); getattr(config, 'x', 0); getattr(a, name)"
    assert guesses(ast.parse(code)) == {"hasattr(a, 'b')", "getattr(config, 'x', 0)"}


def hidden_defaults(tree: ast.AST) -> set[str]:
    """Every `x.get("key", default)`, and `config.get(key, default)` of any key."""
    return {
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"get", "pop", "setdefault"}
        and len(node.args) == 2
        and (
            (isinstance(node.args[0], ast.Constant) and node.func.attr != "pop")
            or re.search(r"config|options|settings", ast.unparse(node.func.value))
        )
    }


# What tables of features say of how they were made, and other programs' may not.
SAID_OR_NOT = {"runs/bulk/neighbours.py": {"made.get('tokens', False)"}}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_hidden_defaults_in_configuration(path):
    found = hidden_defaults(parsed(path))
    if room(path) == "weights":  # other codes' config.json lacks what it likes
        found = {text for text in found if re.search(r"options|settings", text)}
    allowed = SAID_OR_NOT.get(relative(path), set())
    assert found == allowed, "want the value of configs/base.py, as it is there"


def test_a_hidden_default_is_seen():
    code = "a.get('x', 0); config['model'].get(key, 1); b.get(key, 2); c.get('x')"
    found = {"a.get('x', 0)", "config['model'].get(key, 1)"}
    assert hidden_defaults(ast.parse(code)) == found


# Who may read the keys of a configuration: commands, the assembly and what compares
# records of runs. Everything else takes typed values.
READS_CONFIGURATIONS = {
    *("main.py", "plan.py", "evaluate.py", "experiment/__init__.py"),
    "studies/looks.py",  # a program, as main.py is
    "experiment/assembled.py",
    *("runs/measuring.py", "runs/workdir.py", "runs/card.py"),
    # What runs of older versions left beside their arrays.
    "checkpoints/checkpoint.py",
    # Variants of a configuration, before they are assembled.
    "plan/advice.py",
}


def reads_of_configurations(module: ast.AST) -> set[str]:
    """The expressions `config[...]` and `x.config[...]` of a module."""
    return {
        ast.unparse(node)
        for node in ast.walk(module)
        if isinstance(node, ast.Subscript)
        and ast.unparse(node.value).split(".")[-1] in {"config", "stored"}
        and isinstance(node.slice, ast.Constant)
    }


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_configurations_are_read_at_the_door(path):
    # Other codes' config.json is data of theirs.
    if room(path) in {"settings", "weights"}:
        return
    found = reads_of_configurations(parsed(path))
    assert not found or relative(path) in READS_CONFIGURATIONS, found


def test_a_read_of_a_configuration_is_seen():
    code = "a = exp.config['seed']; b = config['data']['dataset']; c = mesh[0]"
    found = {"exp.config['seed']", "config['data']"}
    assert reads_of_configurations(ast.parse(code)) == found


def run(script: str) -> str:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout


def test_import_is_light():
    run(
        "import sys; import vit_jax.models; "
        "vit_jax.models.architecture('B/16', num_classes=1); "
        "others = {'vit_jax.models.' + n for n in ('mixer', 'bit', 'axial_resnet')}; "
        "assert not others & sys.modules.keys(), 'another family than the one asked'; "
        "vit_jax.list_models('B/*'); "
        "assert 'tensorflow' not in sys.modules and 'cv2' not in sys.modules; "
        "assert 'tensorflow_datasets' not in sys.modules; "
        "assert 'orbax.checkpoint' not in sys.modules"
    )


def test_training_loads_what_it_needs():
    # The loop, its room-mates (data, models, parallel, learning, evaluators) and their
    # tables are what a run from scratch may reach. Weights of other codes are not,
    # they are more code than the data pipeline: only their door is loaded; and of the
    # families of models, kinds of evaluations, objectives and kinds of datasets only
    # what is asked for, then. What answers signals in every phase is there from the
    # first line. The bounds leave room for a few more rows in the tables,
    # not for another room. A tenth of it verifies checkpoints, for whoever resumes,
    # a twentieth answers stops in every phase.
    listing = "import runpy, sys; sys.argv.append('--list'); "
    listing += "runpy.run_path('benchmarks/closure.py', run_name='__main__')"
    *listed, total = run(listing).splitlines()
    modules = [line.split()[1] for line in listed]
    of_weights = [name for name in modules if name.startswith("vit_jax.weights")]
    assert of_weights == ["vit_jax.weights"]
    assert not [name for name in modules if name.startswith("vit_jax.plan")]
    assert len(modules) <= 64, total
    assert sum(int(line.split()[0]) for line in listed) <= 6_480, total


def called(path: str, function: str) -> set[str]:
    """What a function of a file of `vit_jax` calls, as it is written there."""
    (found,) = (f for f in functions(PACKAGE / path) if f.name == function)
    calls = (node for node in ast.walk(found) if isinstance(node, ast.Call))
    return {ast.unparse(call.func) for call in calls}


def test_the_update_is_four_calls_from_the_command():
    assert "train.run" in called("main.py", "_main")
    assert "_train" in called("train.py", "run")
    assert "_loop" in called("train.py", "_train")
    assert "exp.train_step" in called("train.py", "_loop")


def test_the_readme_has_the_rooms_at_their_levels():
    level, found = 0, {}
    for row in re.findall(r"^\| (\d*) ?\| (`.*?`) \|", README, re.M):
        level = int(row[0] or level)
        found |= {name.strip("`/"): level for name in row[1].split(", ")}
    assert found == {name: LEVELS[name] for name in LEVELS if name != "__main__"}
