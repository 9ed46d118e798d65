"""Fuzzing: what nobody thought of returns, or is the error that its reader documents.

`python tests/chaos/fuzz.py --cases=10000` divides cases over all targets. Words and
descriptions are drawn by hypothesis, bytes are mutations of good files: guided by
coverage where atheris is installed (`pip install atheris`), else drawn by a seed.
`tests/test_fuzz.py` runs a short form that is the same each time.
"""

import argparse
import copy
import importlib.util
import io
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
for folder in (HERE.parent, HERE.parents[1]):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import commands  # noqa: E402
import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
from chaos import hostile, hostile_places  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from PIL import Image  # noqa: E402
from test_data_example import RECORD, encode  # noqa: E402
from test_data_records import write_tfrecord  # noqa: E402

from vit_jax import cli, errors  # noqa: E402
from vit_jax.checkpoints import checkpoint  # noqa: E402
from vit_jax.data import catalog, decode, example, records, splits  # noqa: E402
from vit_jax.data.forms import pages, snappy  # noqa: E402
from vit_jax.settings import (  # noqa: E402
    documents,
    durations,
    packaged,
    recipe,
    recorded,
    validation,
)
from vit_jax.weights import files, own, pretrained  # noqa: E402
from vit_jax.weights.formats import npz, safetensors, torchfile  # noqa: E402
from vit_jax.weights.source import Tensors  # noqa: E402

Place = dict[str, str]
TORCH = HERE.parent / "golden" / "torch"


class Bytes(NamedTuple):
    """A reader of bytes.

    Attributes:
        seeds: Good ones.
        read: Reads some; its second argument is a name for a file.
        documented: What it may raise.
    """

    seeds: Callable[[Place], list[bytes]]
    read: Callable[[bytes, Path], Any]
    documented: tuple[type[Exception], ...] = (errors.UserError,)


class Drawn(NamedTuple):
    """A reader of what hypothesis draws."""

    strategy: Callable[[Place], st.SearchStrategy[Any]]
    read: Callable[[Any, Place], Any]
    documented: tuple[type[Exception], ...] = (errors.UserError,)


def _all(tensors: Tensors) -> None:
    with tensors:
        for name in tensors.names:
            tensors.read(name)


def _as(suffix: str, read: Callable[[Path], Any]) -> Callable[[bytes, Path], Any]:
    def run(data: bytes, path: Path) -> None:
        file = path.with_suffix(suffix)
        file.write_bytes(data)
        read(file)

    return run


def _records(form: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        found = records.RecordFiles(form, [path], [3])
        found.check()
        for index in range(3):
            found.read(index)

    return read


def _of_path(form: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        source = catalog.open_source(f"{form}:{path}", "all")
        for index in range(min(len(source), 20)):
            source[index]

    return read


def _tfrecord(place: Place) -> list[bytes]:
    path = Path(place["cwd"]) / "seed.tfrecord"
    write_tfrecord(path, [encode(RECORD), b"", b"x" * 300])
    return [path.read_bytes()]


def _array_record(place: Place) -> list[bytes]:
    from array_record.python import array_record_module

    path = str(Path(place["cwd"]) / "seed.array_record")
    writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
    for record in (encode(RECORD), b"y", b"x" * 300):
        writer.write(record)
    writer.close()
    return [Path(path).read_bytes()]


def _images(place: Place) -> list[bytes]:
    rng = np.random.default_rng(0)
    found = []
    for form, mode in (("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "P"), ("GIF", "P")):
        pixels = rng.integers(0, 256, (19, 23, 3), np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(stream, form)
        found.append(stream.getvalue())
    return found


def _file(*names: str) -> Callable[[Place], list[bytes]]:
    return lambda place: [Path(place[name]).read_bytes() for name in names]


def _hybrid(data: bytes, path: Path) -> None:
    width, count, *_ = (*data[:2], 1, 1)
    pages.hybrid(data[2:], width % 33, count)


BYTES: dict[str, Bytes] = {
    "tfrecord": Bytes(
        _tfrecord,
        _as(".tfrecord", _records("tfrecord")),
        (errors.UserError, records.DamagedRecord),
    ),
    "array_record": Bytes(
        _array_record,
        _as(".array_record", _records("array_record")),
        (errors.UserError, records.DamagedRecord),
    ),
    "example": Bytes(
        lambda place: [encode(RECORD)],
        lambda data, path: example.parse(data, frozenset(RECORD)),
        (example.MalformedExample,),
    ),
    "npz": Bytes(_file("google"), _as(".npz", lambda path: _all(npz.open(path)))),
    "safetensors": Bytes(
        lambda place: [Path(place["own"], "model.safetensors").read_bytes()],
        _as(".safetensors", lambda path: _all(safetensors.open(path))),
    ),
    "torch": Bytes(
        lambda place: [path.read_bytes() for path in sorted(TORCH.glob("*.pth"))],
        _as(".pth", lambda path: _all(torchfile.open(path))),
    ),
    "image": Bytes(
        _images,
        lambda data, path: decode.whole(decode.open_image(data)),
        (decode.BadImage,),
    ),
    "tar": Bytes(
        _file("tar_wide", "tar_links", "tar_object"),
        _as(".tar", _of_path("wds")),
        (errors.UserError, decode.BadImage),
    ),
    "parquet": Bytes(
        _file("parquet_minus", "parquet_hf_names2", "parquet_label_map"),
        _as(".parquet", _of_path("parquet")),
        (errors.UserError, decode.BadImage),
    ),
    "pages": Bytes(
        lambda place: [b"\x03\x10" + bytes([3, 0b10001000, 0b11000110, 0b11111010])],
        _hybrid,
        (ValueError, IndexError),
    ),
    "snappy": Bytes(
        lambda place: [snappy.header(300) + b"\xf0\x3f" + bytes(64)],
        lambda data, path: snappy.borders(data),
        (ValueError,),
    ),
    "json": Bytes(
        lambda place: (
            list(hostile_places.JSON.values())[2:]
            + [Path(place["config_json"]).read_bytes()]
        ),
        lambda data, path: documents.parse(data),
    ),
}

_PLAIN = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    st.sampled_from(list(hostile_places.ODD.values())),
)
VALUES = st.recursive(
    _PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner)
    ),
    max_leaves=8,
)


def _pointers(document: Any, start: tuple = ()) -> Iterator[tuple]:
    if start:
        yield start
    inner = document.items() if isinstance(document, dict) else ()
    if isinstance(document, list):
        inner = enumerate(document[:3])
    for key, value in inner:
        yield from _pointers(value, (*start, key))


def _changed(document: Any, pointer: tuple, value: Any) -> Any:
    """A copy with another value at a place; `...` takes it away."""
    result = copy.deepcopy(document)
    at = result
    for key in pointer[:-1]:
        at = at[key]
    if value is ...:
        del at[pointer[-1]]
    else:
        at[pointer[-1]] = value
    return result


def _documents(place: Place) -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    """Descriptions, and what reads them when they stand where they should."""

    def at(path: Path, read: Callable[[], Any]) -> tuple[Any, Callable[[Any], Any]]:
        good = path.read_bytes()

        def run(document: Any) -> None:
            path.write_text(json.dumps(document))
            try:
                read()
            finally:
                path.write_bytes(good)

        return json.loads(good), run

    def load(name: str, file: str, **options: Any) -> tuple[Any, Callable]:
        def read() -> None:
            with pretrained.open_weights(place[name], **options) as weights:
                files.check_shapes(weights.leaves.shapes, weights.architecture)

        return at(Path(place[name], file), read)

    def toy(file: str) -> tuple[Any, Callable]:
        def read() -> None:
            hostile_places.CALLS["read"]("toy", "train", place["toys"])

        return at(Path(place["toys"], "toy", "1.0.0", file), read)

    index = Path(place["sharded"], "model.safetensors.index.json")
    adapter = Path(place["adapter"], "adapter_config.json")

    def adapted() -> None:
        pretrained.open_weights(place["google"], adapter=place["adapter"]).close()

    config = json.loads(Path(place["config_json"]).read_bytes())
    path = Path(place["cwd"]) / "config.json"

    def configured(document: Any) -> None:
        path.write_text(json.dumps(document))
        found = recipe.load(f"{packaged.JSON}{path}")
        validation.check_values(recipe.plain(found))

    def described(document: Any) -> None:
        checkpoint.Description.from_dict(document)

    return {
        "hf_vit config.json": load("hf_vit", "config.json"),
        "hf_vit processor": load("hf_vit", "preprocessor_config.json"),
        "dinov2 config.json": load("hf_dinov2_with_registers", "config.json"),
        "timm config.json": load("timm", "config.json"),
        "own config.json": load("own", "config.json"),
        "index.json": at(index, lambda: pretrained.open_weights(place["sharded"])),
        "adapter_config.json": at(adapter, adapted),
        "dataset_info.json": toy("dataset_info.json"),
        "features.json": toy("features.json"),
        "config_json": (config, configured),
        "description": (own.description(hostile_places.weights()).to_dict(), described),
        "record of a run": (config, lambda d: recorded.check(d, packaged.defaults())),
    }


_KEPT: dict[str, Any] = {}


def _kept(place: Place) -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    if _KEPT.get("root") != place["root"]:
        _KEPT.update(root=place["root"], documents=_documents(place))
    return _KEPT["documents"]


def _description(place: Place) -> st.SearchStrategy[Any]:
    known = _kept(place)
    places = [
        (name, pointer)
        for name, (document, _) in known.items()
        for pointer in _pointers(document)
    ]
    return st.tuples(st.sampled_from(places), st.one_of(st.just(...), VALUES))


def _describe(drawn: Any, place: Place) -> None:
    (name, pointer), value = drawn
    document, read = _kept(place)[name]
    read(_changed(document, pointer, value))


def _override(drawn: tuple[str, str], place: Place) -> None:
    key, value = drawn
    argv = ["main", hostile.QUICK, f"--config.{key}={value}"]
    before, sys.argv = sys.argv, argv
    try:
        with commands.own_flags("main") as module:
            cli.parse_recipe(argv)
            config = recipe.plain(module._CONFIG.value)
            durations.of(config, 1000)
            validation.check_values(config)
    finally:
        sys.argv = before


_WORDS = st.one_of(
    st.text(max_size=30),
    st.integers().map(str),
    st.floats().map(str),
    VALUES.map(repr),
    st.from_regex(r"[\[\](){},:+%x0-9a-z'\"_.-]{0,30}", fullmatch=True),
)
_BOUND = st.one_of(st.from_regex(r"-?[0-9_.]{0,30}%?", fullmatch=True), st.text())
_TERM = st.one_of(
    st.sampled_from(["train", "test", "all", "train[:]"]),
    st.builds("train[{}:{}]".format, _BOUND, _BOUND),
    st.text(max_size=20),
)


def _duration(text: str, place: Place) -> None:
    steps = durations.duration(
        "total", text, batch_size=7, num_examples=100, total_steps=10
    )
    assert 0 <= steps <= durations.STEPS_LIMIT


def _split(text: str, place: Place) -> None:
    for found in splits.resolve(text, {"train": 100, "test": 7}, "x"):
        assert 0 <= found.start <= found.stop <= 100


def _keys(place: Place) -> st.SearchStrategy[Any]:
    flat = sorted(validation.flatten(packaged.defaults()))
    known = st.sampled_from([*flat, "evals.few", "evals.test.shots", "evals"])
    return st.tuples(st.one_of(known, known, known, st.text(max_size=12)), _WORDS)


def _tree(place: Place) -> st.SearchStrategy[Any]:
    with npz.open(place["google"]) as opened:
        shapes = dict(opened.shapes)
    names = sorted(shapes)
    name = st.one_of(
        st.sampled_from(names),
        st.builds("{}{}".format, st.sampled_from(names), st.text("a/._0", max_size=4)),
        st.from_regex(r"[a-z0-9_./]{1,30}", fullmatch=True),
    )
    shape = st.one_of(
        st.none(),
        st.sampled_from(sorted(set(shapes.values()))),
        st.lists(st.integers(0, 9), max_size=5).map(tuple),
    )
    changes = st.dictionaries(name, shape, min_size=1, max_size=5)
    return changes.map(lambda some: {k: v for k, v in {**shapes, **some}.items() if v})


def _grow(shapes: dict[str, tuple[int, ...]], place: Place) -> None:
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    path = Path(place["cwd"]) / "tree.npz"
    npz.write(Tensors.of(arrays), path)
    with pretrained.open_weights(path) as weights:
        for name in weights.leaves.names:
            weights.leaves.read(name)


DRAWN: dict[str, Drawn] = {
    "splits": Drawn(lambda place: st.lists(_TERM, max_size=3).map("+".join), _split),
    "durations": Drawn(
        lambda place: st.one_of(
            st.from_regex(r"[0-9_.e+-]{0,20} ?[a-z%]{0,9}", fullmatch=True), st.text()
        ),
        _duration,
    ),
    "overrides": Drawn(_keys, _override),
    "descriptions": Drawn(_description, _describe),
    "trees": Drawn(_tree, _grow),
}


class Crash(NamedTuple):
    """What went wrong: its class, where, and the case."""

    target: str
    what: str
    case: str


def _tried(run: Callable[[], Any], documented: tuple[type[Exception], ...]) -> str:
    """Runs a case; what is wrong with it, "" for nothing."""
    began = time.process_time()
    try:
        with hostile._limited(hostile.SECONDS), hostile._heard():
            run()
    except documented as error:
        if isinstance(error, errors.UserError) and str(error).count("\n") >= 10:
            return "an error of many lines"
    except hostile.Hang:
        return "a hang"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "/vit_jax/" in f.filename] or frames
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        return f"{type(error).__name__} at {where}: {str(error)[:150]!r}"
    took = time.process_time() - began
    return f"{took:.1f} s" if took > hostile.SECONDS else ""


def draw(name: str, cases: int, place: Place) -> list[Crash]:
    """Tries what hypothesis draws for a target, the same each time."""
    target = DRAWN[name]
    found: dict[str, Crash] = {}

    @hypothesis.seed(0)
    @hypothesis.settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(target.strategy(place))
    def run(drawn: Any) -> None:
        what = _tried(lambda: target.read(drawn, place), target.documented)
        if what:
            found.setdefault(what.split(": ")[0], Crash(name, what, repr(drawn)[:300]))

    run()
    return list(found.values())


_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Returns bytes with a few of them changed, moved, doubled or taken away."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not result:
            return bytes(rng.randbytes(8))
        at = rng.randrange(len(result))
        length = rng.choice((1, 2, 4, 8, 32))
        kind = rng.randrange(7)
        if kind == 0:
            result[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            result[at : at + length] = rng.randbytes(length)
        elif kind == 2:
            form = rng.choice("<>") + rng.choice("BHIQ")
            most = 1 << 8 * struct.calcsize(form)
            number = struct.pack(form, rng.choice(_NUMBERS) % most)
            result[at : at + len(number)] = number
        elif kind == 3:
            del result[at:]
        elif kind == 4:
            del result[at : at + length]
        elif kind == 5:
            result[at:at] = result[at : at + length]
        else:
            other = rng.randrange(len(result))
            result[at : at + length] = result[other : other + length]
    return bytes(result)


def mutate(name: str, cases: int, place: Place) -> list[Crash]:
    """Tries mutations of the good inputs of a target, the same each time."""
    target, rng = BYTES[name], random.Random(0)
    seeds = target.seeds(place)
    found: dict[str, Crash] = {}
    for _ in range(cases):
        data = mutated(rng.choice(seeds), rng)
        if what := one(name, data, place):
            case = data[:60].hex()
            found.setdefault(what.split(": ")[0], Crash(name, what, case))
    return list(found.values())


def one(name: str, data: bytes, place: Place) -> str:
    """Reads bytes as a target does; what is wrong, "" for nothing."""
    path = Path(place["cwd"]) / "case"
    return _tried(lambda: BYTES[name].read(data, path), BYTES[name].documented)


def _functions() -> Iterator[types.FunctionType]:
    """The functions and methods of the modules that read bytes."""
    rooms = ("vit_jax.data.", "vit_jax.weights.formats.", "vit_jax.weights.source")
    for name, module in list(sys.modules.items()):
        if name.startswith(rooms):
            owners = [module, *vars(module).values()]
            for owner in [o for o in owners if o is module or isinstance(o, type)]:
                for one in list(vars(owner).values()):
                    if isinstance(one, types.FunctionType) and one.__module__ == name:
                        yield one


def guide(name: str, cases: int, place: Place) -> None:
    """Tries bytes that atheris finds by coverage; ends the process."""
    import atheris

    target = BYTES[name]
    corpus = Path(place["root"]) / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(target.seeds(place)):
        (corpus / str(number)).write_bytes(seed)
    seen: set[str] = set()

    def run(data: bytes) -> None:
        what = one(name, data, place)
        if what and what.split(": ")[0] not in seen:
            seen.add(what.split(": ")[0])
            print("crash", json.dumps(Crash(name, what, data[:60].hex())), flush=True)

    for function in _functions():
        atheris.instrument_func(function)
    options = [f"-runs={cases}", "-seed=1", "-rss_limit_mb=8000", "-max_len=65536"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], run)
    atheris.Fuzz()


def _guided(name: str, cases: int) -> list[Crash]:
    """`guide` in a process of its own, which may die."""
    command = [sys.executable, __file__, f"--guide={name}", f"--cases={cases}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    found = [
        Crash(*json.loads(line.removeprefix("crash ")))
        for line in done.stdout.splitlines()
        if line.startswith("crash ")
    ]
    if done.returncode:
        what = f"it ended with {done.returncode}"
        found.append(Crash(name, what, done.stderr[-500:]))
    return found


def main() -> int:
    """Divides the cases over the targets, and prints what went wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--guide", default="")
    parser.add_argument("--drawn", action="store_true", help="without atheris")
    given = parser.parse_args()
    guided = importlib.util.find_spec("atheris") is not None and not given.drawn
    targets = given.targets or [*DRAWN, *BYTES]
    each = -(-given.cases // len(targets))
    found: list[Crash] = []
    with tempfile.TemporaryDirectory() as root:
        os.environ["VIT_JAX_CACHE"] = f"{root}/cache"
        Path(root, "place").mkdir()
        place = hostile_places.make(Path(root, "place"))
        if given.guide:
            guide(given.guide, given.cases, place)
        for name in targets:
            began = time.monotonic()
            if name in DRAWN:
                crashes = draw(name, each, place)
            else:
                run = _guided if guided else lambda n, c: mutate(n, c, place)
                crashes = run(name, each)
            took = time.monotonic() - began
            print(f"{name}: {each} cases, {took:.0f} s, {len(crashes)} crashes")
            for crash in crashes:
                print(f"    {crash.what}\n        {crash.case}", flush=True)
            found += crashes
        hostile_places.unmake(place)
    print(f"{each * len(targets)} cases, {len(found)} classes of crashes")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
